"""Labels as users bring them: missing ones, and NumPy's own kinds of text and number."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

_NAMED_AT_MOST = 10


def plain(value: Any) -> Any:
    """Turn a scalar of NumPy's into Python's own, which prints without ``np.str_(...)``."""
    return value.item() if isinstance(value, np.generic) else value


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, or pandas's NA and NaT."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, Real) and value != value


def check_no_missing(labels: Any, name: str) -> None:
    """Raise ValueError, naming the rows, where labels are missing.

    NumPy turns NaN among texts into the text "nan", a class like any other.

    Parameters
    ----------
    labels : array-like of shape (n,) or (n, 1)
        As the user passed them.
    name : str
        What messages call them.
    """
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "biuUS":
        return
    values = labels.to_pylist() if hasattr(labels, "to_pylist") else labels
    if not isinstance(values, (list, tuple)):
        values = np.asarray(values, dtype=object).ravel()
    rows = [row for row, value in enumerate(values) if is_missing(value)]
    if rows:
        named = ", ".join(f"{name}[{row}]" for row in rows[:_NAMED_AT_MOST])
        more = f" and {len(rows) - _NAMED_AT_MOST} more" if len(rows) > _NAMED_AT_MOST else ""
        raise ValueError(
            f"{len(rows)} label(s) are missing (NaN, None or NA): {named}{more}. Drop the rows, or "
            "give them a label."
        )


def check_classes(labels: NDArray) -> None:
    """Raise ValueError where labels are no classes, such as fractions or several in a row."""
    # Tripled, because scikit-learn warns of "many classes" where few images have few of each.
    check_classification_targets(np.tile(labels, 3))


def check_one_per_image(labels: Any, name: str) -> None:
    """Raise ValueError where labels are a table: several for each image.

    Parameters
    ----------
    labels : array-like
        As the user passed them.
    name : str
        What does not take several.
    """
    shape = labels.shape if hasattr(labels, "shape") else np.shape(labels)
    if len(shape) > 1 and shape[1] > 1:
        raise ValueError(f"{name} takes one label per image; y has the shape {tuple(shape)}.")
