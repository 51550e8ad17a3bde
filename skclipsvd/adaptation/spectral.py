"""CLIP-SVD: tune the singular values, and nothing else (arXiv 2509.03740)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Adaptation, between, check_shape
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

    Examples
    --------
    >>> import torch
    >>> from skclipsvd.adaptation import SpectralAdaptation, find_targets
    >>> from skclipsvd.adaptation.factors import decompose
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> targets = find_targets(backbone.model)
    >>> adaptation = SpectralAdaptation(targets, decompose(backbone, targets))
    >>> sum(p.numel() for p in adaptation.parameters())
    6912
    """

    def __init__(
        self,
        targets: Sequence[Target],
        factors: Mapping[str, Factors],
        state: Mapping[str, np.ndarray] | None = None,
    ):
        super().__init__(targets)
        self.factors = {target.name: factors[target.name] for target in targets}
        self._in_products = self.factors
        if state is not None:
            for target in targets:
                check_shape(target.name, state[target.name], (target.rank,))
        self.s = {
            name: nn.Parameter(
                # Copies: training works in place, and neither is this adaptation's own.
                f.s.clone() if state is None else torch.tensor(state[name]).to(f.s)
            )
            for name, f in self.factors.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """Return the vectors of singular values."""
        return list(self.s.values())

    def tensors(self) -> list[Tensor]:
        """Return the singular values and the factors."""
        held = [*self.factors.values(), *self._in_products.values()]
        return [*self.parameters(), *(part for factors in held for part in factors)]

    def cast(self, dtype: torch.dtype) -> None:
        """Hold the factors in `dtype`, for the products of training."""
        self._in_products = {
            name: f._replace(u=f.u.to(dtype), vh=f.vh.to(dtype)) for name, f in self.factors.items()
        }

    @property
    def reach(self) -> float:
        """Return 1: they are the singular values."""
        return 1.0

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the singular values, by target name."""
        return {name: s.detach().cpu().numpy().copy() for name, s in self.s.items()}

    def state_at(self, strength: float) -> dict[str, np.ndarray]:
        """Return ``s0 + strength (s - s0)``, by target name."""
        frozen = {name: factors.s.cpu().numpy() for name, factors in self.factors.items()}
        return {name: between(frozen[name], s, strength) for name, s in self.state().items()}

    def linear(self, target: Target, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute ``x @ adapted.T + bias``, through the factors or the rebuilt matrix.

        In half precision always through the factors, where the smallest change of a singular value
        scales an activation; in a rebuilt matrix it would drown in the rounding of the entries.
        """
        f, s = self._in_products[target.name], self.s[target.name]
        dtype = f.u.dtype
        if dtype is torch.float32 and rebuilding_is_cheaper(target, x.shape[:-1].numel()):
            return F.linear(x, self.weight(target, weight), bias)
        rows = x.to(dtype).flatten(0, -2)
        y = _FactoredProduct.apply(rows, s, f.vh, f.u, None if bias is None else bias.to(dtype))
        return y.unflatten(0, x.shape[:-1])

    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute ``W + (U (s - s0)) V^T``: exactly `weight` while ``s`` equals ``s0``."""
        f, s = self.factors[target.name], self.s[target.name]
        return weight + (f.u * (s - f.s)) @ f.vh


class _Context(Protocol):
    """What torch hands to both directions of a function of ours."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _FactoredProduct(torch.autograd.Function):
    """``((x V) s) U^T + bias`` of rows (n, in), with gradients of ``x`` and ``s`` alone.

    Written by hand because it passes over the activations less often than the same product composed
    of single operations does. Products are in the dtype of ``x``, ``U`` and ``V``; all that touches
    ``s`` is float32.
    """

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, s: Tensor, vh: Tensor, u: Tensor, bias: Tensor | None
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            read = x @ vh.T
            ctx.save_for_backward(read, s, vh, u)
            strong = (read * s).to(x.dtype)
            return strong @ u.T if bias is None else torch.addmm(bias, strong, u.T)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        read, s, vh, u = ctx.saved_tensors
        wanted = grad @ u
        grad_s = (wanted.float() * read).sum(dim=0)
        grad_x = wanted.mul_(s) @ vh if ctx.needs_input_grad[0] else None
        return grad_x, grad_s, None, None, None


def rebuilding_is_cheaper(target: Target, n_tokens: int) -> bool:
    """Count the multiply-adds of a training step, forward and backward, in both forms.

    Factored: input to rank to output, and the same again for the input's gradient. Rebuilt:
    output, gradients of input and weight, and U diag(s) V^T with its gradient.
    """
    n_out, n_in = target.shape
    factored = 2 * n_tokens * target.rank * (n_in + n_out)
    rebuilt = 3 * n_tokens * n_in * n_out + 2 * target.rank * n_in * n_out
    return rebuilt < factored
