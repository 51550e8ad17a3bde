"""Which blocks of which tensors an adaptation may change: found by name and shape, in any model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..clip.towers import TOWERS

MATRICES = ("q", "k", "v", "o", "mlp", "conv")
# Which blocks: all, a third, or indices.
Layers = str | Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class Target:
    """One weight matrix, or the rows of a stacked tensor that make up one.

    Attributes
    ----------
    name : str
        ``"tower.block.role"``, unique in the model, for example ``"image.11.v"``.
    tower : {"image", "text"}
        Which encoder it belongs to.
    block : int
        Depth, counted from the input of its tower.
    matrix : {"q", "k", "v", "o", "mlp", "conv"}
        The group that the parameter `matrices` selects it by.
    tensor : str
        Its name in the model's ``state_dict``.
    rows : tuple of int
        First row and one past the last row inside that tensor.
    shape : tuple of int
        (out, in) of the matrix; a kernel counts as (out, in x height x width).

    Examples
    --------
    >>> import torch
    >>> from skclipsvd.adaptation import find_targets
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> key = find_targets(backbone.model)[1]
    >>> key.name, key.rows  # of the tensor that holds queries, keys and values
    ('image.0.k', (128, 256))
    """

    name: str
    tower: str
    block: int
    matrix: str
    tensor: str
    rows: tuple[int, int]
    shape: tuple[int, int]

    @property
    def rank(self) -> int:
        """Number of singular values."""
        return min(self.shape)


# (what the end of a tensor's name looks like, the roles of its equal row blocks, their group)
_RULES: tuple[tuple[re.Pattern, tuple[str, ...], str | None], ...] = tuple(
    (re.compile(pattern), roles, group)
    for pattern, roles, group in (
        (r"\.in_proj_weight$", ("q", "k", "v"), None),
        (r"\.qkv\.weight$", ("q", "k", "v"), None),
        (r"\.kv\.weight$", ("k", "v"), None),
        (r"\.(?:q|q_proj|query)\.weight$|\.q_proj_weight$", ("q",), None),
        (r"\.(?:k|k_proj|key)\.weight$|\.k_proj_weight$", ("k",), None),
        (r"\.(?:v|v_proj|value)\.weight$|\.v_proj_weight$", ("v",), None),
        (r"\.(?:attn|attn_pool|token_mixer)\.proj\.weight$", ("o",), None),
        (r"\.(?:attn|self_attn)\.out_proj\.weight$", ("o",), None),
        (r"\.attention\.output\.dense\.weight$|\.SelfAttention\.o\.weight$", ("o",), None),
        (r"\.mlp\.(?:c_fc|fc1|fc1_x|w1)\.weight$", ("fc",), "mlp"),
        (r"\.mlp\.(?:fc1_g|w0)\.weight$|\.DenseReluDense\.wi_0\.weight$", ("gate",), "mlp"),
        (r"\.mlp\.(?:c_proj|fc2|w2)\.weight$|\.DenseReluDense\.wo\.weight$", ("proj",), "mlp"),
        (r"\.intermediate\.dense\.weight$|\.DenseReluDense\.wi(?:_1)?\.weight$", ("fc",), "mlp"),
        (r"\.output\.dense\.weight$", ("proj",), "mlp"),
        (r"\.layers\.\d+\.fc1\.weight$", ("fc",), "mlp"),
        (r"\.layers\.\d+\.fc2\.weight$", ("proj",), "mlp"),
    )
)

# What counts as one step of depth: T5's numbered blocks; the innermost numbered layer elsewhere;
# the layers between the stages of a convolutional tower; pooled attention, as the last step.
_BLOCK = re.compile(
    r"^(.*?\bblock\.\d+"
    r"|.*\b(?:resblocks|blocks|layers?|layer\d+)\.\d+"
    r"|.*\bstages\.\d+\.downsample"
    r"|.*?\battn_?pool)\."
)
# A CoCa decoder writes captions and a T5 decoder is dropped: neither is part of the similarity.
_NOT_CONTRASTIVE = ("text_decoder.",)
# Embeddings of patches and positions stay frozen, whatever they are made of.
_EMBEDDING = re.compile(r"\.(?:patch_embed|pos_emb|rel_pos|embeddings)\.")


def find_targets(model: nn.Module) -> tuple[Target, ...]:
    """List every matrix of both towers that an adaptation may change.

    Embeddings, norms, biases and final projections are never among them.

    Parameters
    ----------
    model : torch.nn.Module
        An open_clip model, on any device (``"meta"`` too).

    Returns
    -------
    targets : tuple of Target
        Image tower first, each tower from its input to its output.

    Examples
    --------
    >>> import torch
    >>> from skclipsvd.adaptation import find_targets
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> [target.name for target in find_targets(backbone.model)][:4]
    ['image.0.q', 'image.0.k', 'image.0.v', 'image.0.o']
    """
    targets = [
        target for tower in TOWERS for target in _find_in_tower(tower, model.named_parameters())
    ]
    return tuple(targets)


def _find_in_tower(tower: str, parameters: Iterable) -> list[Target]:
    depth: dict[str, int] = {}
    targets: list[Target] = []
    for tensor, parameter in parameters:
        found = _BLOCK.match(tensor)
        if _tower_of(tensor) != tower or found is None or _EMBEDDING.search(tensor):
            continue
        roles, group = _roles_of(tensor, parameter.shape, tensor[found.end() :])
        if roles:
            block = depth.setdefault(found[1], len(depth))
            targets += _split(tower, block, tensor, parameter.shape, roles, group)
    return targets


def _tower_of(tensor: str) -> str | None:
    if tensor.startswith(_NOT_CONTRASTIVE):
        return None
    return "image" if tensor.startswith("visual.") else "text"


def _roles_of(
    tensor: str, shape: Sequence[int], inside_block: str
) -> tuple[tuple[str, ...], str | None]:
    """Find the roles of a tensor's row blocks and their group; no roles where it stays frozen."""
    if len(shape) < 2 or len(shape) == 3:
        return (), None
    for rule, roles, group in _RULES:
        if rule.search(tensor):
            return roles, group
    if len(shape) != 4 or not tensor.endswith(".weight"):
        return (), None
    role = inside_block.removesuffix(".weight")
    if shape[2:] != (1, 1):
        return (role,), "conv"
    # A 1x1 kernel of one input channel scales channels one by one: it is no matrix.
    return ((role,), "mlp") if shape[1] > 1 else ((), None)


