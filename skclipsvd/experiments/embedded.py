"""What baselines share that learn on embeddings which no longer change."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from ..classifiers import BaseCLIPClassifier, TakesImages
from ..images import Images, Item, as_items, check_exist
from ..labels import check_no_missing, check_one_per_image
from ..validation import fit_context

Floats = NDArray[np.float64]


class EmbeddingsClassifier(TakesImages, ClassifierMixin, BaseEstimator):
    """Base of classifiers that correct the class texts' scores of frozen embeddings."""

    classifier: BaseCLIPClassifier

    classes_: NDArray
    classifier_: BaseCLIPClassifier

    # Of each parameter that may be "auto": what it is without a validation part, and what is tried
    # on one.
    _automatic: ClassVar[Mapping[str, tuple[float, Sequence[float]]]]
    # Whether what is learnt depends on them.
    _learns_for_each: ClassVar[bool]

    @abstractmethod
    def _learn(self, items: list[Item], embeddings: Floats, targets: NDArray[np.intp]) -> None:
        """Learn from images and class numbers; `classifier_` and the parameters are there."""

    @abstractmethod
    def score_embeddings(self, embeddings: ArrayLike) -> Floats:
        """Score images by their embeddings.

        Parameters
        ----------
        embeddings : array-like of shape (n_images, n_features)
            Of unit length, from ``classifier_.transform``.

        Returns
        -------
        scores : float64 ndarray of shape (n_images, n_classes)
            Columns in the order of `classes_`, for two classes too.
        """

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Images,
        y: ArrayLike,
        *,
        X_val: Images | None = None,
        y_val: ArrayLike | None = None,
    ) -> Self:
        """Fit the classifier of the texts, embed the images, and learn from them.

        Parameters
        ----------
        X : sequence of n_images images
            As for `CLIPSVDClassifier.fit`.
        y : array-like of shape (n_images,)
            Labels.
        X_val, y_val : sequence of images and array-like of labels, optional
            A validation part, which chooses the parameters that are ``"auto"``.

        Returns
        -------
        self : estimator
            This object, fitted.

        Raises
        ------
        ValueError
            A parameter out of its range; `X_val` without `y_val`; a label of `y_val` that `y` has
            not.
        Exception
            What the `fit` of `classifier` raises.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import ProKeRClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> clf = ProKeRClassifier(CLIPZeroShotClassifier("tiny"))
        >>> clf.fit(paths[:40], labels[:40], X_val=paths[40:80], y_val=labels[40:80]).classes_.shape
        (10,)
        """
        check_one_per_image(y, type(self).__name__)
        items = as_items(X)
        validation = _checked_validation(y, X_val, y_val)
        first = clone(self.classifier)
        if hasattr(first, "head"):  # of its answers only the texts' are corrected
            first.set_params(head=None)
        fitted = first.fit(X, y)
        learner = clone(self)  # so that an error leaves the last fit as it is
        learner.classifier_, learner.classes_ = fitted, fitted.classes_
        targets = np.searchsorted(fitted.classes_, np.ravel(np.asarray(y)))
        learner = learner._learnt(items, fitted.transform(items), targets, validation)
        learnt = {name: value for name, value in vars(learner).items() if name.endswith("_")}
        vars(self).update(learnt)
        return self

    def _learnt(
        self,
        items: list[Item],
        embeddings: NDArray[np.float32],
        targets: NDArray[np.intp],
        validation: tuple[list[Item], NDArray] | None,
    ) -> Self:
        """Learn, and choose what is "auto" by the accuracy on the validation part, if any."""
        sample = (items, embeddings.astype(np.float64), targets)
        choices = {
            name: (default, *grid) if getattr(self, name) == "auto" else (getattr(self, name),)
            for name, (default, grid) in self._automatic.items()
        }
        best = self._with(next(itertools.product(*choices.values())))
        best._learn(*sample)
        if validation is None:
            return best
        images, labels = self.classifier_.transform(validation[0]), validation[1]
        best_score = np.mean(best.predict_embeddings(images) == labels)
        for values in itertools.product(*choices.values()):
            other = best._with(values)
            if self._learns_for_each:
                other._learn(*sample)
            score = np.mean(other.predict_embeddings(images) == labels)
            if score > best_score:  # of equal ones the first, which begins with the defaults
                best, best_score = other, score
        return best

    def _with(self, values: Iterable[float]) -> Self:
        """Copy it with the parameters that may be "auto" decided."""
        other = copy.copy(self)
        for name, value in zip(self._automatic, values, strict=True):
            setattr(other, f"{name}_", float(value))
        return other

    def decision_function(self, X: Images) -> Floats:
        """Score images.

        Parameters
        ----------
        X : sequence of n_images images
            As for `fit`.

        Returns
        -------
        scores : float64 ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            Columns in the order of `classes_`; for two classes the second one's minus the first
            one's.

        Raises
        ------
        NotFittedError
            It is not fitted.
        FileNotFoundError, TypeError, ValueError
            As for `CLIPSVDClassifier.predict`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import ProKeRClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> clf = ProKeRClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:40], labels[:40])
        >>> clf.decision_function(paths[40:42]).shape
        (2, 10)
        """
        check_is_fitted(self)
        scores = self.score_embeddings(self.classifier_.transform(X))
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Images) -> NDArray:
        """Predict the label with the highest score.

        Parameters
        ----------
        X : sequence of n_images images
            As for `fit`.

        Returns
        -------
        labels : ndarray of shape (n_images,)
            Entries of `classes_`.

        Raises
        ------
        NotFittedError
            It is not fitted.
        FileNotFoundError, TypeError, ValueError
            As for `CLIPSVDClassifier.predict`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import ProKeRClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> clf = ProKeRClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:40], labels[:40])
        >>> clf.predict(paths[40:42]).shape
        (2,)
        """
        check_is_fitted(self)
        return self.predict_embeddings(self.classifier_.transform(X))

    def predict_embeddings(self, embeddings: ArrayLike) -> NDArray:
        """Predict the label with the highest score of images that are embedded already.

        Parameters
        ----------
        embeddings : array-like of shape (n_images, n_features)
            Of unit length, from ``classifier_.transform``.

        Returns
        -------
        labels : ndarray of shape (n_images,)
            Entries of `classes_`.

        Examples
        --------
        >>> from skclipsvd import CLIPZeroShotClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import ProKeRClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> clf = ProKeRClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:40], labels[:40])
        >>> clf.predict_embeddings(clf.classifier_.transform(paths[40:42])).shape
        (2,)
        """
        return self.classes_[self.score_embeddings(embeddings).argmax(axis=1)]


def _checked_validation(
    y: ArrayLike, X_val: Images | None, y_val: ArrayLike | None
) -> tuple[list[Item], NDArray] | None:
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val belong together; one of them is None.")
    if X_val is None or y_val is None:
        return None
    items = as_items(X_val)
    check_no_missing(y_val, "y_val")
    check_consistent_length(items, y_val)
    unknown = np.setdiff1d(np.asarray(y_val), np.asarray(y))
    if len(unknown):
        raise ValueError(f"y_val has labels that y has not: {unknown[:10].tolist()!r}.")
    check_exist(items, lambda i: f"X_val[{i}]")
    return items, np.asarray(y_val)
