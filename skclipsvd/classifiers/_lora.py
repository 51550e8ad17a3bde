"""CLIP-LoRA: parameters and their documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..adaptation import Adaptation, LowRankAdaptation, Target
from ..adaptation.targets import Layers
from ..clip import Backbone, ClassNames
from ..constraints import TUNING_CONSTRAINTS
from ..validation import Interval
from ._adapter_file import Saved
from ._trained import TrainedCLIPClassifier


class CLIPLoRAClassifier(TrainedCLIPClassifier):
    """Few-shot image classifier that tunes low-rank updates of CLIP's attention matrices.

    CLIP-LoRA [1]_ on the same base as `CLIPSVDClassifier`: every adapted matrix becomes ``W +
    alpha / sqrt(rank) * B A`` with ``A`` and ``B`` trained, on the same images, prompts and loss.

    Parameters
    ----------
    model_name : str, default="ViT-B-16"
        As for `CLIPSVDClassifier`; so are all parameters that are not described here.
    pretrained : str or None, default="openai"
        Tag or checkpoint file of the weights.
    rank : int, default=2
        Rank of the updates.
    alpha : float, default=1.0
        Scale of the updates; they are multiplied by ``alpha / sqrt(rank)``.
    dropout : float in [0, 1), default=0.25
        Probability of dropping an input of ``A`` in training.
    templates, class_names, logit_scale : see `CLIPSVDClassifier`
        The prompts and the scale of their similarity.
    towers : see `CLIPSVDClassifier`
        Which encoders to adapt.
    matrices : tuple of {"q", "k", "v", "o", "mlp", "conv"}, default=("q", "k", "v")
        Which matrices of each block to adapt.
    layers : see `CLIPSVDClassifier`
        Which blocks to adapt.
    head : see `CLIPSVDClassifier`
        What answers beside the class texts.
    epochs, max_steps : see `CLIPSVDClassifier`
        How long to train.
    lr : float or "auto", default="auto"
        Learning rate of AdamW; falls to 1e-6 along a cosine. ``"auto"`` follows the rule of
        `CLIPSVDClassifier`, divided by how far a change of ``B`` reaches.
    weight_decay : float, default=0.01
        Decoupled decay of ``A`` and ``B`` towards zero.
    batch_size, micro_batch_size, checkpointing, augment : see `CLIPSVDClassifier`
        The batches.
    label_smoothing, class_weight : see `CLIPSVDClassifier`
        The loss.
    early_stopping, validation_fraction, n_iter_no_change, tol : see `CLIPSVDClassifier`
        When to stop.
    warm_start, precision, device, n_jobs, random_state : see `CLIPSVDClassifier`
        How to run. `random_state` draws ``A`` and the dropout, too.
    checkpoint_dir, verbose : see `CLIPSVDClassifier`
        What is written and said on the way.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Where images have several, those of the columns of `y`, in their order.
    factors_ : dict of str to float32 ndarray
        By matrix and factor: ``"image.11.v/a"`` of shape (rank, in) and ``"image.11.v/b"`` of
        shape (out, rank); and ``"scale"`` of shape (1,), which is ``alpha / sqrt(rank)``.
    text_features_, logit_scale_, logit_bias_, loss_curve_ : see `CLIPSVDClassifier`
        What training left.
    intercept_ : see `CLIPSVDClassifier`
        Only where images have several labels.
    head_coef_, head_intercept_, head_weight_ : see `CLIPSVDClassifier`
        Only where there is a head.
    lr_, n_steps_, n_iter_ : see `CLIPSVDClassifier`
        How it went.
    validation_scores_, best_validation_score_, best_epoch_ : see `CLIPSVDClassifier`
        Only where there is a validation part.
    strength_ : see `CLIPSVDClassifier`
        Only where `with_strength` made this classifier.
    n_parameters_tuned_, n_parameters_ : see `CLIPSVDClassifier`
        How much was tuned, and of how much.
    backbone_fingerprint_, backbone_config_ : see `CLIPSVDClassifier`
        Of which model.

    References
    ----------
    .. [1] M. Zanella, I. Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models",
       CVPR Workshops 2024, arXiv:2405.18541.

    Examples
    --------
    >>> from skclipsvd import CLIPLoRAClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPLoRAClassifier("tiny", epochs=2, lr=0.002, augment=False, random_state=0)
    >>> clf.fit(paths[:40], labels[:40]).predict(paths[40:42]).shape
    (2,)
    """

    # Where pickles and skops files find it, whatever file it is in.
    __module__ = "skclipsvd.classifiers"

    _parameter_constraints: dict = {
        **TUNING_CONSTRAINTS,
        "rank": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }
    factors_: dict[str, NDArray[np.float32]]

    _state_attribute = "factors_"
    _saved = {**TrainedCLIPClassifier._saved, "factors_": Saved("arrays")}

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        pretrained: str | None = "openai",
        *,
        rank: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        templates: str | Sequence[str] = "a photo of a {}.",
        class_names: ClassNames | None = None,
        logit_scale: float | None = None,
        towers: Sequence[str] = ("image", "text"),
        matrices: Sequence[str] = ("q", "k", "v"),
        layers: Layers = "all",
        head: Literal["logistic"] | None = None,
        epochs: int | Literal["auto"] = "auto",
        max_steps: int | None = None,
        lr: float | Literal["auto"] = "auto",
        weight_decay: float = 0.01,
        batch_size: int = 32,
        micro_batch_size: int | None = None,
        checkpointing: bool = False,
        augment: bool = True,
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        precision: str = "auto",
        device: str = "auto",
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        verbose: int = 0,
    ) -> None:
        self.model_name = model_name
        self.pretrained = pretrained
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.templates = templates
        self.class_names = class_names
        self.logit_scale = logit_scale
        self.towers = towers
        self.matrices = matrices
        self.layers = layers
        self.head = head
        self.epochs = epochs
        self.max_steps = max_steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.checkpointing = checkpointing
        self.augment = augment
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose

    def _started(
        self, backbone: Backbone, targets: Sequence[Target], rng: np.random.RandomState
    ) -> Adaptation:
        return LowRankAdaptation.start(
            targets, self.rank, self._scale(), self.dropout, rng, backbone.device
        )

    @classmethod
    def _check_saved(cls, fitted: Mapping[str, Any]) -> None:
        """Raise ValueError where attributes from a file do not fit together."""
        super()._check_saved(fitted)
        scale = fitted["factors_"]["scale"]
        if scale.shape != (1,) or scale[0] <= 0:
            raise ValueError("the scale of factors_ must be one positive number")

    def _restored(
        self, backbone: Backbone, targets: Sequence[Target], state: Mapping[str, NDArray]
    ) -> Adaptation:
        return LowRankAdaptation.restore(targets, state, self.dropout, backbone.device)

    def _check_resumable(self, state: Mapping[str, NDArray]) -> None:
        ranks = {values.shape[0] for name, values in state.items() if name.endswith("/a")}
        if ranks != {self.rank} or state["scale"] != np.float32(self._scale()):
            raise ValueError(
                f"warm_start=True, but rank={self.rank}, alpha={self.alpha} are not those of the "
                "last fit. Use the same rank and alpha, or warm_start=False."
            )

    def _scale(self) -> float:
        return self.alpha / self.rank**0.5
