"""CLIP-LoRA: tune low-rank factors beside the frozen matrices (arXiv 2405.18541)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Adaptation
from .targets import Target


class LowRankAdaptation(Adaptation):
    """Low-rank updates of frozen matrices: ``W + scale * B A``.

    ``A`` starts Kaiming-uniform and ``B`` at zero, so that nothing changes before training.

    Parameters
    ----------
    targets : sequence of Target
        The matrices it changes.
    rank : int
        Rows of ``A`` and columns of ``B``.
    scale : float
        Factor of the update, as published ``alpha / sqrt(rank)``.
    dropout : float
        Probability of dropping an input of ``A``, in training.
    rng : numpy RandomState or None
        Draws the start of ``A``; not needed where `state` has all of it.
    state : mapping of str to array-like, optional
        Factors to start from: ``"<target name>/a"`` of shape (rank, in) and
        ``"<target name>/b"`` of shape (out, rank).
    device : torch.device
        Where the factors lie.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        rank: int,
        scale: float,
        dropout: float,
        rng: np.random.RandomState | None,
        state: Mapping[str, np.ndarray] | None,
        device: torch.device,
    ):
        super().__init__(targets)
        self.scale, self.dropout = scale, dropout
        state = state or {}
        self.factors: dict[str, nn.Parameter] = {}
        for target in self.targets:
            n_out, n_in = target.shape
            a, b = state.get(f"{target.name}/a"), state.get(f"{target.name}/b")
            if a is None or b is None:
                bound = n_in**-0.5  # Kaiming-uniform with a = sqrt(5), as published
                a, b = rng.uniform(-bound, bound, (rank, n_in)), np.zeros((n_out, rank))
            for part, values in (("a", a), ("b", b)):
                tensor = torch.tensor(np.asarray(values, dtype=np.float32), device=device)
                self.factors[f"{target.name}/{part}"] = nn.Parameter(tensor)

    @property
    def is_random(self) -> bool:
        """Whether dropout is on."""
        return self.dropout > 0

    def parameters(self) -> list[nn.Parameter]:
        """Return the factors, ``A`` and ``B`` of each target in turn."""
        return list(self.factors.values())

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the factors, by target name and part, and the ``"scale"``."""
        state = {name: f.detach().cpu().numpy().copy() for name, f in self.factors.items()}
        return {**state, "scale": np.array([self.scale], dtype=np.float32)}

    def linear(self, target: Target, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the frozen product plus the low-rank one, whose input is dropped out."""
        a, b = self.factors[f"{target.name}/a"], self.factors[f"{target.name}/b"]
        dropped = F.dropout(x, self.dropout, training=self.training)
        return F.linear(x, weight, bias) + F.linear(F.linear(dropped, a), b) * self.scale

    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute ``W + scale B A``: exactly `weight` while ``B`` is zero."""
        a, b = self.factors[f"{target.name}/a"], self.factors[f"{target.name}/b"]
        return weight + (b @ a) * self.scale
