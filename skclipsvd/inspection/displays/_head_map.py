"""The attention heads of each tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...classifiers import TrainedCLIPClassifier
from .._changes import head_changes
from ._figures import as_records, panels, pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMN_LABELS = {
    "change": "relative change (larger of the two)",
    "value_output": "relative change, value and output",
    "query_key": "relative change, query and key",
}


class HeadChangeDisplay:
    """How much each attention head changed: a map of blocks and heads for each tower.

    Parameters
    ----------
    maps : mapping of str to array-like of shape (n_blocks, n_heads)
        By tower; NaN where there is no number. Towers may differ in blocks and heads.
    label : str
        What the numbers are.

    Attributes
    ----------
    ax_ : ndarray of Axes
        One for each tower.
    figure_ : Figure
        Which holds them.

    See Also
    --------
    skclipsvd.inspection.head_changes : The numbers.

    References
    ----------
    T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language Models",
    arXiv:2509.03740, 2025.

    Examples
    --------
    >>> from skclipsvd.inspection import HeadChangeDisplay
    >>> HeadChangeDisplay({"image": [[0.1, 0.0]]}, label="change").plot().ax_[0].get_xlabel()
    'head'
    """

    def __init__(self, maps: Mapping[str, ArrayLike], *, label: str):
        self.maps = {tower: np.asarray(numbers, dtype=float) for tower, numbers in maps.items()}
        self.label = label

    @classmethod
    def from_estimator(
        cls, estimator: TrainedCLIPClassifier, *, column: str = "change", ax: Axes | None = None
    ) -> Self:
        """Draw the heads of a fitted classifier.

        Parameters
        ----------
        estimator : fitted classifier that tunes attention matrices
            Whose heads.
        column : {"change", "value_output", "query_key"}, default="change"
            What to draw of `head_changes`.
        ax : Axes, optional
            Whose place to draw in.

        Returns
        -------
        display : HeadChangeDisplay
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            No such column, or a model without attention heads.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import HeadChangeDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPSVDClassifier("tiny", max_steps=1, lr=0.01, augment=False)
        >>> clf = clf.fit(paths[:20], labels[:20])
        >>> HeadChangeDisplay.from_estimator(clf).maps["image"].shape  # blocks, heads
        (6, 4)
        """
        pyplot(cls)
        if column not in _COLUMN_LABELS:
            raise ValueError(f"column={column!r}: choose one of {tuple(_COLUMN_LABELS)!r}.")
        maps = _maps(as_records(head_changes(estimator)), column)
        return cls(maps, label=_COLUMN_LABELS[column]).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the maps, with one scale that starts at zero.

        Parameters
        ----------
        ax : Axes, optional
            Whose place the towers share. By default that of a new figure.

        Returns
        -------
        self : HeadChangeDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> from skclipsvd.inspection import HeadChangeDisplay
        >>> maps = {"image": [[0.1, 0.0]], "text": [[0.2, 0.3]]}
        >>> [ax.get_title() for ax in HeadChangeDisplay(maps, label="change").plot().ax_]
        ['image tower', 'text tower']
        """
        shapes = [numbers.shape for numbers in self.maps.values()]
        widths = [max(n_heads, 4) for _, n_heads in shapes]
        deepest = max(n_blocks for n_blocks, _ in shapes)
        size = (min(14, 1.4 + 0.36 * sum(widths) + 0.7 * len(shapes)), 1.7 + 0.28 * deepest)
        self.figure_, self.ax_ = panels(self, ax, len(shapes), size, widths, across=True)
        top = max(n.max(where=np.isfinite(n), initial=0) for n in self.maps.values()) or 1.0
        for panel, (tower, numbers) in zip(self.ax_, self.maps.items(), strict=True):
            panel.set_facecolor("#D9D9D9")  # shows where there is no number
            image = panel.imshow(numbers, origin="lower", cmap="viridis", vmin=0, vmax=top)
            panel.set(title=f"{tower} tower", xlabel="head", aspect="auto")
            n_blocks, n_heads = numbers.shape
            panel.set_yticks(np.arange(0, n_blocks, -(-n_blocks // 12)))
            panel.set_xticks(np.arange(0, n_heads, -(-n_heads // 12)))
        self.ax_[0].set_ylabel("block (from the input)")
        if ax is None:
            self.figure_.suptitle("Change of each attention head")
        self.figure_.colorbar(image, ax=list(self.ax_), label=self.label)
        return self


def _maps(rows: list[dict], column: str) -> dict[str, NDArray]:
    maps = {}
    for tower in sorted({row["tower"] for row in rows}):
        part = [row for row in rows if row["tower"] == tower]
        shape = (1 + max(row["block"] for row in part), 1 + max(row["head"] for row in part))
        maps[tower] = np.full(shape, np.nan)
        for row in part:
            maps[tower][row["block"], row["head"]] = row[column]
    return maps
