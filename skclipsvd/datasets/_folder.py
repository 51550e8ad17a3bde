"""Anybody's own images: a folder per class, or a list of files."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ..exceptions import SkippedFilesWarning, warn
from ..image_files import is_image
from .base import (
    DEFAULT_TEMPLATE,
    Contents,
    Dataset,
    Item,
    Items,
    absolute,
    build_dataset,
    contents,
    require_file,
    require_folder,
    require_images,
    subfolders,
)

# What folders call the parts of a data set, alone or beside a word such as "seg" or "set".
_PARTS = {
    "train": "train|training",
    "val": "val|valid|validation|dev|development",
    "test": "test|testing|pred|holdout",
}
_PART_NAMES = {
    part: re.compile(rf"(?:(?:seg|data|images?)[ _-]?)?(?:{names})(?:[ _-]?(?:set|data|images?))?")
    for part, names in _PARTS.items()
}


@overload
def load_folder(
    root: str | os.PathLike[str],
    *,
    split: str | os.PathLike[str] | None = None,
    return_X_y: Literal[False] = False,
    part: str | None = None,
) -> Dataset: ...
@overload
def load_folder(
    root: str | os.PathLike[str],
    *,
    split: str | os.PathLike[str] | None = None,
    return_X_y: Literal[True],
    part: str | None = None,
) -> tuple[list[str], NDArray[np.str_]]: ...
def load_folder(
    root: str | os.PathLike[str],
    *,
    split: str | os.PathLike[str] | None = None,
    return_X_y: bool = False,
    part: str | None = None,
) -> Dataset | tuple[list[str], NDArray[np.str_]]:
    """Find the images of a folder, and what they show.

    Parameters
    ----------
    root : str or path-like
        The folder with the images. Without `split`, every folder in it is a class; the images of a
        class may lie in further folders inside. Where all folders have the names of parts of a data
        set (``train``, ``Validation``, ``test_set``, ...), each of them holds the classes.
    split : str or path-like, optional
        A file that lists the images instead, with paths relative to `root`:

        * JSON: ``{"train": [[path, number, class name], ...], "test": ...}``, the
          numbers being those of the classes, in which order they are listed;
        * CSV, encoded as UTF-8, with the columns ``path``, ``label`` and, if there are
          several parts, ``split``.
    return_X_y : bool, default=False
        Whether to return the paths and labels of one part instead of the data set.
    part : str, optional
        Which part `return_X_y` means, such as "train"; needed where there are several.

    Returns
    -------
    dataset : Dataset
        Its ``splits`` are those of the file, or "train", "val" and "test" for the folders that
        mean them. Where there are none, the single one is called "all". Class names are the names
        of the folders, or those in the file, unchanged.
    (paths, labels) : tuple of list of str and ndarray of str
        With `return_X_y`.

    Raises
    ------
    FileNotFoundError
        The folder, the file or listed images are missing.
    ValueError
        There are no images, or images beside the class folders; two folders mean the same
        part, or all classes hold the same folders; there is no such part; or the file is not as
        described.

    Warns
    -----
    SkippedFilesWarning
        Class folders hold files that are no images by their names, or nothing else; folders or
        images stand beside those of the parts.

    Notes
    -----
    Images are recognised by the extension, upper or lower case: all those that Pillow can decode,
    with its plugins (``.heic`` after ``pillow_heif.register_heif_opener()``). Files and folders
    whose names start with a dot are ignored, and so are folders of thumbnails and deleted files
    (``@eaDir``, ``__MACOSX``, ``$RECYCLE.BIN``, ...). The order is that of the names, on every
    machine.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from skclipsvd.datasets import load_folder
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat/1.jpg", "cat/more/2.JPG", "dog/1.png"):
    ...     (root / name).parent.mkdir(parents=True, exist_ok=True)
    ...     (root / name).touch()
    >>> dataset = load_folder(root)
    >>> dataset.class_names
    ('cat', 'dog')
    >>> dataset.splits["all"].labels.tolist()
    ['cat', 'cat', 'dog']
    >>> paths, labels = load_folder(root, return_X_y=True)
    """
    if part is not None and not return_X_y:
        raise ValueError(f"part={part!r} is for return_X_y=True; see `splits` of the data set.")
    dataset = _read(absolute(root), split)
    return _one_part(dataset, part) if return_X_y else dataset


def _one_part(dataset: Dataset, part: str | None) -> tuple[list[str], NDArray[np.str_]]:
    names = list(dataset.splits)
    chosen = names[0] if part is None and len(names) == 1 else part
    if chosen not in dataset.splits:
        raise ValueError(
            f"{dataset.name} has the part{'s' * (len(names) > 1)} {', '.join(names)}; got "
            f"part={part!r}. Name one of them."
        )
    found = dataset.splits[chosen]
    return found.paths, found.labels


def _read(root: Path, split: str | os.PathLike[str] | None) -> Dataset:
    root = require_folder(root, "the folder with the images")
    if split is None:
        return build_dataset(root.name, _walk(root), DEFAULT_TEMPLATE)
    split = absolute(split)
    readers = {".json": read_json_split, ".csv": _read_csv_split}
    reader = readers.get(split.suffix.lower())
    if reader is None:
        raise ValueError(f"split must be a .json or .csv file; got {split}.")
    require_file(split, "the file that lists the images")
    return build_dataset(root.name, reader(split, root), DEFAULT_TEMPLATE)


def _walk(root: Path) -> Items:
    """Find the images of every part; of "all" where folders are classes."""
    folders = subfolders(root)
    parts = {folder: part for folder in folders if (part := _part_of(folder))}
    # One of several may be a class, such as "test" beside "control"; two are not.
    if len(parts) < min(2, len(folders)) or not folders:
        return {"all": _walk_classes(root, {})}
    twice = [folder for folder, part in parts.items() if list(parts.values()).count(part) > 1]
    if twice:
        raise ValueError(
            f"{', '.join(twice)} in {root} mean the same part of a data set; load each by itself, "
            f"such as {root / twice[0]}."
        )
    others = [folder for folder in folders if folder not in parts]
    if others := [*others, *_loose_images(root)]:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        warn(
            f"{root} holds {', '.join(parts)}, the parts of a data set; left out: "
            f"{', '.join(others[:5])}{more}.",
            SkippedFilesWarning,
        )
    numbers: dict[str, int] = {}
    ordered = sorted(parts, key=lambda folder: list(_PARTS).index(parts[folder]))
    items = {parts[folder]: _walk_classes(root / folder, numbers) for folder in ordered}
    _refuse_spellings(numbers, "class folders", root)
    return _in_order(items)


def _in_order(items: Items) -> Items:
    """Number the classes of all parts in the order of their names."""
    ranks = {name: i for i, name in enumerate(sorted({n for p in items.values() for *_, n in p}))}
    return {
        part: [(path, ranks[name], name) for path, _, name in found]
        for part, found in items.items()
    }


def _walk_classes(root: Path, numbers: dict[str, int]) -> list[Item]:
    """Find the images of a folder of class folders; number the classes that are new."""
    if loose := _loose_images(root):
        raise _in_no_class(root, loose)
    found = {name: contents(root / name) for name in subfolders(root)}
    # Only folders that hold images are classes.
    classes = {name: held.images for name, held in found.items() if held.images}
    if not classes:
        raise ValueError(
            f"No images in {root}; expected one folder per class, with images inside."
            + (f" {_skipped(found)}" if any(held.skipped for held in found.values()) else "")
        )
    _refuse_parts_inside(root, classes)
    if any(held.skipped or not held.images for held in found.values()):
        warn(f"{root}: {_skipped(found)}", SkippedFilesWarning)
    return [
        (path, numbers.setdefault(name, len(numbers)), name)
        for name, images in classes.items()
        for path in images
    ]


def _loose_images(root: Path) -> list[str]:
    return sorted(name for name in os.listdir(root) if is_image(name))


def _in_no_class(root: Path, loose: list[str]) -> ValueError:
    return ValueError(
        f"{root / loose[0]} is not in a class folder ({len(loose)} such image(s)); move each into "
        f"a folder named after its class, or out of {root}."
    )


def _part_of(folder: str) -> str | None:
    """Name the part of a data set that a folder's name means."""
    name = folder.strip().lower()
    return next((part for part, names in _PART_NAMES.items() if names.fullmatch(name)), None)


