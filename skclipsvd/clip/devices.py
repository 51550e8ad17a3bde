"""Where a model runs, in which number format, and with how many threads."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..caching.memory import is_out_of_memory
from ..exceptions import ForkedProcessWarning, SlowPrecisionWarning, warn
from ..forks import in_forked_children

_NAMES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Processors with the instructions take 0.2 to 1.4 times as long as for float32, those without 60 to
# 120 times (matrices of 256 x 256, one thread).
_SLOW = 8
_SIDE = 256
_TRIALS = 3


def choose_device(device: str) -> torch.device:
    """Resolve the parameter `device`.

    Parameters
    ----------
    device : str
        ``"auto"`` (CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.

    Raises
    ------
    ValueError
        Not a device of this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        reason = "it holds shapes, no numbers" if chosen.type == "meta" else ""
        torch.empty(0, device=chosen)
    except NotImplementedError:  # torch's own words are a list of its kernels
        reason = f"this machine, or this build of torch, has no {chosen.type!r} device"
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
    if reason:
        raise ValueError(f"device={device!r} cannot be used here ({reason}); use 'auto' or 'cpu'.")
    return chosen


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Resolve the parameter `precision` to the number format of the matrix products.

    ``"auto"`` is bfloat16 on a GPU that has units for it, float16 on one that has not, float32
    elsewhere.
    """
    if precision != "auto":
        return _NAMES[precision]
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):  # the question is about the current one
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_units else torch.float16


def warn_if_slow(precision: str, device: torch.device) -> None:
    """Warn of a number format that this processor has no fast arithmetic for, before it is used."""
    dtype = choose_dtype(precision, device)
    if device.type != "cpu" or dtype is torch.float32:
        return
    ratio = slowness(dtype)
    if ratio > _SLOW:
        warn(
            f"precision={precision!r}: a matrix product takes this processor about {ratio:.0f} "
            "times as long as in float32, because it has no instructions for it. Use "
            "precision='auto' or 'fp32'.",
            SlowPrecisionWarning,
        )


@functools.cache
def slowness(dtype: torch.dtype) -> float:
    """Time a small product in `dtype`, relative to float32; once per process.

    What decides is what torch's libraries make of the processor: without bfloat16 instructions they
    are fast with AVX-512 and slow with AVX2. The processor's flags do not tell that.
    """

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(_SIDE, _SIDE, dtype=dtype)
        trials = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            torch.mm(a, a)
            trials.append(time.perf_counter() - start)
        return min(trials)

    with _one_thread():  # several wait for each other where the machine is busy
        return seconds(dtype) / seconds(torch.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Compute matrix products in `dtype`; everything stays float32 where that is float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


_forked = False


@in_forked_children
def _note_fork() -> None:
    global _forked
    _forked = True


def compute_after_fork() -> None:
    """Let a forked process compute with one thread, and say so.

    A fork copies what torch knows of its threads, and not the threads: the child would wait for
    them for ever at its first parallel loop.
    """
    global _forked
    if not _forked:
        return
    _forked = False
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warn(
            "This process was forked, and computes with one thread: torch's threads do not survive "
            "a fork. Start processes with multiprocessing.get_context('spawn') or 'forkserver', or "
            "with joblib's loky, to let each use several.",
            ForkedProcessWarning,
        )
