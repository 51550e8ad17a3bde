"""What a forked process must not believe of the one that it is a copy of."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

_Reset = TypeVar("_Reset", bound=Callable[[], None])


def in_forked_children(reset: _Reset) -> _Reset:
    """Let every process that is forked off this one call `reset` first; a decorator.

    A fork copies locks as they are, and of the threads only the one that forks: what another thread
    had locked stays locked for ever.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which forks nothing
        os.register_at_fork(after_in_child=reset)
    return reset
