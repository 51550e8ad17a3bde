"""Training steps and predictions of two checkouts, in turn, each in a process of its own.

    git worktree add ../before v0.1.0
    python -m benchmarks.versions --before ../before

Both processes hold the same model with the same weights (random ones, or those of a ``local-dir:``
folder) and work only when they are told to, so a machine whose speed drifts slows both; which of
the two goes first alternates. A ratio is the median of before / after over the pairs: above 1, this
checkout is faster. A step is `benchmarks.step`'s own (`OurTraining`) of each checkout; a
prediction, asked for with ``--work``, is one of `--images` files that nobody has read yet, by
`CLIPZeroShotClassifier`, decoding included. Processor seconds count all threads, and are the
steadier figure where a machine does other work.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np

from ._report import table, write

# Runs in the checkout that is its current folder, with that checkout's package and benchmark.
WORKER = """
import shutil, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from benchmarks import step
from skclipsvd import CLIPZeroShotClassifier
model, precision = sys.argv[1:3]
n_classes, batch, n_images = map(int, sys.argv[3:])
device = step.choose_device("auto")
dtype = step.choose_dtype(precision, device)
with step.quiet_random_weights():
    backbone = step.load_backbone(model, None, device)
    names = step.IMAGENET_CLASSNAMES[:n_classes]
    clf = CLIPZeroShotClassifier(model, None, precision=precision, batch_size=n_images)
    clf.fit(None, names)
found = [t for t in step.find_targets(backbone.model) if t.matrix != "conv"]
step.find_targets = lambda model: found  # those that are adapted by default
factors = step.decompose(backbone, found)
with tempfile.TemporaryDirectory() as folder:
    paths = step.photographs(Path(folder), max(4 * batch, n_images))
    labels = np.arange(len(paths)) % n_classes
    training = step.OurTraining(backbone, factors, paths, labels, names, batch, dtype)
    rng = np.random.RandomState(0)
    for i, line in enumerate(sys.stdin):
        chosen = rng.choice(len(paths), batch, replace=False)
        work = lambda: training.step(chosen)
        if line.strip() == "predict":
            new = [shutil.copy(path, f"{path}-{i}.jpg") for path in paths[:n_images]]
            work = lambda: clf.predict(new)
        before = time.process_time()
        seconds = step.timed(device, work)
        print("seconds", seconds, time.process_time() - before, flush=True)
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--model", nargs="+", default=["ViT-B-16"])
    parser.add_argument("--work", nargs="+", choices=["step", "predict"], default=["step"])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--images", type=int, default=32, help="per prediction")
    parser.add_argument("--repeats", type=int, default=7, help="pairs that are counted")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--name", default="versions", help="of the JSON file with the results")
    options = parser.parse_args()
    here = Path(__file__).parents[1]
    rows = []
    for model, n_classes in itertools.product(options.model, options.classes):
        folders = options.before, here
        before, after = (Worker(folder, model, n_classes, options) for folder in folders)
        with before, after:
            for work in options.work:
                row = {"model": short(model), "work": work, "classes": n_classes}
                rows.append({**row, **compare(before, after, work, options.repeats)})
                print(rows[-1], flush=True)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    revisions = {"before": revision(options.before), "after": revision(here)}
    chosen = dict(batch=options.batch, images=options.images, precision=options.precision)
    write(options.name, {**chosen, **revisions}, rows)


class Worker:
    """A process that holds one checkout's training and classifier, and works when asked."""

    def __init__(self, checkout, model, n_classes, options):
        arguments = [model, options.precision, n_classes, options.batch, options.images]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, arguments)],
            cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def seconds(self, work):
        """Take a step or predict; return seconds on the clock, and of the processor."""
        self.process.stdin.write(f"{work}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds"):
                return [float(number) for number in line.split()[1:]]
        raise RuntimeError(f"The process of {self.process.args[3:]} ended; its error is above.")


def compare(before, after, work, repeats):
    for worker in (before, after):  # the first time warms up
        worker.seconds(work)
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            pairs.append((before.seconds(work), after.seconds(work)))
        else:
            pairs.append((after.seconds(work), before.seconds(work))[::-1])
    theirs, own = np.moveaxis(pairs, 0, -1)  # each of clock and processor, by pair
    ratio = np.median(theirs / own, axis=1)
    return {
        "pairs": repeats,
        "before, s": round(float(np.median(theirs[0])), 3),
        "after, s": round(float(np.median(own[0])), 3),
        "before / after": round(float(ratio[0]), 3),
        "before / after, processor": round(float(ratio[1]), 3),
    }


def short(model):
    """Name a model without the folders above it."""
    return Path(model.removeprefix("local-dir:")).name if model.startswith("local-dir:") else model


def revision(checkout):
    """Name the commit, with a mark where files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
