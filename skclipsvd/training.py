"""The one training loop, for every adaptation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ._blocks import freeze_below, read_only_class_token
from ._callbacks import FitMonitor
from ._capacity import check_capacity, explained_out_of_memory, extrapolated, saved_bytes
from ._text import text_encoder
from .adaptation import Adaptation, install
from .backbone import Backbone
from .images import normalise, size_of
from .inference import autocast, unit_image_features
from .prompts import Prompts

_FINAL_LR = 1e-6


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    n_steps : int
        Optimisation steps at most.
    batch_size : int
        Images per step; a smaller set is one whole batch.
    micro_batch_size : int
        Images that pass through the model at once; gradients add up to those of the batch.
    lr : float
        Learning rate of the first step; it falls to 1e-6 along a cosine.
    weight_decay : float
        Decoupled decay, towards zero.
    label_smoothing : float
        Share of each target that is spread over all classes.
    dtype : torch.dtype
        Of the matrix products; trained numbers and the loss are float32.
    checkpointing : bool
        Whether to keep only each block's input and compute its activations again when going back.
    verbose : bool
        Whether to show a progress bar.
    """

    n_steps: int
    batch_size: int
    micro_batch_size: int
    lr: float
    weight_decay: float
    label_smoothing: float
    dtype: torch.dtype
    checkpointing: bool
    verbose: bool


@dataclass(frozen=True, eq=False)
class Task:
    """What to learn.

    Attributes
    ----------
    backbone : Backbone
        The frozen model.
    prompts : Prompts
        Of all classes, on the backbone's device.
    logit_scale : float
        Factor of the cosine similarity.
    pixels : callable
        Maps row numbers to a uint8 tensor of shape (batch, 3, height, width).
    fixed_pixels : bool
        Whether a row has the same pixels every time.
    labels : int array of shape (n_images,)
        Class index of each row.
    weights : float32 array of shape (n_images,) or None
        Weight of each row; their mean is 1.
    """

    backbone: Backbone
    prompts: Prompts
    logit_scale: float
    pixels: Callable[[NDArray[np.intp]], Tensor]
    fixed_pixels: bool
    labels: NDArray[np.intp]
    weights: NDArray[np.float32] | None = None


@dataclass
class EarlyStopping:
    """Keep the best epoch on a validation part, and stop when no better one comes.

    An epoch is better if its accuracy is higher by more than `tol`, or not lower and its loss is
    lower by more than `tol`: few validation images make accuracies that often tie.

    Attributes
    ----------
    pixels : uint8 Tensor of shape (n_images, 3, height, width)
    labels : int array of shape (n_images,)
    patience : int or None
        Epochs without a better one after which to stop; None only watches.
    tol : float
    scores : list of float
        Accuracy before training and after each epoch.
    """

    pixels: Tensor
    labels: NDArray[np.intp]
    patience: int | None
    tol: float
    scores: list[float] = field(default_factory=list)
    best: tuple[float, float] | None = None
    best_state: list[Tensor] = field(default_factory=list)
    waited: int = 0

    def update(self, accuracy: float, loss: float, numbers: list[nn.Parameter]) -> bool:
        """Take note of an epoch; True where it is time to stop."""
        self.scores.append(accuracy)
        if self._is_better(accuracy, loss):
            self.best, self.waited = (accuracy, loss), 0
            self.best_state = [number.detach().clone() for number in numbers]
        else:
            self.waited += 1
        return self.patience is not None and self.waited >= self.patience

    def restore(self, numbers: list[nn.Parameter]) -> None:
        """Put the best epoch's numbers back."""
        if self.patience is not None:
            for number, best in zip(numbers, self.best_state, strict=True):
                number.data.copy_(best)

    def _is_better(self, accuracy: float, loss: float) -> bool:
        if self.best is None or accuracy > self.best[0] + self.tol:
            return True
        return accuracy >= self.best[0] and loss < self.best[1] - self.tol


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Count the batches that cover every image once."""
    return -(-n_images // batch_size)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Anneal along a cosine from `recipe.lr`, step by step, to 1e-6 after the last one."""
    final = min(_FINAL_LR, recipe.lr)
    return final + (recipe.lr - final) * (1 + math.cos(math.pi * step / recipe.n_steps)) / 2


