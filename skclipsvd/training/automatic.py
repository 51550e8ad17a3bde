"""How long and how fast to train: what a fit takes that is told nothing.

The numbers come from ``benchmarks/defaults.py``; docs/defaults.md shows the study. AdamW moves a
number by about the learning rate in every step, whatever its gradient: ``lr x steps`` bounds how
far singular values travel. Too short a way leaves CLIP as it is, and too high a rate loses what it
knew; between them lies a wide range.
"""

from __future__ import annotations

from .task import steps_per_epoch

# What 40 images take in 20 passes, as batches of 32; fewer images need as many.
_STEPS_AT_LEAST = 40
_EPOCHS = 20
# Many images are passed fewer times.
_STEPS_IN_GENERAL = 200
_EPOCHS_AT_LEAST = 5
# The rate for one image per class, and how it grows with their number, up to 16.
_LR, _GROWTH, _SHOTS_AT_MOST = 0.03, 0.25, 16
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


def automatic_lr(n_steps: int, shots: float, reach: float) -> float:
    """Choose the learning rate of the first step.

    Parameters
    ----------
    n_steps : int
        Optimisation steps.
    shots : float
        Images per class, their mean.
    reach : float
        By how much singular values change where every trained number changes by 1.

    Returns
    -------
    lr : float
    """
    lr = _LR * min(max(shots, 1.0), _SHOTS_AT_MOST) ** _GROWTH
    return min(lr, _TRAVEL_AT_MOST / max(n_steps, 1)) / reach
