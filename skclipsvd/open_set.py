"""A classifier that may answer "unknown", with a threshold for a wanted share of false alarms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import BaseCrossValidator, StratifiedGroupKFold, check_cv

# Private: there is no public way to take rows of any container.
from sklearn.utils import _safe_indexing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from .classifiers import (
    BaseCLIPClassifier,
    TakesImages,
    embeddings_and_scores,
    has_several_labels,
)
from .images import Images, ImageStream, as_items, check_exist
from .labels import check_classes, check_no_missing, check_one_per_image, plain
from .progress import shown, spoken
from .validation import Interval, StrOptions, fit_context

_Floats = NDArray[np.float64]
_Rows = NDArray[np.intp]
# As many rows of cosines are held at a time.
_BLOCK = 1024


class Seen(NamedTuple):
    """What a CLIP classifier makes of images.

    Attributes
    ----------
    embeddings : array of shape (n_images, n_features)
        Of unit length.
    scores : array of shape (n_images, n_classes)
        Logits.
    text_features : array of shape (n_classes, n_features)
        Class texts, of unit length.
    """

    embeddings: NDArray[np.float32]
    scores: NDArray
    text_features: NDArray[np.float32]


def seen_by(classifier: Any, X: ImageStream) -> Seen:
    """Look at images with a fitted classifier.

    Parameters
    ----------
    classifier : fitted classifier
        Of a classifier that is none of this package's, only the probabilities, or scores, are seen.
    X : sequence of n_images images
        As for its `predict`.

    Returns
    -------
    seen : Seen
    """
    if isinstance(classifier, BaseCLIPClassifier):
        return Seen(*embeddings_and_scores(classifier, X), classifier.text_features_)
    if hasattr(classifier, "predict_proba"):
        scores = np.log(np.maximum(classifier.predict_proba(X), np.finfo(float).tiny))
    else:
        scores = np.asarray(classifier.decision_function(X))
        if scores.ndim == 1:  # of two classes, the second one's lead
            scores = np.column_stack([np.zeros_like(scores), scores])
    nothing = np.empty((len(scores), 0), dtype=np.float32)
    return Seen(nothing, scores, nothing)


def score_of(known_by: str, seen: Seen, reference: NDArray[np.float32]) -> _Floats:
    """Return how known each image looks: more is more.

    Parameters
    ----------
    known_by : {"probability", "energy", "text", "image"}
        Which score; see `OpenSetClassifier`.
    seen : Seen
        The images.
    reference : array of shape (n_reference, n_features)
        Embeddings of training images, of unit length.

    Returns
    -------
    known : float64 array of shape (n_images,)
    """
    scores = seen.scores.astype(np.float64)
    if known_by == "probability":
        return softmax(scores, axis=1).max(axis=1)
    if known_by == "energy":
        return logsumexp(scores, axis=1)
    others = seen.text_features if known_by == "text" else reference
    parts = range(0, len(scores), _BLOCK)
    nearest = [(seen.embeddings[i : i + _BLOCK] @ others.T).max(axis=1) for i in parts]
    return np.concatenate(nearest).astype(np.float64)


def fold_numbers(y: NDArray, n_folds: int) -> _Rows:
    """Part rows so that those of a class lie in different folds, in turn.

    Parameters
    ----------
    y : array of shape (n_images,)
        Labels.
    n_folds : int
        How many parts.

    Returns
    -------
    fold : int array of shape (n_images,)
        From 0 on; -1 for the only image of a class, which no fit can do without.
    """
    _, classes, counts = np.unique(y, return_inverse=True, return_counts=True)
    fold = np.empty(len(y), dtype=np.intp)
    order = np.argsort(classes, kind="stable")
    order = order[np.argsort(counts[classes[order]] == 1, kind="stable")]  # these last
    fold[order] = np.arange(len(y)) % n_folds
    return np.where(counts[classes] == 1, -1, fold)


def threshold_for(held_out: _Floats, false_alarm_rate: float) -> float:
    """Return the score below which a new image of a known class falls at the wanted rate.

    The k-th lowest of n scores has k / (n + 1) of all new ones below it, on average; between two of
    them the threshold is interpolated.

    Parameters
    ----------
    held_out : array of shape (n_images,)
        Scores of images of known classes that the classifier was not fitted on.
    false_alarm_rate : float in [0, 1)
        The share; 0 gives minus infinity.

    Returns
    -------
    threshold : float
    """
    if false_alarm_rate == 0:
        return -np.inf
    return float(np.quantile(held_out, false_alarm_rate, method="weibull"))


class OpenSetClassifier(TakesImages, ClassifierMixin, BaseEstimator):
    """Answer "unknown" where an image looks like none of the classes.

    A classifier gives every image one of its labels, whatever it shows. This one wraps another,
    gives each image a score of how known it looks, and refuses those below a threshold. The
    threshold needs no example of the unknown: it is set so that a wanted share of images of known
    classes is refused. Images that a classifier was fitted on look too certain for that, so it is
    fitted `cv` times more, each time without a part of them, and the scores of the parts that were
    left out count.

    Parameters
    ----------
    classifier : classifier
        One of this package's, or any that takes images and has ``predict_proba`` or
        ``decision_function``. It is cloned and fitted. ``FrozenEstimator(fitted)`` is used as it
        is; `fit` then wants images that it was not fitted on.
    known_by : {"image", "text", "energy", "probability"}, default="image"
        How known an image looks: ``"image"`` is its cosine with the nearest training image,
        ``"text"`` with the nearest class text, ``"energy"`` the logarithm of the sum of the
        exponentials of its class scores, ``"probability"`` the probability of its best class. A
        classifier that is not one of this package's gives ``"probability"`` alone.
    false_alarm_rate : float in [0, 1), default=0.05
        Share of the images of known classes that are to be refused. At 0 none is.
    unknown : str or number, default="unknown"
        The answer for what is refused. No label of `y`, but of its kind: a text among texts, a
        number such as -1 among numbers.
    cv : int, cross-validation splitter or iterable, default=5
        How often the classifier is fitted to set the threshold, each time without one part of the
        images. Images of one class are spread over the parts; the only image of a class is never
        left out.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted, without `unknown`.
    classifier_ : fitted classifier
        Fitted on all images.
    threshold_ : float
        What scores less is refused.
    known_by_ : str
        What `threshold_` is a value of: `known_by` as it was in `fit`.
    held_out_scores_ : float64 ndarray of shape (n_held_out,)
        What `threshold_` was set on, sorted.
    reference_ : float32 ndarray of shape (n_images, n_features)
        Embeddings of the training images; with ``known_by="image"`` only.

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : Makes probabilities fit frequencies.

    Notes
    -----
    Of n images that were left out, a share of k / (n + 1) of new ones scores less than the k-th
    lowest, on average over draws: the rate is exact for a fixed score and images that are drawn
    alike. Here the scores come from classifiers that were fitted on fewer images than
    `classifier_`, so with few images of a class less is refused than was wanted. The user guide,
    under "None of these", has the rates that were measured.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier, OpenSetClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> known = [i for i in range(300) if labels[i] not in ("eight", "nine")]
    >>> clf = OpenSetClassifier(CLIPZeroShotClassifier("tiny"))
    >>> clf.fit([paths[i] for i in known], labels[known]).classes_.tolist()
    ['five', 'four', 'one', 'seven', 'six', 'three', 'two', 'zero']
    >>> nines = [path for path, label in zip(paths, labels) if label == "nine"]
    >>> bool((clf.predict(nines) == "unknown").mean() > 0.4)
    True
    """

    _parameter_constraints: dict = {
        "classifier": [BaseEstimator],
        "known_by": [StrOptions({"image", "text", "energy", "probability"})],
        "false_alarm_rate": [Interval(Real, 0, 1, closed="left")],
        "unknown": [str, Real],
        "cv": ["cv_object"],
    }

    classes_: NDArray
    classifier_: Any
    threshold_: float
    known_by_: str
    held_out_scores_: NDArray[np.float64]
    reference_: NDArray[np.float32]

    def __init__(
        self,
        classifier: BaseEstimator,
        *,
        known_by: str = "image",
        false_alarm_rate: float = 0.05,
        unknown: str | float = "unknown",
        cv: int | BaseCrossValidator | Iterable = 5,
    ) -> None:
        self.classifier = classifier
        self.known_by = known_by
        self.false_alarm_rate = false_alarm_rate
        self.unknown = unknown
        self.cv = cv

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Images,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit the classifier, and set the threshold.

        Parameters
        ----------
        X : sequence of n_images images
            As for the `fit` of `classifier`.
        y : array-like of shape (n_images,)
            Labels of known classes.
        sample_weight : array-like of shape (n_images,), optional
            Passed on to `classifier`. An image that weighs nothing is left out; the others count
            alike for the threshold.
        groups : array-like of shape (n_images,), optional
            Which images belong together, for example those of one patient: they are left out
            together.

        Returns
        -------
        self : OpenSetClassifier
            This object, fitted.

        Raises
        ------
        NotFittedError
            `classifier` is frozen and not fitted.
        ValueError
            Too few images for `false_alarm_rate`; `unknown` among the labels, or of another kind;
            labels that a frozen classifier does not know; a `known_by` that `classifier` cannot
            give.
        Exception
            What the `fit` of `classifier` raises.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier, OpenSetClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = OpenSetClassifier(CLIPZeroShotClassifier("tiny"), false_alarm_rate=0.1)
        >>> len(clf.fit(paths[:100], labels[:100]).held_out_scores_)
        100
        """
        given = self._checked(X, y, sample_weight, groups)
        with shown(getattr(unfrozen(self.classifier), "verbose", 0)):
            if isinstance(self.classifier, FrozenEstimator):
                fitted, held_out, reference = self._looked_at(given)
            else:
                fitted, held_out, reference = self._cross_fitted(given)
        self.classifier_, self.classes_ = fitted, fitted.classes_
        self.held_out_scores_ = np.sort(held_out)
        self.threshold_ = threshold_for(held_out, self.false_alarm_rate)
        self.known_by_ = self.known_by
        vars(self).pop("reference_", None)
        if self.known_by == "image":
            self.reference_ = reference
        return self

    def score_samples(self, X: ImageStream) -> NDArray[np.float64]:
        """Score how known images look.

        Parameters
        ----------
        X : sequence of n_images images
            As for the `predict` of `classifier`.

        Returns
        -------
        known : float64 ndarray of shape (n_images,)
            More is more known; `known_by` says what it is. Less than `threshold_` is refused.

        Raises
        ------
        NotFittedError
            It is not fitted.
        Exception
            What the `predict` of `classifier` raises.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier, OpenSetClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = OpenSetClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:100], labels[:100])
        >>> clf.score_samples(paths[100:103]).shape
        (3,)
        """
        return self._answered(X)[1]

    def predict(self, X: ImageStream) -> NDArray:
        """Predict the label, or `unknown` where an image looks too little known.

        Parameters
        ----------
        X : sequence of n_images images
            As for the `predict` of `classifier`.

        Returns
        -------
        labels : ndarray of shape (n_images,)
            Entries of `classes_`, or `unknown`.

        Raises
        ------
        NotFittedError
            It is not fitted.
        Exception
            What the `predict` of `classifier` raises.

        Examples
        --------
        >>> import numpy as np
        >>> from skclipsvd import CLIPZeroShotClassifier, OpenSetClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = OpenSetClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:100], labels[:100])
        >>> clf.predict([np.zeros((8, 8, 3), dtype=np.uint8)]).tolist()
        ['unknown']
        """
        labels, known = self._answered(X)
        answers = labels.astype(_dtype_of_answers(self.classes_, self.unknown))
        answers[known < self.threshold_] = self.unknown
        return answers

    @available_if(lambda self: hasattr(self.classifier, "predict_proba"))
    def predict_proba(self, X: ImageStream) -> NDArray[np.float64]:
        """Predict class probabilities, for the case that an image shows one of the classes.

        Parameters
        ----------
        X : sequence of n_images images
            As for the `predict` of `classifier`.

        Returns
        -------
        probabilities : float64 ndarray of shape (n_images, n_classes)
            Those of `classifier_`: `unknown` has no column.

        Raises
        ------
        NotFittedError
            It is not fitted.
        Exception
            What the ``predict_proba`` of `classifier` raises.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier, OpenSetClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = OpenSetClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:100], labels[:100])
        >>> clf.predict_proba(paths[100:103]).shape
        (3, 10)
        """
        check_is_fitted(self)
        return self.classifier_.predict_proba(X)

    @available_if(lambda self: hasattr(self.classifier, "decision_function"))
    def decision_function(self, X: ImageStream) -> NDArray:
        """Score the classes, for the case that an image shows one of them.

        Parameters
        ----------
        X : sequence of n_images images
            As for the `predict` of `classifier`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            Those of `classifier_`.

        Raises
        ------
        NotFittedError
            It is not fitted.
        Exception
            What the ``decision_function`` of `classifier` raises.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier, OpenSetClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, labels = load_handwritten_digits()
        >>> clf = OpenSetClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:100], labels[:100])
        >>> clf.decision_function(paths[100:103]).shape
        (3, 10)
        """
        check_is_fitted(self)
        return self.classifier_.decision_function(X)

    def _answered(self, X: ImageStream) -> tuple[NDArray, _Floats]:
        """Return the label of the best class, and how known each image looks."""
        check_is_fitted(self)
        is_clip = isinstance(self.classifier_, BaseCLIPClassifier)
        if not is_clip and isinstance(X, Iterator):
            X = list(X)  # it is looked at twice
        seen = seen_by(self.classifier_, X)
        known = score_of(self.known_by_, seen, getattr(self, "reference_", seen.embeddings[:0]))
        if not is_clip:
            return self.classifier_.predict(X), known
        return self.classes_[seen.scores.argmax(axis=1)], known

    def _checked(
        self, X: Images, y: ArrayLike, sample_weight: ArrayLike | None, groups: ArrayLike | None
    ) -> _Given:
        """Raise what is wrong before anything is fitted."""
        inner = unfrozen(self.classifier)
        is_clip = isinstance(inner, BaseCLIPClassifier)
        if self.known_by != "probability" and not is_clip:
            raise ValueError(
                f"known_by={self.known_by!r} needs a classifier of this package; of "
                f"{type(inner).__name__} use known_by='probability'."
            )
        if self.known_by == "probability" and not is_clip and not _gives_scores(inner):
            raise ValueError(
                f"{type(inner).__name__} has neither predict_proba nor decision_function, so "
                "nothing says how known an image looks."
            )
        check_one_per_image(y, type(self).__name__)
        if has_several_labels(inner):
            raise ValueError(
                "the frozen classifier gives images several labels, or none where nothing fits; "
                f"{type(self).__name__} is for one label per image."
            )
        check_no_missing(y, "y")
        labels = column_or_1d(y, warn=True)
        check_classes(labels)
        images: Any = X
        if is_clip:
            images = as_items(X)
            check_exist(images)
        check_consistent_length(images, labels, sample_weight, groups)
        _dtype_of_answers(np.unique(labels), self.unknown)
        given = _Given(images, labels, *map(_as_column, (sample_weight, groups)))
        if not len(given.counting()):
            raise ValueError("sample_weight is zero for every image.")
        return given

    def _looked_at(self, given: _Given) -> tuple[Any, _Floats, NDArray[np.float32]]:
        """Score images that a frozen classifier was not fitted on, each by all others."""
        fitted = unfrozen(self.classifier)
        check_is_fitted(fitted)
        given = given.rows(given.counting())
        strange = np.flatnonzero(~np.isin(given.y, fitted.classes_))
        if len(strange):
            row = strange[0]
            raise ValueError(
                f"y[{row}]={plain(given.y[row])!r} and {len(strange) - 1} more are no classes of "
                "the frozen classifier. Leave these images out."
            )
        self._check_enough(len(given.y))
        seen = seen_by(fitted, given.X)
        if self.known_by != "image":
            return fitted, score_of(self.known_by, seen, seen.embeddings), seen.embeddings
        similar = seen.embeddings @ seen.embeddings.T
        np.fill_diagonal(similar, -np.inf)
        return fitted, similar.max(axis=1).astype(np.float64), seen.embeddings

    def _cross_fitted(self, given: _Given) -> tuple[Any, _Floats, NDArray[np.float32]]:
        """Fit without each part, score that part, and fit on everything."""
        splits = self._splits(given)
        self._check_enough(sum(len(held) for _, held in splits))
        held_out = [np.empty(0)]
        for number, (train, held) in enumerate(splits, 1):
            with spoken(f"fit {number} of {len(splits)} for the threshold"):
                fitted, reference = self._fitted(given.rows(train))
                part = given.rows(held)
                held_out.append(score_of(self.known_by, seen_by(fitted, part.X), reference))
        with spoken("fit on all images"):
            fitted, reference = self._fitted(given.rows(given.counting()))
        return fitted, np.concatenate(held_out), reference

    def _fitted(self, given: _Given) -> tuple[Any, NDArray[np.float32]]:
        """Fit a clone; return it with what it makes of its images, where that is wanted."""
        weights = {} if given.weights is None else {"sample_weight": given.weights}
        fitted = clone(self.classifier).fit(given.X, given.y, **weights)
        if self.known_by != "image":
            return fitted, np.empty((0, 0), dtype=np.float32)
        return fitted, np.asarray(fitted.transform(given.X))

    def _splits(self, given: _Given) -> list[tuple[_Rows, _Rows]]:
        """Return the rows of each fit, and those to score with it: of classes that it knows."""
        y, groups, counting = given.y, given.groups, given.counting()
        if isinstance(self.cv, Integral):
            some = None if groups is None else groups[counting]
            folds = _folds(y[counting], int(self.cv), some)
            splits = [(counting[train], counting[held]) for train, held in folds]
        else:
            found = check_cv(self.cv, y).split(np.zeros(len(y)), y, groups)
            splits = [(a[np.isin(a, counting)], b[np.isin(b, counting)]) for a, b in found]
        known = [(train, held[np.isin(y[held], y[train])]) for train, held in splits]
        return [(train, held) for train, held in known if len(held)]

    def _check_enough(self, n_held_out: int) -> None:
        """Raise ValueError where the wanted rate is between none and one of the images."""
        if not n_held_out and self.false_alarm_rate:
            raise ValueError(
                "no image can be left out of a fit: classes have one image each, or each lies in "
                "one part of cv. Pass two or more images of a class; or FrozenEstimator(fitted) "
                "as classifier and images that it was not fitted on; or false_alarm_rate=0."
            )
        if 0 < self.false_alarm_rate * (n_held_out + 1) < 1 - 1e-9:
            needed = int(np.ceil(1 / self.false_alarm_rate - 1 - 1e-9))
            raise ValueError(
                f"false_alarm_rate={self.false_alarm_rate} needs {needed} images of known "
                f"classes to set a threshold on, and there are {n_held_out}. Pass more images, or "
                f"a rate of {1 / (n_held_out + 1):.3f} or more; 0 refuses none."
            )


