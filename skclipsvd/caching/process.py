"""Bounded, locked, process-wide caches: one decode, one backbone, one SVD for everybody."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from ..forks import in_forked_children
from .memory import free_memory, memory_limit

_MIB = 2**20
# How much has to come into the caches until it is asked again how much memory is free.
_LOOK_AFTER = 64 * _MIB


class Budget:
    """A bound that several caches share: beyond it the least recently used of all entries go.

    Where memory is short, for whatever else is in the machine, they go before. The newest entry of
    each cache is kept.

    Parameters
    ----------
    max_bytes : int
        Bound on the sum over all caches, in bytes.
    missing_memory : callable, optional
        Tells how many bytes the caches are to give back. By default none.
    """

    def __init__(self, max_bytes: int, missing_memory: Callable[[], int] = lambda: 0):
        self.max_bytes = max_bytes
        self.missing_memory = missing_memory
        self._n_added = 0
        self.lock = threading.RLock()
        self.clock = itertools.count()
        self.caches: list[ByteCache] = []

    def forget_locks(self) -> None:
        """Give every cache fresh locks."""
        self.lock = threading.RLock()
        for cache in self.caches:
            cache.forget_locks()

    def enforce(self, n_added: int) -> None:
        """Drop entries until the rest fits, after so many bytes came; the caller holds the lock."""
        bound = self.max_bytes
        self._n_added += n_added
        if self._n_added > _LOOK_AFTER:
            self._n_added = 0
            bound = min(bound, self._nbytes() - self.missing_memory())
        while self._nbytes() > bound:
            asked = [(cache.oldest_use(), cache) for cache in self.caches]
            uses = [(use, cache) for use, cache in asked if use is not None]
            if not uses:
                return
            min(uses, key=lambda pair: pair[0])[1].drop_oldest()

    def _nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)


@dataclass(eq=False)
class _Entry:
    value: Any
    nbytes: int
    last_used: int
    owners: tuple[weakref.ref, ...] = ()

    def has_gone(self) -> bool:
        """Whether there were owners, and all are gone."""
        return bool(self.owners) and all(ref() is None for ref in self.owners)


@dataclass(eq=False)
class _Making:
    """What the threads share that ask for one missing entry."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    n_threads: int = 0


