"""What torch's own layers draw, under a seed, though all threads share one generator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..forks import in_forked_children

_ONE_AT_A_TIME = threading.RLock()


@in_forked_children
def _forget_lock() -> None:
    global _ONE_AT_A_TIME
    _ONE_AT_A_TIME = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let `seed` decide what torch draws, and leave the caller's generators as they were.

    Layers without a generator of their own draw from that of the process. Threads wait for each
    other here: side by side they would draw each other's numbers, and the last one to leave would
    put back a state that another had set.

    Parameters
    ----------
    seed : int
        Of every generator that is used inside.
    device : torch.device
        Where the numbers are drawn, beside the CPU.
    """
    cpu, others = torch.default_generator, _others(device)
    with _ONE_AT_A_TIME:
        state, states = cpu.get_state(), [generator.get_state() for generator in others]
        try:
            cpu.manual_seed(seed)
            for generator in others:
                generator.manual_seed(seed)
            yield
        finally:
            cpu.set_state(state)  # before any other call: an interrupt would come behind it
            for generator, kept in zip(others, states, strict=True):
                generator.set_state(kept)


def _others(device: torch.device) -> list[torch.Generator]:
    """Return those beside the CPU's; `torch.manual_seed` would set every device's."""
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        return [torch.cuda.default_generators[index]]
    if device.type == "mps":
        # Private, as torch.mps has no public name for the object.
        return [torch.mps._get_default_mps_generator()]
    return []
