"""A CSV of results that survives interruption: finished rows are neither lost nor repeated."""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Everything that determines a result.
KEY = (
    "protocol",
    "data",
    "test",
    "method",
    "model",
    "pretrained",
    "shots",
    "seed",
    "settings_hash",
    "data_hash",
    "weights",
)
COLUMNS = (
    "protocol",
    "data",
    "test",
    "method",
    "model",
    "pretrained",
    "shots",
    "seed",
    "setting",
    "overrides",
    "accuracy",
    "n_train",
    "n_test",
    "settings_hash",
    "data_hash",
    "weights",
    "version",
)
_NUMBERS = {"shots": int, "seed": int, "n_train": int, "n_test": int, "accuracy": float}

Row = dict[str, Any]


class Results:
    """Rows of results, in a file where one is named.

    A row is appended under a lock that dies with its process, and reaches the disk before `append`
    returns. A process killed while it writes leaves a line without an end, which readers do not
    look at and the next writer cuts off.

    Parameters
    ----------
    path : str or path-like, optional
        A CSV file, continued where it exists. None keeps the rows in memory.

    Raises
    ------
    FileNotFoundError
        Its folder does not exist.
    ValueError
        The file is something else than results.

    Examples
    --------
    >>> from skclipsvd.experiments.results import Results
    >>> Results().rows()
    []
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self.path = None if path is None else results_path(path)
        self._rows: list[Row] = []
        if self.path is not None:
            with _locked(self.path) as file:  # shows now whether it can be written and read
                _parse(file.read(), self.path)

    def rows(self) -> list[Row]:
        """Read all finished rows.

        Returns
        -------
        rows : list of dict
            By column; numbers are int and float.
        """
        if self.path is None:
            return [dict(row) for row in self._rows]
        return _parse(self.path.read_bytes(), self.path)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows, but for those that are there already.

        Parameters
        ----------
        rows : iterable of mapping
            With all `COLUMNS`.
        """
        if self.path is None:
            self._rows += _new_rows(rows, self._rows)
            return
        with _locked(self.path) as file:
            content = file.read()
            new = _new_rows(rows, _parse(content, self.path))  # before anything is cut off
            complete = content.rfind(b"\n") + 1
            file.truncate(complete)
            try:
                file.write((b"" if complete else _line(COLUMNS)) + b"".join(map(_line_of, new)))
                file.flush()
                os.fsync(file.fileno())
            except BaseException:  # a full disk, an interrupt: all of the rows or none
                with suppress(OSError):
                    file.truncate(complete)
                raise


def key(row: Mapping[str, Any]) -> tuple:
    """Return what makes a row the same run as another.

    Parameters
    ----------
    row : mapping
        A row of results.

    Returns
    -------
    key : tuple
    """
    return tuple(row[column] for column in KEY)


def results_path(path: str | os.PathLike) -> Path:
    """Return the path of a file of results, ``~`` expanded; FileNotFoundError without its folder.

    Parameters
    ----------
    path : str or path-like
        It need not exist yet.

    Returns
    -------
    path : Path
    """
    found = Path(path).expanduser()
    if not found.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"out={os.fspath(path)!r}: the folder {found.absolute().parent} does not exist; create "
            "it, or name another file."
        )
    return found


def read_results(path: str | os.PathLike) -> list[Row]:
    """Read the finished rows of a file of results.

    Parameters
    ----------
    path : str or path-like
        A file that an experiment wrote, or is writing.

    Returns
    -------
    rows : list of dict
        By column; numbers are int and float.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is something else than results.

    Examples
    --------
    >>> from skclipsvd.experiments import read_results
    >>> rows = read_results("results.csv")  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of results.")
    return _parse(path.read_bytes(), path)


def holds_results(path: Path) -> bool:
    """Whether there is a file at `path` that begins as results do."""
    header = _line(COLUMNS)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _parse(content: bytes, path: Path) -> list[Row]:
    """Read the complete lines."""
    lines = content[: content.rfind(b"\n") + 1]
    if not lines and not _line(COLUMNS).startswith(content):
        raise ValueError(
            f"{path} is not a file of results: it holds {len(content)} bytes of something else. "
            "Name another file."
        )
    try:
        table = list(csv.reader(io.StringIO(lines.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a CSV file of results ({error}); name another one."
        ) from None
    if not table:
        return []
    if tuple(table[0]) != COLUMNS:
        raise ValueError(
            f"{path} is not a file of results of this version: its columns are "
            f"{', '.join(table[0])[:200]}; expected {', '.join(COLUMNS)}. Name another file."
        )
    return [_row(line, number, path) for number, line in enumerate(table[1:], start=2)]


def _row(line: list[str], number: int, path: Path) -> Row:
    try:
        row: Row = dict(zip(COLUMNS, line, strict=True))
        row.update({column: convert(row[column]) for column, convert in _NUMBERS.items()})
    except ValueError as error:
        raise ValueError(
            f"Line {number} of {path} is damaged ({error}); delete it, and its run is repeated."
        ) from None
    return row


def _new_rows(rows: Iterable[Mapping[str, Any]], present: list[Row]) -> list[Row]:
    known = {key(row) for row in present}
    return [{column: row[column] for column in COLUMNS} for row in rows if key(row) not in known]


def _line_of(row: Row) -> bytes:
    # repr gives the shortest text that is read back as the same float.
    return _line(repr(float(v)) if c == "accuracy" else str(v) for c, v in row.items())


def _line(cells: Iterable[str]) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerow(cells)
    return stream.getvalue().encode("utf-8")


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read and append, alone; the system frees the lock of a killed process."""
    with path.open("a+b") as file:
        _lock(file)
        file.seek(0)
        yield file


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        while True:
            file.seek(1 << 30)  # nobody can read locked bytes, so lock one far behind the end
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError:  # after ten seconds
                time.sleep(1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX)
