"""Two-stage adaptation (arXiv 2503.11609): adapt CLIP, then train a linear classifier on it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from ..classifiers import (
    BaseCLIPClassifier,
    TakesImages,
    TrainedCLIPClassifier,
)
from ..images import Images
from ..labels import check_one_per_image
from ..linear import CosineClassifier
from ..validation import Interval, fit_context


class TwoStageClassifier(TakesImages, ClassifierMixin, BaseEstimator):
    """Adapt CLIP, then train a linear classifier on what the adapted image tower sees.

    The idea of 2SFS [1]_: early training teaches CLIP the task, later training the base classes
    only. So the first stage stops early, and the second trains a `CosineClassifier`, started from
    the adapted text features, on embeddings that no longer change. Other classes are told by the
    adapted text tower (`with_classes`), which the second stage leaves alone.

    Parameters
    ----------
    classifier : CLIPSVDClassifier or CLIPLoRAClassifier
        How to adapt; its ``max_steps``, or ``epochs``, are the budget of both stages.
    share : float in [0, 1], default=0.6
        Share of the budget for the first stage. The rest bounds the iterations of the second.
    alpha : float, default=0.1
        How strongly the second stage is held to its start; see `CosineClassifier`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    classifier_ : fitted classifier
        The first stage.
    head_ : CosineClassifier
        The second stage.

    References
    ----------
    .. [1] M. Farina, M. Mancini, G. Iacca and E. Ricci (2025). Rethinking Few-Shot Adaptation of
       Vision-Language Models in Two Stages. CVPR. https://arxiv.org/abs/2503.11609

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.experiments import TwoStageClassifier
    >>> paths, labels = load_handwritten_digits()
    >>> first = CLIPSVDClassifier("tiny", max_steps=5, lr=0.02, augment=False, random_state=0)
    >>> clf = TwoStageClassifier(first).fit(paths[:40], labels[:40])
    >>> clf.classifier_.n_iter_, clf.predict(paths[40:42]).shape
    (3, (2,))
    """

    _parameter_constraints: dict = {
        "classifier": [TrainedCLIPClassifier],
        "share": [Interval(Real, 0, 1, closed="both")],
        "alpha": [Interval(Real, 0, None, closed="left")],
    }

    classes_: NDArray
    classifier_: TrainedCLIPClassifier
    head_: CosineClassifier

    def __init__(
        self, classifier: TrainedCLIPClassifier, *, share: float = 0.6, alpha: float = 0.1
    ) -> None:
        self.classifier = classifier
        self.share = share
        self.alpha = alpha

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Images, y: ArrayLike) -> Self:
        """Train both stages.

        Parameters
        ----------
        X : sequence of n_images images
            As for `CLIPSVDClassifier.fit`.
        y : array-like of shape (n_images,)
            Labels.

        Returns
        -------
        self : TwoStageClassifier
            This object, fitted.

        Raises
        ------
        Exception
            What the `fit` of `classifier` raises.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import TwoStageClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> first = CLIPSVDClassifier("tiny", max_steps=5, lr=0.02, augment=False, random_state=0)
        >>> clf = TwoStageClassifier(first).fit(paths[:40], labels[:40])
        >>> clf.head_.coef_.shape
        (10, 128)
        """
        check_one_per_image(y, type(self).__name__)
        budget = self.classifier.n_steps_for(len(np.asarray(y)))
        first = round(self.share * budget)
        adapted = clone(self.classifier).set_params(max_steps=first, head=None).fit(X, y)
        head = CosineClassifier(
            init=adapted.text_features_,
            logit_scale=adapted.logit_scale_,
            alpha=self.alpha,
            max_iter=budget - first,
        )
        with warnings.catch_warnings():
            # Stopping at the end of the budget is the intention.
            warnings.simplefilter("ignore", ConvergenceWarning)
            head.fit(adapted.transform(X), y)
        self.classifier_, self.head_, self.classes_ = adapted, head, head.classes_
        return self

    def decision_function(self, X: Images) -> NDArray[np.float64]:
        """Score images with the linear classifier.

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
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import TwoStageClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> first = CLIPSVDClassifier("tiny", max_steps=5, lr=0.02, augment=False, random_state=0)
        >>> clf = TwoStageClassifier(first).fit(paths[:40], labels[:40])
        >>> clf.decision_function(paths[40:42]).shape
        (2, 10)
        """
        check_is_fitted(self)
        return self.head_.decision_function(self.classifier_.transform(X))

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
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import TwoStageClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> first = CLIPSVDClassifier("tiny", max_steps=5, lr=0.02, augment=False, random_state=0)
        >>> clf = TwoStageClassifier(first).fit(paths[:40], labels[:40])
        >>> clf.predict(paths[40:42]).shape
        (2,)
        """
        check_is_fitted(self)
        return self.head_.predict(self.classifier_.transform(X))

    def with_classes(
        self,
        classes: Sequence[str] | Mapping[Any, str | Sequence[str]],
        *,
        templates: str | Sequence[str] | None = None,
    ) -> BaseCLIPClassifier:
        """Make a classifier for other classes out of the first stage, without training.

        Parameters
        ----------
        classes, templates : see `CLIPSVDClassifier.with_classes`
            The new labels, their words and prompts.

        Returns
        -------
        classifier : fitted classifier
            Of the type of `classifier_`.

        Raises
        ------
        NotFittedError
            It is not fitted.
        ValueError
            As for `CLIPSVDClassifier.with_classes`.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> from skclipsvd.experiments import TwoStageClassifier
        >>> paths, labels = load_handwritten_digits()
        >>> first = CLIPSVDClassifier("tiny", max_steps=5, lr=0.02, augment=False, random_state=0)
        >>> clf = TwoStageClassifier(first).fit(paths[:40], labels[:40])
        >>> clf.with_classes(["square", "circle"]).classes_.tolist()
        ['circle', 'square']
        """
        check_is_fitted(self)
        return self.classifier_.with_classes(classes, templates=templates)
