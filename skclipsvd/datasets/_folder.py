"""Anybody's own images: a folder per class, or a list of files."""

import csv
import json
import os

from .base import (
    DEFAULT_TEMPLATE,
    absolute,
    build_dataset,
    images_below,
    is_image,
    require_file,
    require_folder,
    require_images,
    subfolders,
)

_SPLIT_NAMES = frozenset({"train", "val", "valid", "validation", "test"})


def load_folder(root, *, split=None):
    """Find the images of a folder, and what they show.

    Parameters
    ----------
    root : str or path-like
        The folder with the images. Without `split`, every folder in it is a class; the
        images of a class may lie in further folders inside.
    split : str or path-like, default=None
        A file that lists the images instead, with paths relative to `root`:

        * JSON: ``{"train": [[path, number, class name], ...], "test": ...}``, the
          numbers being those of the classes, in which order they are listed;
        * CSV, encoded as UTF-8, with the columns ``path``, ``label`` and, if there are
          several parts, ``split``.

    Returns
    -------
    dataset : Dataset
        Its ``splits`` are those of the file. Where there are none, the single one is
        called "all". Class names are the names of the folders, or those in the file,
        unchanged.

    Raises
    ------
    FileNotFoundError
        If the folder, the file or listed images are missing.
    ValueError
        If there are no images, or images outside of the class folders; or if the file
        is not as described.

    Notes
    -----
    Images are recognised by the extension, upper or lower case. Files and folders whose
    names start with a dot are ignored. The order is that of the names, on every machine.

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


def _walk(root):
    folders = subfolders(root)
    if folders and _SPLIT_NAMES.issuperset(folders):
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
    # Only folders that hold images are classes.
    classes = [(name, images) for name in folders if (images := images_below(root / name))]
    if not classes:
        raise ValueError(f"No images in {root}; expected one folder per class, with images inside.")
    return [
        (path, number, name) for number, (name, images) in enumerate(classes) for path in images
    ]


def read_json_split(file, root):
    """Read {"train": [[path, number, class name], ...], ...} into items."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON in UTF-8: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f'{file} must hold an object such as {{"train": [...], "test": [...]}}.')
    items = {}
    for part, entries in content.items():
        if not isinstance(entries, list):
            raise ValueError(f"{part!r} in {file} must be a list; got {type(entries).__name__}.")
        items[part] = [_json_item(file, part, i, root, entry) for i, entry in enumerate(entries)]
    if not any(items.values()):
        raise ValueError(f"{file} lists no images.")
    return require_images(items, file)


def _json_item(file, part, index, root, entry):
    match entry:
        case [str(path), int() | str() as number, str(class_name)] if path and class_name:
            try:
                return str(root / path), int(number), class_name
            except ValueError:
                pass
    raise ValueError(
        f"{part}[{index}] in {file} must be [path, class number, class name]; got {entry!r}."
    )


def _read_csv_split(file, root):
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        if not {"path", "label"}.issubset(columns):
            raise ValueError(f"{file} must have the columns path and label; it has {columns}.")
        needed = [c for c in ("path", "label", "split") if c in columns]
        rows = []
        for row in reader:
            if not all(row[column] for column in needed):
                raise ValueError(
                    f"Line {reader.line_num} of {file} has no {' or no '.join(needed)}."
                )
            rows.append((str(root / row["path"]), row["label"], row.get("split", "all")))
    if not rows:
        raise ValueError(f"{file} lists no images.")
    numbers = {label: i for i, label in enumerate(sorted({label for _, label, _ in rows}))}
    items = {}
    for path, label, part in rows:
        items.setdefault(part, []).append((path, numbers[label], label))
    return require_images(items, file)