def _refuse_parts_inside(root: Path, classes: Mapping[str, list[str]]) -> None:
    """Notice a tree whose folders are not classes, but hold the classes, or parts of them."""
    inside = [subfolders(root / name) for name in classes]
    common = inside[0]
    if len(inside) < 2 or len(common) < 2 or any(names != common for names in inside):
        return
    if any(os.path.dirname(path) == str(root / n) for n, held in classes.items() for path in held):
        return
    names, example = ", ".join(common)[:200], next(iter(classes))
    if all(map(_part_of, common)):
        raise ValueError(
            f"Every class folder in {root} holds the folders {names}, like parts of a data set; "
            "all of them would be mixed. List the images in a file with the columns path, label "
            "and split, and pass it as split=."
        )
    raise ValueError(
        f"All folders in {root} hold the same folders, {names}, so that these may be the classes. "
        f"If they are, load each by itself, such as {root / example}; if not, list the images in a "
        "file with the columns path and label, and pass it as split=."
    )


def _skipped(found: Mapping[str, Contents]) -> str:
    """Say what was skipped, by extension, and which folders hold no image."""
    files = [path for held in found.values() for path in held.skipped]
    kinds = Counter(os.path.splitext(path)[1].lower() or "no extension" for path in files)
    sentences = []
    if files:
        counts = ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5))
        sentences.append(
            f"skipped {len(files)} files whose names are not those of images ({counts}), first "
            f"{files[0]}."
        )
    if empty := [name for name, held in found.items() if not held.images]:
        sentences.append(
            f"Not classes, because they hold no image: {', '.join(empty)[:200]} ({len(empty)})."
        )
    return " ".join(sentences)


