"""Transformer blocks in a training step: what is frozen is computed once, what nobody reads never.

Everything here changes a private model in place and gives the same features as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from open_clip.transformer import (
    ResidualAttentionBlock,
    Transformer,
    VisionTransformer,
)
from torch import Tensor, nn

from ..adaptation import Target
from ..clip.towers import CLIPModel, can_pool, draws_random_numbers, text_tower
from .memory_estimate import available_bytes

# Share of the free memory that remembered activations may take.
_SHARE = 0.25


class PooledBlock(nn.Module):
    """The last residual block, which computes only the tokens that its tower goes on to read.

    The others are needed as keys and values. For a class token that spares 78 % of the block.

    Parameters
    ----------
    block : ResidualAttentionBlock
        As it is, adapted or not.
    pick : callable
        Takes the tokens that are read out of (batch, tokens, width).
    """

    def __init__(self, block: ResidualAttentionBlock, pick: Callable[[Tensor], Tensor]):
        super().__init__()
        self.block, self.pick = block, pick

    def get_weight_dtype(self) -> torch.dtype:
        """Answer open_clip's question for the first block."""
        return self.block.get_weight_dtype()

    def forward(self, x: Tensor, *_: Any, attn_mask: Tensor | None = None) -> Tensor:
        """Return the tokens that are read, (batch, read, width)."""
        block, normed = self.block, self.block.ln_1(x)
        mixed, _ = block.attn(self.pick(normed), normed, normed, need_weights=False)
        x = self.pick(x) + block.ls_1(mixed)
        return x + block.ls_2(block.mlp(block.ln_2(x)))


class FrozenBlocks(nn.Module):
    """The blocks below the first adapted one: each row passes through them once.

    Parameters
    ----------
    blocks : sequence of torch.nn.Module
        In order.

    What comes out is remembered where a quarter of the free memory holds it for every row; that is
    decided once, at the first call about any row.
    """

    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self._rows: NDArray[np.intp] | None = None
        self.forget(0)

    def forget(self, n_rows: int) -> None:
        """Start anew, for `n_rows` rows."""
        self._known = np.zeros(n_rows, dtype=bool)
        self._values: Tensor | None = None
        self._has_room: bool | None = None

    @contextmanager
    def about(self, rows: NDArray[np.intp] | None) -> Iterator[None]:
        """Say which rows calls inside are about; None computes without remembering."""
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    def get_weight_dtype(self) -> torch.dtype:
        """Answer open_clip's question for the first block."""
        first: ResidualAttentionBlock = self.blocks[0]
        return first.get_weight_dtype()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return what comes out of the last frozen block, of the shape of `x` or its own."""
        rows = self._rows
        if rows is not None and self._values is not None and self._known[rows].all():
            return self._values[rows]
        with torch.no_grad():
            for block in self.blocks:
                x = block(x, *args, **kwargs)
        if rows is not None:
            self._remember(rows, x)
        return x

    def _remember(self, rows: NDArray[np.intp], x: Tensor) -> None:
        if self._has_room is None:
            free = available_bytes(x.device)
            self._has_room = free is None or x[0].nbytes * len(self._known) <= _SHARE * free
        if not self._has_room:
            return
        if self._values is None:
            self._values = x.new_empty(len(self._known), *x.shape[1:])
        self._values[rows] = x
        self._known[rows] = True


def read_only_class_token(model: CLIPModel) -> None:
    """Make the image tower's last block compute the class token alone, where only that is read.

    Parameters
    ----------
    model : torch.nn.Module
        A private model in training form; others than open_clip's own transformers are left alone.
    """
    visual = model.visual
    if (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
        and can_pool(visual.transformer)
    ):
        blocks = visual.transformer.resblocks
        blocks[-1] = PooledBlock(blocks[-1], lambda x: x[:, :1])


def freeze_below(model: CLIPModel, tower: str, targets: Sequence[Target]) -> FrozenBlocks | None:
    """Put the blocks of a tower below the first adapted one into a `FrozenBlocks`.

    Parameters
    ----------
    model : torch.nn.Module
        A private model in training form.
    tower : {"image", "text"}
        Which tower.
    targets : sequence of Target
        All that is adapted.

    Returns
    -------
    frozen : FrozenBlocks or None
        None where nothing lies below, where the blocks are no plain sequence, or where they draw
        random numbers.
    """
    parent, name = _place_of_blocks(model, tower)
    adapted = [target.block for target in targets if target.tower == tower]
    if parent is None or not adapted:
        return None
    blocks, first = getattr(parent, name), min(adapted)
    if first == 0 or draws_random_numbers(model.visual if tower == "image" else text_tower(model)):
        return None
    frozen = FrozenBlocks(blocks[:first])
    rest = nn.ModuleList([frozen, *blocks[first:]])
    setattr(parent, name, nn.Sequential(*rest) if isinstance(blocks, nn.Sequential) else rest)
    return frozen


def _place_of_blocks(model: CLIPModel, tower: str) -> tuple[nn.Module | None, str]:
    """Find the module and the attribute that hold a tower's blocks, which hand on one tensor."""
    trunk = getattr(model.visual, "trunk", None)
    if tower == "image" and isinstance(trunk, timm.models.VisionTransformer):
        return trunk, "blocks"
    whole = model.visual if tower == "image" else text_tower(model)
    transformer = getattr(whole, "transformer", None)
    return (transformer, "resblocks") if isinstance(transformer, Transformer) else (None, "")
