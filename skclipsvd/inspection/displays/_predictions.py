"""Images with what was predicted of them, or with where a score comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from open_clip.transform import PreprocessCfg
from sklearn.utils import check_consistent_length

from ...classifiers import BaseCLIPClassifier, as_indicator, frozen_and_adapted, has_several_labels
from ...images import ImageLike, Images, as_items, decode_all, size_of
from .._explanations import explain_prediction
from ._figures import (
    BEFORE,
    WRONG,
    in_one_line,
    one_panel,
    panels,
    pyplot,
    short,
    width_in_inches,
    wrap,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 224  # pixels of a thumbnail
_TILE = 1.5  # inches


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
        X: Images,
        y: ArrayLike | None = None,
        *,
        n_images: int = 24,
        order: str = "given",
        n_columns: int = 6,
        ax: Axes | None = None,
    ) -> Self:
        """Predict images and draw the sheet, of each image the square that the model sees.

        What lies outside of it was not seen when the label was predicted.

        Parameters
        ----------
        estimator : fitted classifier of images
            A pipeline that begins with a `CLIPEncoder`, too.
        X : sequence of images
            As for its `predict`.
        y : array-like of labels, optional
            True labels; a table of 0 and 1 where the estimator gives images several.
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
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            Lengths that do not agree, an unknown order, ``order="errors"`` without y, or a y that
            is no table of 0 and 1 with a column for each label where the estimator gives several.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import PredictionSheetDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
        >>> sheet = PredictionSheetDisplay.from_estimator(clf, paths[:8], labels[:8], n_images=6)
        >>> sheet.predicted[:3].tolist()
        ['zero', 'one', 'two']
        """
        pyplot(cls)
        if order not in ("given", "errors") or (order == "errors" and y is None):
            needed = ", which needs y" if order == "errors" else ""
            raise ValueError(f"order={order!r}{needed}: choose 'given' or, with y, 'errors'.")
        items = as_items(X)
        true = None if y is None else _true(estimator, y)
        check_consistent_length(items, true)
        chosen = np.arange(len(items) if order == "errors" else min(n_images, len(items)))
        predicted, probabilities = _predict(estimator, [items[i] for i in chosen])
        if order == "errors":
            sure = np.ones(len(items)) if probabilities is None else probabilities
            wrong = predicted != true
            chosen = np.lexsort((np.where(wrong, -sure, sure), ~wrong))[:n_images]
            predicted = predicted[chosen]
            probabilities = None if probabilities is None else probabilities[chosen]
        look = _thumbnail(estimator)
        shown = decode_all([items[i] for i in chosen], look, n_threads=1, keep=False)
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
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> import numpy as np
        >>> from skclipsvd.inspection import PredictionSheetDisplay
        >>> black = np.zeros((8, 8, 3), dtype=np.uint8)
        >>> sheet = PredictionSheetDisplay([black, black], ["night", "day"]).plot(n_columns=2)
        >>> len(sheet.ax_.images)
        2
        """
        n_columns = min(n_columns, len(self.images))
        n_rows = -(-len(self.images) // n_columns)
        side = _TILE if ax is None else width_in_inches(ax) / n_columns
        captions = [self._caption(i, max(6, int(side * 13))) for i in range(len(self.images))]
        line = 0.15 / side  # inches of 8 points with their spacing, in tiles
        pitch = 1.08 + line * (1 + max(c.count("\n") for c in captions))
        size = (side * n_columns + 0.1, side * pitch * n_rows + 0.1)
        self.figure_, self.ax_ = one_panel(self, ax, size)
        for i, (image, caption) in enumerate(zip(self.images, captions, strict=True)):
            self._draw_tile(i % n_columns, i // n_columns * pitch, image, caption)
        self.ax_.set(xlim=(-0.04, n_columns), ylim=(n_rows * pitch, -0.04), aspect="equal")
        self.ax_.axis("off")
        return self

    def _caption(self, i: int, width: int) -> str:
        lines = [in_one_line(self.predicted[i])]
        if self.probabilities is not None:  # in front, where a long name does not push it out
            lines[0] = f"{100 * self.probabilities[i]:.0f}\u00a0% {lines[0]}"
        if self.true is not None:
            wrong = self.predicted[i] != self.true[i]
            lines[0] = ("✗ " if wrong else "✓ ") + lines[0]
            lines += [f"true: {in_one_line(self.true[i])}"] if wrong else []
        return "\n".join(part for text in lines for part in wrap(text, width))

    def _draw_tile(self, x: float, y: float, image: NDArray[np.uint8], caption: str) -> None:
        from matplotlib.patches import Rectangle

        wrong = caption.startswith("✗") and self.true is not None
        self.ax_.imshow(image, extent=(x, x + 0.94, y + 0.94, y))
        edge = dict(edgecolor=WRONG, linewidth=3) if wrong else dict(edgecolor=BEFORE)
        self.ax_.add_patch(Rectangle((x, y), 0.94, 0.94, fill=False, **edge))
        look: dict[str, Any] = dict(color=WRONG, fontweight="bold") if wrong else {}
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
        cls,
        estimator: BaseCLIPClassifier,
        image: ImageLike,
        *,
        label: Any = None,
        ax: Axes | None = None,
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
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        ValueError
            No such class, or what `explain_prediction` cannot explain.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import HeatMapDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
        >>> HeatMapDisplay.from_estimator(clf, paths[0], label="zero").heat_map.shape
        (4, 4)
        """
        pyplot(cls)
        explanation = explain_prediction(estimator, image)
        column = explanation.index(label)
        score = explanation.scores_after[column]
        preprocess = frozen_and_adapted(estimator)[0].preprocess
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
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> import numpy as np
        >>> from skclipsvd.inspection import HeatMapDisplay
        >>> black = np.zeros((32, 32, 3), dtype=np.uint8)
        >>> display = HeatMapDisplay(black, [[0, 1], [0, 0]], title="a cat")
        >>> [ax.get_title() for ax in display.plot(alpha=0.5).ax_]
        ['what the model sees', 'a cat']
        """
        self.figure_, self.ax_ = panels(self, ax, 2, (7.6, 3.6), across=True)
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
            panel.set(title=title and short(title, 30), xticks=[], yticks=[])
        self.figure_.colorbar(drawn, ax=self.ax_[1], label=self.label)
        return self


def _thumbnail(estimator: Any) -> PreprocessCfg:
    """Cut images as the estimator's model does; as most models do where that is not known."""
    if not isinstance(estimator, BaseCLIPClassifier):
        return PreprocessCfg(size=_SIDE, resize_mode="shortest")
    preprocess = frozen_and_adapted(estimator)[0].preprocess
    height, width = size_of(preprocess)
    if height != width:  # tiles are squares: the whole image then
        return PreprocessCfg(size=_SIDE, resize_mode="longest", fill_color=255)
    mode, fill = preprocess.resize_mode, preprocess.fill_color
    return PreprocessCfg(size=_SIDE, resize_mode=mode, fill_color=fill)


def _true(estimator: Any, y: ArrayLike) -> NDArray:
    if not has_several_labels(estimator):
        return np.asarray(y)
    labels, n_labels = as_indicator(y, "y"), len(estimator.classes_)
    if labels is None or labels.values.shape[1] != n_labels:
        raise ValueError(
            f"y has the shape {np.shape(y)}; this classifier gives images several labels, so y "
            f"has a row for each image and {n_labels} columns of 0 and 1, in the order of classes_."
        )
    return _joined(estimator.classes_, labels.values)


def _joined(classes: NDArray, indicator: NDArray) -> NDArray:
    """Return the names of each image's labels as one text."""
    named = [", ".join(map(str, classes[row > 0])) or "none" for row in indicator]
    return np.array(named, dtype=object)


def _predict(estimator: Any, items: list) -> tuple[NDArray, NDArray | None]:
    """Return labels, and their probabilities where the estimator has them."""
    predicted = np.asarray(estimator.predict(items))
    if has_several_labels(estimator):
        return _joined(estimator.classes_, predicted), None
    if not hasattr(estimator, "predict_proba"):
        return predicted, None
    columns = np.searchsorted(estimator.classes_, predicted)
    return predicted, estimator.predict_proba(items)[np.arange(len(items)), columns]
