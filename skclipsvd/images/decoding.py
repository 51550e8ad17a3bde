"""Images -> uint8 pixels, each decoded once per process; uint8 batches."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from joblib.parallel import ThreadingBackend
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg
from PIL import Image
from torch import Tensor

from ..caching.files import stamp
from ..caching.process import IMAGES
from . import disk_cache
from .formats import LARGE_JPEG, allowed_seconds, open_rgb, unfit
from .items import ROW_OF_X, Item, Name, list_bad, opened, short
from .preprocessing import size_of, view_transform
from .stored import Stored

# Training crops are cut from a copy whose short side is at most this many times the model's input
# side: crops of at least a quarter of the area (most of them) keep their full sharpness, and a
# photograph takes 0.8 MB instead of 36.
_SOURCE_SCALE = 2
# A large JPEG is decoded at half its size or less, where this many times the model's input side is
# left. A photograph's view then changes by one to four levels of 255 at most, and is there two to
# five times as fast (`python -m benchmarks.decode`).
_ENOUGH = 6
# A larger set to predict is not the validation part of a search, which is asked for many times.
_KEPT_AT_MOST = 2000
_NO_SUCH_FILE = "no such file"
# Part of the key of decoded images on disk: to be raised when the same file gives other pixels.
_PIXELS_VERSION = 2


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image, ready to predict and, where that was asked for, to train on.

    Attributes
    ----------
    view : uint8 array of shape (height, width, 3)
        What the model sees when it predicts: resized and cropped as its configuration says.
    source : uint8 array of shape (height, width, 3) or None
        What training crops are cut from; None where nobody asked for it.
    """

    view: NDArray[np.uint8]
    source: NDArray[np.uint8] | None


