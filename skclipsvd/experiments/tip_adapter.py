"""Tip-Adapter-F: a cache of training images whose keys are fine-tuned (2207.09519)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from ..classifiers import BaseCLIPClassifier, frozen_and_adapted
from ..clip import autocast, choose_dtype, unit_image_features
from ..images import Item, augment, decode_all, decoding_threads, normalise
from ..progress import phase, shown
from ..validation import Interval, StrOptions
from .embedded import EmbeddingsClassifier, Floats


class TipAdapterFClassifier(EmbeddingsClassifier):
    """Add the class texts' scores and those of a cache of training images with tuned keys.

    Tip-Adapter-F [1]_. The cache holds a key, which starts as the embedding, and the label of every
    training image; an image is told by the labels of the keys that it is near to, and by the texts.
    The keys are tuned by the cross-entropy of the scores on random crops of the training images;
    with ``epochs=0`` this is Tip-Adapter, which trains nothing.

    Parameters
    ----------
    classifier : CLIPZeroShotClassifier or another of this package's classifiers
        Embeds images and texts; fitted first, on the same images.
    alpha : float or "auto", default="auto"
        Weight of the cache. ``"auto"`` is 1 in training, and afterwards too where there is no
        validation part; one chooses it then.
    beta : float or "auto", default="auto"
        How sharply nearness decides. ``"auto"`` is 5.5, as for `alpha`.
    epochs : int, default=20
        Passes through the images.
    lr : float, default=1e-3
        Learning rate of AdamW; falls to 0 along a cosine.
    batch_size : int, default=256
        Images per step.
    augment : bool, default=True
        Whether to train on random crops and mirror images, new ones in every epoch.
    random_state : int, RandomState or None, default=None
        Draws crops and the order of the images.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    classifier_ : fitted classifier
        What embeds.
    keys_ : float64 ndarray of shape (n_images, n_features)
        The tuned keys.
    values_ : float64 ndarray of shape (n_images, n_classes)
        The labels, one-hot.
    alpha_, beta_ : float
        What predictions are made with.

    Notes
    -----
    With keys ``F``, one-hot labels ``L``, class texts ``W`` and the logit scale ``s``, an embedding
    ``f`` has the scores ``alpha exp(-beta (1 - f F')) L + s f W'``. `alpha` of 1 and `beta` of 5.5
    are the paper's on ImageNet; for every other set it searched both. Keys start as the embeddings
    of the images as they are predicted; whether the paper averages those of several crops, and how
    AdamW's other numbers were set (here: torch's defaults), was not found out.

    References
    ----------
    .. [1] R. Zhang, W. Zhang, R. Fang, P. Gao, K. Li, J. Dai, Y. Qiao, H. Li, "Tip-Adapter:
       Training-free Adaption of CLIP for Few-shot Classification", ECCV 2022, arXiv:2207.09519.

    Examples
    --------
    >>> from skclipsvd import CLIPZeroShotClassifier
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> from skclipsvd.experiments import TipAdapterFClassifier
    >>> paths, labels = load_handwritten_digits()
    >>> clf = TipAdapterFClassifier(CLIPZeroShotClassifier("tiny"), augment=False, random_state=0)
    >>> clf.fit(paths[:40], labels[:40]).keys_.shape
    (40, 128)
    """

    _parameter_constraints: dict = {
        "classifier": [BaseCLIPClassifier],
        "alpha": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "beta": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "epochs": [Interval(Integral, 0, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "augment": ["boolean"],
        "random_state": ["random_state"],
    }

    _automatic = {
        "alpha": (1.0, (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
        "beta": (5.5, (1.0, 3.0, 5.5, 10.0, 20.0)),
    }
    # They are searched for the keys that the default has trained, as published.
    _learns_for_each = False

    keys_: Floats
    values_: Floats
    alpha_: float
    beta_: float

    def __init__(
        self,
        classifier: BaseCLIPClassifier,
        *,
        alpha: float | Literal["auto"] = "auto",
        beta: float | Literal["auto"] = "auto",
        epochs: int = 20,
        lr: float = 1e-3,
        batch_size: int = 256,
        augment: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.classifier = classifier
        self.alpha = alpha
        self.beta = beta
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.augment = augment
        self.random_state = random_state

    def _learn(self, items: list[Item], embeddings: Floats, targets: NDArray[np.intp]) -> None:
        self.values_ = np.eye(len(self.classes_))[targets]
        keys = torch.tensor(embeddings, requires_grad=True)
        rng = check_random_state(self.random_state)
        with shown(self.classifier_.verbose):
            views = self._views(items, embeddings, rng)
            self._tune(keys, views, torch.from_numpy(targets), rng)
        self.keys_ = keys.detach().numpy()

    def _tune(
        self,
        keys: Tensor,
        views: Callable[[], Tensor],
        targets: Tensor,
        rng: np.random.RandomState,
    ) -> None:
        """Change the keys in place."""
        optimiser = torch.optim.AdamW([keys], lr=self.lr)
        n_steps = self.epochs * math.ceil(len(keys) / self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, n_steps))
        with phase("tuning the keys of the cache", self.epochs, "epoch") as bar:
            for _ in range(self.epochs):
                seen = views()
                for rows in torch.from_numpy(rng.permutation(len(keys))).split(self.batch_size):
                    optimiser.zero_grad()
                    F.cross_entropy(self._logits(seen[rows], keys), targets[rows]).backward()
                    optimiser.step()
                    schedule.step()
                bar.advance()

    def _views(
        self, items: list[Item], embeddings: Floats, rng: np.random.RandomState
    ) -> Callable[[], Tensor]:
        """Return what embeds the images as an epoch sees them."""
        if not self.augment or not self.epochs:
            return lambda: torch.from_numpy(embeddings)
        clf = self.classifier_
        backbone, model = frozen_and_adapted(clf)
        model, device = backbone.to_predict(model), backbone.device
        dtype = choose_dtype(clf.precision, device)
        threads = decoding_threads(clf.n_jobs)
        decoded = decode_all(items, backbone.preprocess, threads, for_crops=True)

        def crops() -> Iterator[Tensor]:
            for start in range(0, len(decoded), clf.batch_size):
                some = decoded[start : start + clf.batch_size]
                pixels = augment(some, backbone.preprocess, rng, device)
                with torch.inference_mode(), autocast(device, dtype):
                    found = unit_image_features(
                        model, normalise(pixels, backbone.preprocess, device)
                    )
                yield found.cpu().double()

        return lambda: torch.cat(list(crops()))

    def _logits(self, images: Tensor, keys: Tensor) -> Tensor:
        texts = torch.from_numpy(self.classifier_.text_features_).double()
        nearness = torch.exp(-self.beta_ * (1 - images @ keys.T))
        cache = self.alpha_ * nearness @ torch.from_numpy(self.values_)
        return cache + self.classifier_.logit_scale_ * images @ texts.T

    def score_embeddings(self, embeddings: ArrayLike) -> Floats:
        """Add the cache's scores to the texts'."""
        check_is_fitted(self)
        images = torch.from_numpy(np.array(embeddings, dtype=np.float64))
        return self._logits(images, torch.from_numpy(self.keys_)).numpy()
