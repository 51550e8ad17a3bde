"""What is kept in memory, and for how long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from skclipsvd import cache_info
from skclipsvd.caching import memory
from skclipsvd.caching.process import Budget, ByteCache
from tests.helpers.operations import Places


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


def test_whoever_comes_while_others_wait_waits_too():
    """Cleared meanwhile, so that those who waited make it again: one at a time all the same."""
    cache, at_once, most, lock = ByteCache(30), [0], [0], threading.Lock()

    def make():
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        cache.clear()
        time.sleep(0.001)
        with lock:
            at_once[0] -= 1
        return object(), 1

    def ask(_):
        cache.clear()
        cache.get_or_make("a", make)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))
    assert most == [1]


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
    """Its files keep 200,000 of the 900,000 bytes in use only until somebody wants them."""
    own, root = tmp_path / "own", tmp_path / "cgroup"
    if version == 2:
        own.write_text("0::/pod/box\n")
        folder, files = root / "pod" / "box", "inactive_file"
        limit, used = "memory.max", "memory.current"
        folder.mkdir(parents=True)
        (root / "pod" / limit).write_text("max\n")
    else:
        own.write_text("9:name=systemd:/\n4:cpu,memory:/pod/box\n")
        folder, files = root / "memory" / "pod" / "box", "total_inactive_file"
        limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        folder.mkdir(parents=True)
    (folder / limit).write_text("1000000\n")
    assert memory.control_groups(root, own) == [memory.ControlGroup(1_000_000, 1_000_000)]
    (folder / used).write_text("900000\n")
    (folder / "memory.stat").write_text(f"cache 300000\nactive_file 0\n{files} 200000\n")
    assert memory.control_groups(root, own) == [memory.ControlGroup(1_000_000, 300_000)]
    assert memory.control_groups(root / "none", tmp_path / "none") == []


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux's /proc")
def test_what_is_free_is_less_than_what_there_is():
    assert 0 < memory.free_memory() < memory.memory_limit()


def test_caches_give_memory_back_where_it_is_short():
    """For whatever needs it: the least recently used of all go, and each cache's newest stays."""
    missing, mib = 0, 2**20
    budget = Budget(1000 * mib, lambda: missing)
    one, other = ByteCache(1000 * mib, budget), ByteCache(1000 * mib, budget)
    for i in range(10):
        (one, other)[i % 2].put(i, i, 70 * mib)
    assert [i for i in range(10) if i in one or i in other] == list(range(10))
    missing = 150 * mib
    one.put("a", 1, 70 * mib)
    assert [i for i in range(10) if i in one or i in other] == list(range(3, 10))
    missing = 10_000 * mib
    other.put("b", 1, 70 * mib)
    assert (one.info()["entries"], other.info()["entries"]) == (1, 1)
    assert "a" in one
    assert "b" in other


class Somebody:
    """Whom an entry may be made for."""


def test_an_entry_goes_with_the_last_of_its_owners():
    cache, (first, second, third) = ByteCache(100), (Somebody() for _ in range(3))
    for key, owner in (("a", first), ("a", second), ("b", third), ("b", third)):
        cache.get_or_make(key, lambda: (1, 10), owner=owner)
    cache.put("for nobody", 1, 10)
    del first, third, owner  # "b" has no owner left, "a" has one
    assert cache.info()["entries"] == 3  # of those without owners the last used stays
    assert "b" in cache
    del second
    assert cache.info()["bytes"] == 20
    assert ("a" in cache, "b" in cache, "for nobody" in cache) == (False, True, True)


def test_a_copy_finds_what_the_original_left():
    """As in a worker process that is sent the same estimator with every task."""
    cache = ByteCache(100)
    for _ in range(3):
        cache.get_or_make("a", lambda: (1, 10), owner=Somebody())
    assert cache.info()["misses"] == 1


def test_an_interrupt_between_two_lines_leaves_the_sum_right():
    places = Places()

    def use(cache):
        for i in range(6):
            cache.put(i % 4, i, 10)
        cache.clear()
        cache.put("a", 1, 10)
        cache.put("b", 1, 25)

    places.record(lambda: use(ByteCache(30)))
    for place, turn in places.all():
        cache = ByteCache(30)
        places.interrupt(lambda cache=cache: use(cache), place, turn)
        held = 10 * sum(i in cache for i in [*range(4), "a"]) + 25 * ("b" in cache)
        assert cache.info()["bytes"] == held
        use(cache)
        assert cache.info()["bytes"] == 25
