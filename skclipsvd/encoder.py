"""CLIPEncoder: images -> embeddings, a plain transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .caching.memory import explained_out_of_memory
from .classifiers import (
    BaseCLIPClassifier,
    UsesBackbone,
    adapter_fingerprint,
    frozen_and_adapted,
)
from .clip import Backbone
from .constraints import MODEL_CONSTRAINTS
from .images import (
    Images,
    ImageStream,
    answered_in_parts,
    as_items,
    check_exist,
)
from .progress import phase, shown
from .validation import fit_context


class CLIPEncoder(UsesBackbone, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn images into unit-length CLIP embeddings, for estimators that want numbers.

    Parameters
    ----------
    model_name : str, default="ViT-B-16"
        As for `CLIPSVDClassifier`.
    pretrained : str or None, default="openai"
        As for `CLIPSVDClassifier`.
    classifier : fitted classifier of this package or None, default=None
        Embed with its adapted image tower; `model_name` and `pretrained` are then the
        classifier's and not looked at. `sklearn.base.clone` forgets what an estimator has
        learnt, so inside a pipeline that is searched or cross-validated wrap it:
        ``CLIPEncoder(classifier=FrozenEstimator(clf))``.
    batch_size : int, default=32
        Images per step.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Number format of the matrix products: half precision on a GPU, float32 elsewhere.
    device : str, default="auto"
        A torch device. ``"auto"`` takes a GPU if there is one.
    n_jobs : int, optional
        Threads that read and decode images. By default as many as torch computes with.
    verbose : int, default=0
        1 shows progress in lines and a bar, 0 nothing.

    Attributes
    ----------
    n_features_out_ : int
        Length of an embedding.
    backbone_fingerprint_ : str
        SHA-256 of the frozen weights.
    adapter_fingerprint_ : str
        SHA-256 of what `classifier` has learnt; empty without one.
    backbone_config_ : dict of str to plain value
        What the frozen model is beside its weights, compared as they are: pre-processing of images
        and texts, activation, attention heads, pooling.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skclipsvd import CLIPEncoder
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> pipeline = make_pipeline(CLIPEncoder("tiny"), LogisticRegression(max_iter=1000))
    >>> pipeline.fit(paths[:100], labels[:100]).predict(paths[100:102]).shape
    (2,)
    """

    classifier: BaseCLIPClassifier | FrozenEstimator | None

    n_features_out_: int
    backbone_fingerprint_: str

    _parameter_constraints: dict = {
        **MODEL_CONSTRAINTS,
        "classifier": [BaseCLIPClassifier, FrozenEstimator, None],
    }

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        pretrained: str | None = "openai",
        *,
        classifier: BaseCLIPClassifier | FrozenEstimator | None = None,
        batch_size: int = 32,
        precision: str = "auto",
        device: str = "auto",
        n_jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.model_name = model_name
        self.pretrained = pretrained
        self.classifier = classifier
        self.batch_size = batch_size
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=False)
    @explained_out_of_memory()
    def fit(self, X: Images, y: Any = None) -> Self:
        """Check the images' container and load the model; nothing is learnt.

        Parameters
        ----------
        X : sequence of n_images images
            As for `CLIPSVDClassifier.fit`.
        y : object, optional
            Not looked at.

        Returns
        -------
        self : CLIPEncoder
            This object, fitted.

        Raises
        ------
        NotFittedError
            `classifier` is not fitted.
        FileNotFoundError
            Weights that cannot be had.
        TypeError, ValueError
            X has no images, or something that is none, by index.

        Examples
        --------
        >>> from skclipsvd import CLIPEncoder
        >>> CLIPEncoder("tiny").fit(["not looked at.jpg"]).n_features_out_
        128
        """
        as_items(X)
        with shown(self.verbose):
            backbone, model = self._model()
            with phase("measuring an embedding"):
                self.n_features_out_ = self._length(model, backbone)
        self.backbone_fingerprint_ = backbone.fingerprint
        self.backbone_config_ = dict(backbone.config)
        self.adapter_fingerprint_ = self._adapter_fingerprint()
        return self

    @explained_out_of_memory()
    def transform(self, X: ImageStream) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path), PIL images, encoded images (bytes) or (height, width, 3) uint8
            arrays, as for `CLIPSVDClassifier.fit`; or a generator of them, which is read
            `batch_size` at a time.

        Returns
        -------
        embeddings : float32 ndarray of shape (n_images, n_features_out_)
            Of unit length.

        Raises
        ------
        NotFittedError
            This encoder, or its `classifier`, is not fitted.
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        TypeError
            What is no image, by index.
        ValueError
            No images; images that cannot be decoded, by index and path. The model is another than
            in `fit`: other weights, activation or pre-processing, or a `classifier` that was fitted
            again.

        Examples
        --------
        >>> from skclipsvd import CLIPEncoder
        >>> from skclipsvd.datasets import load_handwritten_digits
        >>> paths, _ = load_handwritten_digits()
        >>> embeddings = CLIPEncoder("tiny").fit_transform(paths[:2])
        >>> embeddings.shape, embeddings.dtype
        ((2, 128), dtype('float32'))
        """
        check_is_fitted(self)
        with shown(self.verbose):
            if isinstance(X, Iterator):
                self._model()  # before the bar of all parts
                return answered_in_parts(X, self.transform, self.batch_size)
            items = as_items(X)
            check_exist(items)
            backbone, model = self._model()
            self._check_backbone(backbone, "" if self.classifier is None else "classifier's model")
            known = getattr(self, "adapter_fingerprint_", None)  # 0.1.0 did not keep it
            if known is not None and known != self._adapter_fingerprint():
                raise ValueError(
                    "classifier was fitted again, or exchanged, since this CLIPEncoder was fitted, "
                    "so its embeddings would differ. Fit the encoder again, and what was fitted "
                    "on its embeddings."
                )
            return self._embed(model, backbone, items)

    def _length(self, model: nn.Module, backbone: Backbone) -> int:
        black = np.zeros((2, 2, 3), dtype=np.uint8)
        with shown(0):
            return self._embed(model, backbone, [black]).shape[1]

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _adapter_fingerprint(self) -> str:
        classifier = self._unwrapped()
        return "" if classifier is None else adapter_fingerprint(classifier)

    def _unwrapped(self) -> BaseCLIPClassifier | None:
        if isinstance(self.classifier, FrozenEstimator):
            return self.classifier.estimator
        return self.classifier

    def _model(self) -> tuple[Backbone, nn.Module]:
        classifier = self._unwrapped()
        if classifier is None:
            backbone = self._load_backbone()
            return backbone, backbone.model
        check_is_fitted(
            classifier,
            msg="CLIPEncoder(classifier=...): this %(name)s is not fitted. Fit it first; where the "
            "encoder is cloned (in searches and cross-validation), pass "
            "classifier=FrozenEstimator(fitted).",
        )
        return frozen_and_adapted(classifier)
