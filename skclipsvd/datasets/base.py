"""What every reader returns, and the steps that all of them share."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEFAULT_TEMPLATE = "a photo of a {}."

_EXTENSIONS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
_EXTENSIONS += (".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one part of a data set.

    Attributes
    ----------
    paths : list of str
        Where the images are.
    labels : ndarray of shape (n_images,), dtype str
        Their class names.
    targets : ndarray of shape (n_images,), dtype int64
        The positions of their classes in ``Dataset.class_names``.
    """

    paths: list[str]
    labels: np.ndarray
    targets: np.ndarray

    def __len__(self):
        """Return the number of images."""
        return len(self.paths)

    def __repr__(self):
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
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    template: str = DEFAULT_TEMPLATE


def build_dataset(name, items, template):
    """Give the classes consecutive numbers, in the order of those they have.

    Parameters
    ----------
    name, template : str
        As in `Dataset`.
    items : dict of str to list of (str, int, str)
        For every part: path, class number and class name of each image.
    """
    names = {}
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


def _build_split(part, rank, class_names):
    targets = np.array([rank[number] for _, number, _ in part], dtype=np.int64)
    return Split([path for path, *_ in part], np.array(class_names)[targets], targets)


def require_images(items, listing):
    """Return the items if all their files are there; otherwise name the missing ones."""
    paths = [path for part in items.values() for path, *_ in part]
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        first = "".join(f"\n  {path}" for path in missing[:5])
        raise FileNotFoundError(
            f"{len(missing)} of the {len(paths)} images in {listing} are missing, first:{first}"
        )
    return items


def require_folder(path, expected):
    """Return the path if it is a folder; otherwise say what should be there."""
    if not os.path.isdir(path):
        state = "is not a folder" if os.path.exists(path) else "does not exist"
        raise FileNotFoundError(f"{path} {state}; expected {expected}.")
    return path


def require_file(path, expected):
    """Return the path if it is a file; otherwise say what should be there."""
    if not os.path.isfile(path):
        state = "is not a file" if os.path.exists(path) else "does not exist"
        raise FileNotFoundError(f"{path} {state}; expected {expected}.")
    return path


def absolute(path):
    """Return an absolute path with ~ expanded, links kept as they are."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def is_image(name):
    """Tell by the name whether a file is an image and not hidden."""
    return not name.startswith(".") and name.lower().endswith(_EXTENSIONS)


def subfolders(folder):
    """Return the names of the folders inside a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def images_below(folder, _above=()):
    """List all images in a folder and the folders inside it, sorted, links followed."""
    real = os.path.realpath(folder)
    if real in _above:  # a link back to where we came from
        return []
    with os.scandir(folder) as entries:
        found = sorted(e.name for e in entries if e.is_file() and is_image(e.name))
    images = [os.path.join(folder, name) for name in found]
    for name in subfolders(folder):
        images += images_below(os.path.join(folder, name), (*_above, real))
    return images
