"""Kill a process wherever it can be while it writes, and look at what it leaves.

Run as a program it does so in a fresh process that computes with one thread, which can be forked.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

import skclipsvd
from skclipsvd import CLIPZeroShotClassifier, load_adapter
from skclipsvd.adaptation import factors
from skclipsvd.adaptation.factors import decompose
from skclipsvd.adaptation.targets import find_targets
from skclipsvd.clip import load_backbone
from skclipsvd.experiments.results import COLUMNS, Results
from skclipsvd.images import decode_all

from .operations import Operation, Places, contents, same


def adapter(folder, model, _):
    old, new = (
        CLIPZeroShotClassifier(model).fit(None, names) for names in (["a", "b"], ["c", "d"])
    )
    path = folder / "a.safetensors"

    def state():  # a file that is not whole is none; the order of its header is not always the same
        return {"classes": repr(load_adapter(path, model_name=model).classes_.tolist()).encode()}

    return Operation(lambda: new.save_adapter(path), state, lambda: old.save_adapter(path))


def row(folder, *_):
    rows = [dict.fromkeys(COLUMNS, "1") | {"accuracy": 0.5, "seed": seed} for seed in range(3)]
    path = folder / "rows.csv"

    def reset():
        path.unlink(missing_ok=True)
        Results(path).append(rows[:2])

    # What a killed writer began is not looked at.
    state = lambda: {"rows": repr(Results(path).rows()).encode()}  # noqa: E731
    return Operation(lambda: Results(path).append(rows), state, reset)


def decomposition(folder, model, _):
    factors.MIN_RANK_ON_DISK = 32
    backbone = load_backbone(model, None, torch.device("cpu"))
    targets = find_targets(backbone.model)[:3]

    def run():
        skclipsvd.clear_caches()
        return {name: tuple(f) for name, f in decompose(backbone, targets).items()}

    return Operation(run, lambda: written(folder), lambda: empty(folder))


def image(folder, model, paths):
    preprocess = load_backbone(model, None, torch.device("cpu")).preprocess

    def run():
        skclipsvd.clear_caches()
        return [decoded.view for decoded in decode_all(paths[:2], preprocess, 1)]

    return Operation(run, lambda: written(folder), lambda: empty(folder))


OPERATIONS = {kind.__name__: kind for kind in (adapter, row, decomposition, image)}


def written(folder):
    return {path: data for path, data in contents(folder).items() if not path.endswith(".tmp")}


def empty(folder):
    for path in written(folder):
        os.unlink(path)


def kill_everywhere(operation, folder, n_places):
    """Kill a child at about so many places, check after each; return how many, and what was left.

    Every file is as before or as after, the next call works, and it removes what is old.
    """
    answer, before, after = operation.expected()
    places = Places(in_all_threads=True)
    places.record(operation.run)
    operation.reset()
    n_killed = n_left = 0
    for place, turn in places.some(n_places):
        n_killed += _dies(lambda place=place, turn=turn: places.kill(operation.run, place, turn))
        for path, data in operation.state().items():
            assert data in (before.get(path), after.get(path)), (place, path)
        left = list(folder.rglob(".skclipsvd-*.tmp"))
        n_left += len(left)
        for temporary in left:
            os.utime(temporary, (then := time.time() - 2 * 24 * 3600, then))
        empty_of_caches = operation.run if not before else operation.reset
        empty_of_caches()
        same(operation.run(), answer)
        same(operation.state(), after)
        operation.reset()
    operation.run()
    assert not list(folder.rglob(".skclipsvd-*.tmp"))
    return n_killed, n_left


def _dies(call):
    child = os.fork()
    if child == 0:
        try:
            call()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(kind, n_places, folder, model, *paths):
    os.environ["SKCLIPSVD_CACHE"] = os.environ["SKCLIPSVD_IMAGE_CACHE"] = folder
    torch.set_num_threads(1)
    np.seterr(all="raise")
    operation = OPERATIONS[kind](Path(folder), model, list(paths))
    print(json.dumps(kill_everywhere(operation, Path(folder), int(n_places))))


if __name__ == "__main__":
    main(*sys.argv[1:])
