"""A search and a large prediction: two worker processes of dask against one process.

The tiny model on two cores: one process that computes with two threads, and two workers of dask on
the same machine that compute with one thread each. The search: two learning rates, two lengths,
three folds, on 200 handwritten digits. The prediction: so many JPEG files of 500 x 375 pixels, each
under a name of its own, in shards of 1,000. Each side is a process of its own, in turn; times are
medians. "Workers start" ends when both have imported the package and loaded the model. "Images
decoded" counts all processes. Peak memory is what was resident, added up over the processes (what
they share, such as the libraries' code, counts once for each).

Linux only.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

RATES, EPOCHS, FOLDS, PER_CLASS, SHARD = (0.005, 0.02), (10, 20), 3, 20, 1000
ONE, TWO = "one process, two threads", "two workers, one thread each"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, nargs=2, default=EPOCHS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=[ONE, TWO], help=argparse.SUPPRESS)
    parser.add_argument("--images", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options)
    from ._report import table, write

    told = {ONE: [], TWO: []}
    with tempfile.TemporaryDirectory() as folder:
        linked(Path(folder), options.files)
        for repeat in range(options.repeats):
            for side in (ONE, TWO) if repeat % 2 else (TWO, ONE):
                told[side].append(run(side, folder, options))
                print(side, told[side][-1], flush=True)
    rows = [
        {
            "computed by": side,
            **{
                name: round(float(np.median([one[name] for one in runs])), 1)
                for name in runs[0]
                if name.endswith((", s", ", MB"))
            },
            "images decoded by the search": runs[0]["images decoded"],
        }
        for side, runs in told.items()
    ]
    answers = {one["answers"] for runs in told.values() for one in runs}
    print(table(list(rows[0]), [row.values() for row in rows]))
    settings = dict(model="tiny", lr=RATES, epochs=options.epochs, folds=FOLDS, shard=SHARD)
    settings |= {"files": options.files, "repeats": options.repeats}
    settings |= {"both give the same labels": len(answers) == 1}
    write("many_machines", settings, rows)


def linked(folder, n_files):
    """Write a few hundred JPEG files, and give each many names."""
    from .step import photographs

    (folder / "originals").mkdir()
    originals = photographs(folder / "originals", min(200, n_files))
    for i in range(n_files):
        os.link(originals[i % len(originals)], folder / f"{i:05d}.jpg")


def run(side, folder, options):
    command = [sys.executable, "-m", "benchmarks.many_machines", "--child", side]
    command += ["--images", folder, "--epochs", *options.epochs]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    start = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return {
        **json.loads(done.stdout.splitlines()[-1]),
        "all of it, s": time.perf_counter() - start,
    }


def child(options):
    import torch

    from skclipsvd.datasets import load_handwritten_digits
    from skclipsvd.model_selection import sample_shots

    torch.set_num_threads(2)
    marks = {}
    paths, labels = load_handwritten_digits()
    shots = sample_shots(labels, PER_CLASS, random_state=0)
    files = sorted(map(str, Path(options.images).glob("*.jpg")))
    load()
    start = time.perf_counter()
    with workers() if options.child == TWO else contextlib.nullcontext() as client:
        everywhere(client, load)
        marks["workers start, s"] = time.perf_counter() - start
        with timed(marks, "search, s"):
            found = search(client, np.array(paths)[shots], labels[shots], options.epochs)
        marks["images decoded"] = sum(everywhere(client, n_decoded))
        with timed(marks, "prediction, s"):
            answers = predict(client, found.best_estimator_, files)
        marks["peak memory, MB"] = sum(everywhere(client, peak_memory)) / 1e6
    marks["answers"] = f"{found.best_params_} {zlib.crc32(','.join(answers).encode())}"
    print(json.dumps(marks))


@contextlib.contextmanager
def workers():
    """Two worker processes, as `docs/many_machines.md` starts them."""
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def timed(marks, name):
    start = time.perf_counter()
    yield
    marks[name] = time.perf_counter() - start


def everywhere(client, call):
    """Return what a call answers here and, where there are workers, in each of them."""
    return [call(), *([] if client is None else client.run(call).values())]


def load():
    import torch

    from skclipsvd.clip import load_backbone

    load_backbone("tiny", None, torch.device("cpu"))


def n_decoded():
    import skclipsvd

    return skclipsvd.cache_info()["images"]["entries"]


def peak_memory():
    """Return the most bytes that this process had at once."""
    # Not getrusage: that begins with what the process had that started this one.
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(kilobytes)


def search(client, paths, labels, epochs):
    import joblib
    from sklearn.model_selection import GridSearchCV

    from skclipsvd import CLIPSVDClassifier

    clf = CLIPSVDClassifier("tiny", augment=False, device="cpu", random_state=0)
    grid = {"lr": list(RATES), "epochs": list(epochs)}
    found = GridSearchCV(clf, grid, cv=FOLDS, error_score="raise")
    where = contextlib.nullcontext() if client is None else joblib.parallel_config(backend="dask")
    with where:
        return found.fit(paths, labels)


def predict(client, clf, files):
    if client is None:
        return clf.predict(files)
    model = client.scatter(clf, broadcast=True)
    shards = [files[start : start + SHARD] for start in range(0, len(files), SHARD)]
    futures = client.map(lambda shard, clf: clf.predict(shard), shards, clf=model)
    return np.concatenate(client.gather(futures))


if __name__ == "__main__":
    main()
