"""What a fit learns from: labelled images that know their rows, to weigh, split and merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_sample_weight

from ..exceptions import ConflictingLabelsWarning, warn
from ..images import Decoded, Item, identity, short
from ..labels import plain
from ._indicator import Labels, check_same_columns, label_weights

# A sum of weights below this does not overflow, whatever their number.
_LARGE_WEIGHT = 1e100
_ROWS_AT_MOST = 5


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Labelled images, wherever they stood in what the user passed.

    Attributes
    ----------
    items : list
        From `as_items`.
    labels : array of shape (n_images,) or (n_images, n_labels)
        The user's own; or 0 and 1.
    weights : float32 array of shape (n_images,) or None
        In the loss; their mean is 1. None where all are equal.
    rows : list of tuple of int
        Where each image stands in `source`: once, or wherever it was repeated.
    source : {"X", "X_val"}
        The parameter that the images came in.
    columns : array of shape (n_labels,) or None
        The labels that columns of `labels` stand for, where images have several.
    label_weights : float64 array of shape (2, n_labels) or None
        Then: weights of images without and with each label.
    """

    items: list[Item]
    labels: NDArray
    weights: NDArray[np.float32] | None
    rows: list[tuple[int, ...]]
    source: str = "X"
    columns: NDArray | None = None
    label_weights: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, items: list[Item], labels: Labels, source: str = "X") -> Self:
        """Take images and labels as they came, all of one weight."""
        rows: list[tuple[int, ...]] = [(row,) for row in range(len(items))]
        return cls(items, labels.values, None, rows, source, labels.columns)

    def __len__(self) -> int:
        return len(self.items)

    def name(self, i: int) -> str:
        """Name the i-th image as the user would find it, for messages."""
        named = [f"{self.source}[{row}]" for row in self.rows[i][:_ROWS_AT_MOST]]
        more = len(self.rows[i]) - len(named)
        return ", ".join(named) + (f" and {more} more rows" if more else "")

    def encoded(self, classes: NDArray) -> NDArray:
        """Return each label's position among the sorted `classes`, or 0 and 1 as numbers."""
        if self.columns is not None:
            return self.labels.astype(np.float32)
        return np.searchsorted(classes, self.labels)

    @property
    def _numbered(self) -> NDArray[np.intp]:
        """Number what images are labelled with, in order."""
        axis = None if self.columns is None else 0
        return np.unique(self.labels, axis=axis, return_inverse=True)[1].reshape(-1)

    @property
    def _strata(self) -> NDArray[np.intp]:
        """Number the kinds of images that every part needs: classes, but not sets of labels."""
        return self._numbered if self.columns is None else np.zeros(len(self), dtype=np.intp)

    def take(self, index: NDArray[np.intp]) -> Self:
        """Select images by position."""
        return replace(
            self,
            items=[self.items[i] for i in index],
            labels=self.labels[index],
            weights=None if self.weights is None else _mean_one(self.weights[index]),
            rows=[self.rows[i] for i in index],
        )

    def weighed(
        self, sample_weight: ArrayLike | None, class_weight: Mapping[Any, float] | str | None
    ) -> Self:
        """Weigh the images; those of sample weight zero are left out.

        Raises
        ------
        ValueError
            Weights that are negative, not finite, zero everywhere, or not one per image.
        """
        kept = self
        weights = np.ones(len(self))
        if sample_weight is not None:
            weights = _checked_sample_weight(sample_weight, len(self))
            index = np.flatnonzero(weights)
            kept, weights = self.take(index), weights[index]
        if class_weight is not None:
            _check_class_weight(class_weight)
        if self.columns is not None:
            of_labels = label_weights(class_weight, Labels(kept.labels, kept.columns))
            kept = replace(kept, label_weights=of_labels)
        elif class_weight is not None:
            weights = weights * compute_sample_weight(class_weight, kept.labels)
            if not weights.any():
                raise ValueError(
                    f"class_weight={class_weight!r} is zero for every label in y; give at least "
                    "one class a positive weight."
                )
        return replace(kept, weights=_mean_one(weights))

    def check_split(self, fraction: float) -> None:
        """Raise ValueError where `split` has too few images."""
        counts = np.bincount(self._strata)
        n_val = self.n_validation(fraction)
        if counts.min() < 2 or n_val + len(counts) > len(self):
            raise ValueError(
                f"early_stopping=True cannot set aside {n_val} of {len(self)} images for "
                "validation and keep every class in both parts; use more images, or pass X_val "
                "and y_val."
            )

    def split(self, fraction: float, rng: np.random.RandomState) -> tuple[Self, Self]:
        """Cut off a validation part that has every class.

        Raises
        ------
        ValueError
            There are too few images.
        """
        self.check_split(fraction)
        train, validation = train_test_split(
            np.arange(len(self)),
            test_size=self.n_validation(fraction),
            stratify=self._strata,
            random_state=rng,
        )
        return self.take(train), self.take(validation)

    def n_validation(self, fraction: float) -> int:
        """Count the images that `split` cuts off."""
        return max(len(np.bincount(self._strata)), int(np.ceil(fraction * len(self))))

    def check_known(self, classes: NDArray, several: bool) -> None:
        """Raise ValueError where these validation labels are not of the kind of `classes`."""
        if (self.columns is not None) is not several:
            wanted = "a column for each label, as y" if several else "one label per image, as y"
            raise ValueError(f"y_val has shape {self.labels.shape}; it needs {wanted}.")
        if self.columns is None:
            unknown = np.setdiff1d(self.labels, classes)
            if len(unknown):
                raise ValueError(f"y_val has labels that are not in y: {unknown[:10].tolist()!r}.")
        else:
            check_same_columns(Labels(self.labels, self.columns), classes, "y_val")

    def warn_of_conflicts(self, decoded: Sequence[Decoded]) -> None:
        """Warn of pictures that occur with several labels, under whatever names.

        Parameters
        ----------
        decoded : sequence of Decoded
            The images, in order.
        """
        places: dict[str, list[int]] = {}
        for i in sorted(range(len(self)), key=self.rows.__getitem__):
            places.setdefault(joblib.hash(decoded[i].view), []).append(i)
        numbers = self._numbered
        several = [same for same in places.values() if len({*numbers[same].tolist()}) > 1]
        if not several:
            return
        named = [
            " and ".join(
                f"{self.name(i)} = {short(self.items[i])} is {self._said(i)}"
                for i in _first_of_each(same, numbers)
            )
            for same in several[:_ROWS_AT_MOST]
        ]
        more = "; ..." if len(several) > _ROWS_AT_MOST else ""
        warn(
            f"{len(several)} picture(s) occur with different labels: {'; '.join(named)}{more}. "
            "Correct or drop them.",
            ConflictingLabelsWarning,
        )

    def _said(self, i: int) -> str:
        """Return the label, or the labels, of the i-th image as a message quotes them."""
        if self.columns is None:
            return repr(plain(self.labels[i]))
        return repr(self.columns[self.labels[i] > 0].tolist())

    def merged(self) -> Self:
        """Replace repetitions by weights, in an order that does not depend on the caller's.

        Every step of whole-batch training without augmentation sums over the same images. Encoding
        an image once and sorting them saves time, and gives the same bits for repetition as for
        weights.
        """
        weights = np.ones(len(self)) if self.weights is None else self.weights.astype(np.float64)
        places: dict[tuple[str, int], list[int]] = {}
        for i, (item, label) in enumerate(zip(self.items, self._numbered.tolist(), strict=True)):
            places.setdefault((str(identity(item)), label), []).append(i)
        groups = [places[key] for key in sorted(places)]
        kept = self.take(np.array([group[0] for group in groups]))
        return replace(
            kept,
            weights=_mean_one(np.array([sum(weights[group]) for group in groups])),
            rows=[tuple(row for i in group for row in self.rows[i]) for group in groups],
        )


