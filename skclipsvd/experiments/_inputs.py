"""What the experiments' command can check before torch is imported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..constraints import TUNING_CONSTRAINTS
from ..datasets import Dataset
from ..exceptions import SkclipsvdWarning
from ..paths import check_can_draw, class_names_in
from ..validation import check_values
from .data import checked_seeds, checked_shots, open_data, open_folder
from .results import Row, holds_results, read_results, results_path


def prepared(command: str, options: dict[str, Any]) -> Callable[[], None]:
    """Open all that is named, and import what the command needs.

    Parameters
    ----------
    command : str
        A protocol, or ``"table"``.
    options : dict
        What the command line gave; None where it gave nothing.

    Returns
    -------
    work : callable
        Runs it.
    """
    warnings.simplefilter("always", SkclipsvdWarning)
    arguments = _of_table(**options) if command == "table" else _of_protocol(command, options)
    work = import_module("skclipsvd.experiments._work")
    return partial(work.tabulate if command == "table" else work.run, *arguments)


def _of_protocol(
    protocol: str, options: dict[str, Any]
) -> tuple[str, list[Dataset], list[Dataset] | None, dict[str, Any]]:
    given = {name: value for name, value in options.items() if value is not None}
    checked_shots(given.get("shots", [1]))
    checked_seeds(given.get("seeds", [1]))
    ranges = {name: given[name] for name in (given.keys() & TUNING_CONSTRAINTS) - {"class_names"}}
    check_values(ranges, TUNING_CONSTRAINTS, protocol)
    file = options["class_names"]
    options["class_names"] = None if file is None else class_names_in(file)
    data = _opened(options, "data", "folder")
    others = _opened(options, "test", "test_folder") if "test" in options else None
    for name in ("root", "split", "class_names"):
        options.pop(name)
    options = {name: value for name, value in options.items() if value is not None}
    if "out" in options and results_path(options["out"]).exists():
        read_results(options["out"])
    return protocol, data, others, options


def _opened(options: dict[str, Any], names: str, folders: str) -> list[Dataset]:
    """Find all data sets before anything is trained on one of them."""
    named, paths = options.pop(names, None) or [], options.pop(folders, None) or []
    if paths and names == "test":
        named = []  # instead of those that are tested on by default
    found = [open_data(name, options["root"]) for name in named]
    split = options["split"] if names == "data" else None
    words = options["class_names"]
    return found + [open_folder(path, split=split, class_names=words) for path in paths]


def _of_table(
    results: str, out: str | None, plot: str | None
) -> tuple[list[Row], str | None, str | None]:
    for option, file in (("--out", out), ("--plot", plot)):
        if file is not None:
            _check_may_replace(option, file, results)
    if out is not None and plot is not None and _same_file(out, plot):
        raise ValueError(f"--out and --plot are both {out}; name two files.")
    if plot is not None:
        _check_is_picture(plot)
    return read_results(results), out, plot


def _check_is_picture(file: str) -> None:
    check_can_draw("--plot")
    from matplotlib.backend_bases import FigureCanvasBase

    if Path(file).suffix.lower()[1:] not in FigureCanvasBase.get_supported_filetypes():
        raise ValueError(f"--plot {file}: name a picture, such as shots.png.")


def _check_may_replace(option: str, file: str, results: str) -> None:
    if _same_file(file, results) or holds_results(Path(file)):
        raise ValueError(f"{option} {file} would overwrite results; name another file.")
    if not Path(file).absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{option} {file}: the folder {Path(file).absolute().parent} does not exist; create "
            "it, or name another file."
        )


def _same_file(one: str, other: str) -> bool:
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
