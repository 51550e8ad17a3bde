"""What every adaptation has to say: its numbers, and the weights that they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .targets import Target


class Adaptation(ABC):
    """A few trained numbers per target, and the weights that they stand for.

    Parameters
    ----------
    targets : sequence of Target
        The matrices it changes.

    Attributes
    ----------
    training : bool
        Whether `linear` computes for a training step (dropout) or for an answer.
    passes : dict of str to tuple of int
        By tower, numbers that stand for one pass through it, and seed what is random there: a pass
        that is repeated in the backward pass (checkpointing) has to draw the same.
    """

    def __init__(self, targets: Sequence[Target]):
        self.targets = tuple(targets)
        self.training = False
        self.passes: dict[str, tuple[int, ...]] = {}

    @property
    def is_random(self) -> bool:
        """Whether `linear` draws random numbers in training."""
        return False

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained.

        Returns
        -------
        parameters : list of torch.nn.Parameter
            Float32, of any shape.
        """

    def tensors(self) -> list[Tensor]:
        """Return everything that it holds, trained or not.

        Returns
        -------
        tensors : list of Tensor
            Of any shape; memory is counted by them.
        """
        return list(self.parameters())

    @abstractmethod
    def cast(self, dtype: torch.dtype) -> None:
        """Hold what is frozen in the number format of a training step's matrix products.

        Parameters
        ----------
        dtype : torch.dtype
            Cast once, instead of in every step.
        """

    def optimiser(self, weight_decay: float) -> torch.optim.Optimizer:
        """Make what changes the trained numbers, step by step; the loop sets its learning rate.

        Parameters
        ----------
        weight_decay : float
            Decoupled decay, towards zero.

        Returns
        -------
        optimiser : torch.optim.Optimizer
            With one group of parameters, those of `parameters`, and a state of nothing but tensors.
        """
        numbers = self.parameters()
        # There are hundreds of short vectors. Updating them one by one in Python would take a sixth
        # of a small model's step.
        fused = numbers[0].device.type in {"cpu", "cuda"}
        return torch.optim.AdamW(numbers, weight_decay=weight_decay, fused=fused)

    @property
    @abstractmethod
    def reach(self) -> float:
        """By how much a weight's singular values change where all trained numbers change by 1."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the trained numbers.

        Returns
        -------
        state : dict of str to ndarray
            By name, ``"<target name>"`` or ``"<target name>/<part>"``; float32, but for what says
            which numbers they are.
        """

    @abstractmethod
    def state_at(self, strength: float) -> dict[str, np.ndarray]:
        """Return the trained numbers of weights that lie between the frozen and the adapted ones.

        Parameters
        ----------
        strength : float
            Where: 0 is the frozen weights, 1 the adapted ones, each to the bit.

        Returns
        -------
        state : dict of str to float32 ndarray
            Of the names and shapes of `state`.
        """

    @abstractmethod
    def linear(self, target: Target, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute ``x @ adapted.T + bias`` in the form that is cheapest to train.

        Parameters
        ----------
        target : Target
            Which matrix.
        x : Tensor of shape (..., in)
            Its input.
        weight : Tensor of shape (out, in)
            The frozen matrix.
        bias : Tensor of shape (out,) or None
            The frozen bias.

        Returns
        -------
        y : Tensor of shape (..., out)
            The output of the adapted layer.
        """

    @abstractmethod
    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute the adapted matrix.

        Parameters
        ----------
        target : Target
            Which matrix.
        weight : Tensor of shape (out, in)
            The frozen matrix.

        Returns
        -------
        adapted : Tensor of shape (out, in)
            Equal to `weight`, bit for bit, before any training.
        """

    def by_tensor(self) -> dict[str, list[Target]]:
        """Group the targets by the tensor whose rows they are.

        Returns
        -------
        groups : dict of str to list of Target
            By the tensor's name in the model's ``state_dict``.
        """
        groups: dict[str, list[Target]] = defaultdict(list)
        for target in self.targets:
            groups[target.tensor].append(target)
        return dict(groups)

    def tensor(self, frozen: Tensor, targets: Sequence[Target]) -> Tensor:
        """Compute a whole adapted tensor.

        Parameters
        ----------
        frozen : Tensor of shape (rows, ...)
            The frozen one.
        targets : sequence of Target
            Those among its rows; the other rows stay as they are.

        Returns
        -------
        adapted : Tensor of shape (rows, ...)
            Of the shape of `frozen`.
        """
        matrix = frozen.flatten(1)
        blocks = [
            matrix[slice(*rows)] if target is None else self.weight(target, matrix[slice(*rows)])
            for rows, target in row_blocks(len(matrix), targets)
        ]
        return join(blocks, dim=0).reshape(frozen.shape)


def check_shape(name: str, values: ArrayLike, shape: tuple[int, ...]) -> None:
    """Raise ValueError where numbers from elsewhere are not those of a model's matrix."""
    if np.shape(values) != shape:
        raise ValueError(
            f"the numbers for {name!r} have shape {np.shape(values)}, the model's have {shape}: "
            "they are damaged, or of another model."
        )


def between(start: np.ndarray, end: np.ndarray, strength: float) -> np.ndarray:
    """Interpolate float32 numbers: `start` at 0 and `end` at 1, both to the bit."""
    # A sum of both, not a step from one of them, which would miss the other by a rounding.
    with np.errstate(over="ignore", invalid="ignore"):  # not finite then
        wide = (1 - strength) * start.astype(np.float64) + strength * end.astype(np.float64)
        return wide.astype(np.float32)


def scaled(state: Mapping[str, np.ndarray], part: str, strength: float) -> dict[str, np.ndarray]:
    """Scale the arrays ``"<target name>/<part>"`` of a state: at 1, they keep their bits."""
    return {
        name: between(np.zeros_like(values), values, strength)
        if name.endswith(f"/{part}")
        else values
        for name, values in state.items()
    }


def row_blocks(
    n_rows: int, targets: Sequence[Target]
) -> list[tuple[tuple[int, int], Target | None]]:
    """Cut the rows of a tensor into adapted blocks and frozen ones (None), in order."""
    blocks: list[tuple[tuple[int, int], Target | None]] = []
    done = 0
    for target in sorted(targets, key=lambda t: t.rows):
        if target.rows[0] > done:
            blocks.append(((done, target.rows[0]), None))
        blocks.append((target.rows, target))
        done = target.rows[1]
    if done < n_rows:
        blocks.append(((done, n_rows), None))
    return blocks


def join(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Concatenate; a single part is returned as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)
