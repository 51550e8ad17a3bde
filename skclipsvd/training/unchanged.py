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
    first, last : int64 Tensor of shape (n_images,) or (n_images, n_labels)
        What each image was predicted as in its first and in its last step; -1 where there was none.
    margin : float32 Tensor of shape (n_images,)
        How far it was from another prediction in the last step.
    text : Tensor of shape (n_classes, n_features) or None
        The class texts before the first step.
    n_visits : int
        How many images all steps together had.
    """

    def __init__(self, task: Task):
        self.objective, device = task.objective, task.backbone.device
        self.first = torch.full(task.labels.shape, -1, device=device)
        self.last = self.first.clone()
        self.margin = torch.zeros(len(task.labels), device=device)
        self.text: Tensor | None = None
        self.n_visits = 0

    def note(self, rows: NDArray[np.intp], logits: Tensor, labels: Tensor) -> None:
        """Take note of what a step computes of some images, of shape (n_rows, n_classes)."""
        logits, at = logits.detach(), torch.from_numpy(rows).to(logits.device)
        self.last[at] = predicted = self.objective.predicted(logits)
        self.first[at] = torch.where(self.first[at] < 0, predicted, self.first[at])
        self.margin[at] = self.objective.margins(logits, labels)
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
                features = [unit_image_features(model, pixels) for model in (before, after)]
            was = task.scores(features[0].float(), self.text)
            scores = task.scores(features[1].float(), text)
            was, now = map(task.objective.predicted, (was, scores))
            if not scores.isfinite().all():
                raise FloatingPointError("the scores of an image are not finite")
            if not torch.equal(was, now):
                return None
            n_looked_at += len(rows)
            n_wrong += int(_of_rows(now.cpu().numpy() != task.labels[rows]).sum())
        return Unchanged(n_looked_at, n_wrong)

    def changed_on_the_way(self) -> bool:
        """Tell whether an image was predicted otherwise in its last step than in its first."""
        return not torch.equal(self.first, self.last)

    def _nearest_to_a_change(self) -> Iterator[NDArray[np.intp]]:
        margin = self.margin.abs().cpu().numpy()
        stayed = ~_of_rows((self.first != self.last).cpu().numpy())
        was_seen = ~_of_rows((self.last < 0).cpu().numpy())
        order = np.lexsort((margin, stayed))
        order = order[was_seen[order]][: max(_AT_LEAST, int(_SHARE * self.n_visits))]
        start, size = 0, 1  # in most fits the very first one has changed
        while start < len(order):
            yield order[start : start + size]
            start, size = start + size, min(2 * size, _AT_A_TIME)


def _of_rows(differs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell of each image whether anything differs."""
    return np.asarray(differs.reshape(len(differs), -1).any(axis=1))
