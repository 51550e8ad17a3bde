"""What a model wants to see: size, view, normalised pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

_LONGEST = 16


def size_of(preprocess: PreprocessCfg) -> tuple[int, int]:
    """Return the height and width that the model wants."""
    size = preprocess.size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def interpolation_of(preprocess: PreprocessCfg) -> InterpolationMode:
    """Return how the model's configuration resizes; "random" counts as bicubic."""
    return InterpolationMode(preprocess.interpolation.replace("random", "bicubic"))


def view_transform(preprocess: PreprocessCfg) -> Callable[[Image.Image], Image.Image]:
    """Build open_clip's own evaluation transform, up to but without tensor and normalisation.

    Of an image over 16 times as long as wide only the middle is resized where the rest is cropped
    away: the result lies within half a pixel, and its size no longer grows with the long side.
    """
    steps = image_transform_v2(preprocess, is_train=False).transforms[:-2]
    height, width = size_of(preprocess)
    longest = _LONGEST * max(height, width) / min(height, width)

    def apply(image: Image.Image) -> Image.Image:
        if preprocess.resize_mode in (None, "shortest"):
            image = _middle(image, longest)
        for step in steps:
            image = step(image)
        return image

    return apply


def _middle(image: Image.Image, longest: float) -> Image.Image:
    """Cut both ends of an image off alike, beyond `longest` times its short side."""
    short, long = sorted(image.size)
    keep = math.ceil(longest * short)
    keep += (long - keep) % 2  # so that the centre stays where it is
    if keep >= long:
        return image
    start = (long - keep) // 2
    if image.width == long:
        return image.crop((start, 0, start + keep, image.height))
    return image.crop((0, start, image.width, start + keep))


def normalise(batch: Tensor, preprocess: PreprocessCfg, device: torch.device) -> Tensor:
    """Turn uint8 pixels into the model's float32 input, bit for bit as open_clip does."""
    mean = send(torch.tensor(preprocess.mean), device).view(-1, 1, 1)
    std = send(torch.tensor(preprocess.std), device).view(-1, 1, 1)
    return send(batch, device).float().div_(255).sub_(mean).div_(std)


def send(batch: Tensor, device: torch.device) -> Tensor:
    """Copy a batch to `device` without waiting for what the device still has to do."""
    if device.type == "cuda" and batch.device.type == "cpu":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)
