"""The command ``skclipsvd``: what can be checked of its options before torch is imported."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from ..constraints import TUNING_CONSTRAINTS, check_top_k
from ..datasets import Dataset, Split, list_images, load_folder
from ..exceptions import SkclipsvdWarning
from ..paths import (
    HUB,
    adapter_file,
    check_can_draw,
    class_names_in,
    writable_file,
    writable_folder,
)
from ..progress import print_line
from ..validation import check_values

_Options = dict[str, Any]


def prepared(command: str, options: _Options) -> Callable[[], None]:
    """Check the options of a command, and import what runs it.

    Parameters
    ----------
    command : str
        Its name.
    options : dict
        What the command line gave; None where it gave nothing.

    Returns
    -------
    work : callable
        Runs it.
    """
    warnings.simplefilter("always", SkclipsvdWarning)
    given = {name: options.get(name) for name in TUNING_CONSTRAINTS}
    if options.get("class_names") is not None:
        given["class_names"] = options["class_names"] = class_names_in(options["class_names"])
    given = {name: value for name, value in given.items() if value is not None}
    check_values(given, TUNING_CONSTRAINTS, f"skclipsvd {command}")
    _CHECKS[command](options)
    return partial(import_module("skclipsvd.commands._work").COMMANDS[command], options)


def _train(options: _Options) -> None:
    file = options["output"]
    options["output"] = writable_file(file)
    if not options.pop("overwrite") and options["output"].exists():
        raise FileExistsError(f"{file} exists; name another file, or pass --overwrite.")
    data = load_folder(options["folder"], split=options.pop("split"))
    options["train"], options["val"] = _part(data, "train"), data.splits.get("val")
    options["has_test"] = "test" in data.splits
    if options["checkpoint_dir"] is not None:
        writable_folder(options["checkpoint_dir"], "checkpoint_dir")


def _predict(options: _Options) -> None:
    _check_model(options["model"])
    check_top_k(options["top_k"])
    _check_table(options)


def _zero_shot(options: _Options) -> None:
    check_top_k(options["top_k"], len(set(options["classes"])))
    _check_table(options)


def _check_table(options: _Options) -> None:
    if options["out"] is not None:
        if Path(options["out"]).suffix.lower() != ".csv":
            raise ValueError(f"--out {options['out']}: name a .csv file.")
        options["out"] = writable_file(options["out"])
    options["images"] = [path for given in options["images"] for path in _images(Path(given))]


def _images(given: Path) -> list[str]:
    """List the images of a folder; a file is taken for one whatever it is called."""
    if not given.is_dir():
        return [str(given)]
    found = list_images(given)
    if not found:
        raise ValueError(f"{given} holds no files whose names are those of images.")
    return found


def _evaluate(options: _Options) -> None:
    _check_model(options["model"])
    if options["out"] is not None:
        check_can_draw("--out")
    data = load_folder(options.pop("folder"), split=options.pop("split"))
    options["name"], options["part"] = data.name, _part(data, options["part"] or "test")
    if list(data.splits) == ["all"]:
        print_line(
            f"note: {data.name} has no part test/, so all of its images are tested on. If the "
            "classifier was trained on them, expect a lower accuracy on new images."
        )
    if options["out"] is not None:
        options["out"] = writable_folder(options["out"], "--out")


def _part(data: Dataset, name: str) -> Split:
    """Return a part of the data; the whole where there are no parts."""
    if name in data.splits:
        return data.splits[name]
    if list(data.splits) == ["all"]:
        return data.splits["all"]
    raise ValueError(f"{data.name} has no part {name}, only {', '.join(data.splits)}.")


def _info(options: _Options) -> None:
    _check_model(options["model"])


def _check_model(model: str) -> None:
    if not model.startswith(HUB):
        adapter_file(model)


def _demo(options: _Options) -> None:
    check_values({"random_state": options["seed"]}, TUNING_CONSTRAINTS, "skclipsvd demo")
    ending = Path(options["output"]).suffix.lower()
    if Image.registered_extensions().get(ending) not in Image.SAVE:
        raise ValueError(f"--output {options['output']}: name a picture, such as demo.png.")
    options["output"] = str(writable_file(options["output"]))


_CHECKS: Mapping[str, Callable[[_Options], None]] = {
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "zero-shot": _zero_shot,
    "info": _info,
    "demo": _demo,
}