def _split(
    tower: str,
    block: int,
    tensor: str,
    shape: Sequence[int],
    roles: tuple[str, ...],
    group: str | None,
) -> list[Target]:
    rows = shape[0] // len(roles)
    return [
        Target(
            name=f"{tower}.{block}.{role}",
            tower=tower,
            block=block,
            matrix=group or role,
            tensor=tensor,
            rows=(i * rows, (i + 1) * rows),
            shape=(rows, prod(shape[1:])),
        )
        for i, role in enumerate(roles)
    ]


def select_targets(
    targets: Sequence[Target],
    towers: Sequence[str],
    matrices: Sequence[str],
    layers: Layers,
) -> tuple[Target, ...]:
    """Keep the targets that the estimator's parameters ask for.

    Parameters
    ----------
    targets : sequence of Target
        All of a model's, from `find_targets`.
    towers, matrices : sequence of str
        Towers and matrix groups to keep.
    layers : "all", "bottom", "middle", "top" or sequence of int
        Blocks to keep: a third of each tower's depth (``"top"`` is nearest to the output; where
        the depth is not a multiple of three, the middle third is the larger one) or indices from
        the input, negative ones from the output.

    Returns
    -------
    selected : tuple of Target
        In the order of ``targets``.

    Raises
    ------
    ValueError
        An index that neither tower has, or nothing left to adapt.

    Examples
    --------
    >>> import torch
    >>> from skclipsvd.adaptation import find_targets, select_targets
    >>> from skclipsvd.clip import load_backbone
    >>> backbone = load_backbone("tiny", None, torch.device("cpu"))
    >>> targets = select_targets(find_targets(backbone.model), ["image"], ["v"], [0, -1])
    >>> [target.name for target in targets]
    ['image.0.v', 'image.5.v']
    """
    depths = {t: 1 + max((x.block for x in targets if x.tower == t), default=-1) for t in towers}
    wanted = {tower: _blocks(layers, depth) for tower, depth in depths.items()}
    if not isinstance(layers, str):
        for index in layers:
            if not any(-depth <= index < depth for depth in depths.values()):
                raise ValueError(
                    f"layers={list(layers)!r}: block {index} does not exist; the depth is "
                    + " and ".join(f"{depth} ({tower} tower)" for tower, depth in depths.items())
                    + "."
                )
    selected = tuple(
        t
        for t in targets
        if t.tower in wanted and t.matrix in matrices and t.block in wanted[t.tower]
    )
    if not selected:
        raise ValueError(
            f"towers={tuple(towers)!r}, matrices={tuple(matrices)!r} and layers={layers!r} select "
            "no matrix of this model; there is nothing to tune."
        )
    return selected


def _blocks(layers: Layers, depth: int) -> set[int]:
    if layers == "all":
        return set(range(depth))
    if isinstance(layers, str):
        third = depth // 3
        bounds = {
            "bottom": (0, third),
            "middle": (third, depth - third),
            "top": (depth - third, depth),
        }
        return set(range(*bounds[layers]))
    return {index % depth for index in layers if -depth <= index < depth}
