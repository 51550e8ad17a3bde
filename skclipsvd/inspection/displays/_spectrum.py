"""The singular values of one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...classifiers import CLIPSVDClassifier
from .._changes import singular_value_changes
from ._figures import (
    AFTER,
    BEFORE,
    as_records,
    legend_above,
    panels,
    pyplot,
    remove_spines,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# In per cent: between minus and plus this the axis of changes is linear.
_LINEAR = 10


class SpectrumDisplay:
    r"""Singular values of one weight matrix, before and after training.

    Parameters
    ----------
    before, after : array-like of shape (rank,)
        Its frozen and its tuned singular values.
    relative_change : array-like of shape (rank,)
        The change of each, as a share of the frozen one.
    name : str
        Which matrix, such as ``"image.5.v"``.

    Attributes
    ----------
    ax_ : ndarray of 2 Axes
        The values, and their relative change.
    figure_ : Figure
        Which holds them.

    See Also
    --------
    skclipsvd.inspection.singular_value_changes : The numbers of every matrix.

    References
    ----------
    T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language Models",
    arXiv:2509.03740, 2025.

    Examples
    --------
    >>> from skclipsvd.inspection import SpectrumDisplay
    >>> display = SpectrumDisplay([4.0, 2.0], [4.2, 2.0], [0.05, 0.0], name="image.5.v").plot()
    >>> display.ax_[1].get_ylabel()
    'change, %\n(log beyond ±10)'
    """

    def __init__(
        self, before: ArrayLike, after: ArrayLike, relative_change: ArrayLike, *, name: str
    ):
        self.before = np.asarray(before)
        self.after = np.asarray(after)
        self.relative_change = np.asarray(relative_change)
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: CLIPSVDClassifier,
        *,
        tower: str = "image",
        block: int = -1,
        matrix: str = "v",
        ax: Axes | None = None,
    ) -> Self:
        """Draw one matrix of a fitted classifier.

        Parameters
        ----------
        estimator : fitted CLIPSVDClassifier
            Whose singular values.
        tower : {"image", "text"}, default="image"
            Which encoder.
        block : int, default=-1
            Which block of it, from the input; negative ones count from the last tuned one.
        matrix : str, default="v"
            Which matrix of the block: ``"q"``, ``"k"``, ``"v"``, ``"o"``, ``"fc"`` or ``"proj"``,
            for most models.
        ax : Axes, optional
            Whose place to draw in.

        Returns
        -------
        display : SpectrumDisplay
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            No such matrix was tuned.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import SpectrumDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPSVDClassifier("tiny", max_steps=1, lr=0.01, augment=False)
        >>> clf = clf.fit(paths[:20], labels[:20])
        >>> SpectrumDisplay.from_estimator(clf, block=0).name
        'image.0.v'
        """
        pyplot(cls)
        rows = as_records(singular_value_changes(estimator))
        chosen = _choose_matrix(rows, tower, block, matrix)
        return cls(
            [row["before"] for row in chosen],
            [row["after"] for row in chosen],
            [row["relative_change"] for row in chosen],
            name=f"{tower}.{chosen[0]['block']}.{matrix}",
        ).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the spectrum.

        Parameters
        ----------
        ax : Axes, optional
            Whose place the two panels share. By default that of a new figure.

        Returns
        -------
        self : SpectrumDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> from skclipsvd.inspection import SpectrumDisplay
        >>> display = SpectrumDisplay([4.0, 2.0], [4.2, 2.0], [0.05, 0.0], name="image.5.v")
        >>> display.plot().ax_[0].get_ylabel()
        'singular value'
        """
        self.figure_, self.ax_ = panels(self, ax, 2, (6.4, 4.8), ratios=(3, 2))
        index = np.arange(len(self.before))
        values, change = self.ax_
        # A thin line on a broad one: both stay visible where they coincide.
        values.plot(index, self.before, color=BEFORE, linewidth=5, label="before")
        values.plot(index, self.after, color=AFTER, linewidth=1.5, label="after")
        values.set_title(self.name, loc="left")
        values.set_ylabel("singular value")
        legend_above(values, 2)
        values.tick_params(labelbottom=False)
        values.sharex(change)
        width = max(0.6, min(4.0, 200 / len(index)))
        drawn = np.isfinite(self.relative_change)  # there is no share of a zero
        change.vlines(
            index[drawn], 0, 100 * self.relative_change[drawn], color=AFTER, linewidth=width
        )
        change.axhline(0, color="black", linewidth=0.8)
        # The smallest values change by the largest shares, a thousand times that of the first.
        top, bottom = _bounds(100 * self.relative_change[drawn])
        change.set_yscale("symlog", linthresh=_LINEAR, linscale=1)
        change.set_ylim(bottom, top)
        change.set_yticks(_ticks(bottom, top))
        change.set(xlabel="index (largest first)", ylabel=f"change, %\n(log beyond ±{_LINEAR})")
        change.yaxis.set_major_formatter("{x:g}")
        change.minorticks_off()
        whole_numbers(change.xaxis)
        remove_spines(*self.ax_)
        return self


def _bounds(percents: NDArray) -> tuple[float, float]:
    """Return an upper and a lower limit, each the next labelled step beyond the data."""
    steps = [_LINEAR / 2, *(_LINEAR * 10.0**i for i in range(60))]

    def beyond(largest: float) -> float:
        return next((step for step in steps if largest <= step), largest)

    return beyond(max(percents, default=0.0)), -beyond(max(-percents, default=0.0))


def _ticks(bottom: float, top: float) -> list[float]:
    """Label zero, the linear part, and powers of ten beyond it: at most four to each side."""

    def side(limit: float) -> list[float]:
        if limit <= _LINEAR:
            return [limit]
        decades = round(float(np.log10(limit / _LINEAR)))
        return [_LINEAR * 10.0**i for i in range(0, decades + 1, -(-decades // 3))]

    return [*(-tick for tick in reversed(side(-bottom))), 0.0, *side(top)]


def _choose_matrix(rows: list[dict], tower: str, block: int, matrix: str) -> list[dict]:
    for name, value, column in (("tower", tower, "tower"), ("matrix", matrix, "matrix")):
        present = list(dict.fromkeys(row[column] for row in rows))
        if value not in present:
            raise ValueError(f"{name}={value!r} was not tuned; there are {', '.join(present)}.")
        rows = [row for row in rows if row[column] == value]
    blocks = sorted({row["block"] for row in rows})
    wanted = blocks[block] if -len(blocks) <= block < 0 else block
    if wanted not in blocks:
        raise ValueError(
            f"block={block!r}: the {tower} tower's tuned blocks with {matrix!r} are "
            f"{', '.join(map(str, blocks))}."
        )
    return sorted((row for row in rows if row["block"] == wanted), key=lambda row: row["index"])
