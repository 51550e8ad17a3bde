"""Whatever a user calls an image -> uint8 -> normalised batches; shared decoding; augmentation."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from . import _decoded
from ._augment import resize_each, resize_together, send
from ._memory import IMAGES

# Training crops are cut from a copy whose short side is at most this many times the model's input
# side: crops of at least a quarter of the area (most of them) keep their full sharpness, and a
# photograph takes 0.8 MB instead of 36.
_SOURCE_SCALE = 2
# A JPEG of this many pixels is decoded at half its size or less, where enough is left: this many
# times the model's input side. A photograph's view then changes by one to four levels of 255 at
# most, and is there two to five times as fast (`python -m benchmarks.decode`).
_LARGE_JPEG = 8_000_000
_ENOUGH = 6
_NAMED_AT_MOST = 10
# A larger set to predict is not the validation part of a search, which is asked for many times.
_KEPT_AT_MOST = 2000

Item = str | bytes | Image.Image | NDArray[np.uint8]
Name = Callable[[int], str]
_ROW_OF_X: Name = "X[{}]".format


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


def as_items(X: Any) -> list[Item]:
    """Turn any supported container of images into a list, without reading a file.

    Parameters
    ----------
    X : sequence
        Paths (str or Path), encoded images (bytes), PIL images or (height, width, 3) uint8 arrays
        in a list, tuple, 1-D or (n, 1) array, Series, one-column frame or pyarrow array; or one
        (n, height, width, 3) uint8 array.

    Returns
    -------
    items : list
        str for paths; bytes, PIL images and arrays as they came.

    Raises
    ------
    TypeError, ValueError
        Anything else, with the index and what to pass instead.
    """
    items = [_as_item(index, item) for index, item in enumerate(_as_sequence(X))]
    if not items:
        raise ValueError(
            "Found array with 0 sample(s) (shape=(0,)) while a minimum of 1 is required: "
            "X has no images."
        )
    return items


def _as_sequence(X: Any) -> Sequence[Any]:
    if isinstance(X, (str, bytes, os.PathLike, Image.Image)):
        raise ValueError(
            f"X expects a sequence of images, got a single {type(X).__name__}; wrap it in a list: "
            f"[{_short(X)}]."
        )
    if isinstance(X, (list, tuple)):
        return X
    if hasattr(X, "to_pylist"):  # pyarrow
        return X.to_pylist()
    if getattr(X, "ndim", getattr(X, "shape", None)) is None:
        raise TypeError(
            "X must be a list, array, Series or one-column frame of image paths, PIL images, "
            f"bytes or uint8 arrays; got {type(X).__name__}."
        )
    if hasattr(X, "columns"):  # pandas and polars frames
        if len(X.columns) != 1:
            raise ValueError(
                f"X is a frame of shape {tuple(X.shape)}; pass the one column that holds the image "
                f"paths, for example X[{str(X.columns[0])!r}]."
            )
        X = X[X.columns[0]]
    return _array_as_sequence(X if isinstance(X, np.ndarray) else X.to_numpy())


def _array_as_sequence(X: np.ndarray) -> Sequence[Any]:
    if X.ndim == 4 and X.dtype == np.uint8 and X.shape[-1] == 3:
        return list(X)
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUS":
        X = X[:, 0]
    if X.ndim == 1:
        return X.tolist()  # whatever is no image is named by its index later
    raise ValueError(
        f"X has shape {X.shape} and dtype {X.dtype}; expected image paths of shape (n,) or (n, 1), "
        "or uint8 images of shape (n, height, width, 3). For embeddings use CosineClassifier."
    )


def _as_item(index: int, item: Any) -> Item:
    if hasattr(item, "as_py"):  # pyarrow's scalars, as scikit-learn < 1.8 indexes its arrays
        item = item.as_py()
    if isinstance(item, os.PathLike):
        item = os.fspath(item)
    if isinstance(item, np.ndarray):
        return _checked_array(index, item)
    if isinstance(item, (list, tuple)) and len(item) == 1:
        return _as_item(index, item[0])
    if isinstance(item, (str, bytes, Image.Image)):
        return item
    if item is None or type(item).__name__ in {"NAType", "NaTType"} or item != item:
        raise ValueError(f"X[{index}] is missing (NaN or None); drop the row or give it an image.")
    raise TypeError(
        f"X[{index}] is a {type(item).__name__}; expected a path (str or Path), encoded bytes, a "
        "PIL image or a (height, width, 3) uint8 array."
    )


def _checked_array(index: int, array: np.ndarray) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"X[{index}] has shape {array.shape} and dtype {array.dtype}; an image array must be "
            "uint8 of shape (height, width, 3) with values 0 to 255."
        )
    return array


def check_exist(items: Sequence[Item], name: Name = _ROW_OF_X) -> None:
    """Raise FileNotFoundError that names the paths which do not exist, by index."""
    missing = [(i, item) for i, item in enumerate(items) if _is_missing(item)]
    if missing:
        raise FileNotFoundError(_list_bad(missing, name, "no such file"))


def decode_all(
    items: Sequence[Item],
    preprocess: PreprocessCfg,
    n_threads: int,
    *,
    keep: bool = True,
    name: Name = _ROW_OF_X,
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
        raise ValueError(_list_bad(named, name, "cannot be decoded")) from bad[0][1]
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
            batch, preprocess, n_threads, keep=keep, name=lambda i: _ROW_OF_X(start + i)
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


def stack_views(decoded: Sequence[Decoded]) -> Tensor:
    """Stack what the model sees into a uint8 tensor of shape (batch, 3, height, width)."""
    stacked = np.stack([d.view for d in decoded])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()


def normalise(batch: Tensor, preprocess: PreprocessCfg, device: torch.device) -> Tensor:
    """Turn uint8 pixels into the model's float32 input, bit for bit as open_clip does."""
    mean = send(torch.tensor(preprocess.mean), device).view(-1, 1, 1)
    std = send(torch.tensor(preprocess.std), device).view(-1, 1, 1)
    return send(batch, device).float().div_(255).sub_(mean).div_(std)


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
        top, left, height, width = random_crop(*image.source.shape[:2], rng)
        crops.append(image.source[top : top + height, left : left + width])
        mirrored.append(rng.uniform() < 0.5)
    size, interpolation = size_of(preprocess), _interpolation(preprocess)
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


