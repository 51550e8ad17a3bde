"""The one training loop, for every adaptation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..adaptation import Adaptation, install
from ..caching.memory import explained_out_of_memory
from ..progress import Bar, detail, note, phase, seconds
from .callbacks import FitMonitor
from .checkpoint import Checkpoint
from .early_stopping import EarlyStopping
from .encoders import Encoders
from .memory_estimate import ADVICE, check_capacity
from .state import TrainingState
from .task import Recipe, Task, steps_per_epoch

_FINAL_LR = 1e-6
_STEPS_TIMED = 3


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
    checkpoint: Checkpoint | None = None,
) -> TrainingState:
    """Minimise the loss of the image-text similarity over the adaptation's numbers.

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
    checkpoint : Checkpoint, optional
        Where the training goes on from, and what it writes on its way.

    Returns
    -------
    state : TrainingState
        At its end: the loss of each step's batch before its update, and what the steps predicted.

    Raises
    ------
    FloatingPointError
        The loss is no longer a finite number.
    MemoryError
        A step does not fit; raised before training where that can be told.
    """
    device = task.backbone.device
    seed = rng.randint(np.iinfo(np.int32).max)
    with explained_out_of_memory(ADVICE):
        model = install(task.backbone.skeleton(), adaptation)
        with phase("preparing the first step") as preparing:
            encoders = Encoders(model, task, adaptation, recipe, seed)
            state = TrainingState(adaptation, recipe, rng, encoders, stopping)
            if recipe.n_steps:
                needed = encoders.activation_bytes()
                check_capacity(needed, device)
                preparing.result = f"a step needs about {needed / 2**20:,.0f} MiB"
            _begin(state, encoders, checkpoint)
        with _told(state, recipe) as bar:
            for epoch in _epochs(state, recipe):
                monitor.epoch_begins()
                for rows in epoch:
                    if checkpoint is not None and state.losses:
                        checkpoint.keep(state.n_bytes, state.snapshot)
                    _step(state, encoders, recipe, rows)
                    bar.step_taken(state)
                asked_to_stop = monitor.epoch_ended() | _has_learnt(state, recipe)
                if stopping is not None:
                    asked_to_stop |= stopping.update(*encoders.evaluate(stopping), state.numbers)
                bar.epoch_ended(state)
                if asked_to_stop:
                    break
    if stopping is not None:
        stopping.restore(adaptation.parameters())
    return state


def _begin(state: TrainingState, encoders: Encoders, checkpoint: Checkpoint | None) -> None:
    """Take up an interrupted fit's state, or look at the validation part before the first step."""
    if checkpoint is None or checkpoint.found is None:
        if state.stopping is not None:
            state.stopping.update(*encoders.evaluate(state.stopping), state.numbers)
        return
    state.restore(checkpoint.found)
    size = encoders.recipe.batch_size
    starts = range(0, len(state.order), size)[: len(state.losses)]
    encoders.repeat_first_epoch(state.first_order[start : start + size] for start in starts)
    note("continuing after step %d from the checkpoint %s", len(state.losses), checkpoint.path)


def _step(state: TrainingState, encoders: Encoders, recipe: Recipe, rows: NDArray[np.intp]) -> None:
    state.optimiser.param_groups[0]["lr"] = learning_rate(recipe, len(state.losses))
    state.optimiser.zero_grad(set_to_none=True)
    loss = encoders.backward(rows, state.scaler)
    state.losses.append(_finite(loss, len(state.losses), recipe))
    state.scaler.step(state.optimiser)
    state.scaler.update()


def _has_learnt(state: TrainingState, recipe: Recipe) -> bool:
    per_epoch = steps_per_epoch(len(state.order), recipe.batch_size)
    return float(np.mean(state.losses[-per_epoch:])) < recipe.learnt_loss


def _epochs(state: TrainingState, recipe: Recipe) -> Iterator[Iterator[NDArray[np.intp]]]:
    """Yield epochs, each an iterator over the row numbers of its batches.

    The order is new in every epoch, but for one whole batch, where it would change no sum.
    """
    n, size = len(state.order), recipe.batch_size
    per_epoch = steps_per_epoch(n, size)
    order_is_drawn = bool(state.losses)
    while len(state.losses) < recipe.n_steps:
        if per_epoch > 1 and not order_is_drawn:
            state.order = state.rng.permutation(n)
        order_is_drawn = False
        if not state.losses:
            state.first_order = state.order
        starts = range(0, n, size)[len(state.losses) % per_epoch :]
        starts = starts[: recipe.n_steps - len(state.losses)]
        yield (state.order[start : start + size] for start in starts)


@contextmanager
def _told(state: TrainingState, recipe: Recipe) -> Iterator[_Told]:
    """Tell of a training while it goes on."""
    done, n_images = len(state.losses), min(recipe.batch_size, len(state.order))
    what = f"training, {recipe.n_steps} steps of {n_images} images, lr {recipe.lr:.3g}"
    with phase(what, recipe.n_steps, "step", done=done, keep=True) as bar:
        told = _Told(bar, recipe)
        yield told
        stopped = len(state.losses) < recipe.n_steps
        after = f"stopped after {len(state.losses)} steps, " if stopped else ""
        bar.result = after + told.summary(state)


class _Told:
    """The bar of a training, and the lines that it says on its way."""

    def __init__(self, bar: Bar, recipe: Recipe):
        self.bar, self.n_steps = bar, recipe.n_steps
        self.or_sooner = f", or less if the loss falls below {recipe.learnt_loss:g} earlier"
        if not recipe.learnt_loss:
            self.or_sooner = ""
        self.n_taken, self.since = 0, 0.0

    def step_taken(self, state: TrainingState) -> None:
        """Show the last step; after a few, say how long the others will take."""
        self.bar.show(**self._in_short(state))
        self.bar.advance()
        self.n_taken += 1
        if self.n_taken == 1:
            self.since = time.perf_counter()  # the first step is slower than the others
        left = self.n_steps - len(state.losses)
        if self.n_taken == 1 + _STEPS_TIMED and left:
            each = (time.perf_counter() - self.since) / _STEPS_TIMED
            time_left = seconds(each * left) + self.or_sooner
            note("the other %d steps will take about %s", left, time_left)

    def epoch_ended(self, state: TrainingState) -> None:
        """Say what came of an epoch."""
        self.bar.show(**self._in_short(state))
        detail("step %d of %d: %s", len(state.losses), self.n_steps, self.summary(state))

    def summary(self, state: TrainingState) -> str:
        """Put the numbers of a state in words."""
        return ", ".join(f"{name} {value}" for name, value in self._numbers(state).items())

    def _in_short(self, state: TrainingState) -> dict[str, str]:
        """Return the numbers by names that leave room for them on a screen of 80 columns."""
        names = {"validation accuracy": "val_acc"}
        return {names.get(name, name): value for name, value in self._numbers(state).items()}

    def _numbers(self, state: TrainingState) -> dict[str, str]:
        numbers = {"loss": f"{state.losses[-1]:.4f}"} if state.losses else {}
        if state.stopping is not None:
            numbers["validation accuracy"] = f"{state.stopping.scores[-1]:.3f}"
        return numbers


def _finite(loss: Tensor, step: int, recipe: Recipe) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the loss is {value} at step {step}: training diverged. Lower lr (it is {recipe.lr}) "
            "or use precision='fp32'."
        )
    return value
