"""Images -> uint8 pixels, each decoded once per process; uint8 batches."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
from joblib.parallel import ThreadingBackend
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from PIL import Image, ImageOps
from torch import Tensor

from ..caching.process import IMAGES
from . import disk_cache
from .items import ROW_OF_X, Item, Name, check_exist, list_bad
from .preprocessing import size_of, view_transform

# Training crops are cut from a copy whose short side is at most this many times the model's input
# side: crops of at least a quarter of the area (most of them) keep their full sharpness, and a
# photograph takes 0.8 MB instead of 36.
_SOURCE_SCALE = 2
# A JPEG of this many pixels is decoded at half its size or less, where enough is left: this many
# times the model's input side. A photograph's view then changes by one to four levels of 255 at
# most, and is there two to five times as fast (`python -m benchmarks.decode`).
_LARGE_JPEG = 8_000_000
_ENOUGH = 6
# A larger set to predict is not the validation part of a search, which is asked for many times.
_KEPT_AT_MOST = 2000


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image, ready for both uses.

    Attributes
    ----------
    view : uint8 array of shape (height, width, 3)
        What the model sees when it predicts: resized and cropped as its configuration says.
    source : uint8 array of shape (height, width, 3) or None
        What training crops are cut from; None where the image only passes through to predict.
    """

    view: NDArray[np.uint8]
    source: NDArray[np.uint8] | None


def decode_all(
    items: Sequence[Item],
    preprocess: PreprocessCfg,
    n_threads: int,
    *,
    keep: bool = True,
    name: Name = ROW_OF_X,
) -> list[Decoded]:
    """Decode images in threads, each once per process while it stays in the shared cache.

    Parameters
    ----------
    items : sequence
        From `as_items`.
    preprocess : PreprocessCfg
        The model's image configuration.
    n_threads : int
        Threads to read and decode with.
    keep : bool, default=True
        Whether to put what was decoded into the shared cache; what is there is always used.
    name : callable, optional
        What error messages call ``items[i]``, ``"X[i]"`` by default.

    Returns
    -------
    decoded : list of Decoded

    Raises
    ------
    FileNotFoundError
        Paths that do not exist, by index.
    ValueError
        Images that cannot be decoded, by index and path. Every bad one of `items` is counted.
    """
    check_exist(items, name)

    def attempt(item: Item) -> Decoded | Exception:
        try:
            return _decode_shared(item, preprocess, keep)
        except Exception as error:
            return error

    if n_threads > 1 and len(items) > 1:
        with ThreadPoolExecutor(n_threads) as pool:
            results = list(pool.map(attempt, items))
    else:
        results = [attempt(item) for item in items]
    bad = [(i, r) for i, r in enumerate(results) if isinstance(r, Exception)]
    if bad:
        named = [(i, items[i], _reason(error)) for i, error in bad]
        raise ValueError(list_bad(named, name, "cannot be decoded")) from bad[0][1]
    return results


