"""Images -> embeddings, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from torch import Tensor
from torch.nn import functional as F

from ..caching.memory import explained_out_of_memory
from ..images import Item, iterate, normalise
from ..progress import Bar
from .devices import autocast
from .towers import CLIPModel

# Matrix products take another path for a few rows than for many, and round differently. Whole
# multiples of this many images give every image the same bits wherever it stands.
_MULTIPLE = 8
_ADVICE = "Lower batch_size, call skclipsvd.clear_caches(), or choose a smaller model."


def unit_image_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Encode normalised pixels into float32 unit vectors of shape (batch, n_features)."""
    return F.normalize(model.encode_image(pixels).float(), dim=-1)


def embed(
    model: CLIPModel,
    items: Sequence[Item],
    preprocess: PreprocessCfg,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    n_threads: int,
    n_at_once: int | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
) -> NDArray[np.float32]:
    """Embed images batch by batch, in memory that does not grow with their number.

    Parameters
    ----------
    model : torch.nn.Module
        Merged.
    items : sequence
        From `images.as_items`.
    preprocess : PreprocessCfg
        The model's image configuration.
    device, dtype, batch_size, n_threads
        Where and how.
    n_at_once : int, optional
        Images of a batch that pass through the model at once: 1, 2, 4 or 8. By default all.
    head : callable, optional
        What to keep of a batch's float32 unit vectors of shape (batch, n_features). By default
        all.

    Returns
    -------
    kept : float32 array of shape (n_images, ...)
    """
    # One array for all: small ones, each held from between two batches' large blocks, would keep
    # the allocator from giving any of those back.
    kept: NDArray[np.float32] | None = None
    done = 0
    with Bar("embedding", len(items), "image", keep=True) as bar:
        for batch in iterate(items, preprocess, n_threads, batch_size, device=device):
            n = len(batch)
            padding = batch.new_zeros(-n % _MULTIPLE, *batch.shape[1:])
            with explained_out_of_memory(_ADVICE), torch.inference_mode():
                with autocast(device, dtype):
                    pixels = normalise(torch.cat([batch, padding]), preprocess, device)
                    parts = pixels.split(n_at_once or len(pixels))
                    features = torch.cat([unit_image_features(model, part) for part in parts])
                answers = (features if head is None else head(features))[:n].cpu().numpy()
            if kept is None:
                kept = np.empty((len(items), *answers.shape[1:]), dtype=np.float32)
            kept[done : done + n] = answers
            done += n
            bar.advance(n)
    assert kept is not None  # there is at least one image
    return kept
