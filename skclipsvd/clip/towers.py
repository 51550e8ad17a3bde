"""What open_clip's two towers are made of, and what they promise about their tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import (
    PatchDropout,
    ResidualAttentionBlock,
    TextTransformer,
    Transformer,
)
from timm import layers as timm_layers
from torch import Tensor, nn

TOWERS = ("image", "text")
# What drops out in training, and the attribute that says how much. _DropoutNd is private: it is the
# base of all of torch's dropouts, which have no public one.
_RANDOM = {
    nn.modules.dropout._DropoutNd: "p",
    nn.MultiheadAttention: "dropout",
    timm_layers.DropPath: "drop_prob",
    PatchDropout: "prob",
    timm_layers.PatchDropout: "prob",
    # Newer versions of timm have a second one.
    getattr(timm_layers, "PatchDropoutWithIndices", timm_layers.PatchDropout): "prob",
}
FindEnds = Callable[[Tensor], Tensor]
# What open_clip builds, and what of it holds the parts of a text tower.
CLIPModel: TypeAlias = CLIP | CustomTextCLIP | CoCa
TextTower: TypeAlias = CLIP | TextTransformer | HFTextEncoder


def text_tower(model: CLIPModel) -> TextTower:
    """Return the module that holds the text tower: the model itself in OpenAI's layout."""
    return model if hasattr(model, "positional_embedding") else getattr(model, "text", model)


def can_pool(transformer: Transformer) -> bool:
    """Whether the last block is one that `PooledBlock` knows."""
    return transformer.batch_first and type(transformer.resblocks[-1]) is ResidualAttentionBlock


def draws_random_numbers(module: nn.Module) -> bool:
    """Whether a module drops out anything in training."""
    return any(
        getattr(part, name, None)
        for part in module.modules()
        for kind, name in _RANDOM.items()
        if isinstance(part, kind)
    )


def text_parts(model: CLIPModel) -> tuple[TextTower, str | None, int | None]:
    """Return what holds the text tower's parts, how it pools, and its end-of-text token."""
    if hasattr(model, "text_pool_type"):  # open_clip.CLIP has the parts itself
        return model, model.text_pool_type, model.text_eos_id
    tower = text_tower(model)
    return tower, getattr(tower, "pool_type", None), getattr(tower, "eos_id", None)


def is_causal(mask: Tensor | None) -> bool:
    """Whether an additive attention mask keeps every token from what stands behind it."""
    if mask is None:
        return False
    return bool(torch.isneginf(mask[torch.ones_like(mask).triu(1).bool()]).all())


def cut_context(tower: TextTower, positions: Tensor, mask: Tensor, length: int) -> None:
    """Give a private causal tower the first `length` of its positions, and the mask of those."""
    place_positions(tower, positions[:length])
    tower.attn_mask = mask[:length, :length]


def place_positions(tower: TextTower, positions: Tensor) -> None:
    """Give a private text tower other positional embeddings, frozen."""
    tower.positional_embedding = nn.Parameter(positions.detach(), requires_grad=False)


def end_finder(model: CLIPModel) -> FindEnds | None:
    """Return what finds each end-of-text token; None where a later one could matter."""
    tower, pool, end = text_parts(model)
    mask = getattr(tower, "attn_mask", None)
    if not is_causal(mask) or getattr(tower, "cls_emb", None) is not None:
        return None
    if pool == "argmax":
        return lambda tokens: tokens.argmax(dim=-1)
    if pool == "eos" and end is not None:
        return lambda tokens: torch.eq(tokens, end).int().argmax(dim=-1)
    return None


def tower_kinds(model: CLIPModel) -> dict[str, str]:
    """Name the architecture of each tower, for messages."""
    image = getattr(model.visual, "trunk", model.visual)
    text = getattr(model, "text", model)
    if text is model or hasattr(text, "config"):
        text = text.transformer
    return dict(zip(TOWERS, (type(image).__name__, type(text).__name__), strict=True))
