"""Memory that is refused: a MemoryError, the estimator as before, and the next call works."""

import gc
import linecache
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from skclipsvd import CLIPLoRAClassifier, CLIPSVDClassifier
from skclipsvd.caching.process import FACTORS, IMAGES, MERGED
from tests.helpers.operations import PACKAGE, Operation, Places, fitted_state, nothing_is_left

# A file that nobody had taken yet is closed when it is collected, and says so.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FAST = dict(max_steps=1, lr=0.01, augment=False, random_state=0, device="cpu")
REFUSED = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"


class Refusing(TorchDispatchMode):
    """Refuse memory to the n-th operation of torch."""

    def __init__(self, n=None):
        super().__init__()
        self.n, self.done = n, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.done += 1
        if self.done == self.n:
            raise RuntimeError(REFUSED)
        return func(*args, **(kwargs or {}))


def fit(kind, model, photographs):
    paths, labels = (column[::2] for column in photographs)
    clf = kind(model, **FAST).fit(paths, labels)
    old = fitted_state(clf)
    clf.set_params(lr=0.02)
    return Operation(
        lambda: clf.fit(paths, labels) and None,
        lambda: fitted_state(clf),
        lambda: clf.__dict__.update(old),
    )


def predict(model, photographs):
    paths, labels = (column[::2] for column in photographs)
    clf = CLIPSVDClassifier(model, **FAST).fit(paths, labels)

    def reset():
        # Not the backbone: what is refused inside safetensors comes out as another error.
        for cache in (FACTORS, MERGED, IMAGES):
            cache.clear()

    return Operation(lambda: clf.predict_proba(paths), lambda: fitted_state(clf), reset)


OPERATIONS = {
    "SVD": lambda *given: fit(CLIPSVDClassifier, *given),
    "LoRA": lambda *given: fit(CLIPLoRAClassifier, *given),
    "predict": predict,
}


def refuse_to_torch(operation, n_places):
    answer, before, after = operation.expected()
    with Refusing() as counted:
        operation.run()
    operation.reset()
    n_refused = 0
    for n in range(1, counted.done + 1, max(1, counted.done // n_places)):
        with nothing_is_left(), pytest.raises(MemoryError, match="memory"), Refusing(n):
            operation.run()
        operation.check(answer, before, after)
        n_refused += 1
    return n_refused


@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_that_torch_does_not_get_is_a_memory_error(
    name, small_model, photographs, fresh_caches
):
    assert refuse_to_torch(OPERATIONS[name](small_model, photographs), 8) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_that_torch_does_not_get_anywhere_is_a_memory_error(
    name, small_model, photographs, fresh_caches, record_property
):
    n = refuse_to_torch(OPERATIONS[name](small_model, photographs), 100)
    record_property("memory refused to torch's operations", n)
    assert n >= 100


def refuse_to_python(operation, n_places):
    answer, before, after = operation.expected()
    places = Places(in_all_threads=True)
    places.record(operation.run)
    operation.reset()
    n_raised = 0
    for place, turn in places.some(n_places):
        if "return os.open(" in linecache.getline(PACKAGE + place[0], place[1]):
            continue  # nothing asks for memory between a descriptor and the file that owns it
        with nothing_is_left():
            n_raised += places.interrupt(operation.run, place, turn, MemoryError)
        operation.check(answer, before, after)
    return n_raised


@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_that_python_does_not_get_changes_nothing(
    name, small_model, photographs, fresh_caches
):
    assert refuse_to_python(OPERATIONS[name](small_model, photographs), 12) > 6


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_memory_that_python_does_not_get_anywhere_changes_nothing(
    name, small_model, photographs, fresh_caches, record_property
):
    n = refuse_to_python(OPERATIONS[name](small_model, photographs), 150)
    record_property("memory refused to Python", n)
    assert n > 75


LITTLE = """
import resource, sys
import numpy as np
from pathlib import Path
from skclipsvd import CLIPZeroShotClassifier

def used():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

X = list(np.random.RandomState(0).randint(0, 256, (20_000, 32, 32, 3), dtype=np.uint8))
clf = CLIPZeroShotClassifier(sys.argv[1], device="cpu").fit(None, ["a", "b"])
expected = clf.predict_proba(X[:64])
clf.set_params(batch_size=20_000)
resource.setrlimit(resource.RLIMIT_AS, (used() + 200 * 2**20, resource.RLIM_INFINITY))
try:
    clf.predict(X)
except MemoryError as error:
    assert "batch_size" in str(error), error
else:
    raise AssertionError("it had enough memory")
clf.set_params(batch_size=32)  # as the message says, with no more memory than before
assert (clf.predict_proba(X[:64]) == expected).all()
print("fine")
"""


@pytest.mark.slow
def test_a_batch_that_does_not_fit_says_what_to_change(small_model):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LITTLE, small_model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("kind", [CLIPSVDClassifier, CLIPLoRAClassifier])
@pytest.mark.parametrize("settings", [{}, {"layers": "top"}, {"augment": True}])
def test_a_fit_leaves_no_tensor_to_the_garbage_collector(
    kind, small_model, photographs, fresh_caches, settings
):
    """Its memory is free when it is over, not at some later time."""
    clf = kind(small_model, **FAST | settings).fit(*photographs)

    def tensors():
        return sum(type(thing) in (torch.Tensor, torch.nn.Parameter) for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        clf.fit(*photographs)
        before = tensors()
        gc.collect()
        assert tensors() == before
    finally:
        gc.enable()
