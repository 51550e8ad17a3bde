"""Both towers in training form, each computed as rarely as is exact."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from ..adaptation import Adaptation
from ..clip import autocast, unit_image_features
from ..clip.randomness import seeded
from ..clip.towers import TOWERS, CLIPModel, draws_random_numbers
from ..images import normalise, size_of
from .early_stopping import EarlyStopping
from .frozen_blocks import freeze_below, read_only_class_token
from .memory_estimate import extrapolated, saved_bytes
from .task import Recipe, Task
from .text_encoder import text_encoder
from .unchanged import SeenPredictions


class Encoders:
    """Both towers in training form, each computed as rarely as is exact.

    Parameters
    ----------
    model : torch.nn.Module
        A private model with `adaptation` installed; its towers are changed in place.
    task : Task
        What to learn.
    adaptation : Adaptation
        The numbers to train.
    recipe : Recipe
        How to train.
    seed : int
        Of what is random in training: the adaptation's dropout, and the towers' own. Numbers are
        derived from it and from how many passes there have been, so that no other thread and no
        pass that is repeated (checkpointing) changes them.
    """

    def __init__(
        self, model: CLIPModel, task: Task, adaptation: Adaptation, recipe: Recipe, seed: int = 0
    ):
        self.model, self.task, self.recipe = model, task, recipe
        self.adaptation = adaptation
        self.seed, self.n_passes = seed, 0
        # torch's checkpointing sets the process's generator, too, in the backward pass.
        self.uses_shared_generator = recipe.checkpointing or draws_random_numbers(model)
        adaptation.cast(recipe.dtype)
        trained = {target.tower for target in adaptation.targets}
        if recipe.checkpointing:
            _checkpoint(model, trained)
        self.prompts = task.prompts
        self.text = text_encoder(model, task.prompts.tokens, adaptation)
        read_only_class_token(model)
        task.backbone.simplify(model)
        self.below = freeze_below(model, "image", adaptation.targets)
        if self.below is not None:
            self.below.forget(len(task.labels))
        self.targets = torch.from_numpy(task.labels).to(task.backbone.device)
        self.weights = None
        if task.weights is not None:
            self.weights = torch.from_numpy(task.weights).to(task.backbone.device)
        self.seen = SeenPredictions(task)
        self.frozen_text = None if "text" in trained else self._frozen(self._encode_text)
        self.frozen_images = None
        if "image" not in trained and task.fixed_pixels:
            self.frozen_images = self._frozen(self._encode_all_images)

    def backward(self, rows: NDArray[np.intp], scaler: torch.amp.GradScaler) -> Tensor:
        """Add up the gradients of one batch's mean loss, and return that loss.

        What it predicts on the way is noted in `seen`. The texts are encoded once for the whole
        batch: micro-batches collect the gradient of the text features, which then goes through
        the text tower backwards in one piece.
        """
        self._train(True)
        with self._own_randomness():
            self._begin_pass("text")
            text = self._encode_text() if self.frozen_text is None else self.frozen_text
            leaf = text.detach().requires_grad_(text.requires_grad)
            if self.seen.text is None:
                self.seen.text = text.detach().clone()
            total = torch.zeros((), device=leaf.device)
            for part in self._micro_batches(rows):
                self._begin_pass("image")
                loss = self._loss(part, leaf) / len(rows)
                scaler.scale(loss).backward()
                total += loss.detach()
            if text.requires_grad:
                text.backward(leaf.grad)
        return total

    @torch.no_grad()
    def repeat_first_epoch(self, batches: Iterable[NDArray[np.intp]]) -> None:
        """Fill what frozen blocks remember, by the batches that filled it before the fit was cut.

        Other batches could round the last bits otherwise.
        """
        if self.below is None or not self.task.fixed_pixels:
            return
        self._train(True)
        for rows in batches:
            for part in self._micro_batches(rows):
                self._encode_pixels(self.task.pixels(part), part)

    def activation_bytes(self) -> int:
        """Estimate what a step keeps to go backwards, from an image or two and a few prompts."""
        self._train(True)
        with self._own_randomness():
            of_images = 0 if self.frozen_images is not None else self._image_bytes()
            of_text = 0 if self.frozen_text is not None else self._text_bytes()
        return of_images + of_text

    def _image_bytes(self) -> int:
        preprocess = self.task.backbone.preprocess

        def measure(n: int) -> tuple[int, int]:
            black = torch.zeros((n, 3, *size_of(preprocess)), dtype=torch.uint8)
            return n, self._saved_bytes(lambda: self._encode_pixels(black))

        n_images = min(self.recipe.micro_batch_size, len(self.task.labels))
        return extrapolated(map(measure, self._measured_sizes()), n_images)

    def _text_bytes(self) -> int:
        tokens, n_tokens = self.prompts.tokens, self.text.n_tokens

        def measure(n: int) -> tuple[int, int]:
            self.text.arrange(tokens[: 4 * n])
            return self.text.n_tokens, self._saved_bytes(self._encode_text_tokens)

        try:
            return extrapolated(map(measure, self._measured_sizes()), n_tokens)
        finally:
            self.text.arrange(tokens)

    def _saved_bytes(self, compute: Callable[[], Tensor]) -> int:
        model = self.task.backbone.model
        return saved_bytes(
            compute, [*model.parameters(), *model.buffers(), *self.adaptation.tensors()]
        )

    def _measured_sizes(self) -> tuple[int, ...]:
        """Choose sizes to measure: two where part of what is kept does not grow with them."""
        # Casts to half precision and rebuilt kernels do not.
        all_grows = self.recipe.dtype is torch.float32 and all(
            target.matrix != "conv" for target in self.adaptation.targets
        )
        return (1,) if all_grows else (1, 2)

    @torch.no_grad()
    def evaluate(self, stopping: EarlyStopping) -> tuple[float, float]:
        """Return accuracy and mean loss on a validation part, its images weighed."""
        self._train(False)
        text = self._encode_text()
        parts = stopping.pixels.split(self.recipe.micro_batch_size)
        images = torch.cat([self._encode_pixels(part) for part in parts])
        logits, objective = self.task.scores(images, text), self.task.objective
        labels = torch.from_numpy(stopping.labels).to(logits.device)
        right = objective.right(logits, labels).float()
        losses = objective.losses(logits, labels)
        if stopping.weights is None:
            return right.mean().item(), losses.mean().item()
        shares = torch.from_numpy(stopping.weights / stopping.weights.sum()).to(logits.device)
        return (right @ shares).item(), (losses @ shares).item()

    def _micro_batches(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
        size = self.recipe.micro_batch_size
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _loss(self, rows: NDArray[np.intp], text: Tensor) -> Tensor:
        if self.frozen_images is None:
            same = rows if self.task.fixed_pixels else None
            images = self._encode_pixels(self.task.pixels(rows), same)
        else:
            images = self.frozen_images[rows]
        logits, targets = self.task.scores(images, text), self.targets[rows]
        self.seen.note(rows, logits, targets)
        losses = self.task.objective.losses(logits, targets, self.recipe.label_smoothing)
        return losses.sum() if self.weights is None else losses @ self.weights[rows]

    def _encode_pixels(self, pixels: Tensor, rows: NDArray[np.intp] | None = None) -> Tensor:
        """Encode pixels, which `rows` identifies where they are the same in every epoch."""
        backbone = self.task.backbone
        known = nullcontext() if self.below is None else self.below.about(rows)
        with known, autocast(backbone.device, self.recipe.dtype):
            images = normalise(pixels, backbone.preprocess, backbone.device)
            return unit_image_features(self.model, images)

    def _encode_all_images(self) -> Tensor:
        parts = self._micro_batches(np.arange(len(self.task.labels)))
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

    def _begin_pass(self, tower: str) -> None:
        """Give a tower's next pass random numbers of its own."""
        self.n_passes += 1
        self.adaptation.passes[tower] = (self.seed, TOWERS.index(tower), self.n_passes)

    def _own_randomness(self) -> AbstractContextManager[None]:
        """Seed what the towers draw themselves in a step, where they draw anything."""
        if not self.uses_shared_generator:
            return nullcontext()
        numbers = np.random.SeedSequence((self.seed, self.n_passes))
        return seeded(int(numbers.generate_state(1)[0]), self.task.backbone.device)

    def _train(self, on: bool) -> None:
        """Switch dropout on, as published, and keep running statistics frozen: they are shared."""
        if self.model.training is on:
            return
        self.adaptation.training = on
        for module in self.model.train(on).modules():
            # Private: the base of every batch norm, timm's included, which have no public one.
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _checkpoint(model: CLIPModel, trained: Collection[str]) -> None:
    """Checkpoint both towers, or refuse where a trained one would keep all that it keeps now."""
    try:
        if "image" in trained:
            _checkpoint_image_tower(model.visual)
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(
            "checkpointing=True is not supported by a tower of this model; lower micro_batch_size "
            "instead."
        ) from error


def _checkpoint_image_tower(visual: nn.Module) -> None:
    """Raise where open_clip would go on without: for a ResNet, and where timm refuses."""
    if isinstance(visual, ModifiedResNet):
        raise NotImplementedError("open_clip does not checkpoint a ModifiedResNet")
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        trunk.set_grad_checkpointing(True)
