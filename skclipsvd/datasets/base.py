"""What every reader returns, and the steps that all of them share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ..image_files import is_image

DEFAULT_TEMPLATE = "a photo of a {}."

# Folders in which systems and storage devices keep thumbnails and what was deleted; like those
# with a dot, they are no classes.
_SYSTEM_FOLDERS = frozenset(
    {
        "@eadir",
        "@__thumb",
        "@recycle",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "__macosx",
        "lost+found",
        "system volume information",
    }
)
# Files that stand beside images and are nobody's image.
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"})

# Path, class number and class name of an image; by part.
Item = tuple[str, int, str]
Items = Mapping[str, Sequence[Item]]


@dataclass(frozen=True, eq=False)
class Split(Sequence[str]):
    """The images of one part of a data set: the sequence of its paths, to be passed as X.

    Attributes
    ----------
    paths : list of str
        Where the images are.
    labels : ndarray of shape (n_images,), dtype str
        Their class names.
    targets : ndarray of shape (n_images,), dtype int64
        The positions of their classes in ``Dataset.class_names``.

    Examples
    --------
    >>> from skclipsvd.datasets import load_folder
    >>> train = load_folder("photos").splits["train"]  # doctest: +SKIP
    >>> clf.fit(train, train.labels)  # doctest: +SKIP
    """

    paths: list[str]
    labels: NDArray[np.str_]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return the path at a position."""
        return self.paths[index]

    def __repr__(self) -> str:
        """Name the numbers only; there may be a million paths."""
        return f"Split({len(self.paths)} images, {len(np.unique(self.targets))} classes)"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Where the images of a data set are, and what they show.

    Attributes
    ----------
    name : str
        The name of the data set.
    class_names : tuple of str
        The names of all classes, in the order in which the data set numbers them.
    splits : dict of str to Split
        The parts, such as "train", "val" and "test".
    template : str
        The sentence that describes an image, with ``{}`` for the class name.

    Examples
    --------
    >>> from skclipsvd.experiments import open_data
    >>> digits = open_data("digits")
    >>> digits.class_names[:3], digits.splits["all"].labels.shape
    (('eight', 'five', 'four'), (1797,))
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    template: str = DEFAULT_TEMPLATE


def build_dataset(name: str, items: Items, template: str) -> Dataset:
    """Give the classes consecutive numbers, in the order of those they have.

    Parameters
    ----------
    name, template : str
        As in `Dataset`.
    items : dict of str to list of (str, int, str)
        For every part: path, class number and class name of each image.
    """
    names: dict[int, str] = {}
    for part in items.values():
        for path, number, class_name in part:
            if names.setdefault(number, class_name) != class_name:
                raise ValueError(
                    f"Class {number} of {name} is called {names[number]!r} and, for {path}, "
                    f"{class_name!r}; give each number one name."
                )
    rank = {number: i for i, number in enumerate(sorted(names))}
    class_names = tuple(names[number] for number in rank)
    splits = {key: _build_split(part, rank, class_names) for key, part in items.items()}
    return Dataset(name, class_names, splits, template)


def _build_split(
    part: Sequence[Item], rank: Mapping[int, int], class_names: Sequence[str]
) -> Split:
    targets = np.array([rank[number] for _, number, _ in part], dtype=np.int64)
    return Split([path for path, *_ in part], np.array(class_names)[targets], targets)


def require_images(items: Items, listing: str | Path) -> Items:
    """Return the items if all their files are there; otherwise name the missing ones."""
    paths = [path for part in items.values() for path, *_ in part]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        first = "".join(f"\n  {path}" for path in missing[:5])
        hint = ""
        if os.sep == "/" and any("\\" in path for path in missing):
            hint = "\nSome paths have backslashes, as on Windows; write / between folders."
        raise FileNotFoundError(
            f"{len(missing)} of the {len(paths)} images in {listing} are missing, first:{first}"
            f"{hint}"
        )
    return items


def require_folder(path: Path, expected: str) -> Path:
    """Return the path if it is a folder; otherwise say what should be there."""
    if not os.path.isdir(path):
        state = "is not a folder" if os.path.exists(path) else "does not exist"
        raise FileNotFoundError(f"{path} {state}; expected {expected}.")
    return path


def require_file(path: Path, expected: str) -> Path:
    """Return the path if it is a file; otherwise say what should be there."""
    if not os.path.isfile(path):
        state = "is not a file" if os.path.exists(path) else "does not exist"
        raise FileNotFoundError(f"{path} {state}; expected {expected}.")
    return path


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path with ~ expanded, links kept as they are."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def subfolders(folder: str | Path) -> list[str]:
    """Return the names of the folders inside a folder, sorted, without hidden and system ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not _is_system_folder(e.name))


def _is_system_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


@dataclass(eq=False)
class Contents:
    """What is in a folder and the folders inside it.

    Attributes
    ----------
    images : list of str
        Paths, sorted.
    skipped : list of str
        Paths of files that are no images by their names, hidden and system files left out.
    """

    images: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def list_images(folder: str | os.PathLike[str]) -> list[str]:
    """List the images in a folder and the folders inside it, by their names.

    Parameters
    ----------
    folder : str or path-like
        Any folder.

    Returns
    -------
    paths : list of str
        Absolute, sorted by name in each folder; as `load_folder` finds them.

    Raises
    ------
    FileNotFoundError
        There is no such folder.

    Examples
    --------
    >>> from skclipsvd.datasets import list_images
    >>> list_images("unlabelled")  # doctest: +SKIP
    ['/home/me/unlabelled/1.jpg', '/home/me/unlabelled/2.jpg']
    """
    return contents(require_folder(absolute(folder), "a folder of images")).images


def contents(folder: str | Path, _above: tuple[str, ...] = ()) -> Contents:
    """List what is in a folder and the folders inside it, links followed."""
    found = Contents()
    real = os.path.realpath(folder)
    if real in _above:  # a link back to where we came from
        return found
    with os.scandir(folder) as entries:
        files = sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))
    for name in files:
        if is_image(name):
            found.images.append(os.path.join(folder, name))
        elif name.lower() not in _SYSTEM_FILES:
            found.skipped.append(os.path.join(folder, name))
    for name in subfolders(folder):
        inner = contents(os.path.join(folder, name), (*_above, real))
        found.images += inner.images
        found.skipped += inner.skipped
    return found