class _Given(NamedTuple):
    """What a fit was given."""

    X: Any
    y: NDArray
    weights: NDArray | None
    groups: NDArray | None

    def counting(self) -> _Rows:
        """Return the rows that weigh something."""
        return np.arange(len(self.y)) if self.weights is None else np.flatnonzero(self.weights)

    def rows(self, rows: _Rows) -> _Given:
        """Take some rows of everything."""
        weights, groups = (None if a is None else a[rows] for a in (self.weights, self.groups))
        return _Given(_safe_indexing(self.X, rows), self.y[rows], weights, groups)


def _folds(y: NDArray, n_folds: int, groups: NDArray | None) -> Iterator[tuple[_Rows, _Rows]]:
    if groups is not None:
        yield from StratifiedGroupKFold(n_folds).split(np.zeros(len(y)), y, groups)
        return
    fold = fold_numbers(y, n_folds)
    for k in range(fold.max() + 1):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


def unfrozen(classifier: Any) -> Any:
    """Return what a FrozenEstimator holds, or the classifier itself."""
    return classifier.estimator if isinstance(classifier, FrozenEstimator) else classifier


def _gives_scores(classifier: Any) -> bool:
    return hasattr(classifier, "predict_proba") or hasattr(classifier, "decision_function")


def _as_column(values: ArrayLike | None) -> NDArray | None:
    return None if values is None else column_or_1d(values)