def train(
    task: Task,
    adaptation: Adaptation,
    recipe: Recipe,
    rng: np.random.RandomState,
    monitor: FitMonitor,
    stopping: EarlyStopping | None = None,
) -> NDArray[np.float32]:
    """Minimise the cross-entropy of the image-text similarity over the adaptation's numbers.

    Parameters
    ----------
    task : Task
        What to learn.
    adaptation : Adaptation
        Its numbers are changed in place.
    recipe : Recipe
        How to train.
    rng : RandomState
        Decides the order of the images, and dropout.
    monitor : FitMonitor
        Is told of every epoch and may end the training.
    stopping : EarlyStopping, optional
        Watches a validation part.

    Returns
    -------
    losses : float32 array of shape (n_steps_taken,)
        Mean loss of each step's batch, before its update.

    Raises
    ------
    FloatingPointError
        The loss is no longer a finite number.
    MemoryError
        A step does not fit; raised before training where that can be told.
    """
    optimiser = torch.optim.AdamW(
        adaptation.parameters(),
        weight_decay=recipe.weight_decay,
        # One call for the many short vectors: of a small model's step, the loop is a sixth.
        fused=task.backbone.device.type in {"cpu", "cuda"},
    )
    scaler = torch.amp.GradScaler(task.backbone.device.type, enabled=recipe.dtype is torch.float16)
    losses: list[float] = []
    with (
        _own_randomness(task.backbone.device, rng),
        explained_out_of_memory(task.backbone.device),
        _progress(recipe) as bar,
    ):
        model = install(task.backbone.skeleton(), adaptation)
        encoders = _Encoders(model, task, adaptation, recipe)
        if stopping is not None:
            stopping.update(*encoders.evaluate(stopping), adaptation.parameters())
        if recipe.n_steps:
            needed = encoders.activation_bytes()
            check_capacity(needed, task.backbone.device)
            if recipe.verbose:
                bar.write(f"a step needs about {needed / 2**20:,.0f} MiB beside the weights")
        for epoch in _epochs(len(task.labels), recipe, rng):
            monitor.epoch_begins()
            for rows in epoch:
                optimiser.param_groups[0]["lr"] = learning_rate(recipe, len(losses))
                optimiser.zero_grad(set_to_none=True)
                losses.append(_finite(encoders.backward(rows, scaler), len(losses), recipe))
                scaler.step(optimiser)
                scaler.update()
                bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
                bar.update()
            asked_to_stop = monitor.epoch_ended()
            if stopping is not None:
                validated = encoders.evaluate(stopping)
                asked_to_stop |= stopping.update(*validated, adaptation.parameters())
            if asked_to_stop:
                break
    if stopping is not None:
        stopping.restore(adaptation.parameters())
    return np.array(losses, dtype=np.float32)


