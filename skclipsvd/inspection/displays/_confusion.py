"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix as count_confusions
from sklearn.utils.multiclass import unique_labels

from ._figures import one_panel, pyplot, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL, _SMALL_CELL, _LETTER, _MARGIN = 0.42, 0.22, 0.085, 0.8  # inches
_WRITTEN_AT_MOST = 30  # classes whose counts are written into the cells


class ConfusionDisplay:
    """A confusion matrix with room for the names of its classes, however many.

    True labels have rows, predicted ones columns. Colours are shares of the row, so that rare
    classes are as visible as frequent ones; counts are written for up to 30 classes.

    Parameters
    ----------
    confusion_matrix : array-like of shape (n_classes, n_classes), dtype int
        Counts, as of `sklearn.metrics.confusion_matrix`.
    display_labels : sequence of n_classes labels, optional
        Names of the classes; by default their numbers.

    Attributes
    ----------
    ax_ : Axes
        Which holds the matrix.
    figure_ : Figure
        Which holds the axes.

    Examples
    --------
    >>> from skclipsvd.inspection import ConfusionDisplay
    >>> display = ConfusionDisplay.from_predictions(["cat", "dog", "dog"], ["cat", "cat", "dog"])
    >>> display.confusion_matrix.tolist()
    [[1, 0], [1, 1]]
    """

    def __init__(self, confusion_matrix: ArrayLike, display_labels: Sequence[Any] | None = None):
        self.confusion_matrix = np.asarray(confusion_matrix)
        n = len(self.confusion_matrix)
        if self.confusion_matrix.shape != (n, n) or n == 0:
            raise ValueError(
                "confusion_matrix must have the shape (n_classes, n_classes); got "
                f"{self.confusion_matrix.shape}."
            )
        self.display_labels = list(range(n) if display_labels is None else display_labels)
        if len(self.display_labels) != n:
            raise ValueError(
                f"display_labels has {len(self.display_labels)} names for {n} classes; give one "
                "each."
            )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_pred: ArrayLike,
        *,
        labels: Sequence[Any] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Count and draw.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_images,)
            True and predicted labels.
        labels : sequence, optional
            The classes to show, in their order; by default all that occur, sorted.
        ax : Axes, optional
            Where to draw; by default in a new figure, of a size that fits the classes.

        Returns
        -------
        display : ConfusionDisplay
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            Lengths that do not agree, or `labels` none of which occurs.

        Examples
        --------
        >>> from skclipsvd.inspection import ConfusionDisplay
        >>> truth, predicted = ["cat", "dog", "dog"], ["cat", "cat", "dog"]
        >>> ConfusionDisplay.from_predictions(truth, predicted).ax_.get_xlabel()
        'predicted'
        """
        pyplot(cls)
        shown = unique_labels(y_true, y_pred).tolist() if labels is None else list(labels)
        return cls(count_confusions(y_true, y_pred, labels=shown), shown).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the matrix.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw; by default in a new figure, of a size that fits the classes.

        Returns
        -------
        self : ConfusionDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> from skclipsvd.inspection import ConfusionDisplay
        >>> display = ConfusionDisplay([[1, 0], [1, 1]], ["cat", "dog"]).plot()
        >>> [label.get_text() for label in display.ax_.get_yticklabels()]
        ['cat', 'dog']
        """
        names = [short(label) for label in self.display_labels]
        cell = _CELL if len(names) <= _WRITTEN_AT_MOST else _SMALL_CELL
        side = cell * len(names) + _LETTER * max(map(len, names)) + _MARGIN
        self.figure_, self.ax_ = one_panel(self, ax, (side, side))
        totals = self.confusion_matrix.sum(axis=1, keepdims=True)
        shares = self.confusion_matrix / np.maximum(totals, 1)
        self.ax_.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        self.ax_.set_xticks(range(len(names)), names, rotation=90)
        self.ax_.set_yticks(range(len(names)), names)
        self.ax_.set(xlabel="predicted", ylabel="true")
        if len(names) <= _WRITTEN_AT_MOST:
            for (row, column), count in np.ndenumerate(self.confusion_matrix):
                if count:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    place: dict[str, Any] = dict(
                        ha="center", va="center", color=colour, fontsize="small"
                    )
                    self.ax_.text(column, row, f"{count}", **place)
        return self
