"""The estimators: parameters in, fitted attributes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import nn

from ._memory import MERGED
from .adaptation import (
    Adaptation,
    SpectralAdaptation,
    find_targets,
    merge,
    select_targets,
)
from .adaptation.spectral import decompose
from .adaptation.targets import MATRICES, THIRDS, TOWERS
from .backbone import Backbone, load_backbone
from .images import as_items, augment, check_exist, decode_all, stack_views
from .inference import autocast, choose_device, choose_dtype, embed
from .prompts import build_prompts, class_texts, encode_exactly
from .training import Recipe, train


class CLIPSVDClassifier(ClassifierMixin, BaseEstimator):
    """Few-shot image classifier that tunes only the singular values of CLIP's weight matrices.

    Every adapted matrix is ``W = U diag(s) V^T``; ``U``, ``V`` and everything else stay frozen and
    the vectors ``s`` are trained, in both towers, on the cross-entropy of ``logit_scale *
    cos(image, class text)`` [1]_. Prediction costs what plain CLIP costs: the weights are merged.

    Parameters
    ----------
    model_name : str, default="ViT-B-16"
        A name of `open_clip.list_models`, ``"local-dir:PATH"``, ``"hf-hub:ID"``, or ``"tiny"``,
        the small model that comes with this package and needs no download.
    pretrained : str or None, default="openai"
        A tag of `open_clip.list_pretrained` or the path of a checkpoint file. ``"tiny"``,
        ``"local-dir:"`` and ``"hf-hub:"`` bring their own weights and do not look at it. None
        starts from random weights (the same in every process), with a warning.
    templates : str or list of str, default="a photo of a {}."
        Prompts with ``{}`` for the class text; several are averaged as unit vectors.
    class_names : mapping of label to str or list of str, optional
        Words for each label. By default the label's own text, with spaces for underscores.
    towers : tuple of {"image", "text"}, default=("image", "text")
        Which encoders to adapt.
    matrices : tuple of {"q", "k", "v", "o", "mlp", "conv"}, default=("q", "k", "v", "o", "mlp")
        Which matrices of each block to adapt.
    layers : {"all", "bottom", "middle", "top"} or list of int, default="all"
        Which blocks to adapt: all, a third of each tower (``"top"`` is nearest to the output), or
        indices from the input; negative ones count from the output.
    epochs : int, default=20
        Passes over the images. Zero leaves CLIP as it is: exactly zero-shot.
    max_steps : int, optional
        Optimisation steps; overrides `epochs`.
    lr : float, default=5e-4
        Learning rate of AdamW on the singular values; falls to 1e-6 along a cosine. The default is
        the published one for OpenAI's ViT-B/16; other backbones want others.
    weight_decay : float, default=0.01
        Decoupled decay of the singular values towards zero.
    batch_size : int, default=32
        Images per step, in training and prediction.
    augment : bool, default=True
        Whether training sees random crops (8 to 100 % of the area) and mirror images. Switch it
        off where left and right matter, as for text.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Number format of the matrix products: half precision on a GPU, float32 elsewhere. Singular
        values are always trained in float32.
    device : str, default="auto"
        A torch device. ``"auto"`` takes a GPU where there is one.
    n_jobs : int, optional
        Threads that read and decode images. By default as many as torch computes with.
    random_state : int, RandomState instance or None, default=None
        Order of the images and random crops. An int makes `fit` repeatable.
    verbose : int, default=0
        Whether to show a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    singular_values_ : dict of str to float32 ndarray of shape (rank,)
        Tuned singular values by matrix name, such as ``"image.11.v"``.
    text_features_ : float32 ndarray of shape (n_classes, n_features)
        Unit-length embedding of each class's prompts by the adapted text tower.
    logit_scale_ : float
        Factor of the cosine similarity.
    loss_curve_ : float32 ndarray of shape (n_iter_,)
        Training loss of each step.
    n_iter_ : int
        Optimisation steps taken.
    n_parameters_tuned_ : int
        How many numbers were trained.
    backbone_fingerprint_ : str
        SHA-256 of the frozen weights.

    References
    ----------
    .. [1] T. Koleilat, H. Rivaz, Y. Xiao, "Singular Value Few-shot Adaptation of Vision-Language
       Models", arXiv:2509.03740, 2025.

    Examples
    --------
    >>> from skclipsvd import CLIPSVDClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> clf = CLIPSVDClassifier("tiny", epochs=2, lr=0.02, augment=False, random_state=0)
    >>> clf.fit(paths[:40], labels[:40]).predict(paths[40:42]).shape
    (2,)
    """

    _parameter_constraints: dict = {
        "model_name": [str],
        "pretrained": [str, None],
        "templates": [str, list, tuple],
        "class_names": [Mapping, None],
        "towers": [list, tuple],
        "matrices": [list, tuple],
        "layers": [StrOptions({"all", *THIRDS}), list, tuple, np.ndarray, range],
        "epochs": [Interval(Integral, 0, None, closed="left")],
        "max_steps": [Interval(Integral, 0, None, closed="left"), None],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "augment": ["boolean"],
        "precision": [StrOptions({"auto", "fp32", "bf16", "fp16"})],
        "device": [str],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model_name="ViT-B-16",
        pretrained="openai",
        *,
        templates="a photo of a {}.",
        class_names=None,
        towers=("image", "text"),
        matrices=("q", "k", "v", "o", "mlp"),
        layers="all",
        epochs=20,
        max_steps=None,
        lr=5e-4,
        weight_decay=0.01,
        batch_size=32,
        augment=True,
        precision="auto",
        device="auto",
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.model_name = model_name
        self.pretrained = pretrained
        self.templates = templates
        self.class_names = class_names
        self.towers = towers
        self.matrices = matrices
        self.layers = layers
        self.epochs = epochs
        self.max_steps = max_steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.augment = augment
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike):
        """Tune the singular values on a few labelled images.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path) in a list, array, Series or one-column frame; or PIL images,
            encoded bytes, (height, width, 3) uint8 arrays.
        y : array-like of shape (n_images,)
            Labels of any kind that scikit-learn classifies.

        Returns
        -------
        self : CLIPSVDClassifier

        Raises
        ------
        FileNotFoundError
            Paths that do not exist, by index, or weights that cannot be had.
        ValueError
            A parameter out of its range; fewer than two classes; images that cannot be decoded,
            by index and path.
        FloatingPointError
            Training diverged.
        """
        self._check_choices()
        items, classes, labels = self._check_data(X, y)
        backbone = self._load_backbone()
        texts = class_texts(classes, self.class_names)
        prompts = build_prompts(texts, self.templates, backbone.tokenize).to(backbone.device)
        targets = select_targets(
            find_targets(backbone.model), self.towers, self.matrices, self.layers
        )
        rng = check_random_state(self.random_state)
        pixels = self._pixels(items, backbone, rng)
        adaptation = SpectralAdaptation(targets, decompose(backbone, targets))
        recipe = self._recipe(len(items), backbone)
        losses = train(
            backbone, adaptation, prompts, pixels, labels, recipe, rng, backbone.logit_scale
        )
        with autocast(backbone.device, recipe.dtype):
            merged = _merged_model(backbone, adaptation.state(), lambda: adaptation)
            text_features = encode_exactly(merged, prompts)

        self.classes_ = classes
        self.singular_values_ = adaptation.state()
        self.text_features_ = text_features.cpu().numpy()
        self.logit_scale_ = backbone.logit_scale
        self.loss_curve_ = losses
        self.n_iter_ = len(losses)
        self.n_parameters_tuned_ = sum(p.numel() for p in adaptation.parameters())
        self.backbone_fingerprint_ = backbone.fingerprint
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:
        """Score images: ``logit_scale_`` times the cosine similarity with each class text.

        Parameters
        ----------
        X : sequence of n_images images
            As for `fit`.

        Returns
        -------
        scores : float32 ndarray of shape (n_images, n_classes), or (n_images,) for two classes
            For two classes the second one's score minus the first one's.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray:
        """Predict the label whose text is most similar to each image.

        Parameters
        ----------
        X : sequence of n_images images
            As for `fit`.

        Returns
        -------
        labels : ndarray of shape (n_images,)
        """
        return self.classes_[self._scores(X).argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities: the softmax of the scores.

        Parameters
        ----------
        X : sequence of n_images images
            As for `fit`.

        Returns
        -------
        probabilities : float64 ndarray of shape (n_images, n_classes)
        """
        return softmax(self._scores(X).astype(np.float64), axis=1)

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Embed images with the adapted image tower.

        Parameters
        ----------
        X : sequence of n_images images
            As for `fit`.

        Returns
        -------
        embeddings : float32 ndarray of shape (n_images, n_features)
            Unit length.
        """
        return np.concatenate([features for features, _ in self._embed(X)])

    def __sklearn_tags__(self):
        """Tell scikit-learn that X is one column of images, not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = tags.input_tags.string = True
        return tags

    def _check_choices(self) -> None:
        for name, allowed in (("towers", TOWERS), ("matrices", MATRICES)):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(allowed):
                raise ValueError(f"{name}={chosen!r}: choose one or more of {allowed!r}.")

    def _check_data(self, X: ArrayLike, y: ArrayLike) -> tuple[list, NDArray, NDArray[np.intp]]:
        items = as_items(X)
        y = validate_data(self, X="no_validation", y=y)
        check_classification_targets(y)
        check_consistent_length(items, y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only ({classes[0]!r}); {type(self).__name__} needs two or more."
            )
        check_exist(items)
        return items, classes, labels

    def _load_backbone(self) -> Backbone:
        return load_backbone(self.model_name, self.pretrained, choose_device(self.device))

    def _n_threads(self) -> int:
        return torch.get_num_threads() if self.n_jobs is None else effective_n_jobs(self.n_jobs)

    def _pixels(self, items, backbone, rng):
        """Decode all images, and return what hands out their pixels by row number."""
        decoded = decode_all(items, backbone.preprocess, self._n_threads())
        if not self.augment:
            views = stack_views(decoded)
            return lambda rows: views[rows]
        return lambda rows: augment([decoded[i] for i in rows], backbone.preprocess, rng)

    def _recipe(self, n_images: int, backbone: Backbone) -> Recipe:
        steps = self.max_steps
        if steps is None:
            steps = self.epochs * -(-n_images // self.batch_size)
        return Recipe(
            n_steps=int(steps),
            batch_size=int(self.batch_size),
            lr=float(self.lr),
            weight_decay=float(self.weight_decay),
            dtype=choose_dtype(self.precision, backbone.device),
            verbose=bool(self.verbose),
        )

    def _scores(self, X: ArrayLike) -> NDArray[np.float32]:
        return np.concatenate([scores for _, scores in self._embed(X)])

    def _embed(self, X: ArrayLike) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield embeddings and scores, batch by batch."""
        check_is_fitted(self)
        items = as_items(X)
        check_exist(items)
        backbone = self._load_backbone()
        model = self._fitted_model(backbone)
        text_features = torch.from_numpy(self.text_features_).to(backbone.device)
        for features, n in embed(
            model,
            items,
            backbone.preprocess,
            device=backbone.device,
            dtype=choose_dtype(self.precision, backbone.device),
            batch_size=self.batch_size,
            n_threads=self._n_threads(),
        ):
            scores = self.logit_scale_ * features @ text_features.T
            yield features[:n].cpu().numpy(), scores[:n].cpu().numpy()

    def _fitted_model(self, backbone: Backbone) -> nn.Module:
        if backbone.fingerprint != self.backbone_fingerprint_:
            raise ValueError(
                f"model_name={self.model_name!r}, pretrained={self.pretrained!r} are not the "
                "weights that this classifier was fitted on (fingerprint "
                f"{backbone.fingerprint[:12]}, fitted on {self.backbone_fingerprint_[:12]}). Use "
                "the same weights, or fit again."
            )
        names = self.singular_values_.keys()
        targets = [t for t in find_targets(backbone.model) if t.name in names]

        def build() -> Adaptation:
            factors = decompose(backbone, targets)
            return SpectralAdaptation(targets, factors, self.singular_values_)

        return _merged_model(backbone, self.singular_values_, build)


def _merged_model(
    backbone: Backbone, state: Mapping[str, NDArray], build: Callable[[], Adaptation]
) -> nn.Module:
    """Merge an adaptation into a private copy of the backbone, once per state and device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(state[name]).data)

    def make() -> tuple[nn.Module, int]:
        adaptation = build()
        model = merge(backbone.skeleton(), adaptation)
        replaced = sum(model.get_parameter(name).nbytes for name in adaptation.by_tensor())
        return model, replaced

    key = (backbone.fingerprint, str(backbone.device), digest.hexdigest())
    return MERGED.get_or_make(key, make)
