"""CLIP-SVD: parameters and their documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..adaptation import Adaptation, SpectralAdaptation, Target
from ..adaptation.factors import decompose
from ..adaptation.targets import Layers
from ..clip import Backbone, ClassNames
from ..constraints import TUNING_CONSTRAINTS
from ._adapter_file import Saved
from ._trained import TrainedCLIPClassifier


class CLIPSVDClassifier(TrainedCLIPClassifier):
    """Few-shot image classifier that tunes only the singular values of CLIP's weight matrices.

    Every adapted matrix is ``W = U diag(s) V^T``; ``U``, ``V`` and everything else stay frozen and
    the vectors ``s`` are trained, in both towers, on the cross-entropy of ``logit_scale *
    cos(image, class text)`` [1]_. Prediction costs what plain CLIP costs: the weights are merged.
    Images may have several labels each: a `y` of 0 and 1, with a column for each label, is learnt
    by binary cross-entropy.

    Parameters
    ----------
    model_name : str, default="ViT-B-16"
        A name of `open_clip.list_models`, ``"local-dir:PATH"``, ``"hf-hub:ID"``, or ``"tiny"``,
        the small model that comes with this package and needs no download.
    pretrained : str or None, default="openai"
        A tag of `open_clip.list_pretrained`, the path of a checkpoint file, or ``"TAG:PATH"`` for
        a file that is used with the tag's activation and pre-processing. None starts from random
        weights (the same in every process), with a warning. Ignored for models that have their
        own weights: ``"tiny"``, ``"local-dir:PATH"`` and ``"hf-hub:ID"``.
    templates : str or list of str, default="a photo of a {}."
        Prompts with ``{}`` for the class text; several are averaged as unit vectors.
    class_names : mapping of label to str or list of str, or list of these, optional
        Words for each label; a list has them in the order of the sorted labels. By default the
        label itself, with spaces instead of underscores: labels that are numbers or booleans need
        words.
    logit_scale : float, optional
        Factor of the cosine similarity. By default the model's own.
    towers : tuple of {"image", "text"}, default=("image", "text")
        Which encoders to adapt.
    matrices : tuple of {"q", "k", "v", "o", "mlp", "conv"}, default=("q", "k", "v", "o", "mlp")
        Which matrices of each block to adapt.
    layers : {"all", "bottom", "middle", "top"} or list of int, default="all"
        Which blocks to adapt: all, a third of each tower (``"top"`` is nearest to the output), or
        indices from the input; negative ones count from the output.
    head : {"logistic"} or None, default=None
        ``"logistic"`` also fits a logistic regression on the adapted embeddings of the training
        images; the score is then the weighted mean of the scores of texts and regression: better on
        photographs in our measurements, with any number of shots. It takes a forward pass per
        training image; predictions cost the same. None uses the texts only, as published.
    epochs : int or "auto", default="auto"
        Passes over the images. Zero leaves CLIP as it is: exactly zero-shot. ``"auto"`` is 20
        passes, but at least 40 steps and at most 200, or 5 passes if that is more; the fit stops
        early, after a pass whose mean training loss is below 0.1.
    max_steps : int, optional
        Optimisation steps; overrides `epochs`.
    lr : float or "auto", default="auto"
        Learning rate of AdamW on the singular values; falls to 1e-6 along a cosine. ``"auto"``
        is 0.03 for one image per class, growing with the fourth root of their number to 0.06 for
        16 and more, but the rate times the number of steps is never above 6. If the loss of 32
        training images before the first step is below half of that of guessing, the rate is
        lowered in proportion, but never below a third. These numbers come from a study on several
        backbones and data sets. The published rate for OpenAI's ViT-B/16 is 5e-4, with 200 steps
        per shot.
    weight_decay : float, default=0.01
        Decoupled decay of the singular values towards zero.
    batch_size : int, default=32
        Images per step, in training and prediction.
    micro_batch_size : int, optional
        Images that pass through the model at once in training; gradients add up to those of the
        whole batch. If memory runs out, lower this, not `batch_size`.
    checkpointing : bool, default=False
        Whether training keeps only each block's input and computes its activations again in the
        backward pass: slower, but needs less memory.
    augment : bool, default=True
        Whether training sees random crops (8 to 100 % of the area) and mirror images. Switch it
        off if left and right matter, as for text.
    label_smoothing : float in [0, 1), default=0.0
        Share of each target that is spread over all classes; with several labels per image, over
        having a label and not having it.
    class_weight : dict of label to float, "balanced" or None, default=None
        Weight of each class in the loss; ``"balanced"`` makes rare classes count as much as
        frequent ones. With several labels per image: weight of the images that have a label, for
        that label; ``"balanced"`` makes those with it count as much as those without.
    early_stopping : bool, default=False
        Whether to stop when the score on the validation part no longer improves, and keep the best
        epoch. The start counts as one: on that part the result is never worse than zero-shot CLIP.
    validation_fraction : float in (0, 1), default=0.1
        Share of X to validate on with `early_stopping`; at least one image per class, but drawn at
        random with several labels per image. Not used if `fit` is given X_val and y_val.
    n_iter_no_change : int, default=10
        Epochs without a better one after which `early_stopping` stops.
    tol : float, default=1e-4
        By how much the validation accuracy must rise (or, at equal accuracy, the loss fall) to
        count as better.
    warm_start : bool, default=False
        Whether `fit` starts from the numbers of the last fit instead of the frozen ones.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Number format of the matrix products: half precision on a GPU, float32 elsewhere. Singular
        values are always trained in float32.
    device : str, default="auto"
        A torch device. ``"auto"`` takes a GPU if there is one.
    n_jobs : int, optional
        Threads that read and decode images. By default as many as torch computes with.
    random_state : int, RandomState instance or None, default=None
        Order of the images and random crops. An int makes `fit` repeatable.
    checkpoint_dir : str or path-like, optional
        Folder where `fit` writes a checkpoint every half minute. After Ctrl-C, a kill or a crash,
        the same call continues from it, with the same result to the last bit. The file's name
        depends on parameters, images and weights: any number of fits may share the folder. The
        file is removed when the fit is complete.
    verbose : int, default=0
        0 prints nothing. 1 shows progress in lines and bars, in `fit` and in predictions. 2 shows
        more: every epoch, every checkpoint. The lines are records of the logger ``skclipsvd``; if
        you have configured logging, your handlers get them instead.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted. Where images have several, those of the columns of `y`, in their order.
    singular_values_ : dict of str to float32 ndarray of shape (rank,)
        Tuned singular values by matrix name, such as ``"image.11.v"``.
    text_features_ : float32 ndarray of shape (n_classes, n_features)
        Unit-length embedding of each class's prompts by the adapted text tower.
    logit_scale_ : float
        Factor of the cosine similarity.
    logit_bias_ : float
        What SigLIP adds to every score; 0.0 for other families, and where there are intercepts.
    intercept_ : float32 ndarray of shape (n_labels,)
        What is added to each label's score; only where images have several labels. With
        it the mean probability of a label on the training images, before the first step, is the
        share of them that have it (weighted, and half an image more of each kind). Training does
        not change it.
    head_coef_ : float32 ndarray of shape (n_classes, n_features)
        The head's vector of each class; ``embedding @ head_coef_.T + head_intercept_`` are its
        scores. Only where there is a head.
    head_intercept_ : float32 ndarray of shape (n_classes,)
        What the head adds to each class's score. Only where there is a head.
    head_weight_ : float
        Its share of the answer: half where the texts know the classes before training, up to 0.8
        where they know nothing. Only where there is a head.
    loss_curve_ : float32 ndarray of shape (n_iter_,)
        Training loss of each step.
    lr_ : float
        Learning rate of the first step: `lr`, or what ``"auto"`` came to.
    n_steps_ : int
        Optimisation steps planned: those of `max_steps` or `epochs`, or what ``"auto"`` came to.
    n_iter_ : int
        Optimisation steps taken: fewer than planned where the loss was low enough, early
        stopping ended it or a callback did.
    validation_scores_ : ndarray of shape (n_epochs + 1,)
        Accuracy on the validation part before training and after each epoch. Only where there is
        one.
    best_validation_score_ : float
        Accuracy of the best epoch. Only where there is a validation part.
    best_epoch_ : int
        Which one it was, 0 for before training; with `early_stopping` its numbers are kept. Only
        where there is a validation part.
    strength_ : float
        How far from the frozen model to the fit the numbers are. Only where `with_strength` made
        this classifier.
    n_parameters_tuned_ : int
        How many numbers were trained.
    n_parameters_ : int
        How many numbers the frozen backbone has.
    backbone_fingerprint_ : str
        SHA-256 of the frozen weights.
    backbone_config_ : dict of str to plain value
        What the frozen model is beside its weights, compared as they are: pre-processing of images
        and texts, activation, attention heads, pooling.

    References
    ----------
    .. [1] T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language
       Models", arXiv:2509.03740, 2025.

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPSVDClassifier("tiny", epochs=2, lr=0.01, augment=False, random_state=0)
    >>> clf.fit(paths[:40], labels[:40]).predict(paths[40:42]).shape
    (2,)
    """

    # Where pickles and skops files find it, whatever file it is in.
    __module__ = "skclipsvd.classifiers"

    _parameter_constraints: dict = TUNING_CONSTRAINTS
    singular_values_: dict[str, NDArray[np.float32]]

    _state_attribute = "singular_values_"
    _saved = {**TrainedCLIPClassifier._saved, "singular_values_": Saved("arrays")}

    def __init__(
        self,
        model_name: str = "ViT-B-16",
        pretrained: str | None = "openai",
        *,
        templates: str | Sequence[str] = "a photo of a {}.",
        class_names: ClassNames | None = None,
        logit_scale: float | None = None,
        towers: Sequence[str] = ("image", "text"),
        matrices: Sequence[str] = ("q", "k", "v", "o", "mlp"),
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
        return SpectralAdaptation(targets, decompose(backbone, targets))

    def _restored(
        self, backbone: Backbone, targets: Sequence[Target], state: Mapping[str, NDArray]
    ) -> Adaptation:
        return SpectralAdaptation(targets, decompose(backbone, targets), state)
