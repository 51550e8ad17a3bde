"""The text tower in a training step: every prompt encoded as if whole, each token once.

In a causal text tower no token sees a later one, so whatever follows the end-of-text token never
reaches the features, and prompts that begin alike share what they begin with. A Hugging Face tower
masks its padding. Towers that attend to their padding (SigLIP), or append a token behind it
(CoCa), are left alone.
"""

from __future__ import annotations

import numpy as np
import torch
from open_clip.transformer import (
    ResidualAttentionBlock,
    Transformer,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ..adaptation import Adaptation, AdaptedAttention
from ..clip.towers import (
    CLIPModel,
    FindEnds,
    TextTower,
    can_pool,
    cut_context,
    draws_random_numbers,
    end_finder,
    place_positions,
    text_tower,
)
from .frozen_blocks import FrozenBlocks, PooledBlock, freeze_below
from .prompt_tree import Attention, PromptTree


class TextEncoder:
    """A text tower in training form, for whole prompts; `arrange` says which.

    Parameters
    ----------
    model : torch.nn.Module
        A private model; its text tower is changed in place.
    find_ends : callable or None
        Maps such tokens to the position of each end-of-text token, where the tower is causal.

    Attributes
    ----------
    n_tokens : int
        Tokens that pass through the tower in one call.
    """

    def __init__(self, model: CLIPModel, find_ends: FindEnds | None = None):
        self.model, self.tower, self.find_ends = model, text_tower(model), find_ends
        self.frozen: FrozenBlocks | None = None

    def arrange(self, tokens: Tensor) -> None:
        """Take up prompts, of shape (n_prompts, context_length)."""
        self.tokens = self._needed(tokens)
        self.n_tokens = self.tokens.numel()
        if self.frozen is not None:
            self.frozen.forget(len(self.tokens))

    def __call__(self) -> Tensor:
        """Encode the prompts: (n_prompts, n_features), not normalised."""
        if self.frozen is None:
            return self._encode()
        with self.frozen.about(np.arange(len(self.tokens))):
            return self._encode()

    def _encode(self) -> Tensor:
        return self.model.encode_text(self.tokens)

    def _needed(self, tokens: Tensor) -> Tensor:
        """Leave out tokens that reach no feature."""
        return tokens


class CutTextEncoder(TextEncoder):
    """A tower whose prompts are cut to the longest one."""

    def __init__(self, model: CLIPModel, find_ends: FindEnds | None = None):
        super().__init__(model, find_ends)
        if find_ends is not None:
            self.positions, self.mask = self.tower.positional_embedding, self.tower.attn_mask

    def _needed(self, tokens: Tensor) -> Tensor:
        if self.find_ends is None:
            return tokens[:, : _masked_length(self.tower, tokens)]
        length = int(self.find_ends(tokens).max()) + 1
        cut_context(self.tower, self.positions, self.mask, length)
        return tokens[:, :length]


class SharedTextEncoder(TextEncoder):
    """A causal tower that computes each distinct beginning of a prompt once.

    The prompts' tokens form a tree; its nodes pass through the tower as one sequence. Only
    attention looks along the tree: for a few prompts at a time it gathers what they look at.
    """

    find_ends: FindEnds

    def __init__(self, model: CLIPModel, find_ends: FindEnds):
        super().__init__(model, find_ends)
        tower = self.tower
        # Not this encoder: what its model holds of it would be a circle, which keeps all memory of
        # a fit until the garbage collector comes by.
        self.arranged = arranged = _Arranged()
        self.positions = tower.positional_embedding
        tower.attn_mask = None
        setattr(tower, "text_pool_type" if tower is model else "pool_type", "none")
        blocks = tower.transformer.resblocks
        for block in blocks:
            if isinstance(block.attn, nn.MultiheadAttention):
                block.attn = AdaptedAttention(block.attn, (), None)
            block.attn.attend = arranged.attend
        blocks[-1].attn.attend = arranged.attend_from_ends
        blocks[-1] = PooledBlock(blocks[-1], arranged.ends)

    def _encode(self) -> Tensor:
        return self.model.encode_text(self.tokens)[0]

    def _needed(self, tokens: Tensor) -> Tensor:
        tree = self.arranged.tree = PromptTree.of(tokens, self.find_ends(tokens))
        place_positions(self.tower, self.positions[tree.depth])
        return tree.token[None]


class _Arranged:
    """The tree that a tower computes, for the parts of the tower that look along it."""

    tree: PromptTree

    def ends(self, x: Tensor) -> Tensor:
        """Pick the last token of every prompt."""
        return _rows(x, self.tree.ends[None])

    def attend(self, q: Tensor, k: Tensor, v: Tensor, n_heads: int, _: Tensor | None) -> Tensor:
        """Attend among all tokens."""
        return _attend_among(self.tree.of_nodes, q, k, v, n_heads)

    def attend_from_ends(
        self, q: Tensor, k: Tensor, v: Tensor, n_heads: int, _: Tensor | None
    ) -> Tensor:
        """Attend from the last tokens alone."""
        return _attend_among(self.tree.of_ends, q, k, v, n_heads)


def text_encoder(model: CLIPModel, tokens: Tensor, adaptation: Adaptation) -> TextEncoder:
    """Choose the form of a private model's text tower that computes least, and is exact.

    Parameters
    ----------
    model : torch.nn.Module
        With the adaptation installed; its text tower is changed in place.
    tokens : int64 Tensor of shape (n_prompts, context_length)
        The prompts that it is going to encode.
    adaptation : Adaptation
        Prompts share no tokens where it draws random numbers: each is to have its own.

    Returns
    -------
    encoder : TextEncoder
        Ready to encode `tokens`; blocks below the first adapted one are computed once.
    """
    encoder = _form(model, tokens, adaptation)
    encoder.frozen = freeze_below(model, "text", adaptation.targets)
    encoder.arrange(tokens)
    return encoder


def _form(model: CLIPModel, tokens: Tensor, adaptation: Adaptation) -> TextEncoder:
    tower = text_tower(model)
    if hasattr(tower, "config"):
        cut = _masked_length(tower, tokens) is not None
        return CutTextEncoder(model) if cut else TextEncoder(model)
    find_ends = end_finder(model)
    if find_ends is None:
        return TextEncoder(model)
    transformer = tower.transformer
    can_share = (
        isinstance(transformer, Transformer)
        and can_pool(transformer)
        and all(type(block) is ResidualAttentionBlock for block in transformer.resblocks)
        and not getattr(tower, "output_tokens", False)
    )
    if can_share and not adaptation.is_random and not draws_random_numbers(tower):
        return SharedTextEncoder(model, find_ends)
    return CutTextEncoder(model, find_ends)


def _masked_length(tower: TextTower, tokens: Tensor) -> int | None:
    """Longest prompt without its padding, where all padding is at the end."""
    kept = tokens != tower.config.pad_token_id
    lengths = kept.sum(dim=-1)
    at_the_end = kept == (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])
    return int(lengths.max()) if at_the_end.all() else None


def _attend_among(attention: Attention, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
    """Mix values of a tree's nodes, (1, n_nodes, width), for queries (1, n_queries, width)."""
    q = _heads(_rows(q, attention.queries), n_heads)
    k, v = (_heads(_rows(x, attention.keys), n_heads) for x in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention.allowed)
    return _rows(y.transpose(1, 2).flatten(2).flatten(0, 1), attention.place[None])


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows of (1, n, width) or (n, width); embedding's backward pass adds up fastest."""
    return F.embedding(index, x[0] if x.ndim == 3 else x)


def _heads(x: Tensor, n_heads: int) -> Tensor:
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)
