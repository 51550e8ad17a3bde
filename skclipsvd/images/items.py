"""What a user calls an image, as a list: containers, paths, and messages about them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..labels import is_missing, plain
from .stored import Indexed, Stored, stored_images

_NAMED_AT_MOST = 10
_CHANNELS_FIRST = "; channels come last: array.transpose(1, 2, 0)"
_BATCH_CHANNELS_FIRST = " Channels come last: X.transpose(0, 2, 3, 1) of an array."
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://")


class SupportsArray(Protocol):
    """What NumPy turns into an array: Series, frames, tensors, arrays of pyarrow and of h5py."""

    def __array__(self) -> np.ndarray: ...


# One image as users have it, and all of a call; `as_items` says what each of them is.
ImageLike = str | os.PathLike[str] | bytes | Image.Image | SupportsArray | Mapping[str, Any]
Images = Sequence[ImageLike] | SupportsArray | Indexed
# What answers take, too: each image is looked at once.
ImageStream = Images | Iterator[ImageLike]
Item = str | bytes | Image.Image | NDArray[np.uint8] | Stored
Name = Callable[[int], str]
ROW_OF_X: Name = "X[{}]".format


def as_items(X: Images) -> list[Item]:
    """Turn any supported container of images into a list, without reading a file.

    Parameters
    ----------
    X : sequence
        Paths (str or Path; ``~`` is the home folder), encoded images (bytes), PIL images, (height,
        width, 3) uint8 arrays or what converts to them, or dictionaries {"bytes": ..., "path": ...}
        as Hugging Face data sets hold them; in a list, tuple, 1-D or (n, 1) array, Series,
        one-column frame or pyarrow array; one (n, height, width, 3) uint8 array, data set or tensor
        on the CPU; or a map-style data set of images or of (image, label): a column of Hugging Face
        data, torchvision's.

    Returns
    -------
    items : list
        str for paths, with ``~`` expanded; bytes, PIL images and arrays as they came; places in a
        data set.

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
            f"[{short(X)}]."
        )
    if isinstance(X, (list, tuple)):
        return X
    if hasattr(X, "to_pylist"):  # pyarrow
        return X.to_pylist()
    is_table = getattr(X, "ndim", getattr(X, "shape", None)) is not None
    if not is_table or hasattr(X, "column_names"):  # Hugging Face data have a shape as well
        stored = stored_images(X)
        if stored:
            opened(_as_item(0, stored[0]))  # what it holds is said before a model is loaded
        return stored
    if hasattr(X, "columns"):  # pandas and polars frames
        if len(X.columns) != 1:
            raise ValueError(
                f"X is a frame of shape {tuple(X.shape)}; pass the one column that holds the image "
                f"paths, for example X[{str(X.columns[0])!r}]."
            )
        X = X[X.columns[0]]
    if hasattr(X, "to_numpy"):
        X = X.to_numpy()
    return _array_as_sequence(_as_array("X", X), is_tensor=_is_tensor(X))


def _as_array(name: str, value: Any) -> np.ndarray:
    """Convert what offers ``__array__``: data sets of h5py, tensors on the CPU."""
    try:
        return np.asarray(value)
    except Exception as error:
        raise TypeError(
            f"{name} is a {type(value).__name__} that does not become a NumPy array ({error}). "
            "Pass a uint8 array; of a tensor: tensor.detach().cpu().numpy()."
        ) from error


def _array_as_sequence(X: np.ndarray, *, is_tensor: bool) -> Sequence[Any]:
    if X.ndim == 4 and X.dtype == np.uint8 and X.shape[-1] == 3:
        return list(X)
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUS":
        X = X[:, 0]
    if X.ndim == 1:
        return X.tolist()  # whatever is no image is named by its index later
    if is_tensor:
        raise ValueError(
            f"X is a tensor of shape {X.shape} and dtype {X.dtype}. Pass the pictures as they are "
            f"before any transform; or, of colours {_range(X)}: {_line('X', X)}"
        )
    raise ValueError(
        f"X has shape {X.shape} and dtype {X.dtype}; expected image paths of shape (n,) or (n, 1), "
        "or uint8 images of shape (n, height, width, 3). For embeddings use CosineClassifier."
        f"{_BATCH_CHANNELS_FIRST if X.ndim == 4 and X.shape[1] == 3 else ''}"
    )


def opened(item: Item) -> str | bytes | Image.Image | NDArray[np.uint8]:
    """Ask the data set for an image that lies in one; every other item is returned as it is.

    Raises
    ------
    Exception
        Whatever the data set raises, or what is wrong with its answer.
    """
    if not isinstance(item, Stored):
        return item
    found = _as_item(item.index, item.fetch())
    assert not isinstance(found, Stored)  # a record holds the image itself
    return found


