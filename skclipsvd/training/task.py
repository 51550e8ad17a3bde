"""What to learn, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..clip import Backbone, Prompts, autocast, unit_image_features
from ..images import normalise
from .objective import Objective, OneClass


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
        Whether to keep only each block's input and compute its activations again in the backward
        pass.
    learnt_loss : float
        Training ends after an epoch whose mean loss is below it.
    """

    n_steps: int
    batch_size: int
    micro_batch_size: int
    lr: float
    weight_decay: float
    label_smoothing: float
    dtype: torch.dtype
    checkpointing: bool
    learnt_loss: float = 0.0


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
        Maps row numbers to a uint8 tensor of shape (batch, 3, height, width), to train on.
    views : callable
        The same for what the model sees when it predicts.
    fixed_pixels : bool
        Whether a row has the same pixels every time.
    labels : int array of shape (n_images,), or float32 of shape (n_images, n_labels)
        The target of each row, as `objective` wants it.
    weights : float32 array of shape (n_images,) or None
        Weight of each row; their mean is 1.
    objective : Objective
        What scores say.
    """

    backbone: Backbone
    prompts: Prompts
    logit_scale: float
    pixels: Callable[[NDArray[np.intp]], Tensor]
    views: Callable[[NDArray[np.intp]], Tensor]
    fixed_pixels: bool
    labels: NDArray
    weights: NDArray[np.float32] | None = None
    objective: Objective = field(default_factory=OneClass)

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """Score the unit vectors of images for those of the class texts."""
        return self.objective.shifted(self.logit_scale * images @ text.T)

    def to_predict(self, rows: NDArray[np.intp]) -> Tensor:
        """Return what the model sees of some rows when it predicts, normalised, on its device."""
        return normalise(self.views(rows), self.backbone.preprocess, self.backbone.device)

    def features(self, model: nn.Module, rows: NDArray[np.intp], dtype: torch.dtype) -> Tensor:
        """Embed some rows as a merged model sees them when it predicts, as float32 unit vectors."""
        with torch.inference_mode(), autocast(self.backbone.device, dtype):
            return unit_image_features(model, self.to_predict(rows)).float()

    def embeddings(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        at_once: int,
        some_are_done: Callable[[int], object],
    ) -> NDArray[np.float32]:
        """Embed all rows as a merged model sees them when it predicts.

        Parameters
        ----------
        model : torch.nn.Module
            Merged.
        dtype : torch.dtype
            Of the matrix products.
        at_once : int
            Rows that pass through the model at once, where its plan does not say.
        some_are_done : callable
            Told how many rows are done.

        Returns
        -------
        embeddings : float32 array of shape (n_images, n_features)
            Of unit length.
        """
        rows = np.arange(len(self.labels))
        at_once = self.backbone.plan.n_at_once or at_once
        parts = []
        for some in np.array_split(rows, -(-len(rows) // at_once)):
            parts.append(self.features(model, some, dtype).cpu().numpy())
            some_are_done(len(some))
        return np.concatenate(parts)


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """Count the batches that cover every image once."""
    return -(-n_images // batch_size)
