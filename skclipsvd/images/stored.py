"""Images that stay in somebody else's data set until they are needed, and streams of images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..forks import in_forked_children
from ..progress import Bar

Number = TypeVar("Number", bound=np.generic)

# Few data sets promise that several threads may ask at once.
_ONE_AT_A_TIME = threading.RLock()


@in_forked_children
def _forget_lock() -> None:
    global _ONE_AT_A_TIME
    _ONE_AT_A_TIME = threading.RLock()


class Indexed(Protocol):
    """What is asked for one image, or one (image, label), at a time: a map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Stored:
    """The image at one place of a data set, which is asked for it whenever it is needed.

    Attributes
    ----------
    dataset : object with ``len`` and places
    index : int
    column : str or None
        Which entry of a record is the image; None where a record is an image, or a tuple that
        begins with one.
    """

    dataset: Indexed
    index: int
    column: str | None = None

    def __repr__(self) -> str:
        """Name the place only: a data set may print all that it holds."""
        return f"<{type(self.dataset).__name__}[{self.index}]>"

    def fetch(self) -> Any:
        """Ask the data set."""
        with _ONE_AT_A_TIME:
            record = self.dataset[self.index]
        return image_of(record if self.column is None else record[self.column])


def image_of(record: Any) -> Any:
    """Return the image of a record (image, label, ...); an image as it is."""
    return record[0] if isinstance(record, (tuple, list)) and len(record) > 1 else record


def stored_images(X: Any) -> list[Any]:
    """List the images of a map-style data set: paths where it has them, places in it otherwise.

    Raises
    ------
    TypeError
        `X` is no map-style data set.
    ValueError
        A Hugging Face data set of several columns of images, or of none.
    """
    if isinstance(X, Mapping):
        keys = ", ".join(f"X[{key!r}]" for key in X)[:200]
        raise TypeError(f"X is a {type(X).__name__}; pass one of its entries: {keys or 'none'}.")
    if hasattr(X, "column_names") and hasattr(X, "cast_column"):
        return _of_hugging_face(X, _image_column(X))
    if hasattr(X, "column_name") and hasattr(X, "source") and hasattr(X.source, "cast_column"):
        if _is_image(X.features):
            return _of_hugging_face(X.source, X.column_name)
        return list(X)
    if not hasattr(X, "__len__") or not hasattr(X, "__getitem__"):
        raise TypeError(_what_it_is(X))
    if _has_plain_files(X):
        return [path for path, _ in X.samples]
    places: list[Any] = [Stored(X, i) for i in range(len(X))]
    if places and isinstance(places[0].fetch(), str):  # paths are small: held, and looked at first
        return [place.fetch() for place in places]
    return places


def _what_it_is(X: Any) -> str:
    kind = type(X).__name__
    if hasattr(X, "dataset") and hasattr(X, "batch_size"):
        return (
            f"X is a {kind}, which gives batches of tensors. Pass its data set, without a "
            "transform that makes tensors: X.dataset."
        )
    if isinstance(X, Iterator):
        return (
            f"X is a {kind}, which can be read once only, and images are needed again here. Pass "
            "list(X). Only predict, predict_proba, decision_function and transform take it as it "
            "is."
        )
    if hasattr(X, "__iter__"):
        return f"X is a {kind}, which has no length or no order; pass list(X), or sorted(X)."
    return (
        "X must be a list, array, Series or one-column frame of image paths, PIL images, bytes or "
        f"uint8 arrays, or a data set with len(X) and X[i]; got {kind}."
    )


def _has_plain_files(X: Any) -> bool:
    """Whether this is torchvision's ImageFolder as it comes, whose pictures are files."""
    return (
        hasattr(X, "samples")
        and hasattr(X, "class_to_idx")
        and getattr(X, "transforms", None) is None
        and getattr(getattr(X, "loader", None), "__name__", "") == "default_loader"
    )


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" and hasattr(feature, "decode_example")


def _image_column(X: Any) -> str:
    images = [name for name, feature in X.features.items() if _is_image(feature)]
    if not images:
        raise ValueError(f"X is a {type(X).__name__} with no column of images: {X.features}.")
    if len(images) > 1:
        raise ValueError(
            f"X is a {type(X).__name__} with the columns of images {images}; pass one of them: "
            f"X[{images[0]!r}]."
        )
    return images[0]


def _of_hugging_face(dataset: Any, column: str) -> list[Any]:
    """Ask for the encoded files: smaller than their pixels, and faster to hash."""
    if not hasattr(dataset, "__len__"):
        raise TypeError(
            f"X is a {type(dataset).__name__}, which has no length; pass a generator to predict, "
            f"(row[{column!r}] for row in X), or load the data set without streaming."
        )
    if dataset.format["type"] != "custom":  # a user's own transform is left to do its work
        undecoded = type(dataset.features[column])(decode=False)
        dataset = dataset.with_format(None).cast_column(column, undecoded)
        dataset = dataset.select_columns([column])
    return [Stored(dataset, i, column) for i in range(len(dataset))]


def answered_in_parts(
    X: Iterator[Any], answer: Callable[[Any], NDArray[Number]], size: int
) -> NDArray[Number]:
    """Answer a stream, `size` images at a time, so that no more of them are held.

    Raises
    ------
    Exception
        What `answer` raises, with a note where its rows are counted from.
    """
    answers: list[NDArray[Number]] = []
    done = 0
    with Bar("embedding", None, "image", keep=True) as bar:
        while (images := [image_of(record) for record in islice(X, size)]) or not answers:
            try:
                answers.append(answer(images))
            except (TypeError, ValueError, OSError) as error:
                if done:
                    error.add_note(f"X is a stream: its rows are counted from image {done} on.")
                raise
            done += len(images)
            bar.reach(done)
            del images  # before the next ones are read
    return np.concatenate(answers)
