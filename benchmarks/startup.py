"""How long until the first training step, and until the first prediction, in a fresh process.

Every row is a process of its own. The first one with ViT-B/16 finds an empty cache folder and
decomposes all matrices; those after it read the decompositions from disk (which the operating
system may still hold in memory, as it does between two runs of the same script). "Set-up" is the
part of `fit` from the moment when the weights are there until the first training step begins:
finding the matrices, their decompositions, prompts, decoding eight images, and putting the
adaptation into the model. The weights are random, so "weights" is drawing and hashing them.

The tiny model's row goes on to the first prediction: start of the process to the answer.

Rows with processor seconds, which do not count what other processes do, say what imports cost:
medians of fresh processes, those of a round in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

N_IMAGES = 8
PROCESSES = ("tiny", "first", "later")
OF_THE_PAGE = {
    "import, s": "imports",
    "weights, s": "weights (random; from a disk in their place)",
    "set-up, s": "set-up, decompositions included",
    "first step to answer, s": "one step, and the answer",
    "whole process, s": "whole process",
}
IMPORTS = {
    "torch, open_clip, scikit-learn": ["-c", "import torch, open_clip, sklearn"],
    "the same, and our estimators": [
        "-c", "import torch, open_clip, sklearn, skclipsvd; skclipsvd.CLIPSVDClassifier"
    ],
    "import skclipsvd": ["-c", "import skclipsvd"],
    "skclipsvd --help": ["-m", "skclipsvd", "--help"],
    "skclipsvd train --help": ["-m", "skclipsvd", "train", "--help"],
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--imports", type=int, default=5, help="processes of each kind")
    parser.add_argument("--only-imports", action="store_true", help="write no file")
    parser.add_argument("--child", help="the model to start with; used by this program itself")
    options = parser.parse_args()
    if options.child:
        return child(options.child)
    from ._report import table, write

    costs = imports(options.imports)
    print(table(list(costs[0]), [row.values() for row in costs]), flush=True)
    if options.only_imports:
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"process": "first", **start(options.model, folder)}]
        rows += [
            {"process": "later", **start(options.model, folder)} for _ in range(options.repeats)
        ]
        rows += [{"process": "tiny", **start("tiny", folder)} for _ in range(options.repeats)]
        files = [file for file in Path(folder, "factors").rglob("*") if file.is_file()]
        on_disk = sum(file.stat().st_size for file in files)
    print(table(list(rows[0]), [row.values() for row in rows]))
    for process in ("later", "tiny"):
        column = [row["set-up, s"] for row in rows if row["process"] == process]
        print(f"set-up, {process}: median {statistics.median(column):.2f} s")
    print("for docs/speed.md:", for_the_page(rows), sep="\n\n", end="\n\n")
    settings = dict(model=options.model, images=N_IMAGES, repeats=options.repeats)
    settings |= {"imports": options.imports, "decompositions on disk, MB": round(on_disk / 1e6)}
    write("startup", settings, rows + costs)


def for_the_page(rows):
    """Put the smallest and largest seconds of each part into the lines of docs/speed.md."""
    from ._report import table

    lines = []
    for column, what in OF_THE_PAGE.items():
        spans = [sorted(row[column] for row in rows if row["process"] == p) for p in PROCESSES]
        texts = [(f"{span[0]:.1f}", f"{span[-1]:.1f}") for span in spans]
        lines.append([what, *(low if low == high else f"{low} to {high}" for low, high in texts)])
    return table(["seconds", '`"tiny"`', "ViT-B/16, first", "ViT-B/16, later"], lines)


def imports(n_processes):
    """Run fresh processes that import and do nothing else, those of a round in turn."""
    spent = {what: [] for what in IMPORTS}
    for _ in range(n_processes):
        for what, arguments in IMPORTS.items():
            before, began = os.times(), time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            whole, after = time.perf_counter() - began, os.times()
            user = after.children_user - before.children_user
            system = after.children_system - before.children_system
            spent[what].append((whole, user + system, user))
    names = ("seconds", "processor seconds", "of them in user mode")
    medians = {
        what: [statistics.median(v) for v in zip(*s, strict=True)] for what, s in spent.items()
    }
    return [
        {"process": what, **{name: round(v, 3) for name, v in zip(names, values, strict=True)}}
        for what, values in medians.items()
    ]


def start(model_name, cache):
    """Run one fresh process and return its row."""
    command = [sys.executable, "-m", "benchmarks.startup", "--child", model_name]
    started = time.perf_counter()
    answer = subprocess.run(
        command, env={**os.environ, "SKCLIPSVD_CACHE": cache}, stdout=subprocess.PIPE, check=True
    )
    whole = time.perf_counter() - started
    row = {**json.loads(answer.stdout.splitlines()[-1]), "whole process, s": round(whole, 2)}
    print(row, flush=True)
    return row


def child(model_name):
    marks = {"start": time.perf_counter()}
    from skclipsvd import CLIPSVDClassifier, training
    from skclipsvd.adaptation import SpectralAdaptation
    from skclipsvd.caching.process import BACKBONES
    from skclipsvd.datasets import load_handwritten_digits

    from . import _report

    marks["imported"] = time.perf_counter()
    paths, labels = load_handwritten_digits()
    mark_when_done(marks, "weights", BACKBONES, "get_or_make")
    mark_when_done(marks, "adaptation", SpectralAdaptation, "__init__")
    mark_before(marks, "first step", training.Encoders, "backward")
    marks["fit"] = time.perf_counter()
    with _report.quiet_random_weights():
        clf = CLIPSVDClassifier(
            model_name, None, max_steps=1, batch_size=N_IMAGES, augment=False, random_state=0
        )
        clf.fit(paths[:N_IMAGES], labels[:N_IMAGES])
        clf.predict(paths[:N_IMAGES])
    marks["answer"] = time.perf_counter()
    parts = {
        "import, s": ("start", "imported"),
        "weights, s": ("fit", "weights"),
        "set-up, s": ("weights", "first step"),
        "of it decompositions, s": ("weights", "adaptation"),
        "first step to answer, s": ("first step", "answer"),
    }
    print(json.dumps({k: round(marks[end] - marks[a], 3) for k, (a, end) in parts.items()}))


def mark_when_done(marks, name, owner, function):
    original = getattr(owner, function)

    def call(*args, **kwargs):
        result = original(*args, **kwargs)
        marks.setdefault(name, time.perf_counter())
        return result

    setattr(owner, function, call)


def mark_before(marks, name, owner, function):
    original = getattr(owner, function)

    def call(*args, **kwargs):
        marks.setdefault(name, time.perf_counter())
        return original(*args, **kwargs)

    setattr(owner, function, call)


if __name__ == "__main__":
    main()
