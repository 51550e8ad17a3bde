"""How much memory this process may use."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path


def memory_limit() -> int:
    """Return the machine's memory in bytes, or the smaller limit of the container around us."""
    limits = [_physical(), *_control_groups(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))]
    return min(limit for limit in limits if limit)


def _physical() -> int:
    if sys.platform == "win32":
        kibibytes = ctypes.c_ulonglong(0)
        ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))
        return kibibytes.value * 1024 or 8 * 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _control_groups(root: Path, own: Path) -> list[int]:
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
