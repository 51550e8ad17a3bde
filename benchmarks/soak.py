"""Load: what a long-lived process holds on to, and whether work goes on beside work.

- fits: one process fits and predicts with the tiny model, on other handwritten digits each time.
  Resident memory, threads and descriptors are read after every fit; what counts is by how much
  the median of the last 30 readings exceeds that of the 30 that follow the first 30.
- threads: eight threads predict with two classifiers while a ninth clears the caches; every answer
  is compared with the one before, bit by bit.
- files: one call predicts so many files, each of a handwritten digit. Every answer is compared with
  the digit's own, bit by bit; resident memory is read ten times a second.
- encode: a small random model encodes pictures of 224 pixels in calls of 500; resident memory
  after each call, and what the process still holds after `clear_caches`.
- search: a grid search in worker processes of joblib, one of which is killed at work; then the
  same search again, in the same process.

Linux only.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.model_selection import GridSearchCV

from skclipsvd import CLIPEncoder, CLIPSVDClassifier, cache_info, clear_caches
from skclipsvd.datasets import load_handwritten_digits

from ._report import quiet_random_weights, table, write

SETTINGS = dict(max_steps=2, lr=0.01, augment=False, device="cpu")
_MB = 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--fits", type=int, default=300)
    parser.add_argument("--predictions", type=int, default=200, help="of each of eight threads")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--pictures", type=int, default=4000)
    options = parser.parse_args()
    rows = []
    for part in options.parts:
        row = {"part": part, **PARTS[part](options)}
        rows.append(row)
        print(table(list(row), [row.values()]), flush=True)
    settings = {name: value for name, value in vars(options).items() if name != "parts"}
    name = "soak" if len(rows) == len(PARTS) else "-".join(["soak", *options.parts])
    write(name, settings, rows)


def fits(options):
    paths, labels = (np.array(column) for column in load_handwritten_digits())
    rng = np.random.RandomState(0)
    memory, others = [], []
    for seed in range(options.fits):
        rows = rng.permutation(len(paths))[:20]
        clf = CLIPSVDClassifier("tiny", random_state=seed, **SETTINGS)
        clf.fit(paths[rows], labels[rows]).predict(paths[rows])
        memory.append(resident())
        others.append((threading.active_count(), len(os.listdir("/proc/self/fd"))))
    width = min(30, options.fits // 3)
    early = statistics.median(memory[width : 2 * width])
    late = statistics.median(memory[-width:])
    return {
        "fits": options.fits,
        "resident after the first 30, MB": round(early / _MB, 1),
        "at the end, MB": round(late / _MB, 1),
        "growth, %": round(100 * (late / early - 1), 2),
        "threads and descriptors after the first 30": others[width],
        "at the end": others[-1],
        "merged models kept": cache_info()["merged"]["entries"],
    }


def threads(options):
    paths, labels = (column[:24] for column in load_handwritten_digits())
    pair = [CLIPSVDClassifier("tiny", **SETTINGS | {"lr": lr}) for lr in (0.01, 0.05)]
    expected = [clf.fit(paths, labels).predict_proba(paths[:8]) for clf in pair]
    done, n_cleared = threading.Event(), 0

    def clear():
        nonlocal n_cleared
        while not done.wait(0.2):
            clear_caches()
            n_cleared += 1

    def ask(turn):
        return (pair[turn % 2].predict_proba(paths[:8]) == expected[turn % 2]).all()

    clearing = threading.Thread(target=clear)
    clearing.start()
    with ThreadPoolExecutor(8) as pool:
        equal = list(pool.map(ask, range(8 * options.predictions)))
    done.set()
    clearing.join()
    return {
        "predictions": len(equal),
        "bit-equal": int(sum(equal)),
        "caches cleared": n_cleared,
    }


def files(options):
    sources, labels = load_handwritten_digits()
    clf = CLIPSVDClassifier("tiny", **SETTINGS).fit(sources[:24], labels[:24])
    expected = clf.predict_proba(sources)
    memory, done = [], threading.Event()

    def look():
        while not done.wait(0.1):
            memory.append(resident())

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i:05d}.png") for i in range(options.files)]
        for i, path in enumerate(paths):
            path.write_bytes(Path(sources[i % len(sources)]).read_bytes())
        looking = threading.Thread(target=look)
        looking.start()
        found = clf.predict_proba(list(map(str, paths)))
        done.set()
        looking.join()
    quarter = len(memory) // 4
    early, late = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
    equal = (found == expected[np.arange(len(found)) % len(expected)]).all(axis=1)
    return {
        "files": len(found),
        "bit-equal": int(equal.sum()),
        "most in the second quarter of the time, MB": round(early / _MB, 1),
        "in the last, MB": round(late / _MB, 1),
        "growth, %": round(100 * (late / early - 1), 2),
    }


def encode(options):
    """In a process of its own, whose memory is this alone."""
    command = [sys.executable, "-m", "benchmarks.soak", "--pictures", str(options.pictures)]
    child = os.environ | {"SOAK_ENCODE": "1"}
    answer = subprocess.run(command, env=child, stdout=subprocess.PIPE, check=True, text=True)
    memory = [int(word) for word in answer.stdout.split()]
    before, *after_calls, cleared = memory
    return {
        "pictures": options.pictures,
        "resident before, MB": round(before / _MB),
        "after each call of 500, MB": [round(m / _MB) for m in after_calls],
        "after clear_caches, MB": round(cleared / _MB),
    }


def encode_here(n_pictures):
    with quiet_random_weights():
        encoder = CLIPEncoder("ViT-S-32", None, device="cpu").fit([np.zeros((9, 9, 3), np.uint8)])
    print(resident())
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), n_pictures)
        for start in range(0, n_pictures, 500):
            encoder.transform(files[start : start + 500])
            print(resident())
    clear_caches()
    print(resident())


def photographs(folder, n_pictures):
    """Write distinct JPEG files of 600 x 400 pixels."""
    rng = np.random.RandomState(0)
    pictures = load_sample_images().images
    files = []
    for i in range(n_pictures):
        top, left = rng.randint(0, 27), rng.randint(0, 40)
        file = folder / f"{i:05d}.jpg"
        Image.fromarray(pictures[i % 2][top : top + 400, left : left + 600]).save(file)
        files.append(str(file))
    return files


def search(_):
    paths, labels = (column[:60] for column in load_handwritten_digits())
    grid = {"lr": [0.005, 0.02], "max_steps": [20, 40]}

    def new():
        clf = CLIPSVDClassifier("tiny", random_state=0, augment=False, device="cpu")
        return GridSearchCV(clf, grid, cv=3, n_jobs=2, error_score="raise")

    killing = threading.Thread(target=kill_a_worker)
    killing.start()
    error = None
    try:
        new().fit(paths, labels)
    except TerminatedWorkerError as raised:
        error = type(raised).__name__
    killing.join()
    again = new().fit(paths, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = again.set_params(n_jobs=None)
        scores = again.cv_results_["mean_test_score"]
        equal = (alone.fit(paths, labels).cv_results_["mean_test_score"] == scores).all()
    return {"a worker was killed": error, "then as in one process": bool(equal)}


def kill_a_worker():
    """Wait for a worker process that computes, and kill it."""
    while True:
        for process in children():
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            if b"loky" in command and b"resource_tracker" not in command:
                time.sleep(8)  # its imports take about as long
                os.kill(process, signal.SIGKILL)
                return
        time.sleep(0.1)


def children():
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for task in Path("/proc/self/task").iterdir():
        listed += (task / "children").read_text().split()
    return sorted({int(process) for process in listed})


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


PARTS = {"fits": fits, "threads": threads, "files": files, "encode": encode, "search": search}


if __name__ == "__main__":
    if os.environ.get("SOAK_ENCODE"):
        encode_here(int(sys.argv[-1]))
    else:
        main()
