"""Both towers in training form, each computed as rarely as is exact."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptation import Adaptation
from ..clip import autocast, unit_image_features
from ..clip.towers import CLIPModel
from ..images import normalise, size_of
from .early_stopping import EarlyStopping
from .frozen_blocks import freeze_below, read_only_class_token
from .memory_estimate import extrapolated, saved_bytes
from .task import Recipe, Task
from .text_encoder import text_encoder


class Encoders:
    """Both towers in training form, each computed as rarely as is exact."""

    def __init__(self, model: CLIPModel, task: Task, adaptation: Adaptation, recipe: Recipe):
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
        known = nullcontext() if self.below is None else self.below.about(rows)
        with known, autocast(backbone.device, self.recipe.dtype):
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


def _checkpoint(model: CLIPModel) -> None:
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ValueError(
            "checkpointing=True is not supported by a tower of this model; lower micro_batch_size "
            "instead."
        ) from error
