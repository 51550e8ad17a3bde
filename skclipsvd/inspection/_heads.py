"""Which blocks of a model have attention heads, and which rows and columns are whose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..adaptation import Target, find_targets
from ..adaptation.targets import TOWERS

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

    def of(self, model: nn.Module, role: str) -> Tensor:
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


def tower_kinds(model: nn.Module) -> dict[str, str]:
    """Name the architecture of each tower, for messages."""
    image = getattr(model.visual, "trunk", model.visual)
    text = getattr(model, "text", model)
    if text is model or hasattr(text, "config"):
        text = text.transformer
    return dict(zip(TOWERS, (type(image).__name__, type(text).__name__), strict=True))