def iterate(
    items: Sequence[Item],
    preprocess: PreprocessCfg,
    n_threads: int,
    batch_size: int,
    *,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield uint8 batches of shape (batch, 3, height, width).

    Memory stays constant: images go into the shared cache, for the next call, only where they are
    few and all of them fit in half of it.

    Parameters
    ----------
    items, preprocess, n_threads
        As for `decode_all`.
    batch_size : int
        Images per batch.
    device : torch.device
        What the caller computes on. While it waits for a device, the next batch is decoded; on
        cores that already compute that would only get in the way.
    """
    room = IMAGES.max_bytes // (2 * _expected_bytes(preprocess))
    keep = len(items) <= min(_KEPT_AT_MOST, room)
    starts = range(0, len(items), batch_size)

    def load(start: int) -> Tensor:
        batch = items[start : start + batch_size]
        decoded = decode_all(
            batch, preprocess, n_threads, keep=keep, name=lambda i: ROW_OF_X(start + i)
        )
        return stack_views(decoded)

    if device.type == "cpu":
        yield from map(load, starts)
        return
    with ThreadPoolExecutor(1) as loader:
        pending = loader.submit(load, 0)
        for start in starts:
            batch = pending.result()
            if start + batch_size < len(items):
                pending = loader.submit(load, start + batch_size)
            yield batch


def decoding_threads(n_jobs: int | None) -> int:
    """Resolve the parameter `n_jobs`: as many threads as torch computes with where it is None."""
    if n_jobs is None:
        return torch.get_num_threads()
    # Of this process: a search's own backend, such as dask's, would count all machines.
    return ThreadingBackend().effective_n_jobs(n_jobs)


def stack_views(decoded: Sequence[Decoded]) -> Tensor:
    """Stack what the model sees into a uint8 tensor of shape (batch, 3, height, width)."""
    stacked = np.stack([d.view for d in decoded])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def identity(item: Item) -> tuple:
    """What makes two items the same image: a path with its stamp, or the content itself."""
    if isinstance(item, str):
        stat = os.stat(item)
        return ("path", os.path.abspath(item), stat.st_mtime_ns, stat.st_size)
    if isinstance(item, bytes):
        return ("bytes", hashlib.sha256(item).digest())
    pixels = np.ascontiguousarray(item if isinstance(item, np.ndarray) else _open(item))
    return ("pixels", pixels.shape, hashlib.sha256(pixels.data).digest())


def _decode_shared(item: Item, preprocess: PreprocessCfg, keep: bool) -> Decoded:
    key = (identity(item), _config_key(preprocess))
    if not keep:
        found = IMAGES.get(key)
        return _decode(item, preprocess, with_source=False) if found is None else found

    def make() -> tuple[Decoded, int]:
        arrays = disk_cache.read(key)
        if arrays is None or arrays.keys() != {"view", "source"}:
            decoded = _decode(item, preprocess)
            disk_cache.write(key, view=decoded.view, source=decoded.source)
        else:
            decoded = Decoded(**arrays)
        return decoded, decoded.view.nbytes + decoded.source.nbytes

    return IMAGES.get_or_make(key, make)


def _config_key(preprocess: PreprocessCfg) -> tuple:
    return (
        size_of(preprocess),
        preprocess.interpolation,
        preprocess.resize_mode,
        preprocess.fill_color,
        (_LARGE_JPEG, _ENOUGH),
    )


def _decode(item: Item, preprocess: PreprocessCfg, *, with_source: bool = True) -> Decoded:
    image = _open(item, enough=_ENOUGH * max(size_of(preprocess)))
    # Copies: what Pillow hands out without one holds twice as much memory.
    view = np.array(view_transform(preprocess)(image), dtype=np.uint8)
    if not with_source:
        return Decoded(view, None)
    short_side, limit = min(image.size), _SOURCE_SCALE * max(size_of(preprocess))
    if short_side > limit:
        size = [max(1, round(side * limit / short_side)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return Decoded(view, np.array(image, dtype=np.uint8))


def _open(item: Item, enough: int | None = None) -> Image.Image:
    """Open an image, upright and in RGB; of a large JPEG, `enough` pixels of the short side."""
    if isinstance(item, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(item))
    if isinstance(item, Image.Image):
        return _upright_to_rgb(ImageOps.exif_transpose(item))
    with Image.open(BytesIO(item) if isinstance(item, bytes) else item) as file:
        if enough is not None and math.prod(file.size) >= _LARGE_JPEG:
            _decode_smaller(file, enough)
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
        return _upright_to_rgb(file)


def _decode_smaller(file: Image.Image, enough: int) -> None:
    """Let a JPEG's decoder leave out what the coming reduction averages away.

    Only where both sides divide evenly: the model's crop is then the same to a pixel. Other formats
    stay as they are.
    """
    width, height = file.size
    for factor in (8, 4, 2):
        if min(file.size) >= factor * enough and width % factor == height % factor == 0:
            file.draft(None, (width // factor, height // factor))
            return


def _upright_to_rgb(image: Image.Image) -> Image.Image:
    """Show an upright image as a viewer would: first frame, on white where transparent."""
    if image.mode.startswith("I"):
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; convert to 8 bits first")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's own conversion clips everything above 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integer pixels outside 0..65535; convert to 8 or 16 bits first")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _expected_bytes(preprocess: PreprocessCfg) -> int:
    """Guess what one decoded photograph (4:3) takes in the cache."""
    height, width = size_of(preprocess)
    return 3 * height * width + 4 * _SOURCE_SCALE**2 * max(height, width) ** 2


def _reason(error: Exception) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    return " ".join(str(error).split())[:120] or type(error).__name__
