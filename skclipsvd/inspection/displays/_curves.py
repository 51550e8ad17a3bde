"""Curves: of one fit, and of accuracy against shots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from ._figures import (
    AFTER,
    BEFORE,
    COLOURS,
    MARKERS,
    WRONG,
    legend_above,
    legend_beside,
    one_panel,
    panels,
    pyplot,
    remove_spines,
    short,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class FitCurveDisplay:
    """What a fit left behind: the loss of every step, and the validation accuracy of every epoch.

    Parameters
    ----------
    losses : array-like of shape (n_steps,)
        Training loss of each step.
    validation_scores : array-like of shape (n_epochs + 1,), optional
        Validation accuracy before training and after each epoch.
    kept_epoch : int, optional
        The epoch whose numbers were kept, to be marked; 0 is before training.

    Attributes
    ----------
    ax_ : ndarray of Axes
        The loss, and the validation accuracy where there is one.
    figure_ : Figure
        Which holds them.

    Examples
    --------
    >>> from skclipsvd.inspection import FitCurveDisplay
    >>> FitCurveDisplay([2.3, 1.1, 0.8]).plot().ax_[0].get_ylabel()
    'training loss'
    """

    def __init__(
        self,
        losses: ArrayLike,
        validation_scores: ArrayLike | None = None,
        *,
        kept_epoch: int | None = None,
    ):
        self.losses = np.asarray(losses)
        self.validation_scores = (
            None if validation_scores is None else np.asarray(validation_scores)
        )
        self.kept_epoch = kept_epoch

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, window: int | None = None, ax: Axes | None = None
    ) -> Self:
        """Draw how a fitted classifier was trained.

        Parameters
        ----------
        estimator : fitted classifier with `loss_curve_`
            Which was trained.
        window : int, optional
            Also draw the mean of this many steps around each one.
        ax : Axes, optional
            Whose place to draw in.

        Returns
        -------
        display : FitCurveDisplay
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        NotFittedError
            The classifier is not fitted, or none that trains.
        ValueError
            `window` is no whole number of steps.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import FitCurveDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPSVDClassifier("tiny", max_steps=1, lr=0.01, augment=False)
        >>> clf = clf.fit(paths[:20], labels[:20])
        >>> FitCurveDisplay.from_estimator(clf).losses.shape
        (1,)
        """
        pyplot(cls)
        check_is_fitted(estimator, "loss_curve_")
        scores = getattr(estimator, "validation_scores_", None)
        stopped = getattr(estimator, "early_stopping", False)
        kept = getattr(estimator, "best_epoch_", None) if stopped else None
        return cls(estimator.loss_curve_, scores, kept_epoch=kept).plot(ax, window=window)

    def plot(self, ax: Axes | None = None, *, window: int | None = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : Axes, optional
            Whose place the panels share. By default that of a new figure.
        window : int, optional
            Also draw the mean of this many steps around each one; fewer at the ends.

        Returns
        -------
        self : FitCurveDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            `window` is no whole number of steps.

        Examples
        --------
        >>> from skclipsvd.inspection import FitCurveDisplay
        >>> display = FitCurveDisplay([2.3, 1.1, 0.8], [0.5, 0.75]).plot(window=2)
        >>> len(display.ax_)
        2
        """
        if window is not None and (int(window) != window or window < 1):
            raise ValueError(f"window={window!r} must be a positive whole number of steps.")
        n = 1 if self.validation_scores is None else 2
        self.figure_, self.ax_ = panels(self, ax, n, (6.4, 1.2 + 2.6 * n), ratios=(3, 2)[:n])
        self._plot_losses(self.ax_[0], window)
        if self.validation_scores is not None:
            self._plot_scores(self.ax_[1], self.validation_scores)
        remove_spines(*self.ax_)
        return self

    def _plot_losses(self, ax: Axes, window: int | None) -> None:
        steps = np.arange(1, len(self.losses) + 1)
        marker = "o" if len(steps) < 3 else None  # one step alone would draw nothing
        if window is None:
            ax.plot(steps, self.losses, color=AFTER, marker=marker)
        else:
            ax.plot(steps, self.losses, color=BEFORE, linewidth=0.8, label="every step")
            smooth = _moving_mean(self.losses, int(window))
            ax.plot(steps, smooth, color=AFTER, linewidth=2, label=f"mean of {window} steps")
            legend_above(ax, 2)
        ax.set(xlabel="step", ylabel="training loss")
        ax.set_ylim(0, 1.05 * _highest(self.losses))
        whole_numbers(ax.xaxis)

    def _plot_scores(self, ax: Axes, scores: NDArray) -> None:
        epochs = np.arange(len(scores))
        ax.plot(epochs, 100 * scores, color=AFTER, marker="o", markersize=4)
        if self.kept_epoch is not None:
            ax.plot(
                self.kept_epoch,
                100 * scores[self.kept_epoch],
                color=WRONG,
                marker="o",
                markersize=9,
                fillstyle="none",
                linestyle="none",
                label=f"kept: epoch {self.kept_epoch}",
            )
            legend_above(ax, 1)
        low, high = 100 * np.nanmin(scores), 100 * np.nanmax(scores)
        # At least ten points of accuracy, so that one image more or less looks like little.
        margin = max(0.08 * (high - low), (10 - (high - low)) / 2, 2)
        ax.set_ylim(max(low - margin, -2), min(high + margin, 102))
        ax.set(xlabel="epoch (0: before training)", ylabel="validation\naccuracy, %")
        whole_numbers(ax.xaxis)


