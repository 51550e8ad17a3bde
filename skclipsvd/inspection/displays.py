"""Pictures of a classifier and its results, as scikit-learn's Display classes.

``Display.from_...`` computes and draws; the numbers stay on the display, whose `plot` draws them
again. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from open_clip.transform import PreprocessCfg
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from ..images import as_items, decode_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which is too
# faint on white. Markers repeat with another period, so that 56 classes look different.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_BEFORE, _AFTER, _WRONG = "#A6A6A6", "#0072B2", "#D55E00"
_LEGEND_AT_MOST = len(COLOURS) * len(MARKERS)


class SpectrumDisplay:
    """Singular values of one weight matrix, before and after training.

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
    'change, %'
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
        estimator: Any,
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

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            No such matrix was tuned.
        """
        from ._changes import singular_value_changes

        _pyplot(cls)
        rows = _rows(singular_value_changes(estimator))
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
        """
        self.figure_, self.ax_ = _panels(self, ax, 2, (6.4, 4.8), ratios=(3, 2))
        index = np.arange(len(self.before))
        values, change = self.ax_
        # A thin line on a broad one: both stay visible where they coincide.
        values.plot(index, self.before, color=_BEFORE, linewidth=5, label="before")
        values.plot(index, self.after, color=_AFTER, linewidth=1.5, label="after")
        values.set_title(self.name, loc="left")
        values.set_ylabel("singular value")
        _legend_above(values, 2)
        values.tick_params(labelbottom=False)
        values.sharex(change)
        width = max(0.6, min(4.0, 200 / len(index)))
        drawn = np.isfinite(self.relative_change)  # there is no share of a zero
        change.vlines(
            index[drawn], 0, 100 * self.relative_change[drawn], color=_AFTER, linewidth=width
        )
        change.axhline(0, color="black", linewidth=0.8)
        # The smallest values change by the largest shares, a thousand times that of the first.
        change.set_yscale("symlog", linthresh=10)
        change.set(xlabel="index (largest first)", ylabel="change, %")
        change.yaxis.set_major_formatter("{x:g}")
        change.minorticks_off()
        _whole_numbers(change.xaxis)
        _remove_spines(*self.ax_)
        return self


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
        cls, estimator: Any, *, column: str = "change", ax: Axes | None = None
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

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            No such column, or a model without attention heads.
        """
        from ._changes import head_changes

        _pyplot(cls)
        if column not in _HEAD_COLUMNS:
            raise ValueError(f"column={column!r}: choose one of {tuple(_HEAD_COLUMNS)!r}.")
        maps = _maps(_rows(head_changes(estimator)), column)
        return cls(maps, label=_HEAD_COLUMNS[column]).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the maps, with one scale that starts at zero.

        Parameters
        ----------
        ax : Axes, optional
            Whose place the towers share. By default that of a new figure.

        Returns
        -------
        self : HeadChangeDisplay
        """
        shapes = [numbers.shape for numbers in self.maps.values()]
        widths = [max(n_heads, 4) for _, n_heads in shapes]
        deepest = max(n_blocks for n_blocks, _ in shapes)
        size = (min(14, 1.4 + 0.36 * sum(widths) + 0.7 * len(shapes)), 1.7 + 0.28 * deepest)
        self.figure_, self.ax_ = _panels(self, ax, len(shapes), size, widths, across=True)
        top = max(n.max(where=np.isfinite(n), initial=0) for n in self.maps.values()) or 1.0
        for panel, (tower, numbers) in zip(self.ax_, self.maps.items(), strict=True):
            panel.set_facecolor("#D9D9D9")  # shows where there is no number
            image = panel.imshow(numbers, origin="lower", cmap="viridis", vmin=0, vmax=top)
            panel.set(title=f"{tower} tower", xlabel="head", aspect="auto")
            n_blocks, n_heads = numbers.shape
            panel.set_yticks(np.arange(0, n_blocks, -(-n_blocks // 12)))
            panel.set_xticks(np.arange(0, n_heads, -(-n_heads // 12)))
        self.ax_[0].set_ylabel("block (from the input)")
        self.figure_.colorbar(image, ax=list(self.ax_), label=self.label)
        return self


class FitCurveDisplay:
    """What a fit left behind: the loss of every step, and the validation accuracy of every epoch.

    Parameters
    ----------
    losses : array-like of shape (n_steps,)
        Training loss of each step.
    validation_scores : array-like of shape (n_epochs + 1,), optional
        Validation accuracy before training and after each epoch.

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

    def __init__(self, losses: ArrayLike, validation_scores: ArrayLike | None = None):
        self.losses = np.asarray(losses)
        self.validation_scores = (
            None if validation_scores is None else np.asarray(validation_scores)
        )

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

        Raises
        ------
        ImportError
            There is no matplotlib.
        NotFittedError
            The classifier is not fitted, or none that trains.
        """
        _pyplot(cls)
        check_is_fitted(estimator, "loss_curve_")
        scores = getattr(estimator, "validation_scores_", None)
        return cls(estimator.loss_curve_, scores).plot(ax, window=window)

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
        """
        if window is not None and (int(window) != window or window < 1):
            raise ValueError(f"window={window!r} must be a positive whole number of steps.")
        n = 1 if self.validation_scores is None else 2
        self.figure_, self.ax_ = _panels(self, ax, n, (6.4, 1.2 + 2.6 * n), ratios=(3, 2)[:n])
        self._plot_losses(self.ax_[0], window)
        if n == 2:
            self._plot_scores(self.ax_[1])
        _remove_spines(*self.ax_)
        return self

    def _plot_losses(self, ax: Axes, window: int | None) -> None:
        steps = np.arange(1, len(self.losses) + 1)
        marker = "o" if len(steps) < 3 else None  # one step alone would draw nothing
        if window is None:
            ax.plot(steps, self.losses, color=_AFTER, marker=marker)
        else:
            ax.plot(steps, self.losses, color=_BEFORE, linewidth=0.8, label="every step")
            smooth = _moving_mean(self.losses, int(window))
            ax.plot(steps, smooth, color=_AFTER, linewidth=2, label=f"mean of {window} steps")
            _legend_above(ax, 2)
        ax.set(xlabel="step", ylabel="training loss")
        ax.set_ylim(bottom=0)
        _whole_numbers(ax.xaxis)

    def _plot_scores(self, ax: Axes) -> None:
        epochs = np.arange(len(self.validation_scores))
        ax.plot(epochs, 100 * self.validation_scores, color=_AFTER, marker="o", markersize=4)
        ax.set(xlabel="epoch (0: before training)", ylabel="validation\naccuracy, %")
        _whole_numbers(ax.xaxis)


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

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            There are no such rows, rows of several data sets, or several rows of one run.
        """
        _pyplot(cls)
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
        """
        self.figure_, self.ax_ = _one_panel(self, ax, (7.2, 4.2))
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
            title=self.title and _short(self.title, 60),
        )
        self.ax_.grid(alpha=0.3)
        _remove_spines(self.ax_)
        if legend:
            _legend_beside(self.ax_)
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


class EmbeddingDisplay:
    """A two-dimensional map of image embeddings, coloured by class.

    Parameters
    ----------
    positions : array-like of shape (n_images, 2)
        Where each image lies.
    y : array-like of shape (n_images,)
        The class of each.
    text_positions : array-like of shape (n_classes, 2), optional
        Where each class's text lies, in the order of the sorted classes of `text_classes`.
    text_classes : array-like of shape (n_classes,), optional
        The classes of the texts.
    axis_labels : tuple of 2 str
        What the axes are.

    Attributes
    ----------
    ax_ : Axes
        The map.
    figure_ : Figure
        Which holds it.

    Examples
    --------
    >>> from skclipsvd.inspection import EmbeddingDisplay
    >>> display = EmbeddingDisplay([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"]).plot()
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['cat', 'dog']
    """

    def __init__(
        self,
        positions: ArrayLike,
        y: ArrayLike,
        text_positions: ArrayLike | None = None,
        text_classes: ArrayLike | None = None,
        *,
        axis_labels: tuple[str, str] = ("first dimension", "second dimension"),
    ):
        self.positions = np.asarray(positions)
        self.y = np.asarray(y)
        check_consistent_length(self.positions, self.y)
        self.text_positions = None if text_positions is None else np.asarray(text_positions)
        self.text_classes = None if text_classes is None else np.asarray(text_classes)
        self.axis_labels = axis_labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        method: str = "pca",
        random_state: Any = None,
        ax: Axes | None = None,
    ) -> Self:
        """Embed images with a fitted estimator and draw where they lie.

        Parameters
        ----------
        estimator : fitted classifier of this package, or any transformer of images
            Whose `transform` embeds them.
        X : sequence of n_images images
            As for its `fit`.
        y : array-like of shape (n_images,)
            Their classes.
        method : {"pca", "tsne"}, default="pca"
            How to get from many dimensions to two: the first two principal components, in which
            the texts of the classes are drawn, too; or t-SNE, in which neither distances between
            groups nor texts mean anything, so that the latter are left out.
        random_state : int, RandomState instance or None, default=None
            For t-SNE.
        ax : Axes, optional
            To draw into.

        Returns
        -------
        display : EmbeddingDisplay

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            An unknown method, too few images, or lengths that do not agree.

        Notes
        -----
        CLIP's texts lie far from all images. To show what tells classes apart, the mean of the
        texts is put where the mean of the images is, and they are stretched to the images' spread.
        Directions from the centre can be compared, distances between a text and an image cannot.
        """
        _pyplot(cls)
        if method not in ("pca", "tsne"):
            raise ValueError(f"method={method!r}: choose 'pca' or 'tsne'.")
        check_consistent_length(as_items(X), y)
        embeddings = np.asarray(estimator.transform(X))
        if len(embeddings) < 3:
            raise ValueError(f"X has {len(embeddings)} image(s); a map needs three or more.")
        if method == "tsne":
            return cls(_tsne(embeddings, random_state), y, axis_labels=_TSNE_AXES).plot(ax)
        numbers, axis_labels = _principal(embeddings, y, estimator)
        return cls(*numbers, axis_labels=axis_labels).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw the map.

        Up to 56 classes are told apart by colour and marker, and named in a legend; more of them
        are named on the map, at their middle.

        Parameters
        ----------
        ax : Axes, optional
            To draw into. By default that of a new figure.

        Returns
        -------
        self : EmbeddingDisplay
        """
        classes = np.unique(self.y)
        n_columns = min(3, 1 + len(classes) // 20)
        self.figure_, self.ax_ = _one_panel(self, ax, (5.8 + 1.6 * n_columns, 5.2))
        looks = {c: (COLOURS[i % 8], MARKERS[i % 7]) for i, c in enumerate(classes.tolist())}
        for c, (colour, marker) in looks.items():
            style = {"color": colour, "marker": marker, "alpha": 0.7, "linewidth": 0}
            style["label"] = _short(c, 28 if n_columns == 1 else 18)
            self.ax_.scatter(*self.positions[self.y == c].T, s=22, **style)
        handles = self.ax_.get_legend_handles_labels()[0]
        if len(looks) > _LEGEND_AT_MOST:
            handles = []
            self._write_classes(classes)
        if self.text_positions is not None:
            handles.append(self._plot_texts(looks))
        self.ax_.set(xlabel=self.axis_labels[0], ylabel=self.axis_labels[1])
        self.ax_.set_aspect("equal", adjustable="datalim")
        _remove_spines(self.ax_)
        if handles:
            _legend_beside(self.ax_, handles)
        return self

    def _plot_texts(self, looks: Mapping[Any, tuple[str, str]]) -> Any:
        """Draw a star for each class's text, and return what the legend shows for them."""
        star = {"marker": "*", "edgecolor": "black"}
        for c, position in zip(self.text_classes.tolist(), self.text_positions, strict=True):
            self.ax_.scatter(*position, s=170, color=looks[c][0], zorder=3, **star)
        return self.ax_.scatter([], [], s=110, color="white", label="text of a class", **star)

    def _write_classes(self, classes: NDArray) -> None:
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground="white")]
        for c in classes:
            middle = np.median(self.positions[self.y == c], axis=0)
            place = dict(ha="center", va="center", fontsize=7, zorder=4)
            self.ax_.annotate(_short(c, 14), middle, path_effects=halo, **place)


class PredictionSheetDisplay:
    r"""A sheet of images with their predicted labels; wrong ones are crossed and framed.

    Parameters
    ----------
    images : sequence of uint8 arrays of shape (height, width, 3)
        The pictures.
    predicted : array-like of shape (n_images,)
        Predicted labels.
    true : array-like of shape (n_images,), optional
        True labels.
    probabilities : array-like of shape (n_images,), optional
        Probability of each predicted label.

    Attributes
    ----------
    ax_ : Axes
        The sheet.
    figure_ : Figure
        Which holds it.

    Examples
    --------
    >>> import numpy as np
    >>> from skclipsvd.inspection import PredictionSheetDisplay
    >>> black = np.zeros((8, 8, 3), dtype=np.uint8)
    >>> display = PredictionSheetDisplay([black], ["night"], ["day"], [0.875]).plot()
    >>> display.ax_.texts[0].get_text().splitlines()
    ['✗ 88\xa0% night', 'true: day']
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        predicted: ArrayLike,
        true: ArrayLike | None = None,
        probabilities: ArrayLike | None = None,
    ):
        self.images = list(images)
        self.predicted = np.asarray(predicted)
        self.true = None if true is None else np.asarray(true)
        self.probabilities = None if probabilities is None else np.asarray(probabilities)
        check_consistent_length(self.images, self.predicted, self.true, self.probabilities)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        n_images: int = 24,
        order: str = "given",
        n_columns: int = 6,
        ax: Axes | None = None,
    ) -> Self:
        """Predict images and draw the sheet.

        Parameters
        ----------
        estimator : fitted classifier of images
            A pipeline that begins with a `CLIPEncoder`, too.
        X : sequence of images
            As for its `predict`.
        y : array-like of labels, optional
            True labels.
        n_images : int, default=24
            How many images to show at most.
        order : {"given", "errors"}, default="given"
            Which ones: the first of X, or, of all of X, first the wrong predictions, the most
            confident in front, and then the right ones, the least confident in front.
        n_columns : int, default=6
            Images in a row.
        ax : Axes, optional
            To draw into.

        Returns
        -------
        display : PredictionSheetDisplay

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            Lengths that do not agree, an unknown order, or ``order="errors"`` without y.
        """
        _pyplot(cls)
        if order not in ("given", "errors") or (order == "errors" and y is None):
            needed = ", which needs y" if order == "errors" else ""
            raise ValueError(f"order={order!r}{needed}: choose 'given' or, with y, 'errors'.")
        items = as_items(X)
        true = None if y is None else np.asarray(y)
        check_consistent_length(items, true)
        chosen = np.arange(len(items) if order == "errors" else min(n_images, len(items)))
        predicted, probabilities = _predict(estimator, [items[i] for i in chosen])
        if order == "errors":
            sure = np.ones(len(items)) if probabilities is None else probabilities
            wrong = predicted != true
            chosen = np.lexsort((np.where(wrong, -sure, sure), ~wrong))[:n_images]
            predicted = predicted[chosen]
            probabilities = None if probabilities is None else probabilities[chosen]
        shown = decode_all([items[i] for i in chosen], _THUMBNAIL, n_threads=1, keep=False)
        return cls(
            [image.view for image in shown],
            predicted,
            None if true is None else true[chosen],
            probabilities,
        ).plot(ax, n_columns=n_columns)

    def plot(self, ax: Axes | None = None, *, n_columns: int = 6) -> Self:
        """Draw the sheet.

        Parameters
        ----------
        ax : Axes, optional
            To draw into. By default that of a new figure.
        n_columns : int, default=6
            Images in a row.

        Returns
        -------
        self : PredictionSheetDisplay
        """
        n_columns = min(n_columns, len(self.images))
        n_rows = -(-len(self.images) // n_columns)
        side = _TILE if ax is None else _width_in_inches(ax) / n_columns
        captions = [self._caption(i, max(6, int(side * 13))) for i in range(len(self.images))]
        line = 0.15 / side  # inches of 8 points with their spacing, in tiles
        pitch = 1.08 + line * (1 + max(c.count("\n") for c in captions))
        size = (side * n_columns + 0.1, side * pitch * n_rows + 0.1)
        self.figure_, self.ax_ = _one_panel(self, ax, size)
        for i, (image, caption) in enumerate(zip(self.images, captions, strict=True)):
            self._draw_tile(i % n_columns, i // n_columns * pitch, image, caption)
        self.ax_.set(xlim=(-0.04, n_columns), ylim=(n_rows * pitch, -0.04), aspect="equal")
        self.ax_.axis("off")
        return self

    def _caption(self, i: int, width: int) -> str:
        lines = [_in_one_line(self.predicted[i])]
        if self.probabilities is not None:  # in front, where a long name does not push it out
            lines[0] = f"{100 * self.probabilities[i]:.0f}\u00a0% {lines[0]}"
        if self.true is not None:
            wrong = self.predicted[i] != self.true[i]
            lines[0] = ("✗ " if wrong else "✓ ") + lines[0]
            lines += [f"true: {_in_one_line(self.true[i])}"] if wrong else []
        return "\n".join(part for text in lines for part in _wrap(text, width))

    def _draw_tile(self, x: float, y: float, image: NDArray[np.uint8], caption: str) -> None:
        from matplotlib.patches import Rectangle

        wrong = caption.startswith("✗") and self.true is not None
        self.ax_.imshow(image, extent=(x, x + 0.94, y + 0.94, y))
        edge = dict(edgecolor=_WRONG, linewidth=3) if wrong else dict(edgecolor=_BEFORE)
        self.ax_.add_patch(Rectangle((x, y), 0.94, 0.94, fill=False, **edge))
        look = dict(color=_WRONG, fontweight="bold") if wrong else {}
        self.ax_.text(x, y + 0.98, caption, fontsize=8, va="top", parse_math=False, **look)


class HeatMapDisplay:
    """Where in an image a class's score comes from: a heat map over what the model sees.

    Parameters
    ----------
    image : uint8 array of shape (height, width, 3)
        The image as the model sees it.
    heat_map : array-like of shape (n_rows, n_columns)
        Contributions of equal parts of it.
    title : str, optional
        Whose score it is.
    label : str, default="contribution to the score"
        What the numbers are.

    Attributes
    ----------
    ax_ : ndarray of 2 Axes
        The image, and the same in grey under the heat map.
    figure_ : Figure
        Which holds them.

    See Also
    --------
    skclipsvd.inspection.explain_prediction : The numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from skclipsvd.inspection import HeatMapDisplay
    >>> display = HeatMapDisplay(np.zeros((32, 32, 3), np.uint8), [[0, 1], [0, 0]], title="a cat")
    >>> len(display.plot().ax_)
    2
    """

    def __init__(
        self,
        image: NDArray[np.uint8],
        heat_map: ArrayLike,
        *,
        title: str | None = None,
        label: str = "contribution to the score",
    ):
        self.image = np.asarray(image)
        self.heat_map = np.asarray(heat_map, dtype=float)
        self.title = title
        self.label = label

    @classmethod
    def from_estimator(
        cls, estimator: Any, image: Any, *, label: Any = None, ax: Axes | None = None
    ) -> Self:
        """Explain one image's score and draw the heat map.

        Parameters
        ----------
        estimator : fitted classifier of this package
            Which predicts.
        image : str, Path, bytes, PIL image or uint8 array of shape (height, width, 3)
            One image.
        label : object, optional
            Whose score; by default the predicted class's.
        ax : Axes, optional
            Whose place to draw in.

        Returns
        -------
        display : HeatMapDisplay

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            No such class, or what `explain_prediction` cannot explain.
        """
        from ._explanations import explain_prediction

        _pyplot(cls)
        explanation = explain_prediction(estimator, image)
        column = explanation.index(label)
        score = explanation.scores_after[column]
        preprocess = estimator._load_backbone().preprocess
        view = decode_all(as_items([image]), preprocess, n_threads=1)[0].view
        title = f"score {score:.1f}: {explanation.classes[column]}"
        return cls(view, explanation.heat_map[column], title=title).plot(ax)

    def plot(self, ax: Axes | None = None, *, alpha: float = 0.8) -> Self:
        """Draw the image and the heat map over it.

        Parameters
        ----------
        ax : Axes, optional
            Whose place the two panels share. By default that of a new figure.
        alpha : float in (0, 1], default=0.8
            Opacity where the contribution is largest; where there is none, the image stays as it
            is.

        Returns
        -------
        self : HeatMapDisplay
        """
        self.figure_, self.ax_ = _panels(self, ax, 2, (7.6, 3.6), across=True)
        grey = self.image @ np.array([0.299, 0.587, 0.114])
        self.ax_[0].imshow(self.image)
        self.ax_[1].imshow(grey, cmap="gray", vmin=0, vmax=255)
        height, width = grey.shape
        largest = np.abs(self.heat_map).max() or 1.0
        drawn = self.ax_[1].imshow(
            self.heat_map,
            cmap="PuOr_r",
            vmin=-largest,
            vmax=largest,
            alpha=alpha * (0.1 + 0.9 * np.abs(self.heat_map) / largest),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        for panel, title in zip(self.ax_, ("what the model sees", self.title), strict=True):
            panel.set(title=title and _short(title, 30), xticks=[], yticks=[])
        self.figure_.colorbar(drawn, ax=self.ax_[1], label=self.label)
        return self


# --- from results to what is drawn

_HEAD_COLUMNS = {
    "change": "relative change (larger of the two)",
    "value_output": "relative change, value and output",
    "query_key": "relative change, query and key",
}
_TSNE_AXES = ("first t-SNE dimension", "second t-SNE dimension")
_THUMBNAIL = PreprocessCfg(size=224, resize_mode="longest", fill_color=255)
_TILE = 1.5  # inches


def _rows(table: Any) -> list[dict[str, Any]]:
    """Turn a frame, where pandas is there, or a list of dict into the latter."""
    return table.to_dict("records") if hasattr(table, "to_dict") else list(table)


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


def _maps(rows: list[dict], column: str) -> dict[str, NDArray]:
    maps = {}
    for tower in sorted({row["tower"] for row in rows}):
        part = [row for row in rows if row["tower"] == tower]
        shape = (1 + max(row["block"] for row in part), 1 + max(row["head"] for row in part))
        maps[tower] = np.full(shape, np.nan)
        for row in part:
            maps[tower][row["block"], row["head"]] = row[column]
    return maps


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


def _principal(embeddings: NDArray, y: ArrayLike, estimator: Any) -> tuple[tuple, tuple]:
    """Project images and class texts onto the images' first two principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full").fit(embeddings)
    positions = pca.transform(embeddings)
    names = [
        f"{which} principal component ({share:.0%} of the variance)"
        for which, share in zip(("first", "second"), pca.explained_variance_ratio_, strict=True)
    ]
    texts = getattr(estimator, "text_features_", None)
    if texts is None:
        return (positions, y), tuple(names)
    from_middle = (texts - texts.mean(axis=0)) @ pca.components_.T
    present = np.isin(estimator.classes_, y)
    spread = np.sqrt(np.square(from_middle).mean())
    stretched = from_middle * (np.sqrt(np.square(positions).mean()) / (spread or 1.0))
    return (positions, y, stretched[present], estimator.classes_[present]), tuple(names)


def _tsne(embeddings: NDArray, random_state: Any) -> NDArray:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
    return tsne.fit_transform(embeddings)


def _predict(estimator: Any, items: list) -> tuple[NDArray, NDArray | None]:
    """Return labels, and their probabilities where the estimator has them."""
    predicted = np.asarray(estimator.predict(items))
    if not hasattr(estimator, "predict_proba"):
        return predicted, None
    columns = np.searchsorted(estimator.classes_, predicted)
    return predicted, estimator.predict_proba(items)[np.arange(len(items)), columns]


# --- drawing


def _pyplot(owner: Any) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        name = owner.__name__ if isinstance(owner, type) else type(owner).__name__
        raise ImportError(
            f"{name} needs matplotlib; install it with `pip install 'skclipsvd[plot]'`."
        ) from error
    return plt


def _one_panel(owner: Any, ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    plt = _pyplot(owner)
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return ax.figure, ax


def _panels(
    owner: Any,
    ax: Axes | None,
    n: int,
    size: tuple[float, float],
    ratios: Sequence[float] | None = None,
    across: bool = False,
) -> tuple[Figure, NDArray]:
    """Make panels below or beside each other, in a new figure or in the place of `ax`."""
    plt = _pyplot(owner)
    shape = (1, n) if across else (n, 1)
    options = {"width_ratios" if across else "height_ratios": ratios}
    if ax is None:
        figure = plt.figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(*shape, **options)
    elif ax.get_subplotspec() is None:
        raise ValueError(
            f"ax: {type(owner).__name__} divides the place of its ax, and this one was made "
            "without a grid; pass one of plt.subplots() or figure.add_subplot()."
        )
    else:
        figure, grid = ax.figure, ax.get_subplotspec().subgridspec(*shape, **options)
        ax.set_axis_off()
    return figure, np.array([figure.add_subplot(grid[i]) for i in range(n)])


def _legend_beside(ax: Axes, handles: Sequence[Any] | None = None) -> None:
    """Put the legend to the right of the axes, where it covers no data."""
    n = len(handles if handles is not None else ax.get_legend_handles_labels()[0])
    if n:
        place = dict(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        ax.legend(handles=handles, frameon=False, fontsize="small", ncols=-(-n // 20), **place)


def _legend_above(ax: Axes, n_columns: int) -> None:
    place = dict(loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)
    ax.legend(frameon=False, fontsize="small", ncols=n_columns, **place)


def _remove_spines(*axes: Axes) -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)


def _whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _width_in_inches(ax: Axes) -> float:
    return ax.get_window_extent().width / ax.figure.dpi


def _in_one_line(label: Any) -> str:
    return " ".join(str(label).split())


def _short(label: Any, n: int = 28) -> str:
    """Write a label in one line of at most `n` letters, as text that matplotlib shows as it is.

    To matplotlib, dollar signs enclose a formula and a first underscore hides a label.
    """
    text = _in_one_line(label)
    text = text if len(text) <= n else text[: n - 1] + "…"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into at most three lines."""
    return textwrap.wrap(text, width, max_lines=3, placeholder="…") or [""]
