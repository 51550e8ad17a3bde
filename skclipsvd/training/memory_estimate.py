"""How much memory a training step will take, and what to change where there is not enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..caching.memory import free_memory

ADVICE = (
    "Lower micro_batch_size (the result stays the same), set checkpointing=True, use "
    "precision='bf16', adapt fewer blocks (layers='top') or one tower (towers=('image',)), or "
    "choose a smaller model."
)


def saved_bytes(compute: Callable[[], Tensor], already_there: Iterable[Tensor]) -> int:
    """Count the bytes that autograd keeps for the backward pass of `compute`.

    Parameters
    ----------
    compute : callable
        Runs a forward pass.
    already_there : iterable of Tensor
        Tensors that take no new memory: weights and factors.

    Returns
    -------
    n_bytes : int
    """
    seen = {tensor.untyped_storage().data_ptr() for tensor in already_there}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
        # Not the tensor itself: a graph that holds its own output is never freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return total


def extrapolated(measured: Iterable[tuple[int, int]], size: int) -> int:
    """Estimate the bytes at `size` on a straight line through what was measured.

    Parameters
    ----------
    measured : iterable of (size, bytes)
        One point, for what is proportional to the size, or two.
    size : int
        Where to read the line off.

    Returns
    -------
    n_bytes : int
    """
    *first, (last_size, last_bytes) = measured
    first_size, first_bytes = first[0] if first else (0, 0)
    grown = last_size - first_size
    slope = (last_bytes - first_bytes) / grown if grown else 0.0
    return round(last_bytes + slope * (size - last_size))


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory is free, or None where that cannot be told."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return free_memory() if device.type == "cpu" else None


def check_capacity(needed: int, device: torch.device) -> None:
    """Raise MemoryError before training where a step cannot fit: a CPU would just kill it."""
    free = available_bytes(device)
    if free is not None and needed > free:
        raise MemoryError(
            f"a training step needs about {needed / 2**30:.1f} GiB on {device}, where "
            f"{free / 2**30:.1f} GiB are free. {ADVICE}"
        )
