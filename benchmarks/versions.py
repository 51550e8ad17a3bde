"""One training step of two checkouts of this library, in turn, each in a process of its own.

    git worktree add ../before v0.1.0
    python -m benchmarks.versions --before ../before

Both processes hold the same model with the same random weights and take a step only when they are
told to, so a machine whose speed drifts slows both; which of the two goes first alternates. The
ratio is the median of before / after over the pairs: above 1, this checkout is faster. What is
timed is `benchmarks.step`'s own step (`OurTraining`) of each checkout.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from ._report import table, write

# Runs in the checkout that is its current folder, with that checkout's package and benchmark.
WORKER = """
import sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from benchmarks import step
model, n_classes, batch, precision = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4]
device = step.choose_device("auto")
dtype = step.choose_dtype(precision, device)
with step.quiet_random_weights():
    backbone = step.load_backbone(model, None, device)
factors = step.decompose(backbone, step.find_targets(backbone.model))
names = step.IMAGENET_CLASSNAMES[:n_classes]
with tempfile.TemporaryDirectory() as folder:
    paths = step.photographs(Path(folder), 4 * batch)
    labels = np.arange(len(paths)) % n_classes
    training = step.OurTraining(backbone, factors, paths, labels, names, batch, dtype)
    rng = np.random.RandomState(0)
    for line in sys.stdin:
        chosen = rng.choice(len(paths), batch, replace=False)
        print("seconds", step.timed(device, lambda: training.step(chosen)), flush=True)
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7, help="pairs of steps that are counted")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--name", default="versions", help="of the JSON file with the results")
    options = parser.parse_args()
    here = Path(__file__).parents[1]
    rows = []
    for n_classes in options.classes:
        before, after = (Worker(folder, n_classes, options) for folder in (options.before, here))
        with before, after:
            rows.append({"classes": n_classes, **compare(before, after, options.repeats)})
        print(rows[-1], flush=True)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    revisions = {"before": revision(options.before), "after": revision(here)}
    chosen = dict(model=options.model, batch=options.batch, precision=options.precision)
    write(options.name, {**chosen, **revisions}, rows)


class Worker:
    """A process that holds one checkout's training and takes a step when asked."""

    def __init__(self, checkout, n_classes, options):
        arguments = [options.model, n_classes, options.batch, options.precision]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, arguments)],
            cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def step(self):
        """Take one step; return its seconds."""
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds"):
                return float(line.split()[1])
        raise RuntimeError(f"The process of {self.process.args[3:]} ended; its error is above.")


def compare(before, after, repeats):
    for worker in (before, after):  # the first step warms up
        worker.step()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            pairs.append((before.step(), after.step()))
        else:
            pairs.append((after.step(), before.step())[::-1])
    theirs, own = np.array(pairs).T
    return {
        "pairs": repeats,
        "before, s": round(float(np.median(theirs)), 3),
        "after, s": round(float(np.median(own)), 3),
        "before / after": round(float(np.median(theirs / own)), 3),
    }


def revision(checkout):
    """Name the commit, with a mark where files differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=7"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