class _Encoders:
    """Both towers in training form, each computed as rarely as is exact."""

    def __init__(self, model: nn.Module, task: Task, adaptation: Adaptation, recipe: Recipe):
        self.model, self.task, self.recipe = model, task, recipe
        self.adaptation = adaptation
        adaptation.cast(recipe.dtype)
        if recipe.checkpointing:
            _checkpoint(model)
        self.prompts = task.prompts
        self.text = text_encoder(model, task.prompts.tokens, adaptation)
        read_only_class_token(model)
        self.below = freeze_below(model, "image", adaptation.targets)
        if self.below is not None:
            self.below.forget(len(task.labels))
        self.text.frozen = freeze_below(model, "text", adaptation.targets)
        self.text.arrange(task.prompts.tokens)
        self.targets = torch.from_numpy(task.labels).to(task.backbone.device)
        self.weights = None
        if task.weights is not None:
            self.weights = torch.from_numpy(task.weights).to(task.backbone.device)
        trained = {target.tower for target in adaptation.targets}
        self.frozen_text = None if "text" in trained else self._frozen(self._encode_text)
        self.frozen_images = None
        if "image" not in trained and task.fixed_pixels:
            self.frozen_images = self._frozen(self._encode_all_images)

    def backward(self, rows: NDArray[np.intp], scaler: torch.amp.GradScaler) -> Tensor:
        """Add up the gradients of one batch's mean loss, and return that loss.

        The texts are encoded once for the whole batch: micro-batches collect the gradient of the
        text features, which then goes back through the text tower in one piece.
        """
        self._train(True)
        text = self._encode_text() if self.frozen_text is None else self.frozen_text
        leaf = text.detach().requires_grad_(text.requires_grad)
        total = torch.zeros((), device=leaf.device)
        for start in range(0, len(rows), self.recipe.micro_batch_size):
            part = rows[start : start + self.recipe.micro_batch_size]
            loss = self._loss(part, leaf) / len(rows)
            scaler.scale(loss).backward()
            total += loss.detach()
        if text.requires_grad:
            text.backward(leaf.grad)
        return total

    def activation_bytes(self) -> int:
        """Estimate what a step keeps for its way back, from an image or two and a few prompts."""
        self._train(True)
        backbone, tokens = self.task.backbone, self.prompts.tokens
        there = [
            *backbone.model.parameters(),
            *backbone.model.buffers(),
            *self.adaptation.tensors(),
        ]

        def of_images(n: int) -> tuple[int, int]:
            black = torch.zeros((n, 3, *size_of(backbone.preprocess)), dtype=torch.uint8)
            return n, saved_bytes(lambda: self._encode_pixels(black), there)

        def of_prompts(n: int) -> tuple[int, int]:
            self.text.arrange(tokens[: 4 * n])
            return self.text.n_tokens, saved_bytes(self._encode_text_tokens, there)

        # Casts to half precision and rebuilt kernels are kept as well, and do not grow.
        all_grows = self.recipe.dtype is torch.float32 and all(
            target.matrix != "conv" for target in self.adaptation.targets
        )
        measured = (1,) if all_grows else (1, 2)
        total = 0
        if self.frozen_images is None:
            n_images = min(self.recipe.micro_batch_size, len(self.task.labels))
            total += extrapolated(map(of_images, measured), n_images)
        if self.frozen_text is None:
            n_tokens = self.text.n_tokens
            total += extrapolated(map(of_prompts, measured), n_tokens)
            self.text.arrange(tokens)
        return total

    @torch.no_grad()
    def evaluate(self, stopping: EarlyStopping) -> tuple[float, float]:
        """Return accuracy and mean loss on a validation part."""
        self._train(False)
        text = self._encode_text()
        parts = stopping.pixels.split(self.recipe.micro_batch_size)
        images = torch.cat([self._encode_pixels(part) for part in parts])
        logits = self.task.logit_scale * images @ text.T
        labels = torch.from_numpy(stopping.labels).to(logits.device)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return accuracy.item(), F.cross_entropy(logits, labels).item()

    def _loss(self, rows: NDArray[np.intp], text: Tensor) -> Tensor:
        if self.frozen_images is None:
            same = rows if self.task.fixed_pixels else None
            images = self._encode_pixels(self.task.pixels(rows), same)
        else:
            images = self.frozen_images[rows]
        losses = F.cross_entropy(
            self.task.logit_scale * images @ text.T,
            self.targets[rows],
            reduction="none",
            label_smoothing=self.recipe.label_smoothing,
        )
        return losses.sum() if self.weights is None else losses @ self.weights[rows]

    def _encode_pixels(self, pixels: Tensor, rows: NDArray[np.intp] | None = None) -> Tensor:
        """Encode pixels, which `rows` identifies where they are the same in every epoch."""
        backbone = self.task.backbone
        if self.below is not None:
            self.below.rows = rows
        with autocast(backbone.device, self.recipe.dtype):
            images = normalise(pixels, backbone.preprocess, backbone.device)
            return unit_image_features(self.model, images)

    def _encode_all_images(self) -> Tensor:
        rows = np.arange(len(self.task.labels))
        size = self.recipe.micro_batch_size
        parts = (rows[start : start + size] for start in range(0, len(rows), size))
        return torch.cat([self._encode_pixels(self.task.pixels(part)) for part in parts])

    def _encode_text(self) -> Tensor:
        return self.prompts.class_features(self._encode_text_tokens())

    def _encode_text_tokens(self) -> Tensor:
        with autocast(self.task.backbone.device, self.recipe.dtype):
            return self.text()

    @torch.no_grad()
    def _frozen(self, encode: Callable[[], Tensor]) -> Tensor:
        self._train(False)
        return encode()

    def _train(self, on: bool) -> None:
        """Switch dropout on, as published, and keep running statistics frozen: they are shared."""
        if self.model.training is on:
            return
        self.adaptation.training = on
        for module in self.model.train(on).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _checkpoint(model: nn.Module) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(
            "checkpointing=True is not supported by a tower of this model; lower micro_batch_size "
            "instead."
        ) from error


def _epochs(
    n: int, recipe: Recipe, rng: np.random.RandomState
) -> Iterator[Iterator[NDArray[np.intp]]]:
    """Yield epochs, each an iterator over the row numbers of its batches.

    The order is new in every epoch, but for one whole batch, where it would change no sum.
    """
    per_epoch = steps_per_epoch(n, recipe.batch_size)
    for first_step in range(0, recipe.n_steps, per_epoch):
        order = rng.permutation(n) if per_epoch > 1 else np.arange(n)
        starts = range(0, n, recipe.batch_size)[: recipe.n_steps - first_step]
        yield (order[start : start + recipe.batch_size] for start in starts)


@contextmanager
def _own_randomness(device: torch.device, rng: np.random.RandomState) -> Iterator[None]:
    """Let `rng` decide what torch draws (dropout), and leave the caller's generators alone."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(rng.randint(np.iinfo(np.int32).max))
        yield


def _progress(recipe: Recipe) -> tqdm:
    return tqdm(total=recipe.n_steps, desc="fit", unit="step", disable=not recipe.verbose)


def _finite(loss: Tensor, step: int, recipe: Recipe) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} at step {step}: training diverged. Lower lr (it is {recipe.lr}) "
            "or use precision='fp32'."
        )
    return value