def _as_item(index: int, item: Any) -> Item:
    if isinstance(item, Stored):
        return item
    item = plain(item)
    if hasattr(item, "as_py"):  # pyarrow's scalars, as scikit-learn < 1.8 indexes its arrays
        item = item.as_py()
    if isinstance(item, os.PathLike):
        item = os.fspath(item)
    if isinstance(item, dict) and item.keys() <= {"bytes", "path"} and item:  # Hugging Face's
        content = item.get("bytes")
        return _as_item(index, item.get("path") if content is None else content)
    if isinstance(item, Image.Image):
        return item
    if hasattr(item, "__array__") and getattr(item, "ndim", None):
        array = _as_array(f"X[{index}]", item)
        return _checked_array(index, array, is_tensor=_is_tensor(item))
    if isinstance(item, (list, tuple)) and len(item) == 1:
        return _as_item(index, item[0])
    if isinstance(item, tuple) and len(item) == 2:
        return _of_pair(index, item)
    if isinstance(item, str) and (url := _URL.match(item)):
        raise ValueError(_how_to_fetch(index, item, url[1].lower()))
    if isinstance(item, str):
        return os.path.expanduser(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if is_missing(item):
        raise ValueError(f"X[{index}] is missing (NaN or None); drop the row or give it an image.")
    raise TypeError(
        f"X[{index}] is a {type(item).__name__}; expected a path (str or Path), encoded bytes, a "
        "PIL image or a (height, width, 3) uint8 array."
    )


def _of_pair(index: int, pair: tuple[Any, Any]) -> Item:
    """Take the image of (image, label), as scikit-learn cuts them out of a data set."""
    if isinstance(pair[0], Image.Image) or hasattr(pair[0], "__array__"):
        return _as_item(index, pair[0])
    raise TypeError(
        f"X[{index}] is a pair, {short(pair)[:100]}; separate images and labels: X, y = zip(*X)."
    )


def _how_to_fetch(index: int, url: str, scheme: str) -> str:
    lines = {
        "http": "requests.get(url, timeout=60).content",
        "https": "requests.get(url, timeout=60).content",
        "file": "the path in it",
    }
    line = lines.get(scheme, "fsspec.open(url).open().read()")
    what = "pass" if scheme == "file" else "fetch it first; its bytes may be passed:"
    return f"X[{index}] = {short(url)} is a URL, and nothing is downloaded here; {what} {line}."


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach")


def _range(array: np.ndarray) -> str:
    return "from 0 to 1" if array.dtype.kind == "f" else "from 0 to 255"


def _line(name: str, array: np.ndarray) -> str:
    """Write the line that makes images of a tensor of colours."""
    scaled = f"(255 * {name}).round().clamp(0, 255)" if array.dtype.kind == "f" else name
    first = array.ndim - 3
    last = ", ".join(map(str, (*range(first), first + 1, first + 2, first)))
    moved = f".permute({last})" if first >= 0 and array.shape[first] == 3 else ""
    return f"{scaled}.byte(){moved}.cpu().numpy()."


def _checked_array(index: int, array: np.ndarray, *, is_tensor: bool) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        if is_tensor:
            raise ValueError(
                f"X[{index}] is a tensor of shape {array.shape} and dtype {array.dtype}. Pass the "
                "picture as it is before any transform, for pixels are resized and normalised "
                f"here; or, of colours {_range(array)}: {_line('tensor', array)}"
            )
        raise ValueError(
            f"X[{index}] has shape {array.shape} and dtype {array.dtype}; an image array must be "
            "uint8 of shape (height, width, 3) with values 0 to 255"
            f"{_CHANNELS_FIRST if array.ndim == 3 and array.shape[0] == 3 else ''}."
        )
    return array


def list_bad(bad: Sequence[tuple], name: Name, problem: str) -> str:
    """Say what is wrong with the rows `bad`: (index, item) or (index, item, reason) each."""
    lines = [
        f"{name(index)} = {short(item)}{': ' + reason[0] if reason else ''}"
        for index, item, *reason in bad[:_NAMED_AT_MOST]
    ]
    if len(bad) > _NAMED_AT_MOST:
        lines.append(f"and {len(bad) - _NAMED_AT_MOST} more")
    advice = "Correct the paths" if problem == "no such file" else "Replace the files"
    relative = any(isinstance(item, str) and not Path(item).is_absolute() for _, item, *_ in bad)
    where = f" (relative paths start at {os.getcwd()})" if relative else ""
    if (
        problem == "no such file"
        and os.sep == "/"
        and any("\\" in str(item) for _, item, *_ in bad)
    ):
        where += " (a path with backslashes, as on Windows, needs / between its folders here)"
    return f"{len(bad)} image(s): {problem}{where}. {advice} or leave them out: {'; '.join(lines)}"


def short(item: Any) -> str:
    """Name an image in a message."""
    item = plain(item)
    if isinstance(item, bytes):
        return f"<{len(item)} bytes>"
    if isinstance(item, Image.Image):
        return f"<PIL image {item.size[0]}x{item.size[1]} {item.mode}>"
    return repr(os.fspath(item) if isinstance(item, os.PathLike) else item)
