"""The command ``skclipsvd``: what it takes; what it does is imported when it is asked for.

Nothing heavy, so that ``--help`` and misspelt options are answered at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from .._version import __version__
from ..console import run_command

# Commands that have parsers of their own; what follows them is handed on.
_HANDED_ON = {"experiments": ("skclipsvd.experiments.__main__", "The papers' experiments.")}
# Of the command line and of both estimators; what is not given keeps the estimator's default.
_MODEL: dict[str, dict[str, Any]] = {
    "--model": dict(
        dest="model_name", metavar="NAME", help="an open_clip model; 'tiny' needs no download"
    ),
    "--pretrained": dict(metavar="TAG", help="a tag of open_clip, a checkpoint file, or TAG:FILE"),
}
_RUNNING: dict[str, dict[str, Any]] = {
    "--device": dict(help="a torch device; by default a GPU if there is one"),
    "--precision": dict(choices=("auto", "fp32", "bf16", "fp16")),
    "--batch-size": dict(type=int, metavar="N"),
    "--n-jobs": dict(type=int, metavar="N", help="threads that read images"),
}
_PROMPTS: dict[str, dict[str, Any]] = {
    "--templates": dict(nargs="+", metavar="TEXT", help="prompts with {} for the class's words"),
    "--class-names": dict(metavar="FILE", help='JSON, {"label": "words for prompts", ...}'),
}
_TRAINING: dict[str, dict[str, Any]] = {
    "--epochs": dict(type=int, metavar="N"),
    "--max-steps": dict(type=int, metavar="N"),
    "--lr": dict(type=float, metavar="RATE"),
    "--head": dict(choices=("logistic",), help="what to use besides the words of the classes"),
    "--no-augment": dict(dest="augment", action="store_false", default=None,
                         help="no crops and mirror images; if left and right matter"),
    "--early-stopping": dict(action="store_true", default=None,
                             help="keep the epoch that is best on val/, or else on a tenth"),
    "--seed": dict(dest="random_state", type=int, metavar="N", help="makes a fit repeatable"),
    "--checkpoint-dir": dict(metavar="FOLDER",
                             help="for checkpoints; the same command continues from there"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    status : int
        0, 1 after an error that was printed, 130 after Ctrl-C, or 143 after SIGTERM. Wrong options
        end the process with 2, as argparse does.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in _HANDED_ON:
        module, _ = _HANDED_ON[arguments[0]]
        return import_module(module).main(arguments[1:])
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    return run_command(
        lambda: import_module("skclipsvd.commands._inputs").prepared(command, options),
        quiet=options.get("quiet", False),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skclipsvd",
        description="Teach CLIP your own classes from a handful of photographs.",
        epilog="skclipsvd COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary)

    _add_train(command("train", "Learn the classes of a folder; write a small file."))
    _add_predict(command("predict", "Predict images with a trained file; write a CSV file."))
    _add_evaluate(command("evaluate", "Test a trained file on a folder of labelled images."))
    _add_zero_shot(command("zero-shot", "Predict images without training, from class names alone."))
    for one in list(commands.choices.values()):
        one.add_argument("--quiet", action="store_true", help="show no progress")
    _add_demo(command("demo", "Adapt the built-in tiny CLIP to handwritten digits; a minute."))
    info = command("info", "Show what is in a trained file.")
    info.add_argument("model", metavar="MODEL")
    _add(info, "backbone, if the file does not name it", _MODEL)
    for name, (_, summary) in _HANDED_ON.items():
        command(name, summary)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="holds one folder per class, or train/, val/, test/ of such")
    parser.add_argument("-o", "--output", required=True, metavar="MODEL.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--method", choices=("svd", "lora"), default="svd", help="default: svd")
    parser.add_argument("--split", metavar="FILE", help="a .json or .csv list of the images")
    _add(parser, "model and prompts", _MODEL | _PROMPTS)
    _add(parser, "training", _TRAINING)
    _add(parser, "running", _RUNNING)


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders and image files")
    _add_table(parser)
    _add(parser, "backbone, if the file does not name it", _MODEL)
    _add(parser, "running", _RUNNING)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("folder", help="holds one folder per class, or test/ with such folders")
    parser.add_argument("--split", metavar="FILE", help="a .json or .csv list of the images")
    parser.add_argument("--part", help="which part to test on; default: test, if there is one")
    parser.add_argument(
        "--out", metavar="FOLDER", help="write per_class.csv, confusion.csv, confusion.png there"
    )
    _add(parser, "backbone, if the file does not name it", _MODEL)
    _add(parser, "running", _RUNNING)


def _add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders and image files")
    parser.add_argument("--classes", nargs="+", required=True, metavar="LABEL")
    _add_table(parser)
    _add(parser, "model and prompts", _MODEL | _PROMPTS)
    _add(parser, "running", _RUNNING)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo.png", help="picture to write (default: demo.png)")
    parser.add_argument("--seed", type=int, default=0, help="which 16 images per class are shown")


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE.csv", help="write there instead of printing")
    parser.add_argument("--top-k", type=int, default=1, metavar="K", help="labels per image")


def _add(parser: argparse.ArgumentParser, title: str, options: dict[str, dict[str, Any]]) -> None:
    group = parser.add_argument_group(title)
    for name, details in options.items():
        group.add_argument(name, **details)
