"""What can be said of a user's files and folders before any work, and before torch is imported."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from .caching.files import replacing

# Stands before a repository's name where a file's path could stand.
HUB = "hf-hub:"


def adapter_file(path: str | os.PathLike[str]) -> Path:
    """Return the path of an adapter file on this disk, ``~`` expanded.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such adapter file.")
    return file


def writable_folder(folder: str | os.PathLike[str], name: str) -> Path:
    """Make the folder that the parameter `name` names, and try whether it can be written to.

    Raises
    ------
    ValueError
        It cannot.
    """
    path = Path(os.path.abspath(Path(folder).expanduser()))
    try:
        with replacing(path / ".skclipsvd-probe") as probe:
            probe.write_bytes(b"")
        (path / ".skclipsvd-probe").unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"{name}={os.fspath(folder)!r}: nothing can be written there "
            f"({error.strerror or error}). Name a folder that can be written to."
        ) from error
    return path


def writable_file(file: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file that is to be written, ``~`` expanded.

    Raises
    ------
    OSError
        Its folder does not exist or cannot be written to, or it is a folder itself.
    """
    path = Path(file).expanduser().absolute()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{file}: the folder {path.parent} does not exist; create it.")
    if path.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name a file in it.")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{file}: you have no permission to write to {path.parent}.")
    return path


def check_can_draw(option: str) -> None:
    """Raise ImportError where `option` asks for a picture and matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError(f"{option} draws a picture; it needs `pip install 'skclipsvd[plot]'`.")


def class_names_in(file: str | os.PathLike[str]) -> Any:
    """Read the words for prompts from a JSON file: {"label": "words", ...}, or an array of words.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is no JSON, or neither an object nor an array.
    """
    try:  # editors on Windows put a mark in front
        words = json.loads(Path(file).expanduser().read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON in UTF-8: {error}") from error
    if not isinstance(words, (dict, list)):
        raise ValueError(
            f"{file} holds {str(json.dumps(words))[:40]}; it should hold an object, "
            '{"label": "words", ...}, or an array of words in the order of the sorted labels.'
        )
    return words
