"""CLIP-SVD: tune the singular values, and nothing else (arXiv 2509.03740)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._memory import FACTORS
from ..backbone import Backbone
from ._base import Adaptation
from .targets import Target


class Factors(NamedTuple):
    """The thin singular value decomposition of one frozen matrix, float32.

    Attributes
    ----------
    u : Tensor of shape (out, rank)
    s : Tensor of shape (rank,)
        Largest first.
    vh : Tensor of shape (rank, in)
    """

    u: Tensor
    s: Tensor
    vh: Tensor


def decompose(backbone: Backbone, targets: Sequence[Target]) -> dict[str, Factors]:
    """Decompose the targets' frozen matrices, each once per backbone and process.

    The decomposition is always computed on the CPU in float32, so that the i-th singular value
    means the same direction on every device.

    Parameters
    ----------
    backbone : Backbone
        Whose matrices.
    targets : sequence of Target
        Which of them.

    Returns
    -------
    factors : dict of str to Factors
        By target name, on the backbone's device.
    """
    tensors = backbone.model.state_dict()

    def make(target: Target) -> tuple[Factors, int]:
        matrix = tensors[target.tensor].flatten(1)[slice(*target.rows)]
        on_cpu = torch.linalg.svd(matrix.float().cpu(), full_matrices=False)
        factors = Factors(*(part.contiguous().to(backbone.device) for part in on_cpu))
        return factors, sum(part.nbytes for part in factors)

    device = str(backbone.device)
    return {
        target.name: FACTORS.get_or_make(
            (backbone.fingerprint, device, target.name), lambda target=target: make(target)
        )
        for target in targets
    }


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
