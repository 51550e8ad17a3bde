"""One item -> an upright RGB picture, without running a program or taking memory unasked."""

from __future__ import annotations

import math
import os
import stat
import threading
import time
from functools import cache
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..exceptions import BitDepthWarning, warn
from ..forks import in_forked_children
from ..image_files import DECODED_FORMATS
from .items import Item, opened

_LONGEST_PATH = 1024
_MAX_FILE_BYTES = 2 * 2**30
_VARIABLE = "SKCLIPSVD_IMAGE_SECONDS"
# Of computing. The largest image that Pillow takes, 179 million pixels, needs 70 as JPEG 2000,
# 200 as a PPM in letters, and less than 25 as anything else.
_SECONDS = 300.0
# Bytes that a progressive JPEG's decoder gets at a time. For each scan it goes over all pixels, and
# some fifty bytes are a scan.
_OF_SCANS = 4096
# A JPEG of this many pixels is decoded at half its size or less, where enough is left.
LARGE_JPEG = 8_000_000
_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe (FIFO), not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
_SIGNATURES = (
    (b"%!PS", "a PostScript (EPS) file, which only another program can draw"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript (EPS) file, which only another program can draw"),
    (b"%PDF", "a PDF document"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (b"\x01\x00\x00\x00", "a Windows metafile (EMF)"),
    (b"\x89HDF", "an HDF5 file; pass its arrays"),
    (b"GRIB", "a GRIB file; pass its arrays"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML or SVG document"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x93NUMPY", "a NumPy file; pass np.load(path)"),
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = frozenset([b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])
# Lazily opened pictures share a file position and a decoder: one thread at a time loads each.
_LOCKS = [threading.Lock() for _ in range(64)]


@in_forked_children
def _forget_locks() -> None:
    _LOCKS[:] = [threading.Lock() for _ in _LOCKS]


def unfit(status: os.stat_result) -> str | None:
    """Say why a path cannot be an image file by its kind or size; None where it can."""
    for is_kind, reason in _KINDS:
        if is_kind(status.st_mode):
            return reason
    if status.st_size > _MAX_FILE_BYTES:
        return (
            f"has {status.st_size / 2**30:.1f} GiB; files over {_MAX_FILE_BYTES // 2**30} GiB are "
            "not read. Pass parts of it as arrays"
        )
    return None


def open_rgb(item: Item, enough: int | None = None) -> Image.Image:
    """Open an image, upright and in RGB; of a large JPEG, `enough` pixels of the short side.

    Raises
    ------
    Exception
        Whatever Pillow's decoders raise. Files larger than Pillow allows
        (``PIL.Image.MAX_IMAGE_PIXELS``) are refused before their pixels take memory; those that
        take longer to compute than `SKCLIPSVD_IMAGE_SECONDS` are given up.
    """
    item = opened(item)
    if isinstance(item, np.ndarray):
        return Image.fromarray(np.ascontiguousarray(item))
    if isinstance(item, Image.Image):
        with _LOCKS[id(item) // 64 % len(_LOCKS)]:
            item.load()
            return _to_rgb(_upright(item).copy())
    if isinstance(item, bytes):
        return _open_file(BytesIO(item), enough)
    with open(item, "rb", opener=_without_waiting) as file:
        # It may no longer be what it was when it was looked at.
        if reason := unfit(os.fstat(file.fileno())):
            raise ValueError(reason)
        return _open_file(file, enough)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file that may have become a pipe, whose other end may never come."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open_file(file: BinaryIO, enough: int | None) -> Image.Image:
    try:
        return _decode(file, enough)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{str(error).split(',')[0]}. If you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS "
            "(twice of it is the limit) or set it to None"
        ) from None
    except _TakesTooLongError as error:
        raise ValueError(str(error)) from None
    except (SyntaxError, ValueError, OSError) as error:
        pixels = _png_without_metadata(file)
        if pixels is None:
            if isinstance(error, UnidentifiedImageError):
                if isinstance(file, BytesIO) and _is_path(file.getvalue()):
                    raise ValueError(
                        "is text like a path; bytes are the content of an image file: pass "
                        f"{file.getvalue().decode()!r}"
                    ) from None
                raise ValueError(_what_it_is(_head(file))) from None
            raise
        try:
            return _decode(BytesIO(pixels), enough)
        except (SyntaxError, ValueError, OSError):
            raise error from None  # it was not the metadata


def _decode(file: BinaryIO, enough: int | None) -> Image.Image:
    # Of an open file, not of its name: Pillow would map the file then, and a file that is cut off
    # while it is mapped ends the process.
    with Image.open(_Timed(file), formats=_formats()) as image:
        if "progressive" in image.info:
            image.decodermaxblock = _OF_SCANS
        if enough is not None and math.prod(image.size) >= LARGE_JPEG:
            _decode_smaller(image, enough)
        image.load()
        return _to_rgb(_upright(image, in_place=True))


class _TakesTooLongError(Exception):
    """None of those that Pillow takes for a sign of another format."""


class _Timed:
    """A file that is read no further when its thread has computed for too long.

    The time is the processor's: neither a slow disk nor a process that was stopped for an hour
    makes a picture a bad one.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._seconds = allowed_seconds()
        self._until = time.thread_time() + self._seconds

    def read(self, size: int = -1, /) -> bytes:
        """Read as the file does, while there is time."""
        if time.thread_time() > self._until:
            raise _TakesTooLongError(
                f"takes more than {self._seconds:g} s to decode. If you trust the file, set the "
                f"environment variable {_VARIABLE} to more, or save it anew in another format"
            )
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def allowed_seconds() -> float:
    """Return how long one image may be decoded, of the processor's time."""
    said = os.environ.get(_VARIABLE) or _SECONDS
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise ValueError(f"{_VARIABLE}={said!r}: give a number of seconds; 'inf' is no limit.")
    return seconds


@cache
def _formats() -> tuple[str, ...]:
    """Return the allowed formats that are there, in the order in which Pillow tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name in DECODED_FORMATS)


def _upright(image: Image.Image, *, in_place: bool = False) -> Image.Image:
    """Turn an image as its camera was held; as it is where that cannot be read."""
    try:
        if not in_place:
            return ImageOps.exif_transpose(image)
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except MemoryError:
        raise
    except Exception:  # a broken Exif block raises anything; the pixels are fine
        return image


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


def _to_rgb(image: Image.Image) -> Image.Image:
    """Show an upright image as a viewer would: first frame, on white where transparent."""
    if image.mode.startswith("I"):
        return _integers_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; convert to 8 bits first")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _integers_to_rgb(image: Image.Image) -> Image.Image:
    """Scale integers to 0..255 from the smallest usual bit depth that holds them: 8, 12 or 16.

    Pillow's own conversion clips everything above 255. Cameras and scanners write 12 bits, and
    some programs 8, into 16; the file does not say so.
    """
    values = np.asarray(image).astype(np.int64)
    largest = values.max()
    if values.min() < 0 or largest > 65535:
        raise ValueError("integer pixels outside 0..65535; convert to 8 or 16 bits first")
    top = next(top for top in (255, 4095, 65535) if largest <= top)
    if 0 < largest <= 4095:
        warn(
            f"Greyscale pixels in 16 or 32 bits that never exceed {top} are shown with {top} as "
            "white; each file is judged by itself. If other files of the data set are brighter, "
            "scale all of them to uint8 in the same way first.",
            BitDepthWarning,
        )
    return Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8)).convert("RGB")


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(256)


def _is_path(content: bytes) -> bool:
    """Whether bytes are one printable line, as paths that come from h5py or a database are."""
    try:
        return len(content) < _LONGEST_PATH and content.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _what_it_is(head: bytes) -> str:
    """Say what a file is that no allowed decoder takes."""
    if not head:
        return "is empty"
    for signature, kind in _SIGNATURES:
        if head.lstrip().lower().startswith(signature.lower()):
            return f"is {kind}; not an image that is read"
    if head[4:8] == b"ftyp":
        return (
            "is a HEIF or video file; for HEIC pictures install pillow-heif and call "
            "pillow_heif.register_heif_opener()"
        )
    if head[128:132] == b"DICM":
        return "is a DICOM file; read it with pydicom, apply its window, pass uint8 arrays"
    return "is not an image file that Pillow can read"


def _png_without_metadata(file: BinaryIO) -> bytes | None:
    """Return a PNG with nothing but what its pixels need; None where it is no PNG."""
    if _head(file)[:8] != _PNG:
        return None
    file.seek(0)
    data = file.read(_MAX_FILE_BYTES)
    kept, start = [_PNG], 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] in _PNG_PIXELS:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)