class ByteCache:
    """A least-recently-used cache bounded by bytes.

    The newest entry is always kept, even where it alone exceeds the bound: a backbone larger than
    the bound must still be shared. One thread makes a missing entry; others that ask for the same
    key wait for it instead of making it again.

    Parameters
    ----------
    max_bytes : int
        Bound on the sum of the entries' sizes, in bytes.
    budget : Budget, optional
        What the entries count towards, together with those of other caches.
    """

    def __init__(self, max_bytes: int, budget: Budget | None = None):
        self.max_bytes = max_bytes
        self._nbytes = 0
        # False while entries and their sum do not agree: an interrupt in between leaves it so.
        self._is_whole = True
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._making: dict[Hashable, _Making] = {}
        self._some_have_gone = False
        self._budget = Budget(max_bytes) if budget is None else budget
        self._budget.caches.append(self)
        self._lock = self._budget.lock
        self._hits = self._misses = 0

    @property
    def nbytes(self) -> int:
        """The sum of the entries' sizes."""
        if not self._is_whole:
            self._nbytes = sum(entry.nbytes for entry in self._entries.values())
            self._is_whole = True
        return self._nbytes

    def oldest_use(self) -> int | None:
        """Tell when the oldest entry was used, by the budget's clock; None where it must stay."""
        if len(self._entries) < 2:
            return None
        return next(iter(self._entries.values())).last_used

    def drop_oldest(self) -> None:
        """Drop the least recently used entry; the caller holds the lock."""
        self._drop(next(iter(self._entries)))

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return the entry of `key` and mark it as used, or `default`."""
        with self._lock:
            if key not in self._entries:
                self._misses += 1
                return default
            self._hits += 1
            self._entries.move_to_end(key)
            self._entries[key].last_used = next(self._budget.clock)
            return self._entries[key].value

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is an entry of `key`; to look is neither a use nor a miss."""
        with self._lock:
            return key in self._entries

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Store `value`, dropping the least recently used entries that no longer fit."""
        with self._lock:
            self._drop_gone()
            if key in self._entries:
                self._drop(key)
            total = self.nbytes + nbytes
            self._is_whole = False
            self._entries[key] = _Entry(value, nbytes, next(self._budget.clock))
            self._nbytes = total
            self._is_whole = True
            while self.nbytes > self.max_bytes and len(self._entries) > 1:
                self.drop_oldest()
            self._budget.enforce(nbytes)

    def get_or_make(
        self, key: Hashable, make: Callable[[], tuple[Any, int]], owner: object | None = None
    ) -> Any:
        """Return the entry of `key`; where there is none, store and return ``make()[0]``.

        Parameters
        ----------
        key : hashable
            What is wanted.
        make : callable
            Returns the value and its size in bytes. If it raises, nothing is stored.
        owner : object, optional
            For whom the entry is kept, next to others who asked for it; anything that can be
            referred to weakly. When all of them are gone, so is the entry, but for the one used
            last: the next to ask may be a copy that another process sent.
        """
        missing = object()
        with self._lock:
            making = self._making.setdefault(key, _Making())
            making.n_threads += 1
        try:
            with making.lock:
                value = self.get(key, missing)
                if value is missing:
                    value, nbytes = make()
                    self.put(key, value, nbytes)
                if owner is not None:
                    self._own(key, owner)
                return value
        finally:
            with self._lock:
                making.n_threads -= 1
                if not making.n_threads:
                    self._making.pop(key, None)

    def forget_locks(self) -> None:
        """Start with fresh locks: a forked process has the locked ones, not who would open them."""
        self._lock = self._budget.lock
        self._making = {}

    def clear(self) -> None:
        """Drop every entry and set the counts back to zero."""
        with self._lock:
            self._is_whole = False
            self._entries.clear()
            self._hits = self._misses = 0

    def info(self) -> dict[str, int]:
        """Return the numbers of entries, bytes, hits and misses, and the bound in bytes."""
        with self._lock:
            self._drop_gone()
            return {
                "entries": len(self._entries),
                "bytes": self.nbytes,
                "max_bytes": self.max_bytes,
                "hits": self._hits,
                "misses": self._misses,
            }

    def _drop(self, key: Hashable) -> None:
        total = self.nbytes - self._entries[key].nbytes
        self._is_whole = False
        del self._entries[key]
        self._nbytes = total
        self._is_whole = True

    def _own(self, key: Hashable, owner: object) -> None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:  # dropped already, for want of memory
                return
            if not any(ref() is owner for ref in entry.owners):
                alive = [ref for ref in entry.owners if ref() is not None]
                entry.owners = (*alive, weakref.ref(owner, self._note))

    def _note(self, _: weakref.ref) -> None:
        # Called wherever an object dies, maybe in the middle of a method above: only take note.
        self._some_have_gone = True

    def _drop_gone(self) -> None:
        """Drop entries whose owners are all gone, but for the one used last."""
        if self._some_have_gone:
            self._some_have_gone = False
            for key in [key for key, entry in self._entries.items() if entry.has_gone()][:-1]:
                self._drop(key)


def _missing_memory() -> int:
    """Tell what is missing of a sixteenth of the memory, which is to stay free."""
    free = free_memory()
    return 0 if free is None else max(0, memory_limit() // 16 - free)


# Together a quarter of the memory that this process may use, and each at most what it needs.
_BUDGET = Budget(memory_limit() // 4, _missing_memory)


def _cache(max_bytes: int) -> ByteCache:
    return ByteCache(min(max_bytes, _BUDGET.max_bytes), _BUDGET)


BACKBONES = _cache(8192 * _MIB)
FACTORS = _cache(4096 * _MIB)
MERGED = _cache(4096 * _MIB)
IMAGES = _cache(2048 * _MIB)

_CACHES = {"backbones": BACKBONES, "factors": FACTORS, "merged": MERGED, "images": IMAGES}

in_forked_children(_BUDGET.forget_locks)


def clear_caches() -> None:
    """Free everything that estimators of this process share.

    Backbones, their singular value decompositions, merged weights and decoded images are loaded
    or computed again when next needed; no fitted estimator loses anything.

    Examples
    --------
    >>> import skclipsvd
    >>> skclipsvd.clear_caches()
    >>> skclipsvd.cache_info()["images"]["entries"]
    0
    """
    for cache in _CACHES.values():
        cache.clear()


def cache_info() -> dict[str, dict[str, int]]:
    """Tell what the estimators of this process share.

    Returns
    -------
    info : dict of str to dict
        For each of ``"backbones"``, ``"factors"`` (singular value decompositions), ``"merged"``
        (adapted weights ready to predict) and ``"images"`` (decoded images): ``"entries"``,
        ``"bytes"``, ``"max_bytes"``, ``"hits"`` and ``"misses"``.

    Examples
    --------
    >>> import skclipsvd
    >>> sorted(skclipsvd.cache_info())
    ['backbones', 'factors', 'images', 'merged']
    """
    return {name: cache.info() for name, cache in _CACHES.items()}
