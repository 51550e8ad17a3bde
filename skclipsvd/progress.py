"""What users are told while they wait: log records, and bars where `verbose` asks for them.

Every line is a record of the logger ``skclipsvd``, whatever `verbose` is, so that an application
can route it. `verbose` decides what is shown where nobody listens to that logger, and bars.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

from tqdm.auto import tqdm

_logger = logging.getLogger("skclipsvd")
_logger.addHandler(logging.NullHandler())

# A bar that waits for one long step shows that time goes on.
_TICK_SECONDS = 1.0
_FALLBACK = os.terminal_size((80, 24))
_LINES, _DETAILS = 1, 2
# What the estimator's method that runs on this thread asks for, the bar that is open, and the one
# that counts for others. Weak references: an interrupt may come before a bar is closed, and must
# not silence what is done later.
_VERBOSE: ContextVar[int] = ContextVar("skclipsvd_verbose", default=0)
_BAR: ContextVar[weakref.ref[Bar] | None] = ContextVar("skclipsvd_bar", default=None)
_SHARED: ContextVar[weakref.ref[Bar] | None] = ContextVar("skclipsvd_shared", default=None)


@contextmanager
def shown(verbose: int) -> Iterator[None]:
    """Show what is told inside, on this thread.

    Parameters
    ----------
    verbose : int
        As scikit-learn means it: 0 shows nothing, 1 lines and bars, 2 and more details as well.
        Inside an open bar nothing is shown: a fit's callbacks may predict.
    """
    token = _VERBOSE.set(0 if _open(_BAR) else int(verbose))
    try:
        yield
    finally:
        _VERBOSE.reset(token)


def note(message: str, *values: object) -> None:
    """Say a line: a record of level INFO, shown from ``verbose=1`` on."""
    _say(logging.INFO, _LINES, message, values)


def detail(message: str, *values: object) -> None:
    """Say more: a record of level DEBUG, shown from ``verbose=2`` on."""
    _say(logging.DEBUG, _DETAILS, message, values)


class _Tqdm(tqdm):
    monitor_interval = 0  # else even a disabled bar starts a thread that stays


def _size_of_screen() -> dict[str, int]:
    """Return what tqdm is told of a screen that says it has no columns, or no lines.

    Containers and CI systems have such terminals, and tqdm shows nothing on them.
    """
    try:
        size = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # no terminal
        return {}
    columns = {} if size.columns else {"ncols": _FALLBACK.columns}
    return columns if size.lines else {**columns, "nrows": _FALLBACK.lines}


class Bar:
    """A bar, or a clock where there is nothing to count; silent without `verbose`.

    Parameters
    ----------
    what : str
        Stands in front, up to a parenthesis or a comma.
    total : int or None
        How many things there are to do, where that is known.
    unit : str
        What they are; empty where nothing is counted.
    done : int
        How many of them were done before.
    keep : bool
        Whether it stays on the screen when it ends.

    Attributes
    ----------
    result : str
        What the line says when a `phase` ends.
    """

    def __init__(self, what: str, total: int | None, unit: str, *, done: int = 0, keep: bool):
        clock = {} if unit else {"bar_format": "{desc}: {elapsed}"}
        self.result = ""
        self.unit = unit
        self._counted_by = _open(_SHARED)
        self._tqdm = _Tqdm(
            total=total,
            initial=done,
            desc=what.split(" (")[0].split(",")[0],
            unit=unit,
            leave=keep,
            disable=_VERBOSE.get() < _LINES,
            **clock,
            **_size_of_screen(),
        )
        self._over = threading.Event()

    def advance(self, n: int = 1) -> None:
        """Count `n` things as done."""
        self._tqdm.update(n)
        if self._counted_by is not None and self._counted_by.unit == self.unit:
            self._counted_by.advance(n)

    def reach(self, n: int) -> None:
        """Set how many things are done by now."""
        self._tqdm.update(n - self._tqdm.n)

    def show(self, **numbers: str) -> None:
        """Show numbers behind the bar."""
        self._tqdm.set_postfix(numbers, refresh=False)

    def __enter__(self) -> Self:
        self._token = _BAR.set(weakref.ref(self))
        if not self._tqdm.disable:
            clock = (weakref.ref(self._tqdm), self._over)
            threading.Thread(target=_tick, args=clock, daemon=True, name="skclipsvd-clock").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._tqdm.close()
        _BAR.reset(self._token)

    @property
    def is_open(self) -> bool:
        """Whether what it counts still goes on."""
        return not self._over.is_set()


def _open(place: ContextVar[weakref.ref[Bar] | None]) -> Bar | None:
    """Return the bar of this thread that still goes on, if there is one."""
    reference = place.get()
    bar = None if reference is None else reference()
    return bar if bar is not None and bar.is_open else None


def _tick(reference: weakref.ref[tqdm], over: threading.Event) -> None:
    """Let a bar show that time goes on, until it is over or nobody holds it."""
    while not over.wait(_TICK_SECONDS):
        bar = reference()
        if bar is None:
            return
        with bar.get_lock():
            if not over.is_set():
                bar.refresh(nolock=True)
        del bar


@dataclass
class Outcome:
    """What came of something that is done.

    Attributes
    ----------
    result : str
        What the line says when it ends.
    """

    result: str = ""


@contextmanager
def spoken(what: str) -> Iterator[Outcome]:
    """Say when something begins and when it is done.

    Parameters
    ----------
    what : str
        Such as ``"decoding 20 images"``.

    Yields
    ------
    outcome : Outcome
        Set its `result` to say more at the end.
    """
    note("%s ...", what)
    began, outcome = time.perf_counter(), Outcome()
    yield outcome
    end = f": {outcome.result}" if outcome.result else ""
    note("%s: done in %s%s", what, seconds(time.perf_counter() - began), end)


@contextmanager
def phase(
    what: str,
    total: int | None = None,
    unit: str = "",
    *,
    done: int = 0,
    keep: bool = False,
) -> Iterator[Bar]:
    """Say when something begins and when it is done, and show a bar in between.

    Parameters
    ----------
    what : str
        As for `spoken`.
    total, unit, done, keep
        As for `Bar`.

    Yields
    ------
    bar : Bar
        Set its `result` to say more when it is done.
    """
    with spoken(what) as outcome, Bar(what, total, unit, done=done, keep=keep) as bar:
        yield bar
        outcome.result = bar.result


@contextmanager
def one_bar(what: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Show one bar for calls inside that would show one each, of the same unit.

    Parameters
    ----------
    what, total, unit
        As for `Bar`.

    Yields
    ------
    bar : Bar
        Counts what the calls do.
    """
    with Bar(what, total, unit, keep=True) as bar:
        token = _SHARED.set(weakref.ref(bar))
        try:
            yield bar
        finally:
            _SHARED.reset(token)


def print_line(line: str) -> None:
    """Print a line to standard error; bars on the screen make way for it."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(line, file=sys.stderr, flush=True)


def seconds(duration: float) -> str:
    """Write a duration as people say it: ``"0.4 s"``, ``"12 s"``, ``"3 min 05 s"``."""
    if duration < 10:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _say(level: int, verbosity: int, message: str, values: tuple[object, ...]) -> None:
    heard = _is_heard(level)
    show = not heard and _VERBOSE.get() >= verbosity
    if not heard and not show:
        return
    if not heard:
        print_line(f"[skclipsvd] {message % values}")
        return
    with tqdm.external_write_mode(file=sys.stderr):  # whoever writes it
        _logger.log(level, message, *values)


def _is_heard(level: int) -> bool:
    """Tell whether a handler of the application takes our records of this level."""
    if not _logger.isEnabledFor(level):
        return False
    logger: logging.Logger | None = _logger
    while logger is not None:
        for handler in logger.handlers:
            if not isinstance(handler, logging.NullHandler) and handler.level <= level:
                return True
        logger = logger.parent if logger.propagate else None
    return False
