"""Predictions as a table, one row per image, with what could not be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .classifiers import BaseCLIPClassifier, frozen_and_adapted, has_several_labels
from .constraints import check_top_k
from .frames import Table, table
from .images import Images, Item, as_items, decoding_threads, find_unreadable
from .progress import one_bar, shown

# So few images are predicted again where one of them cannot be read.
_CHUNK = 256


def prediction_table(
    clf: BaseCLIPClassifier, X: Images, *, top_k: int = 1, on_error: str = "raise"
) -> Table:
    """Predict images, and say of each how sure the classifier is.

    Parameters
    ----------
    clf : fitted estimator
        One of this package's classifiers.
    X : sequence of n_images images
        As for `fit`.
    top_k : int, default=1
        How many labels to list, the most probable first.
    on_error : {"raise", "report"}, default="raise"
        What to do about images that cannot be read: raise, as `predict` does, or leave their labels
        and probabilities empty and say why in the column "error".

    Returns
    -------
    table : DataFrame, or list of dict without pandas
        One row per image, and where pandas is not installed one dict, with the names of the columns
        as keys: "path" (None for images that are no paths), "label" and "probability";
        with ``top_k=3`` also "label_2", "probability_2", "label_3" and "probability_3"; with
        ``on_error="report"`` also "error", None where there is none. Where images have several
        labels, "label" lists those that `predict` gives, the most probable first and joined by
        ", ", or is empty; the other columns are still of the most probable labels one by one.

    Raises
    ------
    ValueError
        `top_k` is not between 1 and the number of classes, or `on_error` is something else.
    FileNotFoundError, ValueError
        As `predict`, for images that cannot be read, with ``on_error="raise"``.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier, prediction_table
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
    >>> rows = prediction_table(clf, [paths[0], "missing.png"], on_error="report")
    >>> rows["error"].tolist()
    [None, 'no such file']
    """
    with shown(clf.verbose):
        frozen_and_adapted(clf)  # what is wrong with the classifier is wrong with no image
    check_top_k(top_k, len(clf.classes_))
    if on_error not in ("raise", "report"):
        raise ValueError(f"on_error must be 'raise' or 'report'; got {on_error!r}.")
    items = as_items(X)
    errors: dict[int, str] = {}
    if on_error == "raise":
        probabilities = clf.predict_proba(items)
    else:
        errors, probabilities = _predict_readable(clf, items)
    columns = _columns(clf.classes_, items, probabilities, errors, top_k, on_error)
    if has_several_labels(clf):
        given = _given(clf.classes_, probabilities)
        columns["label"] = [None if row in errors else given[row] for row in range(len(items))]
    return table(columns)


def _given(classes: NDArray, probabilities: NDArray[np.float64]) -> list[str]:
    """Name the labels that `predict` gives each image, the most probable first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    return [
        ", ".join(str(classes[i]) for i in ranked if row[i] > 0.5)
        for ranked, row in zip(order, probabilities, strict=True)
    ]


def _predict_readable(
    clf: BaseCLIPClassifier, items: Sequence[Item]
) -> tuple[dict[int, str], NDArray[np.float64]]:
    """Predict what can be read; the other rows are NaN."""
    probabilities = np.full((len(items), len(clf.classes_)), np.nan)
    errors: dict[int, str] = {}
    with shown(clf.verbose), one_bar("embedding", len(items), "image") as bar:
        for rows in _chunks(len(items)):
            left = rows
            while left:
                try:
                    probabilities[left] = clf.predict_proba([items[i] for i in left])
                    break
                except (OSError, ValueError):
                    found = _find_unreadable(clf, [items[i] for i in left])
                    if not found:  # it was something else
                        raise
                errors |= {left[i]: reason for i, reason in found.items()}
                left = [row for i, row in enumerate(left) if i not in found]
                bar.reach(rows[-1] + 1 - len(left))
    return errors, probabilities


def _chunks(n_rows: int) -> Iterator[list[int]]:
    yield from (list(range(i, min(i + _CHUNK, n_rows))) for i in range(0, n_rows, _CHUNK))


def _find_unreadable(clf: BaseCLIPClassifier, items: Sequence[Item]) -> dict[int, str]:
    backbone, _ = frozen_and_adapted(clf)
    return find_unreadable(items, backbone.preprocess, decoding_threads(clf.n_jobs))


def _columns(
    classes: NDArray,
    items: Sequence[Item],
    probabilities: NDArray[np.float64],
    errors: dict[int, str],
    top_k: int,
    on_error: str,
) -> dict[str, list[Any]]:
    names = classes.tolist()
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    columns: dict[str, list[Any]] = {"path": [i if isinstance(i, str) else None for i in items]}
    for place in range(top_k):
        suffix = f"_{place + 1}" if place else ""
        chosen = best[:, place].tolist()
        columns[f"label{suffix}"] = [
            None if row in errors else names[number] for row, number in enumerate(chosen)
        ]
        columns[f"probability{suffix}"] = probabilities[np.arange(len(items)), chosen].tolist()
    if on_error == "report":
        columns["error"] = [errors.get(row) for row in range(len(items))]
    return columns
