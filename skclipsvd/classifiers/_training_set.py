"""Rows to learn from: weighed, split, and merged where they are equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_sample_weight

from ..images import Item, Name, identity


def namer(X: list[Item]) -> Callable[[list[Item]], Name]:
    """Return what names a selection of X's items by their rows in X, whatever its order.

    Items that are not of X are those of X_val.
    """
    # The items are held, so that none that was left out lends its id to another object.
    rows = {id(item): (row, item) for row, item in reversed(list(enumerate(X)))}

    def of(items: list[Item]) -> Name:
        def name(i: int) -> str:
            return f"X[{rows[id(items[i])][0]}]" if id(items[i]) in rows else f"X_val[{i}]"

        return name

    return of


def weigh(
    items: list[Item],
    y: NDArray,
    sample_weight: ArrayLike | None,
    class_weight: dict | str | None,
) -> tuple[list[Item], NDArray, NDArray[np.float32] | None]:
    """Leave out rows of weight zero, and give the rest weights of mean 1 (None: all equal)."""
    if sample_weight is None and class_weight is None:
        return items, y, None
    weights = np.ones(len(y))
    if sample_weight is not None:
        weights = np.asarray(sample_weight, dtype=np.float64)
        if weights.shape != (len(y),):
            raise ValueError(
                f"sample_weight has shape {weights.shape}, expected ({len(y)},): one per image."
            )
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError("sample_weight has negative, infinite or NaN entries.")
        if not weights.any():
            raise ValueError("sample_weight is zero everywhere; no image is left to learn from.")
    kept = np.flatnonzero(weights)
    items, y, weights = [items[i] for i in kept], y[kept], weights[kept]
    if class_weight is not None:
        weights = weights * compute_sample_weight(class_weight, y)
    return items, y, mean_one(weights)


def merge_equal(
    items: list[Item], labels: NDArray[np.intp], weights: NDArray[np.float32] | None
) -> tuple[list[Item], NDArray[np.intp], NDArray[np.float32] | None]:
    """Replace repetitions by weights, in an order that the caller's order does not change.

    Every step of whole-batch training without augmentation sums over the same images. Encoding an
    image once and sorting them saves time, and gives the same bits for repetition as for weights.
    """
    weights = np.ones(len(items)) if weights is None else weights.astype(np.float64)
    merged: dict[tuple, list] = {}
    for item, label, weight in zip(items, labels, weights, strict=True):
        row = merged.setdefault((str(identity(item)), label), [item, label, 0.0])
        row[2] += weight
    items, labels, weights = zip(*(merged[key] for key in sorted(merged)), strict=True)
    return list(items), np.array(labels), mean_one(np.array(weights))


def mean_one(weights: NDArray[np.float64]) -> NDArray[np.float32] | None:
    """Scale weights to mean 1; None where they are all equal."""
    if (weights == weights[0]).all():
        return None
    return (weights / weights.mean()).astype(np.float32)
