"""Anybody's own images: a folder per class, or a list of files."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..exceptions import SkippedFilesWarning, warn
from .base import (
    DEFAULT_TEMPLATE,
    Contents,
    Dataset,
    Item,
    Items,
    absolute,
    build_dataset,
    contents,
    is_image,
    require_file,
    require_folder,
    require_images,
    subfolders,
)

# What the parts of a data set are called, alone or beside a word such as "seg" or "set".
_PARTS = "train|training|val|valid|validation|dev|development|test|testing|pred|holdout"
_PART_NAME = re.compile(
    rf"(?:(?:seg|data|images?)[ _-]?)?(?:{_PARTS})(?:[ _-]?(?:set|data|images?))?"
)


def load_folder(
    root: str | os.PathLike[str], *, split: str | os.PathLike[str] | None = None
) -> Dataset:
    """Find the images of a folder, and what they show.

    Parameters
    ----------
    root : str or path-like
        The folder with the images. Without `split`, every folder in it is a class; the images of a
        class may lie in further folders inside.
    split : str or path-like, optional
        A file that lists the images instead, with paths relative to `root`:

        * JSON: ``{"train": [[path, number, class name], ...], "test": ...}``, the
          numbers being those of the classes, in which order they are listed;
        * CSV, encoded as UTF-8, with the columns ``path``, ``label`` and, if there are
          several parts, ``split``.

    Returns
    -------
    dataset : Dataset
        Its ``splits`` are those of the file. Where there are none, the single one is called "all".
        Class names are the names of the folders, or those in the file, unchanged.

    Raises
    ------
    FileNotFoundError
        The folder, the file or listed images are missing.
    ValueError
        There are no images, or images outside of the class folders; the folders are called like
        parts of a data set, or all hold the same folders; or the file is not as described.

    Warns
    -----
    SkippedFilesWarning
        Class folders hold files that are no images by their names, or nothing else.

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
    """
    root = require_folder(absolute(root), "the folder with the images")
    if split is None:
        return build_dataset(root.name, {"all": _walk(root)}, DEFAULT_TEMPLATE)
    split = absolute(split)
    readers = {".json": read_json_split, ".csv": _read_csv_split}
    reader = readers.get(split.suffix.lower())
    if reader is None:
        raise ValueError(f"split must be a .json or .csv file; got {split}.")
    require_file(split, "the file that lists the images")
    return build_dataset(root.name, reader(split, root), DEFAULT_TEMPLATE)


def _walk(root: Path) -> list[Item]:
    folders = subfolders(root)
    if folders and all(map(_is_part_name, folders)):
        raise ValueError(
            f"The folders in {root} are called {', '.join(folders)}, like parts of a data set "
            f"and not like classes; load each by itself, such as {root / folders[0]}."
        )
    loose = sorted(name for name in os.listdir(root) if is_image(name))
    if loose:
        raise ValueError(
            f"{root / loose[0]} is in no class folder ({len(loose)} such images); move each image "
            "into a folder named after its class."
        )
    found = {name: contents(root / name) for name in folders}
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
        (path, number, name)
        for number, (name, images) in enumerate(classes.items())
        for path in images
    ]


def _is_part_name(folder: str) -> bool:
    return _PART_NAME.fullmatch(folder.strip().lower()) is not None


def _refuse_parts_inside(root: Path, classes: Mapping[str, list[str]]) -> None:
    """Notice a tree whose folders are not classes, but hold the classes, or parts of them."""
    inside = [subfolders(root / name) for name in classes]
    common = inside[0]
    if len(inside) < 2 or len(common) < 2 or any(names != common for names in inside):
        return
    if any(os.path.dirname(path) == str(root / n) for n, held in classes.items() for path in held):
        return
    names, example = ", ".join(common)[:200], next(iter(classes))
    if all(map(_is_part_name, common)):
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
            f"skipped {len(files)} files that are no images by their names ({counts}), first "
            f"{files[0]}."
        )
    if empty := [name for name, held in found.items() if not held.images]:
        sentences.append(
            f"Without an image, and no classes: {', '.join(empty)[:200]} ({len(empty)})."
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
            f"{file} is no CSV file in UTF-8 ({error}); save it as such: Excel calls that "
            '"CSV UTF-8".'
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


def _refuse_spellings(names: Iterable[str], kind: str, file: Path) -> None:
    """Raise ValueError for two names that differ in case or spaces only."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(" ".join(name.split()).casefold(), name)
        if other != name:
            raise ValueError(
                f"{file} has the {kind} {other!r} and {name!r}, which differ in case or spaces "
                "only; spell them alike."
            )
