"""ProKeR: kernel ridge regression of what the class texts' scores leave over (2501.11175)."""

from __future__ import annotations

from numbers import Real
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils.validation import check_is_fitted

from ..classifiers import BaseCLIPClassifier
from ..images import Item
from ..validation import Interval, StrOptions
from .embedded import EmbeddingsClassifier, Floats


class ProKeRClassifier(EmbeddingsClassifier):
    """Correct the class texts' cosines by a kernel ridge regression on the training images.

    ProKeR [1]_, proximal kernel ridge regression: of all functions it takes the one that is near
    the labels on the training images and, in the kernel's space, near the cosines with the class
    texts. It is solved in closed form, without steps.

    Parameters
    ----------
    classifier : CLIPZeroShotClassifier or another of this package's classifiers
        Embeds images and texts; fitted first, on the same images.
    beta : float or "auto", default="auto"
        Inverse width of the kernel ``exp(-beta |x - x'|^2)``. ``"auto"`` is chosen on the
        validation part, and is 0.3 without one.
    lam : float or "auto", default="auto"
        The paper's lambda: how strongly the function is held to the cosines. ``"auto"`` is chosen
        on the validation part, and is 0.3 without one.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    classifier_ : fitted classifier
        What embeds.
    support_ : float64 ndarray of shape (n_images, n_features)
        The training images' embeddings.
    dual_coef_ : float64 ndarray of shape (n_images, n_classes)
        The solution ``a``.
    beta_, lam_ : float
        What was used.

    Notes
    -----
    With embeddings ``X`` of the training images, their one-hot labels ``Y``, class texts ``T``, all
    of unit length, and ``K`` the kernel of `X` with itself, ``a`` solves
    ``(K / lam + I) a = Y - X T'``, and ``x`` has the scores ``x T' + k(x, X) a / lam``. The texts'
    scores are cosines, not multiplied by the logit scale. What the paper searched `beta` and `lam`
    on, and whether it averages embeddings of several crops, was not found out.

    References
    ----------
    .. [1] Y. Bendou, A. Ouasfi, V. Gripon, A. Boukhayma, "ProKeR: A Kernel Perspective on Few-Shot
       Adaptation of Large Vision-Language Models", CVPR 2025, arXiv:2501.11175.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.experiments import ProKeRClassifier
    >>> paths, labels = load_handwritten_digits()
    >>> clf = ProKeRClassifier(CLIPZeroShotClassifier("tiny")).fit(paths[:40], labels[:40])
    >>> clf.dual_coef_.shape
    (40, 10)
    """

    _parameter_constraints: dict = {
        "classifier": [BaseCLIPClassifier],
        "beta": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "lam": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
    }

    # One choice for everything: `benchmarks.methods --choose` made it on the selection sets.
    _automatic = {
        "beta": (0.3, (0.1, 0.3, 1.0, 3.0, 10.0)),
        "lam": (0.3, (0.01, 0.1, 0.3, 1.0, 10.0, 100.0)),
    }
    _learns_for_each = True

    support_: Floats
    dual_coef_: Floats
    beta_: float
    lam_: float

    def __init__(
        self,
        classifier: BaseCLIPClassifier,
        *,
        beta: float | Literal["auto"] = "auto",
        lam: float | Literal["auto"] = "auto",
    ) -> None:
        self.classifier = classifier
        self.beta = beta
        self.lam = lam

    def _learn(self, items: list[Item], embeddings: Floats, targets: NDArray[np.intp]) -> None:
        self.support_ = embeddings
        left_over = np.eye(len(self.classes_))[targets] - self._cosines(embeddings)
        system = self._kernel(embeddings) / self.lam_ + np.eye(len(embeddings))
        self.dual_coef_ = scipy.linalg.solve(system, left_over, assume_a="pos")

    def score_embeddings(self, embeddings: ArrayLike) -> Floats:
        """Add the regression to the cosines."""
        check_is_fitted(self)
        images = np.asarray(embeddings, dtype=np.float64)
        return self._cosines(images) + self._kernel(images) @ self.dual_coef_ / self.lam_

    def _cosines(self, images: Floats) -> Floats:
        return images @ self.classifier_.text_features_.T.astype(np.float64)

    def _kernel(self, images: Floats) -> Floats:
        return rbf_kernel(images, self.support_, gamma=self.beta_)
