"""How much memory this process may use, and what to say where it gets none."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ADVICE = "Call skclipsvd.clear_caches(), end other programs, or choose a smaller model."
# What allocators of torch, C++ and oneDNN say; none of them has a type of its own everywhere.
_REFUSAL = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|out of memory|bad_alloc|bad allocation"
    r"|could not create a primitive",
    re.IGNORECASE,
)


def memory_limit() -> int:
    """Return the machine's memory in bytes, or the smaller limit of the container around us."""
    limits = [_physical(), *control_group_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]
    return min(limit for limit in limits if limit)


@contextmanager
def explained_out_of_memory(advice: str = _ADVICE) -> Iterator[None]:
    """Turn the allocators' errors into a MemoryError that says what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_explained = type(error) is MemoryError and error.args  # Python's own say nothing
        if is_explained or not is_out_of_memory(error):
            raise
        raise MemoryError(f"out of memory: {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused: by Python, the system or torch."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and _REFUSAL.search(str(error)) is not None


def _physical() -> int:
    if sys.platform == "win32":
        kibibytes = ctypes.c_ulonglong(0)
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))
        return kibibytes.value * 1024 or 8 * 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def control_group_limits(root: Path, own: Path) -> list[int]:
    """Read Linux's limits, of versions 1 and 2, of our group and of all around it."""
    groups = {"v1": "/", "v2": "/"}
    try:
        for line in own.read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            if number == "0" and not controllers:
                groups["v2"] = group
            elif "memory" in controllers.split(","):
                groups["v1"] = group
    except (OSError, ValueError):
        pass  # not Linux; or what the container shows as root is all there is
    limits = []
    for top, group, name in (
        (root, groups["v2"], "memory.max"),
        (root / "memory", groups["v1"], "memory.limit_in_bytes"),
    ):
        folder = top / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top):
                limits.extend(_number(place / name))
    return limits


def _number(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if re.fullmatch(r"[1-9]\d*", text) else []  # "max": no limit
