"""How long and how fast to train: what a fit takes that is told nothing.

The numbers come from ``benchmarks/defaults.py``; docs/defaults.md shows the study. AdamW moves a
number by about the learning rate in every step, whatever its gradient: ``lr x steps`` bounds how
far singular values travel. Too short a way leaves CLIP as it is, and too high a rate loses what it
knew; between them lies a wide range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .task import Task, steps_per_epoch

# What 40 images take in 20 passes, as batches of 32; fewer images need as many.
_STEPS_AT_LEAST = 40
_EPOCHS = 20
# Many images are passed fewer times.
_STEPS_IN_GENERAL = 200
_EPOCHS_AT_LEAST = 5
# The rate for one image per class, and how it grows with their number, up to 16.
_LR, _GROWTH, _SHOTS_AT_MOST = 0.03, 0.25, 16
# A backbone that knows the classes already is moved less: where its loss is half of a guess's or
# more the rate is that above; where it is less the rate is so in proportion, down to a third.
_LOSS_OF_A_FULL_RATE, _RATE_AT_LEAST = 0.5, 1 / 3
# The loss of a sample tells: as many images, evenly spread, as a step has; a forward pass only.
STARTING_IMAGES, _AT_A_TIME = 32, 8
# Below this mean loss of an epoch, going on changes what is right already: it saves time, and what
# a backbone knew that needs little training.
LEARNT_LOSS = 0.1
# Of `lr x steps`.
_TRAVEL_AT_MOST = 6.0


def automatic_steps(n_images: int, batch_size: int) -> int:
    """Choose the number of optimisation steps.

    Parameters
    ----------
    n_images, batch_size : int
        What a fit has.

    Returns
    -------
    n_steps : int
    """
    per_epoch = steps_per_epoch(n_images, batch_size)
    usual = min(_EPOCHS * per_epoch, _STEPS_IN_GENERAL)
    return max(_STEPS_AT_LEAST, usual, _EPOCHS_AT_LEAST * per_epoch)


def automatic_lr(n_steps: int, shots: float, reach: float, ignorance: float = 1.0) -> float:
    """Choose the learning rate of the first step.

    Parameters
    ----------
    n_steps : int
        Optimisation steps.
    shots : float
        Images per class, their mean.
    reach : float
        By how much singular values change where every trained number changes by 1.
    ignorance : float, default=1.0
        What `starting_loss` measured: the loss before the first step over that of a guess.

    Returns
    -------
    lr : float
    """
    lr = _LR * min(max(shots, 1.0), _SHOTS_AT_MOST) ** _GROWTH
    share = min(max(ignorance / _LOSS_OF_A_FULL_RATE, _RATE_AT_LEAST), 1.0)
    return share * min(lr, _TRAVEL_AT_MOST / max(n_steps, 1)) / reach


def starting_loss(
    task: Task,
    model: nn.Module,
    text: Tensor,
    dtype: torch.dtype,
    some_are_done: Callable[[int], object],
) -> float:
    """Measure how much there is to learn.

    Parameters
    ----------
    task : Task
        What to learn.
    model : torch.nn.Module
        What a fit starts from.
    text : float32 Tensor of shape (n_classes, n_features)
        Its class texts.
    dtype : torch.dtype
        Of the matrix products.
    some_are_done : callable
        Told how many images are done.

    Returns
    -------
    loss : float
        Mean loss of training images as the model sees them when it predicts, over that of a guess,
        which is ``log(n_classes)`` where an image shows one class.
    """
    n_images = len(task.labels)
    rows = np.linspace(0, n_images - 1, min(n_images, STARTING_IMAGES)).astype(int)
    total = 0.0
    for some in np.array_split(rows, -(-len(rows) // _AT_A_TIME)):
        with torch.inference_mode():
            scores = task.scores(task.features(model, some, dtype), text)
        labels = torch.from_numpy(task.labels[some]).to(scores.device)
        total += float(task.objective.losses(scores.float(), labels, reduction="sum"))
        some_are_done(len(some))
    return total / len(rows) / task.objective.loss_of_a_guess(len(text))
