"""What a fit gained and what it cost, over how much of it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_consistent_length

from ...classifiers import TrainedCLIPClassifier
from ...clip import Backbone
from ...images import Images, Item, as_items, check_exist, decode_all, decoding_threads
from ...labels import check_no_missing, plain
from .._changes import frozen_and_tuned
from ._figures import AFTER, WRONG, legend_above, one_panel, pyplot, remove_spines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class StrengthCurveDisplay:
    """Accuracy on the classes of a fit, and on classes that nobody trained, over the strength.

    Fine-tuning a CLIP for some classes may cost it others that it knew. Between the frozen weights
    and the fitted ones lies a line of classifiers, see `CLIPSVDClassifier.with_strength`; this is
    what each is worth for both, after Wortsman et al. [1]_.

    Parameters
    ----------
    strengths : array-like of shape (n_strengths,)
        How much of the fit was used: 0 is the frozen model, 1 the fit.
    trained, others : array-like of shape (n_strengths,)
        Accuracy at each strength, between 0 and 1: on classes of the fit, and on others.
    n_trained, n_others : int, optional
        How many images each was measured on, for the legend.

    Attributes
    ----------
    ax_ : Axes
        The curves.
    figure_ : Figure
        Which holds them.

    See Also
    --------
    skclipsvd.model_selection.base_novel_split : Halves the classes of one data set.

    References
    ----------
    .. [1] M. Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv:2109.01903, 2021.

    Examples
    --------
    >>> from skclipsvd.inspection import StrengthCurveDisplay
    >>> display = StrengthCurveDisplay([0, 0.5, 1], [0.6, 0.8, 0.85], [0.7, 0.7, 0.5]).plot()
    >>> display.ax_.get_ylabel()
    'accuracy, %'
    """

    def __init__(
        self,
        strengths: ArrayLike,
        trained: ArrayLike,
        others: ArrayLike,
        *,
        n_trained: int | None = None,
        n_others: int | None = None,
    ):
        self.strengths = np.asarray(strengths, dtype=float)
        self.trained = np.asarray(trained, dtype=float)
        self.others = np.asarray(others, dtype=float)
        self.n_trained = n_trained
        self.n_others = n_others

    @classmethod
    def from_estimator(
        cls,
        estimator: TrainedCLIPClassifier,
        X: Images,
        y: ArrayLike,
        X_others: Images,
        y_others: ArrayLike,
        *,
        classes: Sequence[str] | Mapping[Any, str | Sequence[str]] | None = None,
        templates: str | Sequence[str] | None = None,
        strengths: ArrayLike = _STRENGTHS,
        ax: Axes | None = None,
    ) -> Self:
        """Score a fitted classifier at several strengths, and draw it.

        Every image is embedded once per strength; nothing is trained.

        Parameters
        ----------
        estimator : fitted CLIPSVDClassifier or CLIPLoRAClassifier
            What was trained.
        X : sequence of n_images images
            Of its own classes, and none that it was trained on.
        y : array-like of shape (n_images,)
            Their labels, among `estimator.classes_`.
        X_others : sequence of n_other_images images
            Of classes that were not trained. They are told apart among themselves only.
        y_others : array-like of shape (n_other_images,)
            Their labels.
        classes : sequence of labels, or mapping of label to str or list of str, optional
            All the other classes, with words for them where a mapping, as for `with_classes`.
            By default the labels in `y_others`.
        templates : str or list of str, optional
            Prompts for the other classes; by default the estimator's.
        strengths : array-like of shape (n_strengths,), default=(0, 0.2, 0.4, 0.6, 0.8, 1)
            Where to measure: numbers of 0 or more.
        ax : Axes, optional
            To draw into.

        Returns
        -------
        display : StrengthCurveDisplay
            Drawn.

        Raises
        ------
        ImportError
            There is no matplotlib.
        TypeError
            `estimator` is not a classifier that is tuned.
        NotFittedError
            It is not fitted.
        FileNotFoundError
            Paths that do not exist, by index.
        ValueError
            Labels that are missing, that are none of the classes, or that are not as many as the
            images; images that cannot be decoded; strengths that are none.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.inspection import StrengthCurveDisplay
        >>> paths, labels = load_handwritten_digits()
        >>> paths = [*paths[:200]]
        >>> low = [i for i in range(200) if labels[i] in ("zero", "one", "two")]
        >>> high = [i for i in range(200) if labels[i] in ("seven", "eight", "nine")]
        >>> X, y = [paths[i] for i in low], labels[low]
        >>> clf = CLIPSVDClassifier("tiny", max_steps=2, lr=0.01, augment=False).fit(X[:9], y[:9])
        >>> display = StrengthCurveDisplay.from_estimator(
        ...     clf, X[9:], y[9:], [paths[i] for i in high], labels[high], strengths=[0, 1]
        ... )
        >>> display.others.shape
        (2,)
        """
        pyplot(cls)
        places = _checked_strengths(strengths)
        backbone, _ = frozen_and_tuned(estimator)
        found = np.unique(_labels(y_others, "y_others")).tolist() if classes is None else classes
        sides = [estimator, estimator.with_classes(found, templates=templates)]
        given = [("X", X, "y", y), ("X_others", X_others, "y_others", y_others)]
        labels = [
            _checked_labels(name, values, clf.classes_)
            for (_, _, name, values), clf in zip(given, sides, strict=True)
        ]
        items = [
            _checked_items(name, images, answers, backbone, estimator.n_jobs)
            for (name, images, *_), answers in zip(given, labels, strict=True)
        ]
        scores = [
            [
                clf.with_strength(place).score(images, answers)
                for clf, images, answers in zip(sides, items, labels, strict=True)
            ]
            for place in places
        ]
        n_trained, n_others = map(len, items)
        return cls(places, *np.transpose(scores), n_trained=n_trained, n_others=n_others).plot(ax)

    def plot(self, ax: Axes | None = None) -> Self:
        """Draw both curves.

        Parameters
        ----------
        ax : Axes, optional
            To draw into. By default that of a new figure.

        Returns
        -------
        self : StrengthCurveDisplay
            This object, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            There is no matplotlib.

        Examples
        --------
        >>> from skclipsvd.inspection import StrengthCurveDisplay
        >>> display = StrengthCurveDisplay([0, 1], [0.6, 0.8], [0.7, 0.5], n_trained=50)
        >>> [text.get_text() for text in display.plot().ax_.get_legend().get_texts()]
        ['trained classes (50 images)', 'other classes']
        """
        self.figure_, self.ax_ = one_panel(self, ax, (6.4, 4.2))
        order = np.argsort(self.strengths, kind="stable")
        for name, scores, n_images, colour, marker in (
            ("trained classes", self.trained, self.n_trained, AFTER, "o"),
            ("other classes", self.others, self.n_others, WRONG, "s"),
        ):
            label = name if n_images is None else f"{name} ({n_images:,} images)"
            x, percents = self.strengths[order], 100 * scores[order]
            self.ax_.plot(x, percents, color=colour, marker=marker, markersize=5, label=label)
        self.ax_.set(xlabel="strength (0: as CLIP was, 1: the fit)", ylabel="accuracy, %")
        self.ax_.grid(alpha=0.3)
        legend_above(self.ax_, 2)
        remove_spines(self.ax_)
        return self


def _checked_strengths(strengths: ArrayLike) -> NDArray[np.float64]:
    places = np.atleast_1d(np.asarray(strengths, dtype=float))
    if places.ndim != 1 or not len(places) or not ((places >= 0) & np.isfinite(places)).all():
        raise ValueError(
            f"strengths={strengths!r} must be one or more finite numbers of 0 or more."
        )
    return places


def _labels(values: ArrayLike, name: str) -> NDArray:
    check_no_missing(values, name)
    labels: NDArray = column_or_1d(values)
    return labels


def _checked_labels(name: str, values: ArrayLike, classes: NDArray) -> NDArray:
    labels = _labels(values, name)
    known = set(classes.tolist())
    unknown = [plain(label) for label in dict.fromkeys(labels.tolist()) if label not in known]
    if unknown:
        raise ValueError(
            f"{name} has labels that are none of the classes: {unknown[:10]!r}; there are "
            f"{classes.tolist()[:10]!r}."
        )
    return labels


def _checked_items(
    name: str, images: Images, labels: NDArray, backbone: Backbone, n_jobs: int | None
) -> list[Item]:
    """Decode images once, for all strengths; what cannot be read is named by where it was given."""

    def place(index: int) -> str:
        return f"{name}[{index}]"

    items = as_items(images)
    check_consistent_length(items, labels)
    check_exist(items, place)
    decode_all(items, backbone.preprocess, decoding_threads(n_jobs), name=place)
    return items
