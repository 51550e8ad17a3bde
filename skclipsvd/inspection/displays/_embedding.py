"""A map of image embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.utils import check_consistent_length

from ...images import Images, as_items
from ...labels import check_one_per_image
from ._figures import COLOURS, MARKERS, legend_beside, one_panel, pyplot, remove_spines, short

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_LEGEND_AT_MOST = len(COLOURS) * len(MARKERS)
_TSNE_AXES = ("first t-SNE dimension", "second t-SNE dimension")


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
        X: Images,
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
            Drawn.

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

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import EmbeddingDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> clf = CLIPZeroShotClassifier("tiny").fit(None, labels)
        >>> EmbeddingDisplay.from_estimator(clf, paths[:20], labels[:20]).positions.shape
        (20, 2)
        """
        pyplot(cls)
        if method not in ("pca", "tsne"):
            raise ValueError(f"method={method!r}: choose 'pca' or 'tsne'.")
        check_one_per_image(y, cls.__name__)
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
        are named on the map, at their middle. The texts of more than eight classes have their names
        beside them, because colours alone no longer tell them apart.

        Parameters
        ----------
        ax : Axes, optional
            To draw into. By default that of a new figure.

        Returns
        -------
        self : EmbeddingDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> from skclipsvd.inspection import EmbeddingDisplay
        >>> display = EmbeddingDisplay([[0.0, 1.0], [1.0, 0.0]], ["cat", "dog"]).plot()
        >>> display.ax_.get_xlabel()
        'first dimension'
        """
        classes = np.unique(self.y)
        n_columns = min(3, 1 + len(classes) // 20)
        self.figure_, self.ax_ = one_panel(self, ax, (5.8 + 1.6 * n_columns, 5.2))
        looks = {c: (COLOURS[i % 8], MARKERS[i % 7]) for i, c in enumerate(classes.tolist())}
        for c, (colour, marker) in looks.items():
            x, y = self.positions[self.y == c].T
            label = short(c, 28 if n_columns == 1 else 18)
            self.ax_.scatter(
                x, y, s=22, color=colour, marker=marker, alpha=0.7, linewidth=0, label=label
            )
        handles = self.ax_.get_legend_handles_labels()[0]
        if len(looks) > _LEGEND_AT_MOST:
            handles = []
            self._write_classes(classes)
        if self.text_positions is not None and self.text_classes is not None:
            handles.append(self._plot_texts(looks, self.text_positions, self.text_classes))
        self.ax_.set(xlabel=self.axis_labels[0], ylabel=self.axis_labels[1])
        self.ax_.set_aspect("equal", adjustable="datalim")
        remove_spines(self.ax_)
        if handles:
            legend_beside(self.ax_, handles)
        return self

    def _plot_texts(
        self, looks: Mapping[Any, tuple[str, str]], positions: NDArray, classes: NDArray
    ) -> Artist:
        """Draw a star for each class's text, and return what the legend shows for them."""
        star: dict[str, Any] = {"marker": "*", "edgecolor": "black"}
        named = len(COLOURS) < len(looks) <= _LEGEND_AT_MOST
        for c, (x, y) in zip(classes.tolist(), positions, strict=True):
            self.ax_.scatter(x, y, s=170, color=looks[c][0], zorder=3, **star)
            if named:
                self._write(c, (x, y), xytext=(0, 9), textcoords="offset points", va="bottom")
        return self.ax_.scatter([], [], s=110, color="white", label="text of a class", **star)

    def _write_classes(self, classes: NDArray) -> None:
        for c in classes:
            self._write(c, np.median(self.positions[self.y == c], axis=0), va="center")

    def _write(self, label: Any, place: Any, **look: Any) -> None:
        from matplotlib.patheffects import withStroke

        halo = [withStroke(linewidth=2.5, foreground="white")]
        style: dict[str, Any] = dict(ha="center", fontsize=7, zorder=4, path_effects=halo)
        self.ax_.annotate(short(label, 14), place, **style, **look)


def _principal(embeddings: NDArray, y: ArrayLike, estimator: Any) -> tuple[tuple, tuple]:
    """Project images and class texts onto the images' first two principal components."""
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
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=random_state)
    return tsne.fit_transform(embeddings)