def decode_all(
    items: Sequence[Item],
    preprocess: PreprocessCfg,
    n_threads: int,
    *,
    for_crops: bool = False,
    keep: bool = True,
    name: Name = ROW_OF_X,
    one_is_done: Callable[[], None] = lambda: None,
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
    for_crops : bool, default=False
        Whether training crops will be cut, which takes several times the memory, and longer.
    keep : bool, default=True
        Whether to put what was decoded into the shared cache; what is there already is always used.
    name : callable, optional
        What error messages call ``items[i]``, ``"X[i]"`` by default.
    one_is_done : callable, optional
        Is called after each item, in their order.

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
    statuses = check_exist(items, name)
    decode = partial(_decode_shared, preprocess=preprocess, for_crops=for_crops, keep=keep)
    results = _attempt_all(items, statuses, decode, n_threads, one_is_done)
    bad = [(i, r) for i, r in enumerate(results) if isinstance(r, Exception)]
    for i, error in bad:
        if isinstance(error, MemoryError):
            raise MemoryError(
                f"memory ran out while {name(i)} = {short(items[i])} was decoded. Lower n_jobs, or "
                "shrink the largest images."
            ) from error
    if bad:
        named = [(i, items[i], _reason(error)) for i, error in bad]
        raise ValueError(list_bad(named, name, "cannot be decoded")) from bad[0][1]
    return [result for result in results if isinstance(result, Decoded)]


def find_unreadable(
    items: Sequence[Item], preprocess: PreprocessCfg, n_threads: int
) -> dict[int, str]:
    """Tell which images cannot be read, and why.

    Parameters
    ----------
    items, preprocess, n_threads
        As for `decode_all`.

    Returns
    -------
    reasons : dict of int to str
        By index.
    """
    looks = [_look(item) for item in items]
    reasons = {i: look for i, look in enumerate(looks) if isinstance(look, str)}
    there = [i for i in range(len(items)) if i not in reasons]
    statuses = [look for look in looks if not isinstance(look, str)]
    decode = partial(_decode_shared, preprocess=preprocess, for_crops=False, keep=False)
    results = _attempt_all([items[i] for i in there], statuses, decode, n_threads)
    for i, result in zip(there, results, strict=True):
        if isinstance(result, MemoryError):
            raise result
        if isinstance(result, Exception):
            reasons[i] = _reason(result)
    return reasons


def _attempt_all(
    items: Sequence[Item],
    statuses: Sequence[os.stat_result | None],
    decode: Callable[[Item, os.stat_result | None], Decoded],
    n_threads: int,
    one_is_done: Callable[[], None] = lambda: None,
) -> list[Decoded | Exception]:
    allowed_seconds()  # where it is no number, that is no fault of an image

    def attempt(item: Item, status: os.stat_result | None) -> Decoded | Exception:
        try:
            return decode(item, status)
        except Exception as error:
            return error

    # In a thread even where it is the only one: signal handlers run in the main thread, so that
    # what is caught here was raised by a decoder.
    results = []
    with ThreadPoolExecutor(min(n_threads, len(items)) or 1) as pool:
        try:
            for result in pool.map(attempt, items, statuses):
                results.append(result)
                one_is_done()
        except BaseException:  # an interrupt need not wait for the other images
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def check_exist(items: Sequence[Item], name: Name = ROW_OF_X) -> list[os.stat_result | None]:
    """Check that every path leads to a file; each is looked at once.

    Parameters
    ----------
    items : sequence
        From `as_items`.
    name : callable, optional
        What error messages call ``items[i]``.

    Returns
    -------
    statuses : list
        What the file system says of each path; None for other items.

    Raises
    ------
    FileNotFoundError
        Paths that do not exist, by index.
    ValueError
        Folders, pipes, sockets, devices and files too large to be read, by index.
    """
    looks = [_look(item) for item in items]
    bad = [(i, items[i], look) for i, look in enumerate(looks) if isinstance(look, str)]
    if missing := [(i, item) for i, item, reason in bad if reason == _NO_SUCH_FILE]:
        raise FileNotFoundError(list_bad(missing, name, _NO_SUCH_FILE))
    if bad:
        raise ValueError(list_bad(bad, name, "cannot be decoded"))
    return [look for look in looks if not isinstance(look, str)]


def _look(item: Item) -> os.stat_result | str | None:
    """Ask the file system about a path; say why where it cannot be read. None for other items."""
    if not isinstance(item, str):
        return None
    try:
        status = os.stat(item)
    except PermissionError:
        return "you may not read what is in its folder"
    except (OSError, ValueError):  # ValueError: a null character
        return _NO_SUCH_FILE
    return unfit(status) or status


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
    room = IMAGES.max_bytes // (2 * 3 * math.prod(size_of(preprocess)))
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


def identity(item: Item, status: os.stat_result | None = None) -> tuple:
    """What makes two items the same image: a path with its stamp, or the content itself."""
    item = opened(item)
    if isinstance(item, str):
        return ("path", os.path.abspath(item), *stamp(status or os.stat(item)))
    if isinstance(item, bytes):
        return ("bytes", hashlib.sha256(item).digest())
    pixels = np.ascontiguousarray(item if isinstance(item, np.ndarray) else open_rgb(item))
    return ("pixels", pixels.shape, hashlib.sha256(pixels.data).digest())


def content_digest(item: Item) -> str:
    """Hash what an item contains, wherever a file lies; what cannot be read is named later."""
    try:
        if isinstance(item, str):
            with open(item, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return str(identity(item))
    except Exception as error:
        return type(error).__name__


def _decode_shared(
    item: Item,
    status: os.stat_result | None,
    *,
    preprocess: PreprocessCfg,
    for_crops: bool,
    keep: bool,
) -> Decoded:
    if isinstance(item, Stored):
        item = opened(item)
        look = _look(item)
        if isinstance(look, str):
            raise ValueError(f"{look}: {short(item)}")
        status = look
    image = (identity(item, status), _config_key(preprocess))
    # What training has decoded serves to predict; not the other way round.
    with_source = for_crops or (*image, True) in IMAGES
    key = (*image, with_source)
    if not keep:
        found = IMAGES.get(key)
        return _decode(item, preprocess, with_source=for_crops) if found is None else found

    def make() -> tuple[Decoded, int]:
        kept = disk_cache.read(image, (*size_of(preprocess), 3), with_source=with_source)
        if kept is not None:
            decoded = Decoded(*kept)
        else:
            decoded = _decode(item, preprocess, with_source=with_source)
            disk_cache.write(image, view=decoded.view, source=decoded.source)
        return decoded, sum(a.nbytes for a in (decoded.view, decoded.source) if a is not None)

    return IMAGES.get_or_make(key, make)


def _config_key(preprocess: PreprocessCfg) -> tuple:
    return (
        size_of(preprocess),
        preprocess.interpolation,
        preprocess.resize_mode,
        preprocess.fill_color,
        (LARGE_JPEG, _ENOUGH),
        _PIXELS_VERSION,
    )


def _decode(item: Item, preprocess: PreprocessCfg, *, with_source: bool) -> Decoded:
    image = open_rgb(item, enough=_ENOUGH * max(size_of(preprocess)))
    # Copies: what Pillow hands out without one holds twice as much memory.
    view = np.array(view_transform(preprocess)(image), dtype=np.uint8)
    if not with_source:
        return Decoded(view, None)
    short_side, limit = min(image.size), _SOURCE_SCALE * max(size_of(preprocess))
    if short_side > limit:
        size = [max(1, round(side * limit / short_side)) for side in image.size]
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return Decoded(view, np.array(image, dtype=np.uint8))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "vanished while it was read"
    return " ".join(str(error).split())[:200] or type(error).__name__
