"""Faults for whole operations: what to do, what to look at before and after, where to interrupt."""

import contextlib
import dis
import functools
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import skclipsvd

PACKAGE = str(Path(skclipsvd.__file__).parent)


@dataclass
class Operation:
    """One thing that a user does, and everything that it may change.

    Attributes
    ----------
    run : callable
        Does it, and returns an answer.
    state : callable
        Returns what it may change, as something to compare: attributes, contents of files.
    reset : callable
        Puts that back as it was before.
    """

    run: Callable
    state: Callable = lambda: None
    reset: Callable = lambda: None

    def expected(self):
        """What it answers, with the states before and after."""
        self.reset()
        before = self.state()
        answer = self.run()
        after = self.state()
        self.reset()
        same(self.state(), before)
        return answer, before, after

    def check(self, answer, before, after):
        """Everything is as before or as after, and the next call works."""
        now = self.state()
        assert is_same(now, before) or is_same(now, after)
        self.reset()
        same(self.run(), answer)
        same(self.state(), after)
        self.reset()


def fitted_state(clf):
    return {name: value for name, value in vars(clf).items() if name.endswith("_")}


def contents(*folders):
    """Every file of these folders: its bytes, by path."""
    files = [p for folder in folders for p in sorted(Path(folder).rglob("*")) if p.is_file()]
    return {str(path): path.read_bytes() for path in files}


def leftovers(*folders):
    """Temporary files."""
    files = [p for folder in folders for p in Path(folder).rglob("*")]
    return [p.name for p in files if p.name.startswith(".") or p.suffix == ".tmp"]


def same(found, expected):
    assert is_same(found, expected), f"{found!r}\n is not \n{expected!r}"


def is_same(found, expected):
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            is_same(found[name], value) for name, value in expected.items()
        )
    if isinstance(expected, (list, tuple)):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    return bool(np.array_equal(found, expected))


@contextlib.contextmanager
def nothing_is_left(*where):
    """Threads, descriptors and what a process has one of are as before, whatever was raised."""
    before = _process_state()
    yield
    deadline = time.monotonic() + 5
    while (after := _process_state()) != before and time.monotonic() < deadline:
        gc.collect()  # a file that an exception's frames hold
        time.sleep(0.01)
    changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
    assert not changed, (where, changed)


class _Some(list):
    """What there may be fewer of: files of earlier tests are closed when they are collected."""

    def __eq__(self, other):
        return not Counter(other) - Counter(self)

    __hash__ = None


def _process_state():
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": _Some(descriptors()),
        "torch's threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "random numbers": (torch.random.initial_seed(), torch.get_rng_state().sum().item()),
        "logging": logging.root.manager.disable,
        "pixels": _max_pixels(),
    }


def _max_pixels():
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS


def descriptors():
    """What each open descriptor leads to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(found)


# --- interrupts


class Places:
    """Where a signal can interrupt the package: the first and the last time that it comes there.

    The interpreter looks for signals when a call returns, when a function begins and when a loop
    starts again; a handler's exception is raised there.
    """

    def __init__(self, *, in_all_threads=False):
        self.counts = {}
        self.in_all_threads = in_all_threads

    def record(self, call):
        """Run `call`, and note how often each place is reached."""

        def arrive(place):
            self.counts[place] = self.counts.get(place, 0) + 1

        with _traced(arrive, self.in_all_threads):
            call()

    def all(self):
        """Return (place, turn) in the order in which the places are first reached."""
        return [
            (place, turn) for place, count in self.counts.items() for turn in sorted({1, count})
        ]

    def some(self, n):
        """Return about `n` of them, evenly spread."""
        places = self.all()
        return places[:: max(1, len(places) // n)]

    def interrupt(self, call, place, turn, error=KeyboardInterrupt):
        """Run `call`, and raise the error there; tell whether it came out."""

        def interrupt():
            raise error

        try:
            self._run_until(call, place, turn, interrupt)
        except error:
            return True
        return False

    def kill(self, call, place, turn):
        """Run `call`, and kill this process there."""
        self._run_until(call, place, turn, lambda: os.kill(os.getpid(), signal.SIGKILL))

    def _run_until(self, call, place, turn, happen):
        seen = 0

        def arrive(reached):
            nonlocal seen
            seen += reached == place
            if seen == turn:
                seen += 1
                happen()

        with _traced(arrive, self.in_all_threads):
            call()


@contextlib.contextmanager
def _traced(arrive, in_all_threads):
    def local(frame, event, _):
        if event == "opcode" and frame.f_lasti in _after_signals(frame.f_code):
            file = frame.f_code.co_filename.removeprefix(PACKAGE)
            arrive((file, frame.f_lineno, frame.f_lasti))
        return local

    def trace(frame, event, _):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    sys.settrace(trace)
    if in_all_threads:
        threading.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)
        threading.settrace(None)


@functools.cache
def _after_signals(code):
    """Offsets of the instructions before which the interpreter has looked for signals."""
    instructions = list(dis.get_instructions(code))
    offsets = set()
    for i, instruction in enumerate(instructions[:-1]):
        following = instructions[i + 1]
        if instruction.opname in {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME"}:
            if not _leaves_with(instructions[i + 1 :]):
                offsets.add(following.offset)
        elif instruction.opname.startswith("JUMP_BACKWARD"):
            offsets.add(instruction.argval)
    return frozenset(offsets)


def _leaves_with(instructions):
    """Whether the body of a `with` is over and its exit is the next to be called.

    A signal is seen at the call before, where it is still inside; an exception that is raised one
    instruction later would be outside, and no signal can do that.
    """
    following = [i for i in instructions[:12] if i.opname not in {"SWAP", "POP_TOP", "NOP", "COPY"}]
    return [(i.opname, i.argval) for i in following[:3]] == [("LOAD_CONST", None)] * 3
