"""What the experiments' command does, once it knows what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..datasets import Dataset
from .data import open_data, open_folder
from .markdown import tables
from .plots import plot_shots
from .protocols import base_to_novel, cross_dataset, domain_generalisation, few_shot
from .results import Row, holds_results, read_results

_PROTOCOLS: dict[str, Callable[..., list[Row]]] = {
    "few-shot": few_shot,
    "base-to-novel": base_to_novel,
    "cross-dataset": cross_dataset,
    "domain-generalisation": domain_generalisation,
}


def run(protocol: str, options: dict[str, Any]) -> None:
    """Run a protocol on each data set, and print the tables.

    Parameters
    ----------
    protocol : str
        Its name.
    options : dict
        What the command line gave; None where it gave nothing.
    """
    data = _open(options, "data", "folder")
    # Tested on as well, where the protocol does that.
    others = [_open(options, "test", "test_folder")] if "test" in options else []
    for name in ("root", "split", "class_names"):
        options.pop(name)
    options = {name: value for name, value in options.items() if value is not None}
    rows = []
    for dataset in data:
        rows += _PROTOCOLS[protocol](dataset, *others, verbose=1, **options)
    print(tables(rows), end="")


def _open(options: dict[str, Any], names: str, folders: str) -> list[Dataset]:
    """Find all data sets before anything is trained on one of them."""
    class_names = options["class_names"] and json.loads(
        Path(options["class_names"]).read_text(encoding="utf-8")
    )
    named, paths = options.pop(names, None) or [], options.pop(folders, None) or []
    if paths and names == "test":
        named = []  # instead of those that are tested on by default
    found = [open_data(name, options["root"]) for name in named]
    split = options["split"] if names == "data" else None
    return found + [open_folder(p, split=split, class_names=class_names) for p in paths]


def tabulate(results: str, out: str | None, plot: str | None) -> None:
    """Print the tables of a file of results, or write them; and draw them where that is wanted.

    Parameters
    ----------
    results, out, plot : str or None
        Files: the results, the tables, and the picture.

    Raises
    ------
    ValueError
        A file would be overwritten that holds results.
    """
    for option, file in (("--out", out), ("--plot", plot)):
        if file is not None:
            _check_may_replace(option, file, results)
    if out is not None and plot is not None and _same_file(out, plot):
        raise ValueError(f"--out and --plot are both {out}; name two files.")
    rows = read_results(results)
    text = tables(rows)
    if out is None:
        print(text, end="")
    else:
        Path(out).write_text(text, encoding="utf-8")
    if plot is not None:
        plot_shots(rows).savefig(plot, dpi=150)


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
