"""Which epoch was best on a validation part, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass
class EarlyStopping:
    """Keep the best epoch on a validation part, and stop when no better one comes.

    An epoch is better if its accuracy is higher by more than `tol`, or not lower and its loss is
    lower by more than `tol`: few validation images make accuracies that often tie.

    Attributes
    ----------
    pixels : uint8 Tensor of shape (n_images, 3, height, width)
    labels : array of shape (n_images,) or (n_images, n_labels)
        Targets of the task's objective.
    weights : float32 array of shape (n_images,) or None
        Of the images in accuracy and loss; None where all are equal.
    patience : int or None
        Epochs without a better one after which to stop; None only watches.
    tol : float
    scores : list of float
        Accuracy before training and after each epoch.
    """

    pixels: Tensor
    labels: NDArray
    weights: NDArray[np.float32] | None
    patience: int | None
    tol: float
    scores: list[float] = field(default_factory=list)
    best: tuple[float, float] | None = None
    best_state: list[Tensor] = field(default_factory=list)
    waited: int = 0

    @property
    def kept_the_start(self) -> bool:
        """Whether no epoch was better than the numbers before training."""
        return self.waited == len(self.scores) - 1

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

    def values(self) -> dict[str, Any]:
        """Return what it knows beside the best numbers, as JSON can hold it."""
        return {"scores": self.scores, "best": self.best, "waited": self.waited}

    def take_up(self, values: dict[str, Any], best_state: list[Tensor]) -> None:
        """Go on from what `values` returned."""
        self.scores, self.waited = list(values["scores"]), int(values["waited"])
        self.best, self.best_state = tuple(values["best"]), best_state

    def _is_better(self, accuracy: float, loss: float) -> bool:
        if self.best is None or accuracy > self.best[0] + self.tol:
            return True
        return accuracy >= self.best[0] and loss < self.best[1] - self.tol
