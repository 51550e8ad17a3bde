"""How long to train, how fast and how far: what a fit takes that is told nothing.

The numbers come from ``benchmarks/defaults.py``; docs/defaults.md shows the study. AdamW moves a
number by about the learning rate in every step, whatever its gradient: ``lr x steps`` is what
bounds how far singular values travel, and accuracy depends on it more than on either.
"""

from __future__ import annotations

from .task import steps_per_epoch

# Fewer are possible at a higher rate, but the range of rates that work narrows.
_STEPS_AT_LEAST = 40
_EPOCHS_AT_LEAST = 5
# `lr x steps` for one image per class, and how it grows with their number.
_TRAVEL, _GROWTH = 1.2, 0.25
_LR_AT_MOST = 0.1


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
    return max(_STEPS_AT_LEAST, _EPOCHS_AT_LEAST * steps_per_epoch(n_images, batch_size))


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
    travel = _TRAVEL * shots**_GROWTH
    return min(travel / max(n_steps, 1), _LR_AT_MOST) / reach
