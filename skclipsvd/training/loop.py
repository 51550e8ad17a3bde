"""The one training loop, for every adaptation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ..adaptation import Adaptation, install
from ..caching.memory import explained_out_of_memory
from .callbacks import FitMonitor
from .early_stopping import EarlyStopping
from .encoders import Encoders
from .memory_estimate import ADVICE, check_capacity
from .task import Recipe, Task, steps_per_epoch

_FINAL_LR = 1e-6


def learning_rate(recipe: Recipe, step: int) -> float:
    """Anneal along a cosine from `recipe.lr`, step by step, to 1e-6 after the last one."""
    final = min(_FINAL_LR, recipe.lr)
    return final + (recipe.lr - final) * (1 + math.cos(math.pi * step / recipe.n_steps)) / 2


def train(
    task: Task,
    adaptation: Adaptation,
    recipe: Recipe,
    rng: np.random.RandomState,
    monitor: FitMonitor,
    stopping: EarlyStopping | None = None,
) -> NDArray[np.float32]:
    """Minimise the cross-entropy of the image-text similarity over the adaptation's numbers.

    Parameters
    ----------
    task : Task
        What to learn.
    adaptation : Adaptation
        Its numbers are changed in place.
    recipe : Recipe
        How to train.
    rng : RandomState
        Decides the order of the images, and dropout.
    monitor : FitMonitor
        Is told of every epoch and may end the training.
    stopping : EarlyStopping, optional
        Watches a validation part.

    Returns
    -------
    losses : float32 array of shape (n_steps_taken,)
        Mean loss of each step's batch, before its update.

    Raises
    ------
    FloatingPointError
        The loss is no longer a finite number.
    MemoryError
        A step does not fit; raised before training where that can be told.
    """
    optimiser = torch.optim.AdamW(
        adaptation.parameters(),
        weight_decay=recipe.weight_decay,
        # There are hundreds of short vectors. Updating them one by one in Python would take a sixth
        # of a small model's step.
        fused=task.backbone.device.type in {"cpu", "cuda"},
    )
    scaler = torch.amp.GradScaler(task.backbone.device.type, enabled=recipe.dtype is torch.float16)
    losses: list[float] = []
    seed = rng.randint(np.iinfo(np.int32).max)
    with (
        explained_out_of_memory(ADVICE),
        _progress(recipe) as bar,
    ):
        model = install(task.backbone.skeleton(), adaptation)
        encoders = Encoders(model, task, adaptation, recipe, seed)
        if stopping is not None:
            stopping.update(*encoders.evaluate(stopping), adaptation.parameters())
        if recipe.n_steps:
            needed = encoders.activation_bytes()
            check_capacity(needed, task.backbone.device)
            if recipe.verbose:
                bar.write(f"a step needs about {needed / 2**20:,.0f} MiB beside the weights")
        for epoch in _epochs(len(task.labels), recipe, rng):
            monitor.epoch_begins()
            for rows in epoch:
                optimiser.param_groups[0]["lr"] = learning_rate(recipe, len(losses))
                optimiser.zero_grad(set_to_none=True)
                losses.append(_finite(encoders.backward(rows, scaler), len(losses), recipe))
                scaler.step(optimiser)
                scaler.update()
                bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
                bar.update()
            asked_to_stop = monitor.epoch_ended()
            if stopping is not None:
                validated = encoders.evaluate(stopping)
                asked_to_stop |= stopping.update(*validated, adaptation.parameters())
            if asked_to_stop:
                break
    if stopping is not None:
        stopping.restore(adaptation.parameters())
    return np.array(losses, dtype=np.float32)


def _epochs(
    n: int, recipe: Recipe, rng: np.random.RandomState
) -> Iterator[Iterator[NDArray[np.intp]]]:
    """Yield epochs, each an iterator over the row numbers of its batches.

    The order is new in every epoch, but for one whole batch, where it would change no sum.
    """
    per_epoch = steps_per_epoch(n, recipe.batch_size)
    for first_step in range(0, recipe.n_steps, per_epoch):
        order = rng.permutation(n) if per_epoch > 1 else np.arange(n)
        starts = range(0, n, recipe.batch_size)[: recipe.n_steps - first_step]
        yield (order[start : start + recipe.batch_size] for start in starts)


class _Progress(tqdm):
    monitor_interval = 0  # else even a disabled bar starts a thread that stays


def _progress(recipe: Recipe) -> tqdm:
    return _Progress(total=recipe.n_steps, desc="fit", unit="step", disable=not recipe.verbose)


def _finite(loss: Tensor, step: int, recipe: Recipe) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} at step {step}: training diverged. Lower lr (it is {recipe.lr}) "
            "or use precision='fp32'."
        )
    return value
