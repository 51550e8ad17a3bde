"""Several labels per image: a table of 0 and 1, with a row for each image and a column for each."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ConstantLabelWarning, warn
from ..labels import plain

_NAMED_AT_MOST = 10
_PLACES_AT_MOST = 3


class Labels(NamedTuple):
    """Labels of images, checked.

    Attributes
    ----------
    values : array of shape (n_images,) or (n_images, n_labels)
        One label for each image, as the user gave it; or int64, 1 where an image has a label and 0
        where it has not.
    columns : array of shape (n_labels,) or None
        The labels that those columns stand for: the names of a frame's, else their numbers.
    """

    values: NDArray
    columns: NDArray | None = None


def as_indicator(y: Any, name: str) -> Labels | None:
    """Read a table of 0 and 1.

    Parameters
    ----------
    y : array-like
        As the user passed it: an array, a frame, a list of rows or a sparse matrix.
    name : str
        What messages call it.

    Returns
    -------
    labels : Labels or None
        None where `y` is no table, or one of a single column: one label for each image.

    Raises
    ------
    ValueError
        Entries that are missing or other than 0 and 1, by row and column; rows of different
        lengths; columns whose names are no labels.
    """
    dense = y.toarray() if hasattr(y, "toarray") else y
    if isinstance(dense, (list, tuple)):
        n_each = {_length(row) for row in dense}
        if n_each == {None} or not n_each:
            return None
        if len(n_each) > 1:
            raise _no_indicator(f"the rows of {name} have different lengths", name)
        dense = np.asarray([list(row) for row in dense])
    if len(getattr(dense, "shape", ())) != 2 or dense.shape[1] < 2:
        return None
    columns, values = _column_labels(y, dense.shape[1], name), np.asarray(dense)
    is_wrong = ~_is_0_or_1(values)
    if is_wrong.any():
        places = [
            f"{name}[{row}], column {plain(columns[column])!r}, is {plain(values[row, column])!r}"
            for row, column in np.argwhere(is_wrong)[:_PLACES_AT_MOST]
        ]
        n = is_wrong.sum()
        raise _no_indicator(f"{n} entries are neither 0 nor 1: {'; '.join(places)}", name)
    return Labels(values.astype(np.int64), columns)


def check_columns(labels: Labels) -> NDArray:
    """Return the labels of the columns; warn of those that cannot be learnt.

    Raises
    ------
    ValueError
        All are such.
    """
    assert labels.columns is not None
    is_constant = labels.values.min(axis=0) == labels.values.max(axis=0)
    if is_constant.all():
        raise ValueError(
            "every column of y says the same of all images, so there is nothing to learn: a label "
            "needs images that have it and images that do not."
        )
    if is_constant.any():
        named = [
            f"{plain(column)!r} ({'all' if has else 'none'})"
            for column, has in zip(
                labels.columns[is_constant], labels.values[0, is_constant], strict=True
            )
        ]
        more = ", ..." if len(named) > _NAMED_AT_MOST else ""
        warn(
            f"all images or none have the label(s) {', '.join(named[:_NAMED_AT_MOST])}{more}. What "
            "such a label looks like cannot be learnt: add images with and without it, or drop "
            "its column from y.",
            ConstantLabelWarning,
        )
    return labels.columns


def check_same_columns(labels: Labels, classes: NDArray, name: str) -> None:
    """Raise ValueError where the columns of a table, called `name`, are not those of a fit."""
    assert labels.columns is not None
    allowed = [classes.tolist()]
    if classes.dtype.kind not in "iu":  # then numbers are those of an array, which has no names
        allowed.append(list(range(len(classes))))
    if labels.columns.tolist() not in allowed:
        raise ValueError(
            f"{name} has the columns {labels.columns[:10].tolist()!r}, and the fit's y has "
            f"{classes[:10].tolist()!r}; they have to be the same, in the same order."
        )


def label_weights(
    class_weight: Mapping[Any, float] | str | None, labels: Labels
) -> NDArray[np.float64]:
    """Return the weights of images without and with each label, of shape (2, n_labels).

    Parameters
    ----------
    class_weight : mapping of label to float, "balanced" or None
        Weights of images that have a label. ``"balanced"`` gives those that have it and those that
        do not the same sum, for each label.
    labels : Labels
        Of several labels.

    Raises
    ------
    ValueError
        A weight for what is no label.
    """
    assert labels.columns is not None
    n_images, n_labels = labels.values.shape
    weights = np.ones((2, n_labels))
    if isinstance(class_weight, str):
        having = labels.values.sum(axis=0)
        counts = np.stack([n_images - having, having])
        varies = counts.min(axis=0) > 0
        weights[:, varies] = n_images / (2 * counts[:, varies])
        return weights
    names = labels.columns.tolist()
    for label, weight in (class_weight or {}).items():
        if plain(label) not in names:
            raise ValueError(
                f"class_weight has an entry for {plain(label)!r}, which is none of the labels "
                f"{names[:_NAMED_AT_MOST]!r}. With several labels per image, its entries weigh "
                "the images that have a label."
            )
        weights[1, names.index(plain(label))] = weight
    return weights


def _length(row: Any) -> int | None:
    """Return how many entries a row has; None where it is a single label."""
    is_row = isinstance(row, (list, tuple, set, frozenset)) or np.ndim(row) > 0
    return len(row) if is_row else None


def _is_0_or_1(values: NDArray) -> NDArray[np.bool_]:
    if values.dtype.kind in "biuf":
        return (values == 0) | (values == 1)
    # Of objects: pandas's NA is neither equal to 0 nor unequal.
    found = [isinstance(v, (Real, np.bool_)) and v in (0, 1) for v in values.ravel().tolist()]
    return np.array(found).reshape(values.shape)


def _column_labels(y: Any, n_columns: int, name: str) -> NDArray:
    """Return the names of a frame's columns, or the numbers of an array's."""
    named = getattr(y, "column_names", getattr(y, "columns", None))  # the first is Arrow's
    if named is None:
        return np.arange(n_columns)
    names = [plain(column) for column in named]
    kinds = {type(column) for column in names}
    if len(set(names)) < len(names) or kinds not in ({str}, {int}):
        raise ValueError(
            f"{name}.columns={names[:_NAMED_AT_MOST]!r}: the names of the columns are the labels, "
            "and have to be different texts, or different whole numbers."
        )
    return np.array(names)


def _no_indicator(problem: str, name: str) -> ValueError:
    return ValueError(
        f"{problem}. With several labels per image, {name} has a row for each image and a column "
        "for each label, which is 1 where the image has it and 0 where it has not; scikit-learn's "
        "MultiLabelBinarizer makes it from lists of labels."
    )
