"""How long a user sees nothing while they wait: the longest silence under ``verbose=1``.

Whatever a program writes, lines and changes of bars, is stamped when it arrives; "meanwhile" is
what stood on the screen in the longest silence. The first program, in Python, fits ViT-B/16 (random
weights; ten classes of two photographs; two steps) with an empty cache folder, then predicts and
transforms 32 other photographs; the second one loads that classifier and predicts. Their imports
are not counted. The others are the command, with the tiny model, from the start of the process to
the last thing that it says. "Seconds" are no measure of speed: the machine may do other work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import joblib

from ._report import quiet_random_weights, table, write

N_CLASSES, PER_CLASS, N_STEPS, N_PREDICTED = 10, 2, 2, 32
_MARK = "=== "


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--show", action="store_true", help="print all of it, with its second")
    parser.add_argument("--child", choices=("fit", "load"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.model, Path(options.folder))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder))
        for name, program in programs(options.model, folder).items():
            pieces = list(stamped(program, folder))
            if options.show:
                print(*(f"{second:7.2f}  {text!r}" for second, text in pieces), sep="\n")
            rows += [{"program": name, **row} for row in silences(pieces)]
    print(table(list(rows[0]), [row.values() for row in rows]))
    settings = dict(model=options.model, classes=N_CLASSES, images=N_CLASSES * PER_CLASS)
    write("silence", {**settings, "steps": N_STEPS, "predicted": N_PREDICTED}, rows)


def programs(model, folder):
    command, kinds = [sys.executable, "-m", "skclipsvd"], f"{folder}/kinds.safetensors"
    train = ["train", f"{folder}/train", "-o", kinds, "--model", "tiny", "--max-steps", "2"]
    predict = ["predict", kinds, f"{folder}/new", "--out", f"{folder}/predictions.csv"]
    python = [sys.executable, "-m", "benchmarks.silence", "--model", model, "--folder", folder]
    return {
        "Python": [*python, "--child", "fit"],
        "Python, another process": [*python, "--child", "load"],
        "skclipsvd train": [*command, *train],
        "skclipsvd predict": [*command, *predict],
    }


def write_photographs(folder):
    from .step import photographs

    n_train = N_CLASSES * PER_CLASS
    (folder / "new").mkdir()
    for i, path in enumerate(photographs(folder, n_train + N_PREDICTED)):
        kind = folder / "train" / f"kind {i % N_CLASSES}" if i < n_train else folder / "new"
        kind.mkdir(parents=True, exist_ok=True)
        path.rename(kind / path.name)


def stamped(program, cache):
    """Yield (second, text) for whatever a program writes, when it arrives."""
    environment = {**os.environ, "SKCLIPSVD_CACHE": f"{cache}/cache", "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    with subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        while written := os.read(process.stdout.fileno(), 1 << 16):
            yield time.perf_counter() - began, written.decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{program} ended with {process.returncode}")


def silences(pieces):
    """Return for each part of a program what its longest silence was."""
    part, last, meanwhile, parts = "all of it", 0.0, "(nothing yet)", {}
    if any(_MARK in text for _, text in pieces):
        part = ""  # until the program says otherwise
    for second, text in pieces:
        if part:
            parts.setdefault(part, []).append((second - last, meanwhile))
        lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
        for line in lines:
            part = line.removeprefix(_MARK) if line.startswith(_MARK) else part
        last, meanwhile = second, lines[-1].strip() if lines else meanwhile
    for part, waits in parts.items():
        longest, meanwhile = max(waits)
        whole = sum(wait for wait, _ in waits)
        yield {
            "part": part,
            "lines and changes of bars": len(waits),
            "seconds": round(whole, 1),
            "longest silence, s": round(longest, 2),
            "meanwhile": meanwhile[:60],
        }


def child(what, model, folder):
    from skclipsvd import CLIPSVDClassifier
    from skclipsvd.datasets import list_images, load_folder

    warnings.simplefilter("ignore")  # random weights learn nothing in so few steps
    paths, labels = load_folder(folder / "train", return_X_y=True)
    new, saved = list_images(folder / "new"), folder / "clf.joblib"
    clf = CLIPSVDClassifier(model, None, max_steps=N_STEPS, random_state=0, verbose=1)
    if what == "load":
        clf = joblib.load(saved)
    parts = {
        "fit": {
            "fit": lambda: clf.fit(paths, labels),
            "predict": lambda: clf.predict(new),
            "transform": lambda: clf.transform(new),
        },
        "load": {"predict": lambda: clf.predict(new)},
    }
    with quiet_random_weights():
        for name, call in parts[what].items():
            print(f"{_MARK}{name}", flush=True)
            call()
    print(_MARK, flush=True)
    joblib.dump(clf, saved)


if __name__ == "__main__":
    main()
