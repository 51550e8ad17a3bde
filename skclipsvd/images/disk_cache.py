"""Decoded images on disk, where the user names a folder for them.

Several processes (or sessions) that work on the same large photographs then decode each once. The
folder is the user's: nothing is written where the variable is not set.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..caching.files import replacing

_VARIABLE = "SKCLIPSVD_IMAGE_CACHE"


def read(
    key: tuple, view_shape: tuple[int, ...], *, with_source: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | None:
    """Return the view kept under `key`, and the source where it is wanted.

    None where something of it is missing or damaged.
    """
    file = _file(key)
    if file is None:
        return None
    if not file.is_file():  # a pipe would be waited for
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            kept_for = str(archive["key"])
            view, source = archive["view"], archive["source"] if with_source else None
    except Exception:  # bytes that were changed make zipfile, zlib and numpy raise anything
        return None
    if kept_for != file.stem:  # another image's, under this one's name
        return None
    if view.shape != view_shape or view.dtype != np.uint8:
        return None
    if source is not None and not _is_picture(source):
        return None
    return view, source


def _is_picture(array: np.ndarray) -> bool:
    shape = array.shape
    return len(shape) == 3 and shape[2] == 3 and 0 not in shape and array.dtype == np.uint8


def write(key: tuple, *, view: NDArray[np.uint8], source: NDArray[np.uint8] | None) -> None:
    """Keep an image under `key`; a full or read-only disk costs time later, not an error."""
    file = _file(key)
    if file is None:
        return
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            arrays: dict[str, Any] = {"key": np.array(file.stem), "view": view}
            if source is not None:
                arrays["source"] = source
            np.savez(stream, **arrays)
    except OSError:
        return


def _file(key: tuple) -> Path | None:
    folder = os.environ.get(_VARIABLE)
    if not folder:
        return None
    name = hashlib.sha256(repr(key).encode()).hexdigest()
    return Path(folder).expanduser() / name[:2] / f"{name}.npz"
