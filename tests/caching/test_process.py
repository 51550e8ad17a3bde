"""What is kept in memory, and for how long."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from skclipsvd import cache_info
from skclipsvd.caching import memory
from skclipsvd.caching.process import Budget, ByteCache


def test_the_least_recently_used_goes_first():
    cache = ByteCache(30)
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [key in cache for key in "abcd"] == [True, False, True, True]
    assert cache.info()["bytes"] == 30


def test_the_newest_is_kept_however_large():
    cache = ByteCache(30)
    cache.put("a", 1, 10)
    cache.put("b", 2, 100)
    assert "a" not in cache
    assert cache.get("b") == 2
    cache.put("b", 3, 5)
    assert cache.info()["bytes"] == 5


def test_nothing_is_kept_of_what_could_not_be_made():
    cache = ByteCache(30)
    with pytest.raises(RuntimeError):
        cache.get_or_make("a", lambda: (_ for _ in ()).throw(RuntimeError()))
    assert cache.info()["entries"] == 0
    assert cache.get_or_make("a", lambda: (1, 1)) == 1


def test_threads_wait_for_the_one_that_makes_it():
    cache, made, start = ByteCache(30), [], threading.Event()

    def make():
        start.wait(5)
        made.append(1)
        return object(), 1

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(cache.get_or_make, "a", make) for _ in range(4)]
        start.set()
    assert len(made) == 1
    assert len({id(future.result()) for future in asked}) == 1


def test_caches_of_one_budget_are_bounded_together():
    budget = Budget(50)
    one, other = ByteCache(40, budget), ByteCache(40, budget)
    one.put("a", 1, 20)
    other.put("x", 1, 20)
    one.put("b", 1, 10)
    other.put("y", 1, 10)  # 60 in all: "a" was used longest ago
    assert "a" not in one
    assert one.info()["bytes"] + other.info()["bytes"] == 40
    one.put("c", 1, 40)  # beyond its own bound, then beyond the common one
    assert ("b" in one, "c" in one, "x" in other, "y" in other) == (False, True, False, True)
    one.clear()
    assert one.info()["bytes"] == 0
    assert other.info()["bytes"] == 10


def test_no_cache_may_take_more_than_a_quarter_of_the_memory():
    assert all(c["max_bytes"] <= memory.memory_limit() // 4 for c in cache_info().values())


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts(tmp_path, version):
    own, root = tmp_path / "own", tmp_path / "cgroup"
    if version == 2:
        own.write_text("0::/pod/box\n")
        folder, name = root / "pod" / "box", "memory.max"
        folder.mkdir(parents=True)
        (root / "pod" / name).write_text("max\n")
    else:
        own.write_text("9:name=systemd:/\n4:cpu,memory:/pod/box\n")
        folder, name = root / "memory" / "pod" / "box", "memory.limit_in_bytes"
        folder.mkdir(parents=True)
    (folder / name).write_text("1000000\n")
    assert memory.control_group_limits(root, own) == [1_000_000]
    assert memory.control_group_limits(root / "none", tmp_path / "none") == []
