"""The command ``skclipsvd``, from what is typed to what is printed and written."""

import csv
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import skclipsvd
from skclipsvd import CLIPSVDClassifier, load_adapter, prediction_table
from skclipsvd.commands import demo, main
from skclipsvd.console import run_command
from skclipsvd.datasets import load_handwritten_digits
from skclipsvd.exceptions import ConflictingLabelsWarning
from skclipsvd.paths import class_names_in

NAMES = ("one", "seven", "zero")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Digits of three classes, in folders: twelve of each to train on, eight to test on."""
    root = tmp_path_factory.mktemp("digits")
    paths, labels = load_handwritten_digits()
    for name in NAMES:
        for i, row in enumerate(np.flatnonzero(np.array(labels) == name)[:20]):
            folder = root / ("train" if i < 12 else "test") / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths[row], folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def model(tree, tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "digits.safetensors"
    options = [
        "--model",
        "tiny",
        "--no-augment",
        "--max-steps",
        "4",
        "--lr",
        "0.01",
        "--seed",
        "0",
        "--quiet",
    ]
    assert main(["train", str(tree), "-o", str(file), *options]) == 0
    return file


def rows_of(file):
    with Path(file).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_train_writes_what_the_estimator_would(tree, model):
    clf = load_adapter(model)
    paths, labels = skclipsvd.datasets.load_folder(tree, return_X_y=True, part="train")
    same = skclipsvd.CLIPSVDClassifier("tiny", augment=False, max_steps=4, lr=0.01, random_state=0)
    same.fit(paths, labels)
    assert clf.classes_.tolist() == list(NAMES)
    for name, values in same.singular_values_.items():
        np.testing.assert_array_equal(clf.singular_values_[name], values)


def test_train_takes_a_head(tree, tmp_path):
    file = tmp_path / "head.safetensors"
    options = ["--model", "tiny", "--no-augment", "--max-steps", "1", "--head", "logistic"]
    assert main(["train", str(tree), "-o", str(file), *options, "--quiet"]) == 0
    assert load_adapter(file).head_coef_.shape == (3, 128)


def test_train_reads_words_for_prompts_and_another_method(tree, tmp_path, capsys):
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"one": "a stroke", "zero": "a ring", "seven": "a hook"}))
    file = tmp_path / "lora.safetensors"
    options = f"--method lora --model tiny --epochs 1 --class-names {words} --templates".split()
    options += ["{}", "--quiet"]
    assert main(["train", str(tree), "-o", str(file), *options]) == 0
    clf = load_adapter(file)
    assert type(clf).__name__ == "CLIPLoRAClassifier"
    assert clf.class_names["zero"] == "a ring"
    assert f"skclipsvd evaluate {file}" in capsys.readouterr().out


def test_predict_writes_every_image_and_what_is_wrong_with_it(tree, model, tmp_path, capsys):
    folder = tmp_path / "new"
    shutil.copytree(tree / "test" / "zero", folder / "deep")
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "predictions.csv"
    command = ["predict", str(model), str(folder), str(tmp_path / "gone.png"), "--quiet"]
    assert main([*command, "--out", str(out), "--top-k", "2"]) == 0
    printed = capsys.readouterr()
    assert "10 images; written" in printed.out
    assert "2 of 10 images could not be read" in printed.err
    rows = rows_of(out)
    assert list(rows[0]) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    wrong = {Path(row["path"]).name: row for row in rows if row["error"]}
    assert set(wrong) == {"broken.png", "gone.png"}
    assert wrong["gone.png"]["error"] == "no such file"
    assert "is not an image file" in wrong["broken.png"]["error"]
    assert {row["label"] + row["probability"] for row in wrong.values()} == {""}
    good = [row for row in rows if not row["error"]]
    clf = load_adapter(model)
    probabilities = clf.predict_proba([row["path"] for row in good])
    assert [row["label"] for row in good] == clf.predict([row["path"] for row in good]).tolist()
    expected = np.sort(probabilities, axis=1)[:, ::-1]
    found = [[float(row["probability"]), float(row["probability_2"])] for row in good]
    np.testing.assert_array_equal(found, expected[:, :2])


def test_predict_prints_without_a_file(tree, model, capsys):
    image = str(tree / "test" / "one" / "15.png")
    assert main(["predict", str(model), image, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path,label,probability,error"
    assert lines[1].startswith(f"{image},")


def test_evaluate_says_and_writes_how_good_it_is(tree, model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(model), str(tree), "--out", str(out), "--quiet"]) == 0
    printed = capsys.readouterr().out
    paths, labels = skclipsvd.datasets.load_folder(tree, return_X_y=True, part="test")
    predicted = load_adapter(model).predict(paths)
    assert f"accuracy: {np.mean(predicted == labels):.1%} of 24 images" in printed
    confusion = rows_of(out / "confusion.csv")
    counts = np.array([[int(row[name]) for name in NAMES] for row in confusion])
    for (i, j), n in np.ndenumerate(counts):
        assert n == np.sum((labels == NAMES[i]) & (predicted == NAMES[j]))
    recall = {row["label"]: float(row["recall"]) for row in rows_of(out / "per_class.csv")}
    assert recall == pytest.approx({n: np.mean(predicted[labels == n] == n) for n in NAMES})
    with Image.open(out / "confusion.png") as picture:
        assert min(picture.size) > 300


def test_an_evaluation_that_is_cut_off_leaves_the_old_files(tree, model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    names = ("per_class.csv", "confusion.csv", "confusion.png")
    for name in names:
        (tmp_path / name).write_text("old")

    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    evaluate = ["evaluate", str(model), str(tree), "--out", str(tmp_path), "--quiet"]
    monkeypatch.setattr(csv.DictWriter, "writerows", no_space)
    assert main(evaluate) == 1
    assert {name: (tmp_path / name).read_text() for name in names} == dict.fromkeys(names, "old")
    monkeypatch.undo()
    monkeypatch.setattr("PIL.Image.Image.save", no_space)  # how Matplotlib writes a PNG
    assert main(evaluate) == 1
    assert (tmp_path / "confusion.png").read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


def test_evaluate_refuses_other_classes(tree, model, tmp_path, capsys):
    shutil.copytree(tree / "test" / "zero", tmp_path / "other" / "nought")
    assert main(["evaluate", str(model), str(tmp_path / "other"), "--quiet"]) == 1
    assert "the class 'nought'" in capsys.readouterr().err


def test_evaluate_refuses_several_labels(tree, tmp_path, capsys):
    paths = [str(path) for path in sorted((tree / "train").rglob("*.png"))]
    y = [[i % 2, i % 3 == 0] for i in range(len(paths))]
    clf = CLIPSVDClassifier("tiny", class_names=["odd", "third"], max_steps=0).fit(paths, y)
    clf.save_adapter(tmp_path / "several.safetensors")
    assert main(["evaluate", str(tmp_path / "several.safetensors"), str(tree), "--quiet"]) == 1
    assert "gives images several labels" in capsys.readouterr().err


def test_evaluate_says_that_a_folder_without_parts_was_perhaps_trained_on(tree, model, capsys):
    assert main(["evaluate", str(model), str(tree / "test"), "--quiet"]) == 0
    assert "test has no part test/, so all of its images are tested on" in capsys.readouterr().err
    assert main(["evaluate", str(model), str(tree), "--quiet"]) == 0
    assert not capsys.readouterr().err


def test_zero_shot(tree, tmp_path):
    out = tmp_path / "zero-shot.csv"
    command = ["zero-shot", str(tree / "test"), "--classes", *NAMES, "--model", "tiny"]
    assert main([*command, "--templates", "{}", "--out", str(out), "--quiet"]) == 0
    clf = skclipsvd.CLIPZeroShotClassifier("tiny", templates="{}").fit(None, NAMES)
    rows = rows_of(out)
    assert [row["label"] for row in rows] == clf.predict([row["path"] for row in rows]).tolist()


def test_info(model, capsys):
    assert main(["info", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "CLIPSVDClassifier" in printed
    assert re.search(r"^backbone +tiny$", printed, re.MULTILINE)
    assert "one, seven, zero" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train NOWHERE -o x.safetensors", "NOWHERE does not exist"),
        ("train TREE -o no/such/x.safetensors", "the folder .* does not exist; create it"),
        ("train TREE -o MODEL", "exists; name another file, or pass --overwrite"),
        ("predict NOWHERE TREE", "no such adapter file"),
        ("predict MODEL EMPTY", "holds no files whose names"),
        ("predict MODEL TREE --out photo.jpg", "--out photo.jpg: name a .csv file"),
        ("predict MODEL TREE --top-k 9", "top_k must be from 1 to 3"),
        ("evaluate MODEL TREE --part dev", "has no part dev, only train, test"),
        ("train TREE -o x.safetensors --model ViT-B-61", "ViT-B-61"),
        ("train BROKEN -o x.safetensors --model tiny", r"leave them out: '/.*bad\.png': is empty$"),
    ],
)
def test_errors_come_in_one_line(arguments, message, tree, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("broken/a/bad.png", "broken/b/bad.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    places = {"TREE": tree, "MODEL": model, "EMPTY": tmp_path / "empty"}
    places["BROKEN"] = tmp_path / "broken"
    typed = [str(places.get(word, word)) for word in arguments.split()]
    assert main([*typed, "--quiet"]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert re.search(message, error[0]), error
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.skipif(sys.platform == "win32", reason="no file modes")
def test_what_is_typed_is_checked_before_torch_is_imported(tree, model, tmp_path):
    """Of each command, what costs ten seconds of imports to be told too late."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.json").write_text("{")
    places = {"TREE": tree, "MODEL": model, "EMPTY": tmp_path / "empty"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)],
        input=json.dumps([[str(places.get(w, w)) for w in line.split()] for line in TOO_LATE]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    errors = done.stderr.splitlines()
    for (typed, message), error in zip(TOO_LATE.items(), errors, strict=True):
        assert re.search(f"^error: .*{message}", error), (typed, error)
    assert {file.name for file in tmp_path.iterdir()} == {"empty", "words.json"}


TOO_LATE = {
    "train NOWHERE -o x.safetensors --quiet": "NOWHERE does not exist",
    "train EMPTY -o x.safetensors --quiet": "No images in .*one folder per class",
    "train TREE -o no/such/x.safetensors --quiet": "the folder .* does not exist; create it",
    "train TREE -o MODEL --quiet": "exists; name another file, or pass --overwrite",
    "train TREE -o x.safetensors --epochs -1 --quiet": r"'epochs' parameter of skclipsvd train",
    "train TREE -o x.safetensors --lr 0 --quiet": "'lr' parameter .* Got 0.0 instead",
    "train TREE -o x.safetensors --batch-size 0 --quiet": "'batch_size' parameter",
    "train TREE -o x.safetensors --class-names words.json --quiet": "words.json is not valid JSON",
    "train TREE -o x.safetensors --checkpoint-dir words.json/x --quiet": "nothing can be written",
    "predict NOWHERE TREE --quiet": "no such adapter file",
    "predict MODEL EMPTY --quiet": "holds no files whose names",
    "predict MODEL TREE --out photo.jpg --quiet": "--out photo.jpg: name a .csv file",
    "predict MODEL TREE --top-k 0 --quiet": "top_k must be at least 1; got 0",
    "evaluate NOWHERE TREE --quiet": "no such adapter file",
    "evaluate MODEL NOWHERE --out made --quiet": "NOWHERE does not exist",
    "evaluate MODEL TREE --part dev --quiet": "has no part dev, only train, test",
    "zero-shot TREE --classes a b --top-k 3 --quiet": "top_k must be from 1 to 2, the classes",
    "info NOWHERE": "no such adapter file",
    "demo --output no/such/demo.png": "the folder .* does not exist; create it",
    "demo --output demo.txt": "--output demo.txt: name a picture, such as demo.png",
    "experiments few-shot --folder TREE --shots 0": "shots must be an int of at least 1; got 0",
    "experiments few-shot --folder TREE --seeds -1": r"seeds=\[-1\] must be ints of at least 0",
    "experiments few-shot --folder TREE --epochs -1": "'epochs' parameter of few-shot",
    "experiments few-shot --folder NOWHERE": "NOWHERE does not exist",
    "experiments few-shot --folder TREE --out no/such.csv": "the folder .* does not exist",
    "experiments table NOWHERE.csv": "there is no such file of results",
}
WITHOUT_TORCH = """
import io, json, os, sys
from contextlib import redirect_stderr
from skclipsvd.commands import main

os.chdir(sys.argv[1])
said = io.StringIO()
for arguments in json.load(sys.stdin):
    with redirect_stderr(said):
        assert main(arguments) == 1, arguments
lines = said.getvalue().splitlines()
others = [line for line in lines if line.strip() and not line.startswith("error: ")]
assert all("starting" in line for line in others), others
sys.stderr.write("\\n".join(line for line in lines if line.startswith("error: ")))
assert not {"torch", "open_clip", "torchvision"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    ("command", "option"),
    [("predict", "--top-k"), ("demo", "--seed"), ("experiments few-shot", "--shots")],
)
def test_help_imports_nothing_heavy(command, option):
    code = (
        "import sys; from skclipsvd.commands import main\n"
        f"try: main({[*command.split(), '--help']})\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print({'torch', 'sklearn', 'numpy', 'open_clip', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert option in done.stdout


def test_as_a_module():
    command = [sys.executable, "-m", "skclipsvd", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == skclipsvd.__version__


@pytest.mark.skipif(sys.platform == "win32", reason="no process can send another one Ctrl-C")
@pytest.mark.parametrize("name", ["predict", "demo"])
def test_it_says_at_once_that_it_starts(name, model, tree):
    """Torch and open_clip take seconds to import: neither silence nor a traceback after Ctrl-C."""
    image = str(tree / "test" / "one" / "15.png")
    typed = {"predict": ["skclipsvd", "predict", str(model), image], "demo": ["skclipsvd.demo"]}
    command = [sys.executable, "-m", *typed[name]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate()
    assert first == "[skclipsvd] starting ...\n"
    # Inside `exec`, Python itself ends with the signal, which shells show as 130, too.
    assert process.returncode in (130, -signal.SIGINT)
    assert "interrupted" in said.decode().splitlines()
    assert "Traceback" not in said.decode()
    assert not printed


def test_others_are_handed_on(capsys):
    with pytest.raises(SystemExit):
        main(["experiments", "few-shot", "--help"])
    assert "--shots" in capsys.readouterr().out


def test_interrupted(tree, model, monkeypatch, tmp_path, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(skclipsvd.CLIPSVDClassifier, "fit", interrupt)
    out = tmp_path / "x.safetensors"
    assert main(["train", str(tree), "-o", str(out), "--quiet"]) == 130
    assert not out.exists()
    assert "interrupted" in capsys.readouterr().err


TERMINATED = """
import json, os, signal, sys
from skclipsvd.commands import main
from skclipsvd.training import Encoders

backward, taken = Encoders.backward, []

def counted(self, *args):
    taken.append(1)
    if len(taken) == 4 and "terminate" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
    return backward(self, *args)

Encoders.backward = counted
status = main(json.loads(sys.stdin.read()))
print(len(taken))
sys.exit(status)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process can send another one SIGTERM")
def test_a_job_that_is_ended_goes_on_where_it_was(tree, tmp_path):
    """As Slurm does when the time of a job is over."""
    out, folder = tmp_path / "x.safetensors", tmp_path / "checkpoints"
    typed = ["train", str(tree), "-o", str(out), "--model", "tiny", "--no-augment", "--quiet"]
    typed += ["--max-steps", "6", "--lr", "0.01", "--seed", "0", "--checkpoint-dir", str(folder)]

    def run(*more):
        command = [sys.executable, "-W", "ignore", "-c", TERMINATED, *more]
        return subprocess.run(command, input=json.dumps(typed), capture_output=True, text=True)

    ended = run("terminate")
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr
    (checkpoint,) = folder.iterdir()
    assert f"continues from the checkpoint {checkpoint};" in ended.stderr
    assert not out.exists()
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"  # of six steps
    assert out.exists()
    assert not any(folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no process can send another one SIGTERM")
def test_a_second_sigterm_does_not_cut_the_last_write_off():
    """As systemd and users send it, who think that the first one did nothing."""
    before, done = signal.getsignal(signal.SIGTERM), []

    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            done.append("written")

    assert run_command(lambda: work, quiet=True) == 128 + signal.SIGTERM
    assert done == ["written"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_repeated_picture_is_named_by_its_path_alone(tree, capsys):
    paths = sorted(str(path) for path in (tree / "train").rglob("*.png"))

    def prepare():
        warnings.simplefilter("always")
        return lambda: fit(n)

    def fit(n):
        clf = CLIPSVDClassifier("tiny", max_steps=1, augment=False)
        clf.fit([paths[0]] * n + paths[:2], [*["one"] * n, "zero", "seven"])

    for n, rows in ((2, r"X\[0\], X\[1\] = "), (8, r"X\[4\] and 3 more rows = ")):
        with pytest.warns(ConflictingLabelsWarning, match=rows):
            fit(n)
        assert run_command(prepare, quiet=True) == 0
        said = capsys.readouterr().err
        assert f"labels: {paths[0]!r} is 'one' and {paths[0]!r} is 'zero'." in said


def test_the_demo_writes_to_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    given = {}
    monkeypatch.setattr(demo, "run", lambda **options: given.update(options))
    assert main(["demo", "--output", "~/d.png"]) == 0
    assert given["output"] == str(tmp_path / "d.png")


@pytest.mark.parametrize("words", [{"one": "a stroke"}, ["a", "b"]])
def test_class_names_of_an_editor_on_windows(tmp_path, words):
    file = tmp_path / "words.json"
    file.write_text(json.dumps(words), encoding="utf-8-sig")
    assert class_names_in(file) == words


@pytest.mark.parametrize("content", ["null", "3", '"one"', "true"])
def test_class_names_are_an_object_or_an_array(tmp_path, content):
    file = tmp_path / "words.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"words\.json holds {content}; it should hold an obj"):
        class_names_in(file)


def test_predict_lists_the_labels_that_an_image_is_given(tree, tmp_path):
    """None, one or several; the probabilities are those of single labels."""
    paths = [str(path) for path in sorted((tree / "train").rglob("*.png"))]
    y = np.array([[i % 2, i % 3 == 0, i % 5 == 0] for i in range(len(paths))], dtype=int)
    clf = CLIPSVDClassifier("tiny", class_names=["odd", "third", "fifth"], lr=0.05, max_steps=8)
    clf.set_params(augment=False, random_state=0).fit(paths, y).save_adapter(tmp_path / "s")
    out = tmp_path / "p.csv"
    command = ["predict", str(tmp_path / "s"), str(tree / "train"), str(tmp_path / "gone.png")]
    assert main([*command, "--out", str(out), "--top-k", "2", "--quiet"]) == 0
    *rows, gone = rows_of(out)
    assert (gone["label"], gone["probability"]) == ("", "")
    of_rows = [row["path"] for row in rows]
    proba, predicted = clf.predict_proba(of_rows), clf.predict(of_rows)
    assert {0, 1, 2} <= {*predicted.sum(axis=1).tolist()}
    for row, p, given in zip(rows, proba, predicted, strict=True):
        ranked = np.argsort(-p)
        assert row["label"] == ", ".join(str(i) for i in ranked if given[i])
        assert float(row["probability"]) == pytest.approx(p.max(), rel=1e-4)
        assert row["label_2"] == str(ranked[1])


def test_prediction_table_raises_or_reports(tree, model):
    clf = load_adapter(model)
    good = [str(path) for path in sorted((tree / "test").rglob("*.png"))]
    with pytest.raises(FileNotFoundError, match=r"X\[1\] = 'gone\.png'"):
        prediction_table(clf, [good[0], "gone.png"])
    with pytest.raises(ValueError, match="on_error must be"):
        prediction_table(clf, good, on_error="ignore")
    # More than one chunk, bad ones in both.
    many = (good * 20)[:300]
    many[3] = many[290] = "gone.png"
    table = prediction_table(clf, many, on_error="report")
    assert table["error"].notna().to_numpy().nonzero()[0].tolist() == [3, 290]
    kept = [path for path in many if path != "gone.png"]
    assert table["label"].dropna().tolist() == clf.predict(kept).tolist()
    np.testing.assert_array_equal(
        table["probability"].dropna(), clf.predict_proba(kept).max(axis=1)
    )


def test_prediction_table_does_not_blame_images_for_other_faults(tree, model):
    clf = load_adapter(model)
    clf.backbone_fingerprint_ = "0" * 64
    with pytest.raises(ValueError, match="not the weights that this classifier was fitted on"):
        prediction_table(clf, [str(tree / "test" / "one" / "15.png")], on_error="report")


def test_evaluate_says_before_that_it_cannot_draw(tree, model, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    hidden = {"matplotlib"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in hidden else find(n))
    out = tmp_path / "evaluation"
    assert main(["evaluate", str(model), str(tree), "--out", str(out), "--quiet"]) == 1
    assert "skclipsvd[plot]" in capsys.readouterr().err
    assert not out.exists()
