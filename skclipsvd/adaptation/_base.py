"""What every adaptation shares: how its numbers get into a model, to train and to predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """

    def __init__(self, targets: Sequence[Target]):
        self.targets = tuple(targets)
        self.training = False

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Return the trained tensors, float32."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of the trained numbers as float32 arrays, by name."""

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
        """

    @abstractmethod
    def weight(self, target: Target, weight: Tensor) -> Tensor:
        """Compute the adapted matrix of shape (out, in), equal to `weight` before any training."""

    def by_tensor(self) -> dict[str, list[Target]]:
        """Group the targets by the tensor whose rows they are."""
        groups: dict[str, list[Target]] = defaultdict(list)
        for target in self.targets:
            groups[target.tensor].append(target)
        return dict(groups)

    def tensor(self, frozen: Tensor, targets: Sequence[Target]) -> Tensor:
        """Compute a whole adapted tensor from the frozen one and the targets among its rows."""
        matrix = frozen.flatten(1)
        blocks = [
            matrix[slice(*rows)] if target is None else self.weight(target, matrix[slice(*rows)])
            for rows, target in row_blocks(len(matrix), targets)
        ]
        joined = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return joined.reshape(frozen.shape)


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


@torch.no_grad()
def merge(skeleton: nn.Module, adaptation: Adaptation) -> nn.Module:
    """Replace the adapted tensors of `skeleton` by plain ones: a model like any other.

    Parameters
    ----------
    skeleton : torch.nn.Module
        A private structural copy; it is changed in place, the tensors it shared are not.
    adaptation : Adaptation
        Whose weights to put in.

    Returns
    -------
    skeleton : torch.nn.Module
        The same object.
    """
    for name, targets in adaptation.by_tensor().items():
        module, attribute = _locate(skeleton, name)
        adapted = adaptation.tensor(getattr(module, attribute), targets)
        setattr(module, attribute, nn.Parameter(adapted, requires_grad=False))
    return skeleton


def install(skeleton: nn.Module, adaptation: Adaptation) -> nn.Module:
    """Put the training form of `adaptation` into `skeleton`.

    Linear layers and multi-head attention compute in factors; a tensor used in any other way is
    rebuilt from its factors before every use.

    Parameters
    ----------
    skeleton : torch.nn.Module
        A private structural copy; it is changed in place, the tensors it shared are not.
    adaptation : Adaptation
        The numbers to train.

    Returns
    -------
    skeleton : torch.nn.Module
        The same object.
    """
    groups = adaptation.by_tensor()
    for path, module in list(skeleton.named_modules()):
        if type(module) is nn.MultiheadAttention and _touches(path, groups):
            _replace(skeleton, path, _attention(path, module, adaptation, groups))
        elif isinstance(module, nn.Linear) and f"{path}.weight" in groups:
            targets = groups.pop(f"{path}.weight")
            _replace(skeleton, path, AdaptedLinear(module.weight, module.bias, targets, adaptation))
    if groups:
        raise NotImplementedError(f"no training form for {', '.join(groups)}")
    return skeleton


class AdaptedLinear(nn.Module):
    """A linear layer, some of whose row blocks are adapted; the rest stays frozen."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        targets: Sequence[Target],
        adaptation: Adaptation,
    ):
        super().__init__()
        self.frozen, self.bias = weight, bias
        self.targets, self.adaptation = tuple(targets), adaptation
        self.blocks = row_blocks(len(weight), targets)

    @property
    def weight(self) -> Tensor:
        """The adapted weight, for models that read it instead of calling the layer."""
        return self.adaptation.tensor(self.frozen, self.targets)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the adapted layer to an input of shape (..., in)."""
        parts = [self._block(x, slice(*rows), target) for rows, target in self.blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _block(self, x: Tensor, rows: slice, target: Target | None) -> Tensor:
        weight, bias = self.frozen[rows], None if self.bias is None else self.bias[rows]
        if target is None:
            return F.linear(x, weight, bias)
        return self.adaptation.linear(target, x, weight, bias)


class AdaptedAttention(nn.Module):
    """Self-attention like `torch.nn.MultiheadAttention`, with adapted projections."""

    def __init__(self, in_proj: nn.Module, out_proj: nn.Module, n_heads: int, batch_first: bool):
        super().__init__()
        self.in_proj, self.out_proj = in_proj, out_proj
        self.n_heads, self.batch_first = n_heads, batch_first

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend; `key` and `value` must be `query`, weights are never returned."""
        if key is not query or value is not query or need_weights:
            raise NotImplementedError("only self-attention without returned weights is adapted")
        x = query if self.batch_first else query.transpose(0, 1)
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in self.in_proj(x).chunk(3, dim=-1)
        )
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # True forbids there, allows here
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        return (y if self.batch_first else y.transpose(0, 1)), None


def _attention(
    path: str,
    module: nn.MultiheadAttention,
    adaptation: Adaptation,
    groups: Mapping[str, list[Target]],
) -> AdaptedAttention:
    in_targets = groups.pop(f"{path}.in_proj_weight", [])
    in_proj = AdaptedLinear(module.in_proj_weight, module.in_proj_bias, in_targets, adaptation)
    return AdaptedAttention(in_proj, module.out_proj, module.num_heads, module.batch_first)


def _touches(path: str, groups: Mapping[str, list[Target]]) -> bool:
    return f"{path}.in_proj_weight" in groups or f"{path}.out_proj.weight" in groups


def _locate(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, attribute = _locate(model, path)
    setattr(parent, attribute, module)
