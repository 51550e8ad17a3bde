"""The built-in demo data: real handwritten digits as image files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from ..caching.files import cache_dir as default_cache_dir
from ..caching.files import replacing

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Part of the folder's name: a later release that draws the files otherwise must not fight with this
# one over the same files.
_VERSION = "handwritten-digits-v1"


def load_handwritten_digits(
    *, cache_dir: str | os.PathLike[str] | None = None
) -> tuple[list[str], NDArray[np.str_]]:
    """Load 1,797 real handwritten digits as PNG files, ready for an image classifier.

    The digits that come with scikit-learn [1]_ are written once, as 8x8 greyscale PNG files of 8
    bits, light ink on a dark ground: an intensity ``v`` of 0 to 16 becomes ``round(v * 255 / 16)``.
    Nothing is downloaded.

    Parameters
    ----------
    cache_dir : str or path-like, optional
        The folder in which the files are kept. By default ``$SKCLIPSVD_CACHE`` if it is set, else
        the folder ``skclipsvd`` in the user's cache folder.

    Returns
    -------
    paths : list of str, length 1797
        Absolute paths, in the order of `sklearn.datasets.load_digits`.
    labels : ndarray of shape (1797,), dtype str
        The digit each file shows, spelt out: "zero" to "nine".

    Raises
    ------
    OSError
        A file is missing and cannot be written.

    Notes
    -----
    Every call compares the files with what they should hold and writes those that are missing or
    damaged, each one under another name first and then moved into place. So any number of processes
    may call this at once, and a reader never sees half a file. A complete cache is only read, and
    may be read-only.

    References
    ----------
    .. [1] E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten
       Digits. UCI Machine Learning Repository. https://doi.org/10.24432/C50P49

    Examples
    --------
    >>> from skclipsvd.datasets import load_handwritten_digits
    >>> paths, labels = load_handwritten_digits()
    >>> len(paths), labels[:3].tolist()
    (1797, ['zero', 'one', 'two'])
    """
    root = Path(default_cache_dir() if cache_dir is None else cache_dir).expanduser()
    folder = Path(os.path.abspath(root)) / _VERSION
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = np.array(_NAMES)[bunch.target]
    paths = [folder / label / f"{i:04d}.png" for i, label in enumerate(labels)]
    try:
        for path, image in zip(paths, pixels, strict=True):
            _ensure(path, image)
    except OSError as error:
        raise type(error)(
            error.errno,
            "cannot write the handwritten digits; pass cache_dir=, or set SKCLIPSVD_CACHE to, "
            f"a folder that can be written ({error.strerror})",
            str(folder),
        ) from error
    return [str(path) for path in paths], labels


def _ensure(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Make the file show these pixels; touch nothing when it does already."""
    try:
        with Image.open(path) as image:
            if image.mode == "L" and np.array_equal(np.asarray(image), pixels):
                return
    except (OSError, SyntaxError, ValueError):
        pass  # missing or damaged: write it
    with replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
