"""Decoded images on disk, where the user names a folder for them.

Several processes (or sessions) that work on the same large photographs then decode each once. The
folder is the user's: nothing is written where the variable is not set.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..caching.files import replacing

_VARIABLE = "SKCLIPSVD_IMAGE_CACHE"


def read(key: tuple, view_shape: tuple[int, ...]) -> dict[str, NDArray[np.uint8]] | None:
    """Return the view and source kept under `key`; None where they are missing or damaged."""
    file = _file(key)
    if file is None:
        return None
    if not file.is_file():  # a pipe would be waited for
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        kept_for = str(arrays.pop("key"))
    except Exception:  # bytes that were changed make zipfile, zlib and numpy raise anything
        return None
    if kept_for != file.stem:  # another image's, under this one's name
        return None
    if arrays.keys() != {"view", "source"} or arrays["view"].shape != view_shape:
        return None
    shape = arrays["source"].shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        return None
    return arrays if all(array.dtype == np.uint8 for array in arrays.values()) else None


def write(key: tuple, *, view: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
    """Keep view and source under `key`; a full or read-only disk costs time later, not an error."""
    file = _file(key)
    if file is None:
        return
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, key=np.array(file.stem), view=view, source=source)
    except OSError:
        return


def _file(key: tuple) -> Path | None:
    folder = os.environ.get(_VARIABLE)
    if not folder:
        return None
    name = hashlib.sha256(repr(key).encode()).hexdigest()
    return Path(folder).expanduser() / name[:2] / f"{name}.npz"