def _decode_shared(item: Item, preprocess: PreprocessCfg, keep: bool) -> Decoded:
    key = (identity(item), _config_key(preprocess))
    if not keep:
        found = IMAGES.get(key)
        return _decode(item, preprocess, with_source=False) if found is None else found

    def make() -> tuple[Decoded, int]:
        arrays = _decoded.read(key)
        if arrays is None or arrays.keys() != {"view", "source"}:
            decoded = _decode(item, preprocess)
            _decoded.write(key, view=decoded.view, source=decoded.source)
        else:
            decoded = Decoded(**arrays)
        return decoded, decoded.view.nbytes + decoded.source.nbytes

    return IMAGES.get_or_make(key, make)


def identity(item: Item) -> tuple:
    """What makes two items the same image: a path with its stamp, or the content itself."""
    if isinstance(item, str):
        stat = os.stat(item)
        return ("path", os.path.abspath(item), stat.st_mtime_ns, stat.st_size)
    if isinstance(item, bytes):
        return ("bytes", hashlib.sha256(item).digest())
    pixels = np.ascontiguousarray(item if isinstance(item, np.ndarray) else _open(item))
    return ("pixels", pixels.shape, hashlib.sha256(pixels.data).digest())


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
    view = np.array(_view_transform(preprocess)(image), dtype=np.uint8)
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


def _view_transform(preprocess: PreprocessCfg) -> Callable[[Image.Image], Image.Image]:
    """Build open_clip's own evaluation transform, up to but without tensor and normalisation."""
    steps = image_transform_v2(preprocess, is_train=False).transforms[:-2]

    def apply(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return apply


def size_of(preprocess: PreprocessCfg) -> tuple[int, int]:
    """Return the height and width that the model wants."""
    size = preprocess.size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _interpolation(preprocess: PreprocessCfg) -> InterpolationMode:
    return InterpolationMode(preprocess.interpolation.replace("random", "bicubic"))


def _expected_bytes(preprocess: PreprocessCfg) -> int:
    """Guess what one decoded photograph (4:3) takes in the cache."""
    height, width = size_of(preprocess)
    return 3 * height * width + 4 * _SOURCE_SCALE**2 * max(height, width) ** 2


def _is_missing(item: Item) -> bool:
    return isinstance(item, str) and not os.path.exists(item)


def _reason(error: Exception) -> str:
    if isinstance(error, IsADirectoryError):
        return "is a folder"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _list_bad(bad: Sequence[tuple], name: Name, problem: str) -> str:
    lines = [
        f"{name(index)} = {_short(item)}{': ' + reason[0] if reason else ''}"
        for index, item, *reason in bad[:_NAMED_AT_MOST]
    ]
    if len(bad) > _NAMED_AT_MOST:
        lines.append(f"and {len(bad) - _NAMED_AT_MOST} more")
    advice = "Correct the paths" if problem == "no such file" else "Replace the files"
    relative = any(isinstance(item, str) and not Path(item).is_absolute() for _, item, *_ in bad)
    where = f" (relative paths start at {os.getcwd()})" if relative else ""
    return f"{len(bad)} image(s): {problem}{where}. {advice} or drop the rows: " + "; ".join(lines)


def _short(item: Any) -> str:
    if isinstance(item, bytes):
        return f"<{len(item)} bytes>"
    if isinstance(item, Image.Image):
        return f"<PIL image {item.size[0]}x{item.size[1]} {item.mode}>"
    return repr(os.fspath(item) if isinstance(item, os.PathLike) else item)
