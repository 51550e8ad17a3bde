"""What surrounds the work of every command: a first line at once, errors in one line each."""

from __future__ import annotations

import atexit
import gc
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from .progress import phase, print_line, shown

_EXPECTED = (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError)
# Who types a command has files, and never saw an X.
_ROW = r"\bX(?:_val)?\[\d+\]"
_ROWS_OF_X = re.compile(rf"{_ROW}(?:, {_ROW})*(?: and \d+ more rows)? = ")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, by which job schedulers and shells end a process."""


def run_command(prepare: Callable[[], Callable[[], None]], *, quiet: bool = False) -> int:
    """Say that a command starts, run it, and print errors and warnings in one line each.

    Parameters
    ----------
    prepare : callable
        Checks what was typed, then imports what takes seconds, and returns what does the work.
    quiet : bool, default=False
        Whether not to say that it starts.

    Returns
    -------
    status : int
        0; 1 after an error; 130 after Ctrl-C; 143 after SIGTERM.
    """
    # Else the interpreter's end looks for circles among all that torch made, for a second or more.
    atexit.register(gc.freeze)
    try:
        with warnings.catch_warnings(), _ended_as_by_ctrl_c():
            warnings.showwarning = _show_warning
            with shown(int(not quiet)), phase("starting"):
                work = prepare()
            work()
    except KeyboardInterrupt as interrupt:
        terminated = isinstance(interrupt, _Terminated)
        default = "terminated" if terminated else "interrupted"
        print_line(str(interrupt) or default)
        return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    except _EXPECTED as error:
        print_line(f"error: {_of_files(error)}")
        return 1
    return 0


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does: with a last checkpoint, and no half a file."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the last write off
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print_line(f"warning: {_of_files(message)}")


def _of_files(message: object) -> str:
    """Name files by their paths alone, not by their places in an X."""
    return _ROWS_OF_X.sub("", str(message))
