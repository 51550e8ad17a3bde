"""Whether a fit changed what its training images are predicted as, found out as cheaply as can be.

Every step computes the scores of its images anyway. Where pixels are fixed, an image predicted
otherwise in its last step than in its first settles it. Else the images that were nearest to
another class are embedded by the model before and after the fit, one at first and then more at a
time, until one has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..clip import autocast, unit_image_features
from .task import Task

_AT_A_TIME = 8
# Looking costs two forward passes: at most a thirtieth of a longer training.
_SHARE, _AT_LEAST = 0.05, 32


class Unchanged(NamedTuple):
    """What is known of a fit that changed no prediction.

    Attributes
    ----------
    n_looked_at : int
        Training images that are predicted as before.
    n_wrong : int
        How many of them are predicted wrongly.
    """

    n_looked_at: int
    n_wrong: int


class SeenPredictions:
    """What the steps of a training predicted of its images.

    Attributes
    ----------
    first, last : int64 Tensor of shape (n_images,)
        Class of each image in its first and in its last step; -1 where there was none.
    margin : float32 Tensor of shape (n_images,)
        How far the right class was ahead of all others in the last step.
    text : Tensor of shape (n_classes, n_features) or None
        The class texts before the first step.
    n_visits : int
        How many images all steps together had.
    """

    def __init__(self, n_images: int, device: torch.device):
        self.first = torch.full((n_images,), -1, device=device)
        self.last = self.first.clone()
        self.margin = torch.zeros(n_images, device=device)
        self.text: Tensor | None = None
        self.n_visits = 0

    def note(self, rows: NDArray[np.intp], logits: Tensor, labels: Tensor) -> None:
        """Take note of what a step computes of some images, of shape (n_rows, n_classes)."""
        logits, at = logits.detach(), torch.from_numpy(rows).to(logits.device)
        best, predicted = logits.topk(2, dim=1)
        self.last[at] = predicted[:, 0]
        self.first[at] = torch.where(self.first[at] < 0, predicted[:, 0], self.first[at])
        right = logits.gather(1, labels[:, None])[:, 0]
        other = torch.where(predicted[:, 0] == labels, best[:, 1], best[:, 0])
        self.margin[at] = (right - other).float()
        self.n_visits += len(rows)

    def tensors(self) -> dict[str, Tensor]:
        """Return what was seen."""
        seen = {"first": self.first, "last": self.last, "margin": self.margin}
        return seen if self.text is None else {**seen, "text": self.text}

    def take_up(self, tensors: dict[str, Tensor], n_visits: int) -> None:
        """Go on from what `tensors` returned."""
        there = {name: tensor.to(self.first.device) for name, tensor in tensors.items()}
        self.first, self.last, self.margin = there["first"], there["last"], there["margin"]
        self.text, self.n_visits = there["text"], n_visits

    def unchanged(
        self, task: Task, before: nn.Module, after: nn.Module, text: Tensor, dtype: torch.dtype
    ) -> Unchanged | None:
        """Find out whether no prediction changed; None where one did, or nothing was trained.

        Parameters
        ----------
        task : Task
            What was learnt.
        before, after : torch.nn.Module
            The merged models of the start and of what is kept.
        text : Tensor of shape (n_classes, n_features)
            The class texts of what is kept.
        dtype : torch.dtype
            Of the matrix products.

        Raises
        ------
        FloatingPointError
            What is kept gives a score that is not finite.
        """
        if self.text is None:
            return None
        n_looked_at = n_wrong = 0
        for rows in self._nearest_to_a_change():
            with torch.inference_mode(), autocast(task.backbone.device, dtype):
                pixels = task.to_predict(rows)
                was = (unit_image_features(before, pixels) @ self.text.T).argmax(dim=1)
                scores = unit_image_features(after, pixels) @ text.T
                now = scores.argmax(dim=1)
            if not scores.isfinite().all():
                raise FloatingPointError("the scores of an image are not finite")
            if not torch.equal(was, now):
                return None
            n_looked_at += len(rows)
            n_wrong += int((now.cpu().numpy() != task.labels[rows]).sum())
        return Unchanged(n_looked_at, n_wrong)

    def changed_on_the_way(self) -> bool:
        """Tell whether an image was predicted otherwise in its last step than in its first."""
        return not torch.equal(self.first, self.last)

    def _nearest_to_a_change(self) -> Iterator[NDArray[np.intp]]:
        last, margin = self.last.cpu().numpy(), self.margin.abs().cpu().numpy()
        stayed = (self.first == self.last).cpu().numpy()
        order = np.lexsort((margin, stayed))
        order = order[last[order] >= 0][: max(_AT_LEAST, int(_SHARE * self.n_visits))]
        start, size = 0, 1  # in most fits the very first one has changed
        while start < len(order):
            yield order[start : start + size]
            start, size = start + size, min(2 * size, _AT_A_TIME)