class FewShotCurveDisplay:
    """Accuracy against shots: a line for each method, and its spread over seeds.

    Parameters
    ----------
    curves : mapping of str to mapping of int to sequence of float
        By method and shots: the accuracies, between 0 and 1, one for each seed. Zero shots stand
        for a method that does not look at training images; it is drawn as a horizontal line.
    title : str, optional
        What was classified.

    Attributes
    ----------
    ax_ : Axes
        The curves.
    figure_ : Figure
        Which holds them.

    See Also
    --------
    skclipsvd.experiments.plot_shots : A panel for each data set, and the papers' numbers.

    Examples
    --------
    >>> from skclipsvd.inspection import FewShotCurveDisplay
    >>> curves = {"zero-shot CLIP": {0: [0.6]}, "CLIP-SVD": {1: [0.6, 0.7], 2: [0.8, 0.7]}}
    >>> FewShotCurveDisplay(curves).plot().ax_.get_xlabel()
    'shots per class'
    """

    def __init__(
        self, curves: Mapping[str, Mapping[int, Sequence[float]]], title: str | None = None
    ):
        self.curves = {
            label: {int(n): np.asarray(curve[n], dtype=float) for n in sorted(curve)}
            for label, curve in curves.items()
        }
        self.title = title

    @classmethod
    def from_results(
        cls,
        rows: Iterable[Mapping[str, Any]],
        *,
        data: str | None = None,
        labels: Mapping[str, str] | None = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw results of one data set.

        Parameters
        ----------
        rows : iterable of mapping
            With ``"data"``, ``"method"``, ``"shots"``, ``"seed"`` and ``"accuracy"``, as
            `skclipsvd.experiments.read_results` returns them.
        data : str, optional
            Which data set, where the rows have several.
        labels : mapping of str to str, optional
            Words for the methods.
        ax : Axes, optional
            To draw into.

        Returns
        -------
        display : FewShotCurveDisplay
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            There are no such rows, rows of several data sets, or several rows of one run.

        Examples
        --------
        >>> from skclipsvd.inspection import FewShotCurveDisplay
        >>> row = {"data": "digits", "method": "svd", "shots": 1, "seed": 1, "accuracy": 0.9}
        >>> rows = [row, {**row, "shots": 2, "accuracy": 0.95}]
        >>> sorted(FewShotCurveDisplay.from_results(rows, labels={"svd": "CLIP-SVD"}).curves)
        ['CLIP-SVD']
        """
        pyplot(cls)
        rows = [row for row in rows if row.get("protocol", "few-shot") == "few-shot"]
        present = list(dict.fromkeys(row["data"] for row in rows))
        if data not in (present if data is not None or len(present) != 1 else [None]):
            raise ValueError(
                f"data={data!r}: the few-shot results are of {', '.join(present) or 'nothing'}; "
                "pass data= one of them."
            )
        rows = [row for row in rows if data in (None, row["data"])]
        _check_one_run_each(rows)
        curves: dict[str, dict[int, list[float]]] = {}
        for row in rows:
            label = (labels or {}).get(row["method"], row["method"])
            curves.setdefault(label, {}).setdefault(row["shots"], []).append(row["accuracy"])
        return cls(curves, title=rows[0]["data"]).plot(ax)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        styles: Mapping[str, Mapping[str, Any]] | None = None,
        legend: bool = True,
    ) -> Self:
        """Draw the curves, with bars of one standard deviation (of a sample) to both sides.

        Parameters
        ----------
        ax : Axes, optional
            To draw into. By default that of a new figure.
        styles : mapping of str to dict, optional
            Properties of lines, by method, that replace the default ones.
        legend : bool, default=True
            Whether to name the methods beside the curves.

        Returns
        -------
        self : FewShotCurveDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> from skclipsvd.inspection import FewShotCurveDisplay
        >>> display = FewShotCurveDisplay({"CLIP-SVD": {1: [0.6, 0.7], 2: [0.8, 0.7]}}, "pets")
        >>> display.plot(legend=False).ax_.get_title()
        'pets'
        """
        self.figure_, self.ax_ = one_panel(self, ax, (7.2, 4.2))
        for i, (label, curve) in enumerate(self.curves.items()):
            style = {"color": COLOURS[i % 8], "marker": MARKERS[i % 7], "markersize": 5}
            self._plot_method(label, curve, {**style, **((styles or {}).get(label, {}))}, i)
        shots = sorted({n for curve in self.curves.values() for n in curve} - {0})
        self.ax_.set_xscale("log", base=2)
        self.ax_.set_xticks(shots, [str(n) for n in shots])
        self.ax_.minorticks_off()
        if shots:
            self.ax_.set_xlim(shots[0] / 1.25, shots[-1] * 1.25)
        self.ax_.set(
            xlabel="shots per class",
            ylabel="accuracy, %",
            title=self.title and short(self.title, 60),
        )
        self.ax_.grid(alpha=0.3)
        remove_spines(self.ax_)
        if legend:
            legend_beside(self.ax_)
        return self

    def _plot_method(self, label: str, curve: dict[int, NDArray], style: dict, i: int) -> None:
        points = {n: 100 * accuracies for n, accuracies in curve.items() if n}
        if not points:
            style.pop("marker")
            level = 100 * curve[0].mean()
            self.ax_.axhline(level, label=label, **{"linestyle": "--", **style})
            return
        shots = np.array(list(points))
        means = [accuracies.mean() for accuracies in points.values()]
        (line,) = self.ax_.plot(shots, means, label=label, **style)
        spread = [a.std(ddof=1) if len(a) > 1 else np.nan for a in points.values()]
        if not np.isnan(spread).all():
            # Side by side, because bars at the same place hide each other.
            shifted = shots * 2 ** (0.035 * (i - (len(self.curves) - 1) / 2))
            line.set_xdata(shifted)
            self.ax_.errorbar(shifted, means, spread, fmt="none", color=line.get_color())


def _highest(losses: NDArray) -> float:
    """Return the largest loss that is no outlier: one step must not flatten all others.

    A fit begins high, and where it began is what its end is compared with.
    """
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return 1.0
    beginning = finite[: max(1, len(finite) // 20)].max()
    return float(min(finite.max(), max(3 * np.percentile(finite, 95), beginning))) or 1.0


def _moving_mean(values: NDArray, window: int) -> NDArray:
    """Mean of the `window` values around each one, of fewer at the ends."""
    kernel = np.ones(min(window, len(values)))
    sums = np.convolve(values, kernel, mode="same")
    return sums / np.convolve(np.ones(len(values)), kernel, mode="same")


def _check_one_run_each(rows: list[Mapping[str, Any]]) -> None:
    seen = set()
    for row in rows:
        run = (row["method"], row["shots"], row["seed"])
        if run in seen:
            raise ValueError(
                f"rows has several results of method {run[0]!r}, {run[1]} shots, seed {run[2]} on "
                f"{row['data']!r}: of other models or parameters. Pass those of one configuration, "
                "or use skclipsvd.experiments.plot_shots, which tells parameters apart."
            )
        seen.add(run)