def _checked_sample_weight(sample_weight: ArrayLike, n_images: int) -> NDArray[np.float64]:
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_images,):
        raise ValueError(
            f"sample_weight has shape {weights.shape}, expected ({n_images},): one per image."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight has negative, infinite or NaN entries.")
    if not weights.any():
        raise ValueError("sample_weight is zero everywhere; no image is left to learn from.")
    return weights / weights.max() if weights.max() > _LARGE_WEIGHT else weights


def _check_class_weight(class_weight: Mapping[Any, float] | str) -> None:
    if isinstance(class_weight, str):
        return
    for label, weight in class_weight.items():
        if not 0 <= float(weight) <= _LARGE_WEIGHT:
            raise ValueError(
                f"class_weight[{plain(label)!r}] is {weight!r}; it must be a finite number of at "
                "least 0."
            )


def _first_of_each(places: Sequence[int], labels: NDArray) -> list[int]:
    """Keep the first place of each label, in order."""
    return list({labels[i]: i for i in reversed(places)}.values())[::-1]


def _mean_one(weights: NDArray) -> NDArray[np.float32] | None:
    """Scale weights to mean 1; None where they are all equal."""
    if (weights == weights[0]).all():
        return None
    weights = weights.astype(np.float64)
    return (weights / weights.mean()).astype(np.float32)
