"""The data sets of the study of defaults: five to choose on, six to report on."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skclipsvd.datasets import load_handwritten_digits

from ._data import VARIABLE, data_set

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from score_photographic import read, template_of, words_of

SELECTION = ("letters", "upright", "clothing10", "caltech20", "steel6")
HELD_OUT = ("digits", "grocery50", "trashnet6", "aid18", "busi3", "knee5")
DRAWN = ("letters", "upright", "digits")
PHOTOGRAPHS = tuple(name for name in SELECTION + HELD_OUT if name not in DRAWN)
# Enough for a standard error of 2.5 points a set at most, and 1 for a mean of six.
N_TEST = 300


@dataclass(frozen=True)
class Study:
    """One data set.

    Attributes
    ----------
    name : str
        One of SELECTION or HELD_OUT.
    paths, labels : ndarray
        To draw shots from.
    test_paths, test_labels : ndarray
        Never trained on.
    class_names : dict
        Words for each label.
    template : str
        Prompt.
    augment : bool
        Whether mirror images and crops show the same class.
    """

    name: str
    paths: NDArray
    labels: NDArray
    test_paths: NDArray
    test_labels: NDArray
    class_names: dict[str, str]
    template: str
    augment: bool


@cache
def study(name: str, cache_folder: Path) -> Study:
    """Return one data set."""
    if name in DRAWN:
        return _drawn(name, cache_folder)
    folder = data_set(name)
    if folder is None:
        raise SystemExit(f"{name} is in the folder that {VARIABLE} is to name.")
    part = "validation" if name == "clothing10" else "test"
    test = _some(*read(folder, part))
    train = read(folder, "train")
    class_names = {label: words_of(name, label) for label in sorted(set(train[1]))}
    return Study(name, *train, *test, class_names, template_of(name), True)


def _drawn(name: str, cache_folder: Path) -> Study:
    """Split by a fixed draw: a quarter of the pictures is kept for the test."""
    paths, labels = load_handwritten_digits() if name == "digits" else _letters(name, cache_folder)
    paths, labels = np.array(paths, dtype=object), np.array(labels)
    order = np.random.RandomState(0).permutation(len(paths))
    test, train = order[: len(order) // 4], np.sort(order[len(order) // 4 :])
    names = {label: str(label) for label in sorted(set(labels))}
    split = (paths[train], labels[train], *_some(paths[test], labels[test]))
    return Study(name, *split, names, "a photo of a {}.", False)


def _letters(name: str, cache_folder: Path) -> tuple[Sequence[str], Sequence[str]]:
    """Draw with the fonts of families that the tiny model's training never saw."""
    from .letters import save, turned_letters, upright_letters

    folder = cache_folder / name
    if not (folder / "labels.npy").exists():
        from tiny_bank import build_bank

        bank = build_bank([str(cache_folder / "fonts")])
        # The bank holds nothing but held-out families, and `letters` takes every sixth.
        families = bank["families"]
        print("letters of", ", ".join(map(str, families)), flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        draw = turned_letters if name == "letters" else upright_letters
        _, labels = save(draw(bank, 2600, range(len(families))), folder)
        np.save(folder / "labels.npy", labels)
    labels = np.load(folder / "labels.npy")
    return [str(folder / f"{i}.png") for i in range(len(labels))], labels


def _some(paths: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    chosen = np.random.RandomState(0).permutation(len(paths))[:N_TEST]
    return paths[chosen], labels[chosen]
