"""Exact splits of an embedding into what every head, MLP and bias of a tower wrote into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import (
    ResidualAttentionBlock,
    TextTransformer,
    VisionTransformer,
    text_global_pool,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ..clip import towers
from ..clip.towers import CLIPModel, text_parts, tower_kinds


class Component(NamedTuple):
    """One summand of an embedding: its tower, block and head (None where it has none), and kind."""

    tower: str
    block: int | None
    head: int | None
    kind: str


@dataclass(frozen=True, eq=False)
class Tower:
    """A pre-norm transformer tower, and the way from its last block to the embedding.

    Attributes
    ----------
    name : {"image", "text"}
    blocks : sequence of ResidualAttentionBlock
    batch_first : bool
        Whether the blocks see (batch, token, width).
    encode : callable
        Maps an input batch to embeddings: open_clip's own forward pass.
    pooled : callable
        Maps the input batch to the tokens that are averaged, of shape (batch, n_pooled).
    norm : torch.nn.LayerNorm
        The last one.
    norm_after_pooling : bool
    projection : Tensor of shape (width, n_features) or None
    projection_bias : Tensor of shape (n_features,) or None
    """

    name: str
    blocks: Sequence[ResidualAttentionBlock]
    batch_first: bool
    encode: Callable[[Tensor], Tensor]
    pooled: Callable[[Tensor], Tensor]
    norm: nn.LayerNorm
    norm_after_pooling: bool
    projection: Tensor | None
    projection_bias: Tensor | None

    @property
    def components(self) -> list[Component]:
        """The summands, in the order in which `split` returns them."""
        listed = [Component(self.name, None, None, "embedding")]
        for i, block in enumerate(self.blocks):
            heads = range(block.attn.num_heads)
            listed += [Component(self.name, i, head, "head") for head in heads]
            listed += [Component(self.name, i, None, kind) for kind in ("bias", "mlp")]
        return [*listed, Component(self.name, None, None, "bias")]

    def project(self, residual: Tensor) -> Tensor:
        """Map what was added to the residual stream, divided by its deviation, to the embedding."""
        centred = residual - residual.mean(dim=-1, keepdim=True)
        scaled = centred * self.norm.weight
        return scaled if self.projection is None else scaled @ self.projection

    def constant(self) -> Tensor:
        """Return what the last norm and the projection add to every embedding."""
        shift: Tensor = self.norm.bias
        if self.projection is not None:
            shift = shift @ self.projection
        return shift if self.projection_bias is None else shift + self.projection_bias


class SplitEmbeddings(NamedTuple):
    """Embeddings and their summands.

    Attributes
    ----------
    embedding : Tensor of shape (batch, n_features)
        From the forward pass of open_clip, not normalised.
    contributions : Tensor of shape (batch, n_components, n_features)
        They add up to `embedding`.
    by_source : Tensor of shape (batch, n_tokens, n_features) or None
        The heads' contributions, all heads together, by the token that they were read from.
    """

    embedding: Tensor
    contributions: Tensor
    by_source: Tensor | None


def splittable_image_tower(model: CLIPModel) -> Tower:
    """Take the image tower of a private `model` apart; ValueError where that is not exact."""
    visual = model.visual
    plain = (
        type(visual) is VisionTransformer
        and visual.attn_pool is None
        and visual.pool_type in ("tok", "avg")
        and _plain(visual.transformer.resblocks)
    )
    _check(model, "image", plain)
    n_tokens = 1 + visual.grid_size[0] * visual.grid_size[1]
    tokens = torch.arange(n_tokens)
    tokens = tokens[:1] if visual.pool_type == "tok" else tokens[1:]
    return Tower(
        name="image",
        blocks=visual.transformer.resblocks,
        batch_first=visual.transformer.batch_first,
        encode=model.encode_image,
        pooled=lambda pixels: tokens.to(pixels.device).expand(len(pixels), -1),
        norm=visual.ln_post,
        norm_after_pooling=visual.final_ln_after_pool,
        projection=visual.proj,
        projection_bias=None,
    )


def splittable_text_tower(model: CLIPModel) -> Tower:
    """Take the text tower of a private `model` apart; ValueError where that is not exact."""
    _check(model, "text", is_plain_text(model))
    text, pool, end = text_parts(model)

    def pooled(tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        return text_global_pool(positions, tokens, pool, eos_token_id=end)[:, None]

    projection = text.text_projection
    linear = isinstance(projection, nn.Linear)
    return Tower(
        name="text",
        blocks=text.transformer.resblocks,
        batch_first=text.transformer.batch_first,
        encode=model.encode_text,
        pooled=pooled,
        norm=text.ln_final,
        norm_after_pooling=False,
        projection=projection.weight.T if linear else projection,
        projection_bias=projection.bias if linear else None,
    )


def is_plain_text(model: CLIPModel) -> bool:
    """Whether the text tower of `model` can be split exactly."""
    text, pool, _ = text_parts(model)
    return (
        (text is model or type(text) is TextTransformer)
        and getattr(text, "cls_emb", None) is None
        and pool in ("first", "last", "argmax", "eos")
        and _plain(text.transformer.resblocks)
    )


def cut_to_longest_prompt(model: CLIPModel, tower: Tower, tokens: Tensor) -> Tensor:
    """Cut a causal text tower to the longest prompt: what follows the pooled token reaches nothing.

    Parameters
    ----------
    model : torch.nn.Module
        Private; its text tower is changed in place.
    tower : Tower
        From ``splittable_text_tower(model)``.
    tokens : int64 Tensor of shape (n_prompts, context_length)

    Returns
    -------
    tokens : int64 Tensor of shape (n_prompts, length)
        All of them where the tower is not causal.
    """
    text = towers.text_tower(model)
    if not towers.is_causal(text.attn_mask):
        return tokens
    length = int(tower.pooled(tokens).max()) + 1
    towers.cut_context(text, text.positional_embedding, text.attn_mask, length)
    return tokens[:, :length]


def _plain(blocks: Sequence[nn.Module]) -> bool:
    """Whether every block adds its attention and its MLP to the stream, and nothing else."""
    return all(type(block) is ResidualAttentionBlock for block in blocks)


def _check(model: CLIPModel, tower: str, supported: bool) -> None:
    if not supported:
        raise ValueError(
            f"the {tower} tower ({tower_kinds(model)[tower]}) cannot be split exactly. Supported "
            "are open_clip's own vision transformers with class-token or average pooling and its "
            "own text transformers, as in ViT-B-16, ViT-L-14, ViT-H-14 and 'tiny'; not towers of "
            "timm or Hugging Face, ResNets, attention pooling (CoCa) or extra norms inside the "
            "blocks. head_changes(clf) needs none of this."
        )


@torch.no_grad()
def split(tower: Tower, inputs: Tensor, *, by_source: bool = False) -> SplitEmbeddings:
    """Split the embeddings of a batch into contributions, with the last norm linearised.

    The last layer norm is linear once mean and deviation of this very input are taken as constants:
    every contribution loses its own mean and is divided by the deviation of the sum. Attention
    weights, too, are those of this input.

    Parameters
    ----------
    tower : Tower
        Of a private model; its blocks are hooked while this runs.
    inputs : Tensor
        Normalised pixels, or tokens.
    by_source : bool, default=False
        Whether to return `SplitEmbeddings.by_source`.

    Returns
    -------
    split : SplitEmbeddings
    """
    embedding, streams, mlps, mask = _run(tower, inputs)
    rows = tower.pooled(inputs)
    weights = _pooling_weights(tower, _at(streams[-1], rows))
    parts = [_pool(_at(streams[0], rows), weights)[:, None]]
    sources = torch.zeros_like(streams[0]) if by_source else None
    for block, x, mlp in zip(tower.blocks, streams, mlps, strict=False):
        heads, from_source = _heads_output(block, x, mask, rows, weights, by_source)
        bias = weights.sum(dim=1)[:, None] * block.ls_1(block.attn.out_proj.bias)
        parts += [heads, bias[:, None], _pool(_at(mlp, rows), weights)[:, None]]
        if sources is not None and from_source is not None:
            sources += from_source
    constant = tower.constant().expand(len(embedding), 1, -1)
    return SplitEmbeddings(
        embedding.float(),
        torch.cat([tower.project(torch.cat(parts, dim=1)), constant], dim=1),
        None if sources is None else tower.project(sources),
    )


def leading_directions(tower: Tower, block: int, head: int) -> tuple[NDArray, NDArray]:
    """Decompose what a head writes into the joint space for what it reads from its norm.

    Returns
    -------
    directions : array of shape (n_features, head_width)
        Left singular vectors, largest first.
    values : array of shape (head_width,)
    """
    layer = tower.blocks[block]
    attention = layer.attn
    columns = attention.out_proj.weight.detach().unflatten(1, (attention.num_heads, -1))[:, head]
    written = tower.project(layer.ls_1(columns.T)).T
    rows = attention.in_proj_weight.detach().chunk(3)[2]
    read = rows.unflatten(0, (attention.num_heads, -1))[head] * layer.ln_1.weight.detach()
    q, r = np.linalg.qr(_float64(written))
    u, values, _ = np.linalg.svd(r @ _float64(read), full_matrices=False)
    return q @ u, values


def _run(tower: Tower, inputs: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor | None]:
    """Run open_clip's forward pass; note the stream before each block and after all, and the MLPs.

    Returns
    -------
    embedding, streams, mlps, attention mask
    """
    streams, mlps, masks = [], [], []

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        streams.append(args[0])
        masks.append(kwargs.get("attn_mask"))

    def after_mlp(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        mlps.append(output)

    def after(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        streams.append(output)

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in tower.blocks]
    hooks += [block.ls_2.register_forward_hook(after_mlp) for block in tower.blocks]
    hooks.append(tower.blocks[-1].register_forward_hook(after))
    try:
        embedding = tower.encode(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not tower.batch_first:
        streams, mlps = ([x.transpose(0, 1) for x in noted] for noted in (streams, mlps))
    return embedding, streams, mlps, masks[0]


def _pooling_weights(tower: Tower, pooled: Tensor) -> Tensor:
    """Return what each pooled token's stream is multiplied by, of shape (batch, n_pooled)."""
    n_pooled = pooled.shape[1]
    normed = pooled.mean(dim=1, keepdim=True) if tower.norm_after_pooling else pooled
    deviation = (normed.var(dim=-1, correction=0) + tower.norm.eps).sqrt()
    return (1 / (n_pooled * deviation)).expand(-1, n_pooled)