def _dtype_of_answers(classes: NDArray, unknown: str | float) -> np.dtype:
    """Return a dtype that holds the labels and what stands for unknown, as they are."""
    values = np.asarray(unknown)
    if classes.dtype.kind == "O":
        is_text = all(isinstance(label, str) for label in classes)
        kind, fits = "text" if is_text else "object", isinstance(unknown, str) == is_text
    elif classes.dtype.kind in "UT":
        kind, fits = "text", isinstance(unknown, str)
    elif classes.dtype.kind in "iu":
        kind, fits = "whole numbers", values.dtype.kind in "iu"
    else:
        kind = {"b": "booleans", "f": "numbers"}.get(classes.dtype.kind, str(classes.dtype))
        fits = classes.dtype.kind == "f" and values.dtype.kind in "iuf"
    if not fits or unknown != unknown:
        advice = {
            "text": "a text, such as unknown='unknown'",
            "booleans": "labels of text or whole numbers: True and False leave no room",
        }.get(kind, "a number, such as unknown=-1")
        raise ValueError(
            f"unknown={unknown!r} cannot stand among the labels, which are {kind}. Use {advice}."
        )
    if unknown in classes.tolist():
        raise ValueError(
            f"unknown={unknown!r} is a label of y, and stands for images of none of the classes. "
            "Leave those rows out, or say another word for unknown."
        )
    if classes.dtype.kind == "O":
        return classes.dtype
    return np.result_type(classes.dtype, np.min_scalar_type(unknown))
