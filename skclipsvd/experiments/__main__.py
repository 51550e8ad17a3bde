"""The papers' experiments as a command: ``python -m skclipsvd.experiments few-shot --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..datasets import Dataset
from . import (
    METHODS,
    base_to_novel,
    cross_dataset,
    domain_generalisation,
    few_shot,
    open_data,
    open_folder,
    plot_shots,
    read_results,
    settings,
    tables,
)
from .results import Row, holds_results

_PROTOCOLS: dict[str, Callable[..., list[Row]]] = {
    "few-shot": few_shot,
    "base-to-novel": base_to_novel,
    "cross-dataset": cross_dataset,
    "domain-generalisation": domain_generalisation,
}
_OTHERS = {
    "cross-dataset": tuple(name for name in settings.NATURAL if name != "imagenet"),
    "domain-generalisation": settings.IMAGENET_VARIANTS,
}
# Parameters of the estimators; what is not given is left to the setting.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": dict(dest="model_name", help="an open_clip model; 'tiny' needs no download"),
    "pretrained": dict(help="a tag of open_clip, or a checkpoint file"),
    "device": dict(help="a torch device; by default a GPU where there is one"),
    "precision": dict(help="auto, fp32, bf16 or fp16"),
    "n-jobs": dict(type=int, help="threads that read images"),
    "batch-size": dict(type=int),
    "micro-batch-size": dict(type=int),
    "templates": dict(nargs="+", help="prompts with {} for the class name"),
    "lr": dict(type=float),
    "weight-decay": dict(type=float),
    "epochs": dict(type=int),
    "max-steps": dict(type=int),
    "steps-per-shot": dict(type=int, help="max_steps is this times the shots"),
    "augment": dict(action=argparse.BooleanOptionalAction),
    "rank": dict(type=int, help="of CLIP-LoRA"),
    "alpha": dict(type=float, help="of CLIP-LoRA"),
    "dropout": dict(type=float, help="of CLIP-LoRA"),
    "C": dict(type=float, help="of the linear probe"),
    "share": dict(type=float, help="of the first of two stages"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    status : int
        0, or 1 after an error that was printed.
    """
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "table":
            _tabulate(**options)
        else:
            _run(command, options)
    except (ValueError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(protocol: str, options: dict[str, Any]) -> None:
    data = _open(options, "data", "folder")
    others = _open(options, "test", "test_folder")
    for name in ("root", "split", "class_names"):
        options.pop(name)
    options = {name: value for name, value in options.items() if value is not None}
    rows = []
    for dataset in data:
        given = (dataset, others) if protocol in _OTHERS else (dataset,)
        rows += _PROTOCOLS[protocol](*given, verbose=1, **options)
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


def _tabulate(results: str, out: str | None, plot: str | None) -> None:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m skclipsvd.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for protocol, function in _PROTOCOLS.items():
        summary = (function.__doc__ or "").splitlines()[0]
        _add_options(commands.add_parser(protocol, help=summary, description=summary), protocol)
    table = commands.add_parser("table", help="Put results into Markdown tables and a plot.")
    table.add_argument("results", metavar="RESULTS.csv")
    table.add_argument("--out", metavar="FILE.md", help="write there instead of printing")
    table.add_argument("--plot", metavar="FILE.png", help="draw accuracy against shots")
    return parser


def _add_options(parser: argparse.ArgumentParser, protocol: str) -> None:
    add = parser.add_argument
    trained = parser.add_mutually_exclusive_group(required=True)
    one = "+" if protocol not in _OTHERS else 1
    trained.add_argument("--data", nargs=one, metavar="NAME", help="published sets, or 'digits'")
    trained.add_argument("--folder", nargs=one, metavar="PATH", help="your own class folders")
    if protocol in _OTHERS:
        add("--test", nargs="+", metavar="NAME", default=_OTHERS[protocol], help="tested on, too")
        add("--test-folder", nargs="+", metavar="PATH", help="your own, instead of --test")
    add("--root", metavar="PATH", help="the folder with the folders of the published sets")
    add("--split", metavar="FILE", help="a .json or .csv list of the images in --folder")
    add("--class-names", metavar="FILE", help='JSON, {"folder": "words for prompts", ...}')
    add("--methods", nargs="+", metavar="METHOD", help=", ".join(METHODS))
    add("--shots", nargs="+", type=int, metavar="K")
    add("--seeds", nargs="+", type=int, metavar="SEED")
    add("--setting", choices=settings.SETTINGS)
    add("--out", metavar="RESULTS.csv", help="keep results, and continue where they end")
    add("--write-splits", metavar="PATH", help="write the drawn images to this folder")
    group = parser.add_argument_group("parameters", "Replace those of the setting.")
    for name, details in _PARAMETERS.items():
        group.add_argument(f"--{name}", **details)


if __name__ == "__main__":
    sys.exit(main())