def read_json_split(file: Path, root: Path) -> Items:
    """Read {"train": [[path, number, class name], ...], ...} into items."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON in UTF-8: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f'{file} must hold an object such as {{"train": [...], "test": [...]}}.')
    _refuse_spellings(content, "parts", file)
    items: dict[str, list[Item]] = {}
    for part, entries in content.items():
        if not isinstance(entries, list):
            raise ValueError(f"{part!r} in {file} must be a list; got {type(entries).__name__}.")
        items[part] = [_json_item(file, part, i, root, entry) for i, entry in enumerate(entries)]
    if not any(items.values()):
        raise ValueError(f"{file} lists no images.")
    return require_images(items, file)


def _json_item(file: Path, part: str, index: int, root: Path, entry: Any) -> Item:
    match entry:
        case [str(path), int() | str() as number, str(class_name)] if path and class_name:
            try:
                return str(root / path), int(number), class_name
            except ValueError:
                pass
    raise ValueError(
        f"{part}[{index}] in {file} must be [path, class number, class name]; got {entry!r}."
    )


def _read_csv_split(file: Path, root: Path) -> Items:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(_csv_rows(file, root, csv.DictReader(stream)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{file} is not a CSV file in UTF-8 ({error}); save it in that format, which Excel "
            'calls "CSV UTF-8".'
        ) from error
    if not rows:
        raise ValueError(f"{file} lists no images.")
    labels = sorted({label for _, label, _ in rows})
    _refuse_spellings(labels, "labels", file)
    _refuse_spellings(dict.fromkeys(part for *_, part in rows), "parts", file)
    numbers = {label: i for i, label in enumerate(labels)}
    items: dict[str, list[Item]] = {}
    for path, label, part in rows:
        items.setdefault(part, []).append((path, numbers[label], label))
    return require_images(items, file)


def _csv_rows(file: Path, root: Path, reader: csv.DictReader) -> Iterable[tuple[str, str, str]]:
    """Yield path, label and part of each image."""
    columns = list(reader.fieldnames or [])
    if not {"path", "label"}.issubset(columns):
        hint = " Write commas between them." if any(c in str(columns) for c in (";", "\\t")) else ""
        raise ValueError(f"{file} must have the columns path and label; it has {columns}.{hint}")
    needed = [c for c in ("path", "label", "split") if c in columns]
    for row in reader:
        if not all(row[column] for column in needed):
            raise ValueError(f"Line {reader.line_num} of {file} has no {' or no '.join(needed)}.")
        yield str(root / row["path"]), row["label"], row.get("split", "all")


def _refuse_spellings(names: Iterable[str], kind: str, where: Path) -> None:
    """Raise ValueError for two names that differ in case or spaces only."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            raise ValueError(
                f"{where} has the {kind} {other!r} and {name!r}, which differ in case or spaces "
                "only; spell them alike."
            )
