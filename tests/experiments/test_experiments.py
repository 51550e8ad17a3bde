"""The papers' protocols, on a miniature benchmark in the published layouts."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier, CLIPZeroShotClassifier
from skclipsvd.datasets import load, load_folder
from skclipsvd.exceptions import RepeatedImagesWarning
from skclipsvd.experiments import (
    METHODS,
    TwoStageClassifier,
    base_to_novel,
    cross_dataset,
    domain_generalisation,
    few_shot,
    open_data,
    open_folder,
    plot_shots,
    read_results,
    reported,
    runs,
    settings,
    tables,
)
from skclipsvd.experiments.__main__ import main
from skclipsvd.experiments.data import draw, parts
from skclipsvd.experiments.protocols import FEW_SHOT, match_classes, predict_trained
from skclipsvd.experiments.results import COLUMNS, Results
from skclipsvd.experiments.runs import Question, make_plan

FAST = dict(model_name="tiny", max_steps=1, lr=0.02, augment=False, device="cpu")
FAST_OPTIONS = ["--model", "tiny", "--max-steps", "1", "--lr", "0.02", "--no-augment"]
NAMES = ["zero", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def root(digits, tmp_path_factory):
    """DTD, ImageNet and three of its variants, in the published layouts, showing digits."""
    folder = tmp_path_factory.mktemp("the data")
    images = {name: [path for path, label in zip(*digits, strict=True) if label == name]
              for name in NAMES}  # fmt: skip
    entries = {"train": [], "val": [], "test": []}
    for number, name in enumerate(NAMES):
        for i in range(7):
            place = f"{name}/größe {i}.PNG"
            _copy(images[name][i], folder / "dtd/images" / place)
            entries["train" if i < 3 else "test"].append([place, number, name])
    listing = folder / "dtd/split_zhou_DescribableTextures.json"
    listing.write_text(json.dumps(entries), encoding="utf-8")
    for number, name in enumerate(NAMES):
        for i in range(3):
            source = images[name][10 + i]
            _copy(source, folder / f"imagenet/images/train/n{number}/{i}.png")
            _copy(
                source,
                folder / f"imagenetv2/imagenetv2-matched-frequency-format-val/{number}/a.png",
            )
        _copy(images[name][20], folder / f"imagenet/images/val/n{number}/{i}.png")
        if number in (1, 4):
            _copy(images[name][21], folder / f"imagenet-adversarial/imagenet-a/n{number}/a.png")
            _copy(images[name][22], folder / f"imagenet-rendition/imagenet-r/n{number}/a.png")
    for place in ("imagenet", "imagenetv2", "imagenet-adversarial", "imagenet-rendition"):
        lines = [f"n{number} {name}" for number, name in enumerate(NAMES)]
        (folder / place / "classnames.txt").write_text("\n".join(lines))
    return folder


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


# --- the protocols


def test_the_command_knows_every_method():
    assert tuple(METHODS) == settings.METHODS


def test_few_shot_with_every_method(root, tmp_path):
    data = load("dtd", root)
    out = tmp_path / "results.csv"
    rows = few_shot(data, shots=[1, 2], seeds=[1], out=out, write_splits=tmp_path, **FAST)
    assert rows == read_results(out)
    assert [(r["method"], r["shots"], r["seed"]) for r in rows[:2]] == [
        ("zero-shot", 0, 0),
        ("linear-probe", 1, 1),
    ]
    assert {r["method"] for r in rows} == set(METHODS)
    assert len(rows) == 1 + 8 * 2
    assert {(r["protocol"], r["data"], r["test"], r["n_test"]) for r in rows} == {
        ("few-shot", "dtd", "dtd", 20)
    }
    # What a user would write by hand.
    shots = load_folder(root / "dtd/images", split=tmp_path / "few-shot-dtd-2-shots-seed-1.json")
    train, test = shots.splits["train"], data.splits["test"]
    assert len(train) == 10
    clf = CLIPSVDClassifier(**FAST, templates="{} texture.", random_state=1)
    by_hand = clf.fit(train.paths, train.labels).score(test.paths, test.labels)
    (svd,) = (r["accuracy"] for r in rows if (r["method"], r["shots"]) == ("svd", 2))
    assert svd == by_hand


def test_base_to_novel_on_digits():
    data = open_data("digits")
    rows = base_to_novel(
        data, methods=["zero-shot", "two-stage-svd", "svd"], shots=[2], seeds=[1], **FAST
    )
    assert [(r["method"], r["test"], r["n_test"]) for r in rows[:2]] == [
        ("zero-shot", "base", 450),
        ("zero-shot", "novel", 449),
    ]
    novel = {r["method"]: r["accuracy"] for r in rows if r["test"] == "novel"}
    # The second stage leaves novel classes to the text tower; the first took the only step.
    assert novel["two-stage-svd"] == novel["svd"]
    base = data.class_names[:5]
    train, test = parts(data)
    shots = draw(train.of_classes(range(5)), 2, 1)
    clf = CLIPSVDClassifier(**FAST, random_state=1)
    clf.fit(shots.paths, np.array(data.class_names)[shots.targets])
    assert clf.classes_.tolist() == sorted(base)
    others = test.of_classes(range(5, 10))
    answers = clf.with_classes(data.class_names[5:]).predict(others.paths)
    by_hand = np.mean(answers == np.array(data.class_names)[others.targets])
    assert novel["svd"] == by_hand


def test_cross_dataset(root):
    rows = cross_dataset(
        load("imagenet", root),
        [load("dtd", root)],
        methods={"zero-shot": {}, "lora": {"lr": 0.01}},
        shots=[1],
        seeds=[2],
        **FAST,
    )
    assert [(r["method"], r["data"], r["test"]) for r in rows] == [
        ("zero-shot", "imagenet", "imagenet"),
        ("zero-shot", "imagenet", "dtd"),
        ("lora", "imagenet", "imagenet"),
        ("lora", "imagenet", "dtd"),
    ]
    assert rows[2]["overrides"] == "augment=False, lr=0.01, max_steps=1"
    test = load("dtd", root).splits["test"]
    clf = CLIPZeroShotClassifier("tiny", templates="{} texture.").fit(None, NAMES)
    assert rows[1]["accuracy"] == clf.score(test.paths, test.labels)


def test_domain_generalisation_with_some_of_the_classes(root):
    others = [load(name, root) for name in ("imagenetv2", "imagenet_a", "imagenet_r")]
    rows = domain_generalisation(
        load("imagenet", root), others, shots=[1], seeds=[1],
        methods=["zero-shot", "linear-probe", "two-stage-lora"], **FAST,
    )  # fmt: skip
    assert [(r["test"], r["n_test"]) for r in rows[:4]] == [
        ("imagenet", 5),
        ("imagenetv2", 5),
        ("imagenet_a", 2),
        ("imagenet_r", 2),
    ]
    assert len(rows) == 12
    # A choice among two classes, not among five.
    clf = CLIPZeroShotClassifier("tiny").fit(None, ["one", "four"])
    for row, other in zip(rows[2:4], others[1:], strict=True):
        test = other.splits["test"]
        assert row["accuracy"] == clf.score(test.paths, test.labels)


def test_classes_are_matched_by_name():
    trained = ["tench", "missile", "kite", "missile"]
    assert match_classes(trained, trained, "x") == [[0], [1], [2], [3]]
    assert match_classes(trained, ["kite", "missile"], "x") == [[2], [1, 3]]
    with pytest.raises(ValueError, match=r"x has classes that are not trained on, such as 'cat'"):
        match_classes(trained, ["cat"], "x")


def test_two_classes_of_one_name_are_two_classes(root):
    data = load("dtd", root)
    data = replace(data, class_names=("one", *data.class_names[1:]))
    rows = few_shot(data, methods=["linear-probe"], shots=[3], seeds=[1], model_name="tiny")
    assert rows[0]["accuracy"] > 0.4


def test_rare_classes_repeat_their_images_and_that_is_said(root, capsys):
    data = load("dtd", root)
    data = replace(data, splits={**data.splits, "val": data.splits["test"]})
    have = len(data.splits["train"]) // len(data.class_names)  # as many of each class
    assert have < 8
    said = (
        f"dtd: 8 shots are {5 * have} different images, because 5 of 5 classes have fewer "
        rf"\('\w+' has {have}\)\. Their images are repeated"
    )
    choice = dict(methods=["linear-probe"], seeds=[1], model_name="tiny")
    with pytest.warns(RepeatedImagesWarning, match=said) as caught:
        rows = few_shot(data, shots=[2, 8], verbose=1, **choice)
    assert caught[0].filename == __file__
    assert [row["n_train"] for row in rows] == [10, 5 * have]
    assert f"| accuracy, % | 2 shots (10 images) | 8 shots ({5 * have} images) |" in tables(rows)

    lines = capsys.readouterr().err.splitlines()
    n_train, n_val, n_test = (len(data.splits[part]) for part in ("train", "val", "test"))
    assert lines[0] == (
        f"dtd: draws from {n_train} images, asks about dtd ({n_test}); left out, because nothing "
        f"is tuned on it: val ({n_val})"
    )
    assert lines[1].startswith("1 of 2: few-shot, dtd, linear-probe, 2-shot, seed 1: dtd ")
    assert lines[2].startswith("2 of 2: few-shot, dtd, linear-probe, 8-shot, seed 1: dtd ")


def test_finished_runs_are_counted(root, tmp_path, capsys):
    choice = dict(methods=["zero-shot", "linear-probe"], shots=[1], model_name="tiny", verbose=1)
    few_shot(load("dtd", root), seeds=[2], out=tmp_path / "r.csv", **choice)
    capsys.readouterr()
    few_shot(load("dtd", root), seeds=[1, 2], out=tmp_path / "r.csv", **choice)
    lines = capsys.readouterr().err.splitlines()[1:]
    already = f"is in {tmp_path / 'r.csv'} already"
    assert lines[0] == f"1 of 3: few-shot, dtd, zero-shot: {already}"
    assert re.match(r"2 of 3: few-shot, dtd, linear-probe, 1-shot, seed 1: dtd [\d.]+ %", lines[1])
    assert lines[2] == f"3 of 3: few-shot, dtd, linear-probe, 1-shot, seed 2: {already}"


# --- results


OPTIONS = ["--methods", "linear-probe", "svd", "lora", "--shots", "1", "2", "--seeds", "1", "2"]


def test_a_killed_run_resumes_where_it_stopped(root, tmp_path, monkeypatch, capsys):
    command = ["few-shot", "--data", "dtd", "--root", str(root), *OPTIONS, *FAST_OPTIONS]
    killed, whole = tmp_path / "killed.csv", tmp_path / "whole.csv"
    environment = {**os.environ, "PYTHONPATH": str(Path(settings.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-m", "skclipsvd.experiments", *command, "--out", str(killed)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not killed.exists() or killed.read_bytes().count(b"\n") < 4:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() != 0
    before = killed.read_bytes()
    assert 3 <= len(read_results(killed)) < 12

    fitted = []
    rows = runs.Run.rows
    monkeypatch.setattr(runs.Run, "rows", lambda run: fitted.append(run) or rows(run))
    n_done = len(read_results(killed))
    assert main([*command, "--out", str(killed)]) == 0
    assert len(fitted) == 12 - n_done
    assert main([*command, "--out", str(whole)]) == 0
    assert len(fitted) == 24 - n_done
    assert killed.read_bytes() == whole.read_bytes()
    assert killed.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert main([*command, "--out", str(killed)]) == 0  # nothing is left to do
    assert len(fitted) == 24 - n_done
    assert (
        "- published setting, augment=False, lr=0.02, max_steps=1: CLIP-LoRA; CLIP-SVD"
        in capsys.readouterr().out
    )


def _rows(n):
    row = dict.fromkeys(COLUMNS, 'a, "b" ü')
    row.update(shots=1, accuracy=0.1 + 0.2, n_train=1, n_test=3)
    return [{**row, "seed": seed} for seed in range(n)]


def test_a_torn_line_is_dropped_wherever_it_is_torn(tmp_path):
    first, second = _rows(2)
    Results(tmp_path / "a.csv").append([first])
    short = (tmp_path / "a.csv").read_bytes()
    Results(tmp_path / "a.csv").append([second])
    whole = (tmp_path / "a.csv").read_bytes()
    assert read_results(tmp_path / "a.csv") == [first, second]
    torn = tmp_path / "torn.csv"
    for end in range(len(whole)):
        torn.write_bytes(whole[:end])
        assert read_results(torn) == ([first] if end >= len(short) else [])
        Results(torn).append([first, second])
        assert torn.read_bytes() == whole


def test_many_writers_neither_mix_nor_repeat(tmp_path):
    path, rows = tmp_path / "results.csv", _rows(40)

    def write(start):
        for row in rows[start:] + rows[:start]:
            Results(path).append([row])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 0, 13, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_results(path), key=lambda row: row["seed"]) == rows


def test_another_file_is_not_touched(root, tmp_path):
    path = tmp_path / "notes.csv"
    path.write_text("a,b\n1,2\n3")
    with pytest.raises(ValueError, match=r"notes\.csv is not a file of results"):
        few_shot(load("dtd", root), out=path, **FAST)
    assert path.read_text() == "a,b\n1,2\n3"
    with pytest.raises(FileNotFoundError, match=r"the folder .*none does not exist"):
        few_shot(load("dtd", root), out=tmp_path / "none" / "results.csv", **FAST)
    Results(tmp_path / "r.csv").append(_rows(1))
    (tmp_path / "r.csv").write_text((tmp_path / "r.csv").read_text().replace("0.3", "x"))
    with pytest.raises(ValueError, match=r"Line 2 of .* is damaged"):
        read_results(tmp_path / "r.csv")


FOREIGN = {
    "text": b"my notes, in one line",
    "json": b'{"zero": "nought"}',
    "binary": b"\x89PNG \x00\xff",
    "other csv": b"protocol,data",
    "longer header": b",".join(name.encode() for name in COLUMNS) + b",more",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_without_a_line_end_survives(root, tmp_path, content, capsys):
    path = tmp_path / "mine"
    path.write_bytes(content)
    if content == FOREIGN["other csv"]:  # what a killed writer may leave: it is results
        Results(path).append(_rows(1))
        assert read_results(path) == _rows(1)
        return
    command = ["few-shot", "--data", "dtd", "--root", str(root), "--methods", "zero-shot"]
    assert main([*command, "--model", "tiny", "--out", str(path)]) == 1
    assert "mine is not a file of results" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_a_file_that_was_replaced_meanwhile_survives(tmp_path):
    path = tmp_path / "results.csv"
    results = Results(path)
    path.write_bytes(b"a,b\n1,2")
    with pytest.raises(ValueError, match="not a file of results"):
        results.append(_rows(1))
    assert path.read_bytes() == b"a,b\n1,2"


def test_tables_do_not_overwrite_results(tmp_path, monkeypatch, capsys):
    path, other = tmp_path / "r.csv", tmp_path / "other.csv"
    Results(path).append([_made_up()])
    shutil.copy(path, other)
    monkeypatch.chdir(tmp_path)
    before = path.read_bytes()
    for out in ("r.csv", "./r.csv", str(path), "other.csv"):
        assert main(["table", "r.csv", "--out", out]) == 1
        assert "would overwrite results; name another file" in capsys.readouterr().err
        assert main(["table", "r.csv", "--out", "new.md", "--plot", out]) == 1
        assert "would overwrite results" in capsys.readouterr().err
    assert main(["table", "r.csv", "--out", "new", "--plot", "./new"]) == 1
    assert "name two files" in capsys.readouterr().err
    assert main(["table", "r.csv", "--out", "none/new.md"]) == 1
    assert "none does not exist" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "r.csv": before,
        "other.csv": before,
    }


def test_a_plot_that_cannot_be_drawn_is_said_before_tables_are_written(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    whole = dict(n_train=47, n_test=9)
    Results("r.csv").append([_made_up(**whole)])
    models = [_made_up(model=model, **whole) for model in ("ViT-B-16", "ViT-B-32")]
    Results("other.csv").append(models)
    for results, plot, message in (
        ("r.csv", "p.docx", "--plot p.docx: name a picture, such as shots.png"),
        ("r.csv", "p", "--plot p: name a picture"),
        ("other.csv", "p.png", "draws few-shot results of one model; got ["),
    ):
        assert main(["table", results, "--out", "new.md", "--plot", plot]) == 1
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert main(["table", "r.csv", "--out", "new.md", "--plot", "p.png"]) == 1
    assert "--plot draws a picture; it needs `pip install" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.csv", "r.csv"]


def test_a_written_draw_is_not_replaced_by_another(root, tmp_path):
    choice = dict(methods=["zero-shot"], shots=[1], seeds=[1], model_name="tiny")
    data = load("dtd", root)
    few_shot(data, write_splits=tmp_path, **choice)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    few_shot(data, write_splits=tmp_path, **choice)  # the same draw
    renamed = replace(data, class_names=("nought", *data.class_names[1:]))
    with pytest.raises(FileExistsError, match=r"seed-1\.json holds another draw"):
        few_shot(renamed, write_splits=tmp_path, **choice)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_a_result_belongs_to_what_determines_it(root, tmp_path):
    out = tmp_path / "results.csv"
    data = load("dtd", root)
    choice = dict(methods=["zero-shot"], out=out, model_name="tiny")
    few_shot(data, **choice)
    few_shot(data, **choice, device="cpu", n_jobs=1)  # where it runs
    assert len(read_results(out)) == 1
    few_shot(data, **choice, templates="{}")
    few_shot(replace(data, class_names=("nought", *data.class_names[1:])), **choice)
    moved = tmp_path / "moved"
    shutil.copytree(root / "dtd", moved / "dtd")
    few_shot(load("dtd", moved), **choice)
    rows = read_results(out)
    assert len(rows) == 3
    assert len({row["settings_hash"] for row in rows}) == 2
    assert len({row["data_hash"] for row in rows}) == 2


# --- mistakes are found before anything is trained


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        (dict(methods=["svm"]), ValueError, "methods: 'svm' is unknown; choose of zero-shot"),
        (dict(methods=[]), ValueError, "methods is empty"),
        (dict(shots=[0]), ValueError, "shots must be an int of at least 1; got 0"),
        (dict(shots=[]), ValueError, "needs one entry or more"),
        (dict(seeds=[-1]), ValueError, r"seeds=\[-1\] must be ints of at least 0"),
        (dict(setting="best"), ValueError, "setting='best': choose one of default, published"),
        (dict(learning_rate=1), TypeError, "'learning_rate' is no parameter of zero-shot, linear"),
        (
            dict(methods={"zero-shot": {"lr": 1}, "svd": {}}),
            TypeError,
            "'lr' is no parameter of zero-shot",
        ),
        (dict(methods=["zero-shot"]), TypeError, "'augment' is no parameter of zero-shot"),
        (dict(epochs=3), ValueError, "epochs and max_steps exclude each other"),
        (dict(lr=-1.0), ValueError, "lr"),
        (dict(rank=0), ValueError, "rank"),
        (dict(model_name="ViT-B-61"), ValueError, "ViT-B-61"),
    ],
)
def test_mistakes(root, choice, error, message, monkeypatch):
    monkeypatch.setattr(runs.Run, "rows", lambda run: pytest.fail("trained"))
    with pytest.raises(error, match=message):
        few_shot(load("dtd", root), **{**FAST, **choice})


def test_mistakes_about_data(root, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.Run, "rows", lambda run: pytest.fail("trained"))
    dtd = load("dtd", root)
    with pytest.raises(ValueError, match="'linear-probe' cannot be told other classes"):
        base_to_novel(dtd, methods=["linear-probe"], **FAST)
    with pytest.raises(ValueError, match="Two data sets are called 'dtd'"):
        cross_dataset(dtd, [dtd], **FAST)
    with pytest.raises(ValueError, match="needs train and test, or no parts at all"):
        few_shot(load("imagenet_a", root), **FAST)
    with pytest.raises(ValueError, match="no published base-to-novel setting for 'mine'"):
        base_to_novel(replace(dtd, name="mine"), setting="published", model_name="tiny")
    lonely = replace(dtd, splits={"train": dtd.splits["val"], "test": dtd.splits["test"]})
    with pytest.raises(ValueError, match="dtd has no training images of 'zero'"):
        few_shot(lonely, **FAST)
    with pytest.raises(ValueError, match="root is missing"):
        open_data("dtd")
    two = tmp_path / "two"
    shutil.copytree(root / "dtd/images/zero", two / "zero")
    shutil.copytree(root / "dtd/images/one", two / "one")
    with pytest.raises(ValueError, match="two has 1 base classes"):
        base_to_novel(open_folder(two), **FAST)
    with pytest.raises(ValueError, match="class_names has 'cat', which is no class"):
        open_folder(two, class_names={"cat": "house cat"})
    for path in list((two / "one").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="one image only of 'one'"):
        few_shot(open_folder(two), **FAST)


# --- folders and the command


def test_folders_with_and_without_parts(root, tmp_path):
    tree = root / "dtd/images"
    whole = parts(open_folder(tree))
    assert [len(part.targets) for part in whole] == [17, 18]
    assert not set(whole[0].paths) & set(whole[1].paths)
    for i, path in enumerate(sorted(tree.rglob("*.PNG"))):
        _copy(path, tmp_path / ("train" if i % 7 < 3 else "test") / path.relative_to(tree))
    data = open_folder(tmp_path, class_names={"zero": "nought"})
    assert data.class_names == ("four", "one", "three", "two", "nought")
    train, test = parts(data)
    assert (len(train.targets), len(test.targets)) == (15, 20)
    assert all(data.class_names[t] in ("nought", Path(p).parent.name)
               for p, t in zip(test.paths, test.targets, strict=True))  # fmt: skip


def test_command(root, tmp_path, capsys):
    out = str(tmp_path / "results.csv")
    names = tmp_path / "names.json"
    names.write_text('{"zero": "nought"}')
    folder = ["--folder", str(root / "dtd/images"), "--class-names", str(names)]
    common = ["--methods", "zero-shot", "--model", "tiny", "--out", out]
    assert main(["base-to-novel", *folder, *common]) == 0
    data = ["--data", "imagenet", "--root", str(root)]
    assert main(["cross-dataset", *data, "--test", "dtd", *common]) == 0
    assert main(["domain-generalisation", *data, "--test", "imagenet_a", *common]) == 0
    assert main(["domain-generalisation", *data, *common]) == 1
    assert "imagenet-sketch does not exist" in capsys.readouterr().err
    assert len(read_results(out)) == 6
    assert main(["table", out, "--out", str(tmp_path / "tables.md")]) == 0
    text = (tmp_path / "tables.md").read_text()
    assert "## domain-generalisation, tiny" in text
    assert re.search(r"\| zero-shot CLIP \| [\d.]+ \| [\d.]+ \| [\d.]+ \|", text)
    assert main(["table", str(tmp_path / "none.csv")]) == 1


def test_experiments_are_not_imported_with_the_package():
    code = "import sys, skclipsvd; sys.exit('skclipsvd.experiments' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(settings.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


# --- two stages


def test_two_stages_share_one_budget(digits):
    X, y = digits[0][:40], digits[1][:40]
    first = CLIPSVDClassifier(**{**FAST, "max_steps": 10}, random_state=0)
    clf = TwoStageClassifier(first, share=0.6).fit(X, y)
    assert (clf.classifier_.n_iter_, clf.head_.max_iter) == (6, 4)
    np.testing.assert_array_equal(clf.classes_[clf.decision_function(X).argmax(1)], clf.predict(X))
    other = clf.with_classes(["zero", "one"])
    assert isinstance(other, CLIPSVDClassifier)
    by_epochs = clf.set_params(classifier__max_steps=None, classifier__epochs=5).fit(X, y)
    assert (by_epochs.classifier_.n_iter_, by_epochs.head_.max_iter) == (6, 4)
    # Without a second stage it is the first one.
    whole = TwoStageClassifier(first, share=1.0).fit(X, y)
    np.testing.assert_array_equal(whole.predict(X), first.fit(X, y).predict(X))


def test_two_stages_check_their_parameters(digits):
    with pytest.raises(ValueError, match="share"):
        TwoStageClassifier(CLIPSVDClassifier("tiny"), share=1.5).fit(*digits)
    with pytest.raises(ValueError, match="classifier"):
        TwoStageClassifier(CLIPZeroShotClassifier("tiny")).fit(*digits)


# --- settings

FEW_SHOT_BIOMEDICAL = """
btmri 7e-3 100 | busi 2e-3 100 | chmnist 7e-3 100 | covid 5e-4 100 | ctkidney 1e-3 200
kneexray 8e-3 100 | kvasir 5e-3 100 | lungcolon 3e-3 100 | octmnist 1e-2 100 | retina 7e-3 100
"""
BASE_TO_NOVEL = """
caltech101 4e-4 20 | dtd 4e-4 20 | eurosat 4e-4 20 | fgvc_aircraft 4e-4 20 | food101 4e-4 10
imagenet 4e-4 10 | oxford_flowers 4e-4 10 | oxford_pets 4e-4 20 | stanford_cars 4e-4 10
sun397 4e-4 10 | ucf101 4e-4 10 | btmri 9e-3 100 | chmnist 1e-3 60 | covid 2e-3 50
ctkidney 1e-2 200 | kneexray 2e-3 60 | kvasir 3e-3 60 | lungcolon 1e-2 100 | octmnist 2e-2 100
retina 2e-2 60
"""


def _published(text):
    entries = (entry.split() for line in text.split("\n") for entry in line.split("|"))
    return {e[0]: (float(e[1]), int(e[2])) for e in entries if e}


def test_published_settings():
    def ask(*what):
        return settings.parameters("published", *what)

    for name, (lr, epochs) in _published(FEW_SHOT_BIOMEDICAL).items():
        found = ask("few-shot", "svd", name)
        assert (found["lr"], found["epochs"], found["weight_decay"]) == (lr, epochs, 0)
    for name, (lr, epochs) in _published(BASE_TO_NOVEL).items():
        found = ask("base-to-novel", "svd", name)
        assert (found["lr"], found["epochs"]) == (lr, epochs)
        assert found["weight_decay"] == (0.01 if name in settings.NATURAL else 0)
        assert found["layers"] == (tuple(range(4, 12)) if name == "ctkidney" else "all")
    assert set(_published(FEW_SHOT_BIOMEDICAL)) == set(settings.BIOMEDICAL)
    assert set(_published(BASE_TO_NOVEL)) == {*settings.NATURAL, *settings.BIOMEDICAL} - {"busi"}
    for name in settings.NATURAL:
        found = ask("few-shot", "svd", name)
        assert (found["lr"], found["weight_decay"], found["steps_per_shot"]) == (5e-4, 0.01, 200)
    assert ask("cross-dataset", "svd", "imagenet")["epochs"] == 10
    assert ask("domain-generalisation", "svd", "imagenet")["epochs"] == 1
    lora = ask("few-shot", "lora", "dtd")
    assert lora == ask("base-to-novel", "lora", "retina")
    assert (lora["rank"], lora["alpha"], lora["dropout"]) == (2, 1, 0.25)
    assert (lora["lr"], lora["weight_decay"], lora["steps_per_shot"]) == (2e-4, 0.01, 500)
    assert ask("few-shot", "two-stage-lora", "dtd") == {**lora, "steps_per_shot": 300, "share": 0.6}
    assert ask("few-shot", "zero-shot", "dtd") == {}


def test_published_settings_are_parameters():
    for name in (*settings.NATURAL, *settings.BIOMEDICAL):
        for protocol in ("few-shot", "base-to-novel"):
            for method in ("svd", "lora", "two-stage-svd", "two-stage-lora"):
                if (protocol, name) != ("base-to-novel", "busi"):
                    found = settings.parameters("published", protocol, method, name)
                    assert set(found) <= METHODS[method].takes
    assert settings.backbone("published", "btmri")["model_name"].startswith("hf-hub:microsoft/Biom")
    assert settings.backbone("default", "btmri") == settings.NATURAL_MODEL
    assert settings.template("published", "base-to-novel", "food101", "x {}").startswith(
        "a photo of {}, a type"
    )
    assert settings.template("published", "few-shot", "food101", "x {}") == "x {}"
    assert settings.template("default", "base-to-novel", "food101", "x {}") == "x {}"


def test_the_default_is_that_of_the_estimators(root):
    assert settings.DEFAULT == {"svd": {}, "lora": {}}
    data = load("dtd", root)
    train, test = parts(data)
    choice = dict(methods=["svd", "lora"], shots=[4], seeds=[1], overrides={"model_name": "tiny"})
    question = Question("dtd", test, predict_trained, "hash")
    plan = make_plan(FEW_SHOT, data, train, [question], **choice)
    for run, estimator in zip(plan.runs(), (CLIPSVDClassifier, CLIPLoRAClassifier), strict=True):
        ours = run.estimator.get_params()
        for name in ("model_name", "templates", "class_names"):
            ours.pop(name)
        assert ours.items() <= estimator().get_params().items()
    plan = make_plan(FEW_SHOT, data, train, [question], setting="published", **choice)
    assert [run.estimator.max_steps for run in plan.runs()] == [800, 2000]


def test_listing_runs_loads_no_model(root):
    data = load("dtd", root)
    train, test = parts(data)
    question = Question("dtd", test, predict_trained, "hash")
    no_such_file = {"pretrained": str(root / "no checkpoint.pt")}
    plan = make_plan(
        FEW_SHOT, data, train, [question],
        methods=["zero-shot", "svd"], shots=[1, 2], seeds=[1, 2], overrides=no_such_file,
    )  # fmt: skip
    listed = [(run.columns["method"], run.columns["shots"]) for run in plan.runs()]
    assert listed == [("zero-shot", 0), ("svd", 1), ("svd", 1), ("svd", 2), ("svd", 2)]
    with pytest.raises(FileNotFoundError, match=r"no checkpoint\.pt"):
        next(plan.runs()).identities()


def test_reported_numbers():
    for family, ours in reported.FEW_SHOT.items():
        lengths = {label: len(numbers) for label, numbers in ours.items()}
        assert lengths.pop("SO (arXiv:2504.12436)", 3) == 3
        assert set(lengths.values()) == {len(reported.SHOTS)}
        for base, novel, mean in reported.BASE_TO_NOVEL[family].values():
            # Biomedical means are means over data sets, natural ones are of the two means.
            tolerance = 0.011 if family == "natural" else 5
            assert abs(2 * base * novel / (base + novel) - mean) < tolerance
    natural = reported.FEW_SHOT["natural"]
    assert natural["CLIP-SVD"] == (73.20, 76.06, 78.18, 80.55, 82.97)
    assert natural["CLIP-LoRA"] == (72.20, 75.41, 77.32, 80.10, 82.89)
    assert natural["SO (arXiv:2504.12436)"] == (73.8, 76.6, 78.9)
    assert natural["linear probing"] == (45.77, 56.92, 66.79, 73.43, 78.39)
    assert reported.FEW_SHOT["biomedical"]["CLIP-SVD"][-1] == 76.46
    assert reported.BASE_TO_NOVEL["biomedical"]["CLIP-LoRA"] == (70.56, 59.84, 64.76)


# --- tables


def _made_up(**columns):
    row = dict.fromkeys(COLUMNS, "")
    row.update(protocol="few-shot", data="dtd", test="dtd", method="svd", model="ViT-B-16")
    row.update(pretrained="openai", shots=1, seed=1, setting="default", accuracy=0.5)
    return {**row, **columns}


def test_few_shot_tables():
    rows = [_made_up(method="zero-shot", shots=0, seed=0, accuracy=0.4)]
    for data, gain in (("dtd", 0.0), ("eurosat", 0.2)):
        for seed in (1, 2):
            rows += [_made_up(data=data, test=data, seed=seed, accuracy=0.5 + gain + seed / 100)]
    text = tables(rows)
    assert "## few-shot, ViT-B-16 (openai)" in text
    assert "| zero-shot CLIP | 40.00 |" in text
    assert "| CLIP-SVD | 51.50 ± 0.71 |" in text
    assert "### Mean of 2 of 11 natural data sets" in text
    assert "| CLIP-SVD | 61.50 |" in text
    assert "| *CLIP-SVD, reported* | 73.20 |" in text
    assert text.count("| zero-shot CLIP |") == 1  # not on all of them
    text = tables([*rows, _made_up(seed=1, accuracy=0.9, settings_hash="other")])
    assert "| CLIP-SVD | 71.00 ± 26.87 |" in text
    assert "1 older rows" in text


def test_base_to_novel_tables():
    rows = [
        _made_up(protocol="base-to-novel", test=test, shots=16, seed=seed, accuracy=accuracy)
        for seed in (1, 2)
        for test, accuracy in (("base", 0.8), ("novel", 0.6))
    ]
    text = tables(rows)
    assert "| CLIP-SVD (16 shots) | 80.00 ± 0.00 | 60.00 ± 0.00 | 68.57 |" in text
    assert "| CLIP-SVD (16 shots) | 80.00 | 60.00 | 68.57 |" in text
    assert "| *CLIP-SVD, 16 shots* | 84.38 | 76.29 | 80.13 |" in text
    with pytest.raises(ValueError, match="rows is empty"):
        tables([])


def test_configurations_are_kept_apart():
    text = tables([_made_up(), _made_up(overrides="lr=0.1", accuracy=0.6), _made_up(weights="x")])
    assert "| CLIP-SVD | 50.00 |" in text
    assert "| CLIP-SVD (lr=0.1) | 60.00 |" in text
    assert "- default setting, lr=0.1: CLIP-SVD" in text
    assert text.count("## few-shot, ViT-B-16") == 2
    # Parameters that go with the data set are no other method.
    text = tables([_made_up(overrides="lr=0.1"), _made_up(data="ucf101", overrides="lr=0.2")])
    assert text.count("| CLIP-SVD | 50.00 |") == 3


def test_plot(tmp_path):
    rows = [
        _made_up(shots=n, data=d, accuracy=n / 20) for n in (1, 2, 16) for d in ("dtd", "ucf101")
    ]
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(ImportError, match=r"skclipsvd\[plot\]"):
            plot_shots(rows)
        return
    with pytest.raises(ValueError, match="one model; got none"):
        plot_shots([_made_up(protocol="base-to-novel")])
    figure = plot_shots(rows)
    assert [ax.get_title() for ax in figure.axes][:2] == ["dtd", "ucf101"]
    labels = [line.get_label() for line in figure.axes[2].lines]
    assert labels[0] == "CLIP-SVD"
    assert "CLIP-SVD, reported" in labels
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), [5, 10, 80])
    figure.savefig(tmp_path / "shots.png")
