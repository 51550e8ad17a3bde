"""Data sets as the protocols see them: parts, draws of shots, and what identifies them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from ..caching.files import replacing
from ..datasets import Dataset, load, load_folder, load_handwritten_digits
from ..datasets.base import absolute
from ..model_selection import check_count, sample_shots


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a data set.

    Attributes
    ----------
    paths : object array of shape (n_images,)
    targets : int64 array of shape (n_images,)
        Positions in the data set's `class_names`. Names would not do: two classes of ImageNet
        share one.
    """

    paths: NDArray[np.object_]
    targets: NDArray[np.int64]

    def take(self, rows: NDArray) -> Part:
        """Select images by position or mask."""
        return Part(self.paths[rows], self.targets[rows])

    def of_classes(self, targets: Sequence[int]) -> Part:
        """Select the images of some classes."""
        return self.take(np.isin(self.targets, targets))

    @property
    def classes(self) -> list[int]:
        """The classes that have images, in the data set's order."""
        return np.unique(self.targets).tolist()


def parts(data: Dataset) -> tuple[Part, Part]:
    """Return what shots are drawn from, and what is tested on.

    A data set without parts is halved, class by class, the same way in every run: so every method,
    zero-shot included, and every number of shots is tested on the same images.
    """
    if {"train", "test"} <= set(data.splits):
        return _part(data, "train"), test_part(data)
    if list(data.splits) != ["all"]:
        raise ValueError(
            f"{data.name} has the parts {', '.join(data.splits)}; training and testing on it needs "
            "train and test, or no parts at all, in which case it is halved."
        )
    whole = _part(data, "all")
    rare = [data.class_names[t] for t, n in Counter(whole.targets.tolist()).items() if n < 2]
    if rare:
        raise ValueError(
            f"{data.name} has one image only of {rare[0]!r} ({len(rare)} such classes); it takes "
            "one to train on and one to test on. Add images, or leave the class out."
        )
    rows = np.arange(len(whole.targets))
    train, test = train_test_split(rows, test_size=0.5, stratify=whole.targets, random_state=0)
    return whole.take(np.sort(train)), whole.take(np.sort(test))


def test_part(data: Dataset) -> Part:
    """Return what a data set is tested on where nothing is trained on it."""
    name = "test" if "test" in data.splits else "all"
    if name not in data.splits:
        raise ValueError(f"{data.name} has no part called test, only {', '.join(data.splits)}.")
    part = _part(data, name)
    if not len(part.targets):
        raise ValueError(f"The test part of {data.name} has no images.")
    return part


def _part(data: Dataset, name: str) -> Part:
    split = data.splits[name]
    return Part(np.array(split.paths, dtype=object), np.asarray(split.targets))


def words(data: Dataset) -> list[str]:
    """Return the class names as they are put into prompts."""
    return [name.replace("_", " ") for name in data.class_names]


def checked_shots(shots: Iterable[int]) -> list[int]:
    """Return numbers of shots without repetitions; ValueError where one is none."""
    found = [check_count("shots", n) for n in dict.fromkeys(shots)]
    if not found:
        raise ValueError("shots is empty; it needs one entry or more.")
    return found


def checked_seeds(seeds: Iterable[int]) -> list[int]:
    """Return seeds without repetitions; ValueError where one is none."""
    found = list(dict.fromkeys(seeds))
    if not found:
        raise ValueError("seeds is empty; it needs one entry or more.")
    if not all(isinstance(seed, Integral) and seed >= 0 for seed in found):
        raise ValueError(f"seeds={found!r} must be ints of at least 0.")
    return found


def draw(train: Part, n_shots: int, seed: int) -> Part:
    """Draw K shots; as published, a class of fewer images repeats them."""
    return train.take(sample_shots(train.targets, n_shots, random_state=seed, replace=True))


def rare_classes(train: Part, n_shots: int) -> dict[int, int]:
    """Return the classes that have fewer than K images, and how many, the rarest first."""
    counts = Counter(train.targets.tolist())
    return {t: n for t, n in sorted(counts.items(), key=lambda c: c[1]) if n < n_shots}


def n_drawn(train: Part, n_shots: int) -> int:
    """Count the different images of a draw of K shots."""
    return sum(min(n, n_shots) for n in Counter(train.targets.tolist()).values())


