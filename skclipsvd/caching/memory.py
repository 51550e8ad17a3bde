"""How much memory this process may use, and what to say where it gets none."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ADVICE = "Call skclipsvd.clear_caches(), end other programs, or choose a smaller model."
# What allocators of torch, C++ and oneDNN say; none of them has a type of its own everywhere.
_REFUSAL = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|out of memory|bad_alloc|bad allocation"
    r"|could not create a primitive",
    re.IGNORECASE,
)


_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def memory_limit() -> int:
    """Return the machine's memory in bytes, or the smaller limit of the container around us."""
    limits = [_physical(), *(group.limit for group in control_groups(_GROUPS, _OWN_GROUP))]
    return min(limit for limit in limits if limit)


def free_memory() -> int | None:
    """Return how many bytes are free, in the machine and in the containers around us.

    What only keeps files in memory counts as free. None where the system does not tell.
    """
    free = [group.free for group in control_groups(_GROUPS, _OWN_GROUP)]
    if of_all := _table(Path("/proc/meminfo")).get("MemAvailable:"):
        free.append(1024 * of_all)
    return min(free, default=None)


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


@dataclass(frozen=True)
class ControlGroup:
    """Linux's bound on the memory of some processes.

    Attributes
    ----------
    limit, free : int
        How many bytes they may use together, and how many of those they do not.
    """

    limit: int
    free: int


def control_groups(root: Path, own: Path) -> list[ControlGroup]:
    """Read Linux's bounds, of versions 1 and 2, of our group and of all around it."""
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
    found = []
    for top, group, limit, used, files in (
        (root, groups["v2"], "memory.max", "memory.current", "inactive_file"),
        (
            root / "memory",
            groups["v1"],
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        folder = top / group.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top) and (bound := _number(place / limit)):
                in_use = _number(place / used) - _table(place / "memory.stat").get(files, 0)
                found.append(ControlGroup(bound, max(0, bound - in_use)))
    return found


def _number(file: Path) -> int:
    """Read the number in a file; 0 where there is none, or "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdecimal() else 0


def _table(file: Path) -> dict[str, int]:
    """Read lines of a name, a number and maybe a unit."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, lines) if words[1:]}
