"""Random crops and mirror images, as published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from torch import Tensor

from .decoding import Decoded
from .preprocessing import interpolation_of, size_of
from .resizing import resize_each, resize_together


def augment(
    decoded: Sequence[Decoded],
    preprocess: PreprocessCfg,
    rng: np.random.RandomState,
    device: torch.device,
) -> Tensor:
    """Cut a random crop from each image and mirror half of them.

    The published recipe: area uniform in (0.08, 1) of the image, aspect ratio log-uniform in
    (3/4, 4/3), horizontal flip with probability 1/2. What is drawn does not depend on `device`.

    Parameters
    ----------
    decoded : sequence of Decoded
        Images with their sources.
    preprocess : PreprocessCfg
        The model's image configuration.
    rng : RandomState
        What crops and flips are drawn from.
    device : torch.device
        The model's device. A GPU resizes all crops at once; for every other device the CPU
        resizes them one by one.

    Returns
    -------
    batch : uint8 tensor of shape (batch, 3, height, width)
        On a GPU if `device` is one, else on the CPU.
    """
    crops, mirrored = [], []
    for image in decoded:
        source = image.source
        assert source is not None  # decoded to be trained on
        top, left, height, width = random_crop(source.shape[0], source.shape[1], rng)
        crops.append(source[top : top + height, left : left + width])
        mirrored.append(rng.uniform() < 0.5)
    size, interpolation = size_of(preprocess), interpolation_of(preprocess)
    if device.type == "cuda":
        return resize_together(crops, mirrored, size, interpolation, device)
    return resize_each(crops, mirrored, size, interpolation)


def random_crop(
    height: int,
    width: int,
    rng: np.random.RandomState,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw a crop like torchvision's RandomResizedCrop, from a generator of our own.

    Returns
    -------
    top, left, height, width : int
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(height - h + 1), rng.randint(width - w + 1), h, w
    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return (height - h) // 2, (width - w) // 2, h, w
