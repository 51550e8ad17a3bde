"""How a fit trains: what its parameters say, or what ``"auto"`` comes to."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import nn

from ..adaptation import Adaptation
from ..clip import Backbone, Prompts, choose_dtype
from ..progress import phase
from ..training import (
    LEARNT_LOSS,
    STARTING_IMAGES,
    Recipe,
    Task,
    automatic_lr,
    automatic_steps,
    starting_loss,
    steps_per_epoch,
)


class RecipeMixin(BaseEstimator):
    """Read off its parameters how an estimator trains."""

    epochs: int | Literal["auto"]
    max_steps: int | None
    lr: float | Literal["auto"]
    weight_decay: float
    batch_size: int
    micro_batch_size: int | None
    checkpointing: bool
    label_smoothing: float
    head: Literal["logistic"] | None
    precision: str

    @abstractmethod
    def _start(self, backbone: Backbone) -> nn.Module:
        """Return the merged model that a fit begins with, as it predicts."""

    @abstractmethod
    def _text_features(
        self, model: nn.Module, prompts: Prompts, backbone: Backbone
    ) -> NDArray[np.float32]:
        """Return the class texts as a model sees them, of shape (n_classes, n_features)."""

    def n_steps_for(self, n_images: int) -> int:
        """Count the steps that a fit takes, without fitting.

        Parameters
        ----------
        n_images : int
            Images to train on, without those kept for validation.

        Returns
        -------
        n_steps : int
            What `max_steps` or `epochs` say, or what ``epochs="auto"`` comes to at most.

        Examples
        --------
        >>> from skclipsvd import CLIPSVDClassifier
        >>> CLIPSVDClassifier("tiny", epochs=10, batch_size=32).n_steps_for(160)
        50
        """
        if self.max_steps is not None:
            return int(self.max_steps)
        if self.epochs == "auto":
            return automatic_steps(n_images, self.batch_size)
        return int(self.epochs * steps_per_epoch(n_images, self.batch_size))

    def _recipe(self, task: Task, adaptation: Adaptation, ignorance: float) -> Recipe:
        n_images, dtype = len(task.labels), choose_dtype(self.precision, task.backbone.device)
        n_steps = self.n_steps_for(n_images)
        lr = self.lr
        if lr == "auto":
            shots = task.objective.images_per_class(task.labels, task.prompts.n_classes)
            lr = automatic_lr(n_steps, shots, adaptation.reach, ignorance)
        is_automatic = self.max_steps is None and self.epochs == "auto"
        return Recipe(
            n_steps=n_steps,
            learnt_loss=task.objective.learnt_loss(LEARNT_LOSS) if is_automatic else 0.0,
            batch_size=int(self.batch_size),
            micro_batch_size=int(self.micro_batch_size or self.batch_size),
            lr=float(lr),
            weight_decay=float(self.weight_decay),
            label_smoothing=float(self.label_smoothing),
            dtype=dtype,
            checkpointing=bool(self.checkpointing),
        )

    def _ignorance(self, task: Task) -> float:
        """Measure the loss before the first step over a guess's, where something depends on it."""
        n_images = len(task.labels)
        if self.head is None and (self.lr != "auto" or not self.n_steps_for(n_images)):
            return 1.0
        n_images = min(n_images, STARTING_IMAGES)
        dtype = choose_dtype(self.precision, task.backbone.device)
        what = f"measuring how much there is to learn, on {n_images} images"
        model = self._start(task.backbone)
        text = torch.from_numpy(self._text_features(model, task.prompts, task.backbone))
        with phase(what, n_images, "image") as bar:
            loss = starting_loss(task, model, text.to(task.backbone.device), dtype, bar.advance)
            bar.result = f"the loss is {loss:.2f} times that of guessing"
        return loss
