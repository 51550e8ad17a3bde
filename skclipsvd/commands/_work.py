"""The command ``skclipsvd``: what it does, by the estimators and scikit-learn's metrics."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix

from ..caching.files import replacing
from ..classifiers import (
    BaseCLIPClassifier,
    CLIPLoRAClassifier,
    CLIPSVDClassifier,
    CLIPZeroShotClassifier,
    has_several_labels,
)
from ..datasets import Split
from ..inspection import ConfusionDisplay
from ..persistence import load_adapter
from ..predictions import prediction_table
from . import demo

_METHODS = {"svd": CLIPSVDClassifier, "lora": CLIPLoRAClassifier}
_Options = dict[str, Any]


def _train(options: _Options) -> None:
    output, folder = options.pop("output"), options.pop("folder")
    train, validation = options.pop("train"), options.pop("val")
    clf = _estimator(_METHODS[options.pop("method")], options)
    fitted_on = {} if validation is None or not clf.early_stopping else _validation(validation)
    clf.fit(train.paths, train.labels, **fitted_on)
    clf.save_adapter(output)
    print(
        f"{len(train)} images of {len(clf.classes_)} classes, {clf.n_iter_} steps, "
        f"{clf.n_parameters_tuned_:,} numbers trained; written: {output} "
        f"({os.path.getsize(output) / 1024:.0f} KiB)"
    )
    if options["has_test"]:
        print(f"to test it: skclipsvd evaluate {output} {folder}")


def _validation(part: Split) -> dict[str, Any]:
    return {"X_val": part.paths, "y_val": part.labels}


def _predict(options: _Options) -> None:
    _write_predictions(_load(options), options)


def _zero_shot(options: _Options) -> None:
    classes = options.pop("classes")
    wanted = {name: options.pop(name) for name in ("images", "out", "top_k")}
    clf = _estimator(CLIPZeroShotClassifier, options).fit(None, classes)
    _write_predictions(clf, wanted)


def _write_predictions(clf: BaseCLIPClassifier, options: _Options) -> None:
    paths, out, top_k = (options[name] for name in ("images", "out", "top_k"))
    rows = _records(prediction_table(clf, paths, top_k=top_k, on_error="report"))
    if out is None:
        _write_csv(sys.stdout, rows)
    else:
        _write_csv_file(out, rows)
        print(f"{len(rows)} images; written: {out}")
    if unread := sum(row["error"] is not None for row in rows):
        print(
            f"{unread} of {len(rows)} images could not be read; the column error says why.",
            file=sys.stderr,
        )


def _evaluate(options: _Options) -> None:
    part, name, out = (options.pop(key) for key in ("part", "name", "out"))
    clf = _load(options)
    if has_several_labels(clf):
        raise ValueError(
            "this classifier gives images several labels, and a folder for each class says one of "
            "each image; evaluate it in Python, with clf.score(X, y)."
        )
    _check_labels(part.labels, clf.classes_, name)
    names = [str(label) for label in clf.classes_]
    predicted = clf.predict(part.paths).astype(str)
    print(f"accuracy: {accuracy_score(part.labels, predicted):.1%} of {len(part)} images\n")
    report = dict(labels=names, zero_division=np.nan)
    print(classification_report(part.labels, predicted, **report))
    matrix = confusion_matrix(part.labels, predicted, labels=names)
    print(_confusion_text(matrix, names))
    if out is not None:
        scores = classification_report(part.labels, predicted, output_dict=True, **report)
        _write_evaluation(out, matrix, names, scores)


def _write_evaluation(
    out: Path, matrix: NDArray, names: Sequence[str], scores: Mapping[str, Mapping[str, float]]
) -> None:
    per_class = [{"label": name, **scores[name]} for name in names]
    confusion = [
        {"true \\ predicted": name, **dict(zip(names, row.tolist(), strict=True))}
        for name, row in zip(names, matrix, strict=True)
    ]
    for file, rows in (("per_class.csv", per_class), ("confusion.csv", confusion)):
        _write_csv_file(out / file, rows)
    picture = ConfusionDisplay(matrix, display_labels=names).plot()
    with replacing(out / "confusion.png") as temporary:
        picture.figure_.savefig(temporary, dpi=150, format="png")
    print(f"written: per_class.csv, confusion.csv and confusion.png in {out}")


def _confusion_text(matrix: NDArray, names: Sequence[str]) -> str:
    """Say which classes are taken for which, the most frequent mistakes first."""
    wrong = [
        (int(matrix[i, j]), names[i], names[j])
        for i, j in zip(*np.nonzero(matrix), strict=True)
        if i != j
    ]
    lines = [f"  {n} x {true} taken for {other}" for n, true, other in sorted(wrong, reverse=True)]
    more = [f"  and {len(lines) - 10} other pairs of classes"] if len(lines) > 10 else []
    return "\n".join(["confusions:", *(lines[:10] or ["  none"]), *more])


def _check_labels(labels: NDArray, classes: NDArray, name: str) -> None:
    unknown = sorted(set(labels.tolist()) - {str(label) for label in classes.tolist()})
    if unknown:
        raise ValueError(
            f"{name} has the class {unknown[0]!r} ({len(unknown)} such), which the classifier does "
            f"not know; its classes are {', '.join(map(str, classes))[:300]}."
        )


def _info(options: _Options) -> None:
    clf = load_adapter(options["model"], options["model_name"], options["pretrained"])
    brings_its_weights = clf.model_name == "tiny" or ":" in clf.model_name
    tag = "" if brings_its_weights or not clf.pretrained else f", {clf.pretrained}"
    lines = {"classifier": type(clf).__name__, "backbone": f"{clf.model_name}{tag}"}
    lines |= {"classes": ", ".join(map(str, clf.classes_))}
    lines |= {name: str(getattr(clf, name)) for name in ("templates", "class_names")}
    shown = ("n_iter_", "lr_", "best_validation_score_", "n_parameters_tuned_", "n_parameters_")
    lines |= {name: str(getattr(clf, name)) for name in shown if hasattr(clf, name)}
    lines |= {"backbone_fingerprint_": clf.backbone_fingerprint_[:12]}
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:{width}}  {value}")


def _load(options: _Options) -> BaseCLIPClassifier:
    backbone = {name: options.pop(name) for name in ("model_name", "pretrained")}
    clf = load_adapter(options.pop("model"), **backbone)
    given = {"verbose": int(not options["quiet"]), **options}
    known = clf.get_params()
    return clf.set_params(**{k: v for k, v in given.items() if k in known and v is not None})


def _estimator(kind: type[BaseCLIPClassifier], options: _Options) -> Any:
    """Make an estimator of what was given; the rest keeps its default."""
    given = {name: value for name, value in options.items() if value is not None}
    given["verbose"] = int(not given.pop("quiet"))
    return kind(**{name: value for name, value in given.items() if name in kind().get_params()})


def _records(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records") if hasattr(table, "to_dict") else table


def _write_csv_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table whole or not at all."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        _write_csv(file, rows)


def _write_csv(file: TextIO, rows: Sequence[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v != v else v for k, v in row.items()} for row in rows)  # no "nan"


def _demo(options: _Options) -> None:
    demo.run(**options)


COMMANDS: Mapping[str, Callable[[_Options], None]] = {
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "zero-shot": _zero_shot,
    "info": _info,
    "demo": _demo,
}
