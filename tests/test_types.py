"""What type checkers tell users of the installed package: nothing about right code, all mistakes.

Both read the package as users have it: a wheel in the site-packages of an environment, where only
`py.typed` says that its annotations may be used.
"""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RIGHT = """
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GridSearchCV

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, CosineClassifier, load_adapter
from skclipsvd.datasets import load_folder
from skclipsvd.inspection import (
    FitCurveDisplay,
    PredictionSheetDisplay,
    explain_prediction,
    singular_value_changes,
)
from skclipsvd.model_selection import sample_shots


def accuracy(predicted: NDArray[np.str_], true: NDArray[np.str_]) -> float:
    return float((predicted == true).mean())


def main(root: Path, adapter: Path) -> int:
    train = load_folder(root).splits["train"]
    chosen = sample_shots(train.labels, 16, random_state=0)
    paths: list[Path] = [Path(train.paths[i]) for i in chosen]
    labels = train.labels[chosen]

    search = GridSearchCV(CLIPSVDClassifier("tiny", augment=False), {"lr": [1e-3, 1e-2]}, cv=2)
    search.fit(paths, labels)

    clf = CLIPSVDClassifier("tiny", epochs=5, lr=1e-2, class_names={"cat": "a cat"}, random_state=0)
    clf = clf.fit(paths, labels, X_val=paths, y_val=labels)
    probabilities = clf.predict_proba(paths)
    best: NDArray[np.str_] = clf.classes_[probabilities.argmax(axis=1)]
    print(accuracy(best, labels), clf.loss_curve_[-1], clf.n_iter_, clf.singular_values_.keys())
    clf.save_adapter(adapter)
    restored = load_adapter(adapter)
    print(restored.predict([path.read_bytes() for path in paths]), restored.text_features_.shape)
    if isinstance(restored, CLIPSVDClassifier):
        print(singular_value_changes(restored)["tower"])
    print(explain_prediction(clf, paths[0]).heat_map.max())
    print(FitCurveDisplay.from_estimator(clf).plot(window=5).figure_)
    print(PredictionSheetDisplay.from_estimator(clf, paths, labels).plot().ax_)
    embeddings = CLIPEncoder(classifier=clf).fit_transform(paths)
    print(CosineClassifier(init=clf.text_features_).fit(embeddings, labels).coef_.mean())
    return len(clf.with_classes(["dog", "horse"]).classes_)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""
# Every line that ends in "# wrong" is to be reported, and no other.
WRONG = """
from pathlib import Path

from skclipsvd import CLIPSVDClassifier, CLIPZeroShotClassifier, load_adaptor  # wrong
from skclipsvd import load_adapter
from skclipsvd.datasets import load_folder
from skclipsvd.inspection import FitCurveDisplay, explain_prediction, singular_value_changes

train = load_folder("pictures").splits["train"]
print(train.label)  # wrong
paths = [Path(path) for path in train.paths]
CLIPSVDClassifier("tiny", epoch=3)  # wrong
CLIPSVDClassifier("tiny", epochs="three")  # wrong
clf = CLIPSVDClassifier("tiny").fit(paths, train.labels)
print(clf.clases_)  # wrong
print(clf.loss_curve)  # wrong
print(clf.singular_values_[0])  # wrong
print(clf.n_iter_.shape)  # wrong
clf.fit(3, ["cat", "dog"])  # wrong
clf.predict(3)  # wrong
clf.predict_proba(paths).maximum()  # wrong
load_adapter(3)  # wrong
print(load_adapter("adapter.safetensors").text_features)  # wrong
singular_value_changes(CLIPZeroShotClassifier("tiny"))  # wrong
print(explain_prediction(clf, paths[0]).heatmap)  # wrong
FitCurveDisplay.from_estimator(clf).plot(windows=5)  # wrong
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of an environment with this package's wheel, and all else from ours."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    shutil.copytree(ROOT / "skclipsvd", source / "skclipsvd")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    environment = folder / "environment"
    venv.create(environment)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout
    (wheel,) = folder.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", site.strip(), wheel]
    subprocess.run([sys.executable, *install], check=True)
    ours = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (Path(site.strip()) / "ours.pth").write_text("\n".join(ours))
    return python


def mypy(python, script):
    """The lines that mypy reports; it reads the code of scikit-learn, which has no types."""
    settings = script.with_name("mypy.ini")
    settings.write_text(
        textwrap.dedent(
            """
            [mypy]
            strict = true
            disallow_untyped_calls = false
            [mypy-sklearn.*]
            follow_untyped_imports = true
            """
        )
    )
    # What it knows of torch and scikit-learn takes half a minute, and is the same for all scripts.
    cache = python.parents[2] / "mypy"
    command = ["-m", "mypy", "--config-file", settings, "--cache-dir", cache]
    command += ["--python-executable", python, script]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=script.parent
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(rf"^{script.name}:(\d+): error: (.*)", done.stdout, flags=re.MULTILINE)
    assert bool(found) == bool(done.returncode), done.stdout
    return {int(line): message for line, message in found}


def pyright(python, script):
    """The lines that pyright's own standard mode reports."""
    settings = script.with_name("pyrightconfig.json")
    settings.write_text(json.dumps({"typeCheckingMode": "standard"}))
    command = ["-m", "basedpyright", "--outputjson", "--pythonpath", python, "-p", settings]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=script.parent
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, done.stdout
    return {
        entry["range"]["start"]["line"] + 1: entry["message"]
        for entry in report["generalDiagnostics"]
        if entry["severity"] == "error"
    }


@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_users_script_is_clean(check, python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RIGHT)
    assert check(python, script) == {}


@pytest.mark.parametrize("check", [mypy, pyright])
def test_every_mistake_is_found(check, python, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WRONG)
    lines = WRONG.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = check(python, script)
    assert found.keys() == expected, found
