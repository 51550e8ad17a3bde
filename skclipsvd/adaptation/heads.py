"""Attention heads: whose rows and columns are whose, and how far two models differ in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from ..clip.towers import tower_kinds
from .targets import TOWERS, Target, find_targets

# In these modules a stacked tensor holds all queries, then all keys, then all values, and head h
# owns the h-th run of rows of each. Other orders exist (timm's AttentionCl), so a class that is not
# listed has no heads here rather than wrong ones.
_STACKED = {
    "MultiheadAttention",
    "Attention",
    "AttentionRope",
    "EvaAttention",
    "RelPosAttention",
    "WindowAttention",
}
_COUNTS = ("num_heads", "num_attention_heads", "n_heads")


@dataclass(frozen=True)
class Heads:
    """The attention heads of one block.

    Attributes
    ----------
    tower : {"image", "text"}
    block : int
    n_heads : int
    q, k, v, o : Target
        Head h owns the h-th of `n_heads` equal runs of rows of q, k and v, and of columns of o.
    """

    tower: str
    block: int
    n_heads: int
    q: Target
    k: Target
    v: Target
    o: Target

    def by_head(self, model: nn.Module, role: str) -> Tensor:
        """Return `model`'s matrix by head, on the CPU, of shape (n_heads, head_width, width).

        That is a head's rows of q, k or v, and its columns of o, transposed.
        """
        target = getattr(self, role)
        matrix = model.get_parameter(target.tensor).detach().flatten(1)[slice(*target.rows)]
        by_head = matrix.T if role == "o" else matrix
        return by_head.float().cpu().unflatten(0, (self.n_heads, -1))


def find_heads(model: nn.Module) -> list[Heads]:
    """List the blocks of both towers that have separable heads, each tower from its input.

    Attention that pools a whole tower into one vector is not a block with heads.
    """
    roles: dict[tuple[str, int], dict[str, Target]] = {}
    for target in find_targets(model):
        role = target.name.split(".", 2)[2]
        roles.setdefault((target.tower, target.block), {})[role] = target
    found = (_heads_of(model, *place, parts) for place, parts in roles.items())
    return [heads for heads in found if heads is not None]


def _heads_of(model: nn.Module, tower: str, block: int, parts: dict[str, Target]) -> Heads | None:
    if not {"q", "k", "v", "o"} <= parts.keys():
        return None
    q, k, v, o = (parts[role] for role in "qkvo")
    owner = _owner(model, q.tensor)
    if "pool" in q.tensor or (q.tensor == v.tensor and type(owner).__name__ not in _STACKED):
        return None
    n_heads = next((getattr(owner, name) for name in _COUNTS if hasattr(owner, name)), None)
    equal = q.shape[0] == k.shape[0] == v.shape[0] == o.shape[1]
    if n_heads is None or not equal or q.shape[0] % n_heads:
        return None
    return Heads(tower, block, n_heads, q, k, v, o)


def _owner(model: nn.Module, tensor: str) -> nn.Module:
    """Find the attention that a projection belongs to: the layer itself or the one around it."""
    path = tensor.rpartition(".")[0]
    module = model.get_submodule(path)
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        module = model.get_submodule(path.rpartition(".")[0])
    return module


def compare_heads(frozen: nn.Module, adapted: nn.Module, tower: str | None = None) -> list[dict]:
    """Compare the heads of two models of one architecture, largest change first."""
    blocks = [heads for heads in find_heads(frozen) if tower in (None, heads.tower)]
    if not blocks:
        kinds = tower_kinds(frozen)
        asked = TOWERS if tower is None else (tower,)
        raise ValueError(
            " and ".join(f"the {name} tower ({kinds[name]})" for name in asked)
            + " has no blocks of separable attention heads; singular_value_changes(clf) describes "
            "what changed in any tower."
        )
    records = [record for heads in blocks for record in _compare_block(frozen, adapted, heads)]
    return sorted(records, key=lambda record: -record["change"])


def _compare_block(frozen: nn.Module, adapted: nn.Module, heads: Heads) -> list[dict]:
    q, k, v, o = ([heads.by_head(model, role) for model in (frozen, adapted)] for role in "qkvo")
    value_output, query_key = _change_of_product(o, v), _change_of_product(q, k)
    return [
        {
            "tower": heads.tower,
            "block": heads.block,
            "head": head,
            "value_output": float(value_output[head]),
            "query_key": float(query_key[head]),
            "change": float(max(value_output[head], query_key[head])),
        }
        for head in range(heads.n_heads)
    ]


def _change_of_product(left: list[Tensor], right: list[Tensor]) -> np.ndarray:
    """Compute ``|L1' R1 - L0' R0| / |L0' R0|`` of shape (n_heads,), without building a product.

    The difference is ``(L1 - L0)' R1 + L0' (R1 - R0)``, in which no two large numbers cancel, and
    the inner product of ``A' B`` and ``C' D`` is that of ``A C'`` and ``B D'``, which are small.
    All are of shape (n_heads, head_width, width).
    """
    (l0, l1), (r0, r1) = left, right
    dl, dr = l1 - l0, r1 - r0
    squared = _inner(dl, r1, dl, r1) + 2 * _inner(dl, r1, l0, dr) + _inner(l0, dr, l0, dr)
    return relative_change(np.sqrt(squared.clip(min=0)), np.sqrt(_inner(l0, r0, l0, r0)))


def _inner(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> np.ndarray:
    """Compute the inner products of ``A' B`` and ``C' D``, of shape (n_heads,)."""
    products = (a @ c.transpose(1, 2)) * (b @ d.transpose(1, 2))
    return products.double().sum(dim=(1, 2)).numpy()


def relative_change(difference: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Divide by the starting values; 0 / 0 counts as 0, any other change of 0 as infinite."""
    infinite = np.copysign(np.inf, difference)
    from_zero = np.where(difference == 0, 0.0, infinite).astype(difference.dtype)
    return np.divide(difference, start, out=from_zero, where=start != 0)