def digest(*used: tuple[Dataset, Part]) -> str:
    """Identify the images, class names and templates that a result depends on.

    By the paths below the folder that each part is in, so that data sets may be moved.
    """
    state = hashlib.sha256()
    for data, part in used:
        folder = _folder(part)
        state.update(json.dumps([words(data), data.template]).encode())
        for path, target in zip(part.paths, part.targets.tolist(), strict=True):
            line = f"{_relative(path, folder)}\0{target}\0"
            state.update(line.encode("utf-8", "surrogatepass"))
    return state.hexdigest()[:12]


def one_line(text: str) -> str:
    """Make a name that a CSV file holds in one line."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())


def write_shots(file: Path, data: Dataset, train: Part, shots: Part) -> None:
    """Write a draw in the published format, with paths below the data set's own folder.

    Raises
    ------
    FileExistsError
        The file is there, and holds something else.
    """
    folder = _folder(train)
    names = data.class_names
    entries = [
        [_relative(path, folder), target, names[target]]
        for path, target in zip(shots.paths, shots.targets.tolist(), strict=True)
    ]
    content = json.dumps({"train": entries}, ensure_ascii=False, indent=0).encode("utf-8")
    if file.exists():
        if file.read_bytes() != content:
            raise FileExistsError(
                f"{file} holds another draw than this one; move it, or write to another folder."
            )
        return
    with replacing(file) as temporary:
        temporary.write_bytes(content)


def _folder(part: Part) -> str:
    """Find the folder that all images of a part are in."""
    return os.path.commonpath({os.path.dirname(path) for path in part.paths})


def _relative(path: str, folder: str) -> str:
    # Not os.path.relpath, which resolves both anew for each of a million paths.
    return path[len(folder) :].lstrip(os.sep).replace(os.sep, "/")


def open_data(name: str, root: str | os.PathLike | None = None) -> Dataset:
    """Find a published data set, or the digits that come with scikit-learn.

    Parameters
    ----------
    name : str
        As for `skclipsvd.datasets.load`; or ``"digits"``, which needs no files.
    root : str or path-like, optional
        As for `skclipsvd.datasets.load`.

    Returns
    -------
    data : skclipsvd.datasets.Dataset
        Its parts, with the paths and labels of their images.

    Raises
    ------
    FileNotFoundError, ValueError
        As for `skclipsvd.datasets.load`.

    Examples
    --------
    >>> from skclipsvd.experiments import open_data
    >>> open_data("digits").splits
    {'all': Split(1797 images, 10 classes)}
    """
    if name == "digits":
        paths, _ = load_handwritten_digits()
        return replace(load_folder(Path(paths[0]).parents[1]), name="digits")
    if root is None:
        raise ValueError(f"root is missing: the folder that holds the folder of {name!r}.")
    return load(name, root)


def open_folder(
    folder: str | os.PathLike,
    *,
    split: str | os.PathLike | None = None,
    class_names: Mapping[str, str] | None = None,
) -> Dataset:
    """Find the images of a folder, and give its classes words for prompts.

    Parameters
    ----------
    folder : str or path-like
        A folder of class folders; or of ``train``, ``test`` and perhaps ``val``, each a folder of
        class folders.
    split : str or path-like, optional
        A file that lists the images, as for `skclipsvd.datasets.load_folder`.
    class_names : mapping of str to str, optional
        Words for prompts, where those of a class folder do not read well.

    Returns
    -------
    data : skclipsvd.datasets.Dataset
        Its parts, with the paths and labels of their images.

    Raises
    ------
    FileNotFoundError, ValueError
        As for `skclipsvd.datasets.load_folder`; or `class_names` names unknown folders.

    Examples
    --------
    >>> from skclipsvd.experiments import open_folder
    >>> data = open_folder("photos", class_names={"outwear": "outerwear"})  # doctest: +SKIP
    """
    folder = absolute(folder)
    data = load_folder(folder, split=split)
    unknown = sorted(set(class_names or {}) - set(data.class_names))
    if unknown:
        raise ValueError(
            f"class_names has {unknown[0]!r}, which is no class of {folder}; its classes are "
            f"{', '.join(data.class_names)[:300]}."
        )
    names = tuple((class_names or {}).get(name, name) for name in data.class_names)
    return replace(data, class_names=names)