def _heads_output(
    block: ResidualAttentionBlock,
    x: Tensor,
    mask: Tensor | None,
    rows: Tensor,
    weights: Tensor,
    by_source: bool,
) -> tuple[Tensor, Tensor | None]:
    """Compute what each head adds to the pooled tokens, together and by source token.

    Returns
    -------
    by_head : Tensor of shape (batch, n_heads, width)
        Without the output bias, with the head's share of the value bias.
    by_source : Tensor of shape (batch, n_tokens, width) or None
    """
    attention, n_heads = block.attn, block.attn.num_heads
    normed = block.ln_1(x)
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, bk, bv = attention.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(source, weight, bias).unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for source, weight, bias in (
            (_at(normed, rows), wq, bq),
            (normed, wk, bk),
            (normed, wv, bv),
        )
    )
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits + _mask_rows(mask, rows, n_heads)
    looked_at = (weights[:, None, :, None] * logits.softmax(dim=-1)).sum(dim=2)  # b, head, token
    output = attention.out_proj.weight.unflatten(1, (n_heads, -1))
    read = torch.einsum("bht,bhtk->bhk", looked_at, v)
    by_head = block.ls_1(torch.einsum("bhk,dhk->bhd", read, output))
    if not by_source:
        return by_head, None
    written = torch.einsum("bht,bhtk,dhk->btd", looked_at, v, output)
    return by_head, block.ls_1(written)


def _mask_rows(mask: Tensor, rows: Tensor, n_heads: int) -> Tensor:
    """Take the pooled tokens' rows of an additive mask, of shape (batch, 1 or heads, rows, t)."""
    if mask.ndim == 2:
        return mask[rows][:, None]
    per_head = mask.unflatten(0, (-1, n_heads))
    index = rows[:, None, :, None].expand(-1, n_heads, -1, per_head.shape[-1])
    return per_head.gather(2, index)


def _at(x: Tensor, rows: Tensor) -> Tensor:
    """Take the tokens `rows` (batch, n) of x (batch, n_tokens, width)."""
    return x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[-1]))


def _pool(x: Tensor, weights: Tensor) -> Tensor:
    """Add up tokens (batch, n, width) with weights (batch, n)."""
    return torch.einsum("bn,bnd->bd", weights, x)


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().numpy().astype(np.float64)
