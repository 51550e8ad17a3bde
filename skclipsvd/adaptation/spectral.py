"""CLIP-SVD: tune the singular values, and nothing else (arXiv 2509.03740)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._base import Adaptation
from .factors import Factors
from .targets import Target


class SpectralAdaptation(Adaptation):
    """Singular values of frozen matrices: ``W = U diag(s) V^T`` with only ``s`` trained.

    Parameters
    ----------
    targets : sequence of Target
        The matrices it changes.
    factors : mapping of str to Factors
        Their decompositions, from `decompose`.
    state : mapping of str to array-like of shape (rank,), optional
        Singular values to start from, by target name. The frozen ones where None.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        factors: Mapping[str, Factors],
        state: Mapping[str, np.ndarray] | None = None,
    ):
        super().__init__(targets)
        self.factors = {target.name: factors[target.name] for target in targets}
        self.s = {
            name: nn.Parameter(
                f.s.clone() if state is None else torch.as_tensor(state[name]).to(f.s)
            )
            for name, f in self.factors.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """Return the vectors of singular values."""
        return list(self.s.values())

    def tensors(self) -> list[Tensor]:
        """Return the singular values and the factors."""
        return [*self.parameters(), *(part for f in self.factors.values() for part in f)]

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the singular values, by target name."""
        return {name: s.detach().cpu().numpy().copy() for name, s in self.s.items()}

    def linear(self, target: Target, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute ``x @ adapted.T + bias``, through the factors or the rebuilt matrix.

        In half precision always through the factors, where the smallest change of a singular value
        scales an activation; in a rebuilt matrix it would drown in the rounding of the entries.
        """
        exact = not torch.is_autocast_enabled(x.device.type)
        if exact and _rebuilding_is_cheaper(target, x.shape[:-1].numel()):
            return F.linear(x, self.weight(target, weight), bias)
        f, s = self.factors[target.name], self.s[target.name]
        return F.linear(F.linear(x, f.vh) * s, f.u, bias)

    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute ``W + (U (s - s0)) V^T``: exactly `weight` while ``s`` equals ``s0``."""
        f, s = self.factors[target.name], self.s[target.name]
        return weight + (f.u * (s - f.s)) @ f.vh


def _rebuilding_is_cheaper(target: Target, n_tokens: int) -> bool:
    """Count the multiply-adds of a training step, forward and backward, in both forms.

    Factored: input to rank to output, and the same way back for the input's gradient. Rebuilt:
    output, gradients of input and weight, and U diag(s) V^T with its gradient.
    """
    n_out, n_in = target.shape
    factored = 2 * n_tokens * target.rank * (n_in + n_out)
    rebuilt = 3 * n_tokens * n_in * n_out + 2 * target.rank * n_in * n_out
    return rebuilt < factored
