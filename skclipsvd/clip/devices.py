"""Where a model runs, and in which number format."""

from __future__ import annotations

import torch

from ..caching.memory import is_out_of_memory


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

    ``"auto"`` is bfloat16 on a GPU that has it, float16 on one that has not, float32 elsewhere.
    """
    if precision != "auto":
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Compute matrix products in `dtype`; everything stays float32 where that is float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)
