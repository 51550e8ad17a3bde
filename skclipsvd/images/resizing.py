"""Crops of many sizes brought to the model's size: one by one, or all at once on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from .preprocessing import send

Crops = Sequence[NDArray[np.uint8]]


def resize_each(
    crops: Crops, mirrored: Sequence[bool], size: tuple[int, int], interpolation: InterpolationMode
) -> Tensor:
    """Resize crops one by one on the CPU, where torchvision touches only the pixels it needs.

    Parameters
    ----------
    crops : sequence of uint8 arrays of shape (height, width, 3)
        Each of its own size.
    mirrored : sequence of bool
        Which of them to show mirrored.
    size : tuple of int
        Height and width of all results.
    interpolation : InterpolationMode
        Bicubic or bilinear, antialiased.

    Returns
    -------
    batch : uint8 tensor of shape (batch, 3, height, width)
    """
    resized = []
    for crop, mirror in zip(crops, mirrored, strict=True):
        shown = np.array(crop[:, ::-1] if mirror else crop, order="C")
        pixels = torch.from_numpy(shown).permute(2, 0, 1)
        resized.append(tvf.resize(pixels, list(size), interpolation, antialias=True))
    return torch.stack(resized)


def resize_together(
    crops: Crops,
    mirrored: Sequence[bool],
    size: tuple[int, int],
    interpolation: InterpolationMode,
    device: torch.device,
) -> Tensor:
    """Resize crops of any sizes in two batched matrix products on `device`.

    The arithmetic is that of `resize_each`: rows first, rounded to whole levels after either
    product, with weights rounded as torch's uint8 kernels round them. What is enlarged is the
    same to the bit. Where something shrinks, float32 sums that end next to a half may round the
    other way: one level, in a few pixels of a million.

    Parameters
    ----------
    crops, mirrored, size, interpolation
        See `resize_each`.
    device : torch.device
        Where to compute, and where the result is.

    Returns
    -------
    batch : uint8 tensor of shape (batch, 3, height, width)
    """
    pixels = send(_pack(crops, pinned=device.type == "cuda"), device)
    shapes = send(torch.tensor([crop.shape[:2] for crop in crops]), device)
    turned = send(torch.tensor(mirrored), device).view(-1, 1, 1)
    n, longest_height, longest_width, _ = pixels.shape
    height, width = size
    across = _weights(shapes[:, 1], width, longest_width, interpolation)
    across = torch.where(turned, across.flip(1), across)
    down = _weights(shapes[:, 0], height, longest_height, interpolation)
    # Channels between rows and columns: both products then read their operands as they lie.
    rows = pixels.transpose(2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    rows = rows.view(n, longest_height * 3, longest_width)
    with torch.autocast(device.type, enabled=False):  # half precision does not hold 256 levels
        columns = _levels(torch.bmm(rows, across.transpose(1, 2)))
        columns = columns.view(n, longest_height, 3 * width)
        resized = _levels(torch.bmm(down, columns)).to(torch.uint8)
    return resized.view(n, height, 3, width).transpose(1, 2).contiguous()


def _pack(crops: Crops, *, pinned: bool) -> Tensor:
    """Put crops into the corners of one (batch, longest height, longest width, 3) tensor.

    The memory beside a crop is not initialised: its weights are zero.
    """
    height, width = np.max([crop.shape[:2] for crop in crops], axis=0)
    packed = torch.empty((len(crops), height, width, 3), dtype=torch.uint8, pin_memory=pinned)
    places = packed.numpy()
    for place, crop in zip(places, crops, strict=True):
        place[: crop.shape[0], : crop.shape[1]] = crop
    return packed


def _weights(sides: Tensor, size: int, longest: int, interpolation: InterpolationMode) -> Tensor:
    """Return what each of `longest` pixels adds to each of `size` results, for every crop.

    An antialiasing filter is as wide as one result, or one pixel where that is wider. The filters
    vanish at the end of their support, so that no other window has to be cut.

    Returns
    -------
    weights : float32 tensor of shape (batch, size, longest)
        Rows add up to 1 but for rounding.
    """
    sides = sides.to(torch.float64).view(-1, 1, 1)
    result = torch.arange(size, device=sides.device).view(-1, 1)
    pixel = torch.arange(longest, device=sides.device)
    scale = sides / size
    distance = (pixel + 0.5 - (result + 0.5) * scale) / scale.clamp(min=1)
    weights = _FILTERS[interpolation](distance.abs()) * (pixel < sides)
    return _rounded(weights / weights.sum(dim=2, keepdim=True)).to(torch.float32)


def _rounded(weights: Tensor) -> Tensor:
    """Round weights as torch's uint8 kernels do: the largest one of a crop just fits 16 bits."""
    largest = weights.amax(dim=(1, 2), keepdim=True)
    unit = torch.exp2(torch.floor(torch.log2((2**15 - 0.5) / largest)).clamp(max=22))
    return torch.trunc(weights * unit + 0.5 * weights.sign()) / unit


def _levels(values: Tensor) -> Tensor:
    """Round half up, in place, to what 8 bits can hold."""
    return values.add_(0.5).floor_().clamp_(0, 255)


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2, as everywhere where images are antialiased."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


_FILTERS = {InterpolationMode.BILINEAR: _bilinear, InterpolationMode.BICUBIC: _bicubic}
