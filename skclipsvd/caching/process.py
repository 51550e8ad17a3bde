"""Bounded, locked, process-wide caches: one decode, one backbone, one SVD for everybody."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from .memory import memory_limit

_MIB = 2**20


class Budget:
    """A bound that several caches share: beyond it the least recently used of all entries go.

    The newest entry of each cache is kept.

    Parameters
    ----------
    max_bytes : int
        Bound on the sum over all caches, in bytes.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.lock = threading.RLock()
        self.clock = itertools.count()
        self.caches: list[ByteCache] = []

    def enforce(self) -> None:
        """Drop entries until the rest fits; the caller holds the lock."""
        while sum(cache.nbytes for cache in self.caches) > self.max_bytes:
            asked = [(cache.oldest_use(), cache) for cache in self.caches]
            uses = [(use, cache) for use, cache in asked if use is not None]
            if not uses:
                return
            min(uses, key=lambda pair: pair[0])[1].drop_oldest()


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
        self.nbytes = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._last_used: dict[Hashable, int] = {}
        self._making: dict[Hashable, threading.Lock] = {}
        self._budget = Budget(max_bytes) if budget is None else budget
        self._budget.caches.append(self)
        self._lock = self._budget.lock
        self._hits = self._misses = 0

    def oldest_use(self) -> int | None:
        """Tell when the oldest entry was used, by the budget's clock; None where it must stay."""
        if len(self._entries) < 2:
            return None
        return self._last_used[next(iter(self._entries))]

    def drop_oldest(self) -> None:
        """Drop the least recently used entry; the caller holds the lock."""
        key, (_, nbytes) = self._entries.popitem(last=False)
        del self._last_used[key]
        self.nbytes -= nbytes

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return the entry of `key` and mark it as used, or `default`."""
        with self._lock:
            if key not in self._entries:
                self._misses += 1
                return default
            self._hits += 1
            self._entries.move_to_end(key)
            self._last_used[key] = next(self._budget.clock)
            return self._entries[key][0]

    def __contains__(self, key: Hashable) -> bool:
        """Whether there is an entry of `key`; to look is neither a use nor a miss."""
        with self._lock:
            return key in self._entries

    def put(self, key: Hashable, value: Any, nbytes: int) -> None:
        """Store `value`, dropping the least recently used entries that no longer fit."""
        with self._lock:
            if key in self._entries:
                self.nbytes -= self._entries.pop(key)[1]
            self._entries[key] = (value, nbytes)
            self._last_used[key] = next(self._budget.clock)
            self.nbytes += nbytes
            while self.nbytes > self.max_bytes and len(self._entries) > 1:
                self.drop_oldest()
            self._budget.enforce()

    def get_or_make(self, key: Hashable, make: Callable[[], tuple[Any, int]]) -> Any:
        """Return the entry of `key`; where there is none, store and return ``make()[0]``.

        `make` returns the value and its size in bytes. If it raises, nothing is stored.
        """
        missing = object()
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        try:
            with lock:
                value = self.get(key, missing)
                if value is missing:
                    value, nbytes = make()
                    self.put(key, value, nbytes)
                return value
        finally:
            with self._lock:
                self._making.pop(key, None)

    def clear(self) -> None:
        """Drop every entry and set the counts back to zero."""
        with self._lock:
            self._entries.clear()
            self._last_used.clear()
            self.nbytes = self._hits = self._misses = 0

    def info(self) -> dict[str, int]:
        """Return the numbers of entries, bytes, hits and misses, and the bound in bytes."""
        with self._lock:
            return {
                "entries": len(self._entries),
                "bytes": self.nbytes,
                "max_bytes": self.max_bytes,
                "hits": self._hits,
                "misses": self._misses,
            }


# Together a quarter of the memory that this process may use, and each at most what it needs.
_BUDGET = Budget(memory_limit() // 4)


def _cache(max_bytes: int) -> ByteCache:
    return ByteCache(min(max_bytes, _BUDGET.max_bytes), _BUDGET)


BACKBONES = _cache(8192 * _MIB)
FACTORS = _cache(4096 * _MIB)
MERGED = _cache(4096 * _MIB)
IMAGES = _cache(2048 * _MIB)

_CACHES = {"backbones": BACKBONES, "factors": FACTORS, "merged": MERGED, "images": IMAGES}


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
