"""Random changes of JSON files as a stranger or a damaged disk makes them, and bounds for tests."""

import contextlib
import pickle
import signal
from pathlib import Path

import pytest


def payloads(trace):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (trace,)

    (trace.parent / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    return [
        f"__import__('pathlib').Path({str(trace)!r}).touch()",
        f"!!python/object/apply:os.system ['touch {trace}']",
        f"$(touch {trace})",
        f"{{0.__class__.__init__.__globals__}}{trace}",
        str(trace.parent / "bomb.pt"),
        f"local-dir:{trace.parent}",
        "hf-hub:stranger/model",
    ]


def values(rng, trace):
    """Wrong types, sizes and numbers."""
    return rng.choice(
        [
            None, True, False, 0, -1, 2, 10**30, -(10**9), 0.5, 1e308, -1e308,
            float("nan"), float("inf"), "", "x", "x" * 5000, "<U999999999", "V8", "M8[s]",
            [], {}, [[]], [None], {"": None}, list(range(300)), {"value": {}},
            {"range": [0, 10**12, 1]}, {"array": [[1], [2, 3]]}, {"dict": [[{"list": []}, 1]]},
            *payloads(trace),
        ]
    )  # fmt: skip


def places(node):
    """Every place in a JSON value."""
    if isinstance(node, (dict, list)):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from places(node[key])


def mutate_json(node, rng, trace):
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        where, key = rng.choice(list(places(node)))
        what = rng.random()
        if what < 0.2:
            del where[key]
        elif what < 0.3 and isinstance(where, dict):
            where[rng.choice(["extra", "", "__class__", "trust_remote_code"])] = where[key]
        elif what < 0.4 and isinstance(where, list):
            where.append(where[key])
        else:
            where[key] = values(rng, trace)


@contextlib.contextmanager
def no_longer_than(seconds):
    def stop(*_):
        raise TimeoutError(f"it hung for {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes():
    resource = pytest.importorskip("resource")
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
