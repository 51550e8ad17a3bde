"""The papers' experiments as a command: ``python -m skclipsvd.experiments few-shot --help``."""

# Nothing heavy: what is typed is checked, and --help answered, before torch is imported.
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..console import run_command
from . import settings

_PROTOCOLS = {
    "few-shot": "Train on K images per class, and test on the same classes.",
    "base-to-novel": "Train on the first half of the classes, and test on each half by itself.",
    "cross-dataset": "Train on one data set, and test on others, with their own classes.",
    "domain-generalisation": "Train on one data set, and test on the same classes in other images.",
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
    "density": dict(type=float, help="of SO"),
    "refresh": dict(type=int, help="of SO"),
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
        0; 1 after an error that was printed, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    return run_command(
        lambda: import_module("skclipsvd.experiments._inputs").prepared(command, options)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m skclipsvd.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for protocol, summary in _PROTOCOLS.items():
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
    add("--methods", nargs="+", metavar="METHOD", help=", ".join(settings.METHODS))
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
