"""The scan cache: look-ups, eviction, and that scans through the cache are correct."""

import random
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.messages import encode
from headwater_server.engine.reads import scanning
from headwater_server.engine.reads.scanning import scan_page
from headwater_server.engine.state import layers, scan_cache, stored_state
from headwater_server.engine.state.scan_cache import CachedRange, ScanCache, packed_run
from headwater_server.storage.store.interface import Page
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import SETTINGS, Database
from tests.engine.written import Written


def cached(start: bytes, end: bytes, size: int = 10) -> CachedRange:
    return CachedRange(start, end, packed_run([start], [bytes(size)], None), 1)


def filled(start: int, end: int, *, newest: int = 1) -> CachedRange:
    """A cached range of numbers. The multiples of three are deleted keys."""
    keys = [stored(number) for number in range(start, end)]
    values = [value_of(number) for number in range(start, end)]
    return CachedRange(stored(start), stored(end), packed_run(keys, values, None), newest)


def stored(number: int) -> bytes:
    return b"\x01%04d" % number


def value_of(number: int) -> bytes | None:
    return None if number % 3 == 0 else bytes(number % 300)


def test_a_range_is_found_by_each_of_its_keys() -> None:
    cache = ScanCache()
    first, second = cached(b"b", b"d"), cached(b"f", b"h")
    cache.add(second)
    cache.add(first)
    found = {bytes([letter]): cache.find(bytes([letter])) for letter in b"abcdefgh"}
    assert found == {
        b"a": None, b"b": first, b"c": first, b"d": None,
        b"e": None, b"f": second, b"g": second, b"h": None,
    }  # fmt: skip
    assert cache.next_start(b"a", b"z") == b"b"
    assert cache.next_start(b"d", b"z") == b"f"
    assert cache.next_start(b"d", b"e") == b"e"
    assert cache.next_start(b"h", b"z") == b"z"


def test_the_least_recently_used_ranges_are_evicted() -> None:
    cache = ScanCache(size_max=3 * cached(b"a", b"b").size)
    for letter in (b"a", b"b", b"c"):
        cache.add(cached(letter, letter + b"\xff"))
    assert cache.find(b"a") is not None
    cache.add(cached(b"d", b"e"))
    assert [cache.find(letter) is not None for letter in (b"a", b"b", b"c", b"d")] == [
        True, False, True, True,
    ]  # fmt: skip
    assert len(cache) == 3
    assert cache.size == 3 * cached(b"a", b"b").size


def test_a_range_that_is_too_large_is_not_kept() -> None:
    cache = ScanCache()
    cache.add(cached(b"a", b"b", size=scan_cache.RANGE_SIZE_MAX))
    assert (len(cache), cache.size) == (0, 0)


def test_stale_ranges_are_not_found_and_are_freed_on_look_up() -> None:
    cache = ScanCache()
    for letter in (b"a", b"c", b"e"):
        cache.add(cached(letter, letter + b"\xff"))
    cache.forget_all()
    assert cache.find(b"a") is None
    assert len(cache) == 2
    assert cache.next_start(b"b", b"d") == b"d"
    assert len(cache) == 1
    cache.add(cached(b"b", b"e"))
    assert cache.find(b"c") is not None
    assert cache.size == cached(b"a", b"b").size + cached(b"b", b"e").size


def test_adjacent_ranges_are_joined_with_all_keys() -> None:
    cache = ScanCache()
    cache.add(filled(0, 10, newest=3))
    cache.add(filled(20, 30, newest=7))
    cache.add(filled(40, 50))
    assert len(cache) == 3
    cache.add(filled(10, 20))
    assert len(cache) == 2
    joined = cache.find(stored(0))
    assert joined is not None
    assert joined is cache.find(stored(29))
    whole = filled(0, 30)
    assert (joined.start, joined.end, joined.newest) == (stored(0), stored(30), 7)
    assert (joined.keys, joined.packed, joined.offsets) == (
        whole.keys, whole.packed, whole.offsets,
    )  # fmt: skip
    assert cache.size == joined.size + filled(40, 50).size
    assert joined.size == whole.size


def test_ranges_are_joined_only_while_they_are_small_and_valid() -> None:
    cache = ScanCache()
    half = scan_cache.JOINED_SIZE_MAX // 2
    cache.add(cached(b"a", b"b", half))
    cache.add(cached(b"b", b"c", half))
    assert len(cache) == 2
    cache.forget_all()
    cache.add(cached(b"c", b"d"))
    assert len(cache) == 3
    assert cache.find(b"b") is None


def test_the_size_of_a_page_is_what_it_takes_in_memory() -> None:
    numbers = range(1000)
    keys = [b"\x01key:%012d" % number for number in numbers]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run = packed_run([bytes([*key]) for key in keys], [bytes(100)] * len(keys), None)
        made = CachedRange(keys[0], b"\x02", run, 1)
        del run
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken * 0.9 < made.size < taken * 1.1


@pytest.mark.parametrize("seed", range(6))
def test_scans_are_correct_with_ranges_of_any_size(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages of the layers end at different keys, and checkpoints run in between."""
    print("seed", seed)
    for module in (scanning, layers):
        monkeypatch.setattr(module, "RUN_KEYS", 4)
    monkeypatch.setattr(stored_state, "KEYS_MIN", 2)
    source = random.Random(seed)
    written = Written(source)
    for _ in range(50):
        keys = {b"\x01%02d" % source.randrange(40) for _ in range(source.randrange(1, 6))}
        written.commit({key: source.choice([b"v" * source.randrange(9), None]) for key in keys})
        chance = source.random()
        if chance < 0.15:
            written.store.before_write = lambda: check_some(written, source)
            written.checkpoint()
            written.store.before_write = lambda: None
        check_some(written, source)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_few_reads_find_the_keys_behind_many_deleted_ones(
    reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written(random.Random(1))
    keys = [stored(number) for number in range(1000)]
    written.commit(dict.fromkeys(keys, b"v"))
    written.commit(dict.fromkeys(keys[100:900], None))
    written.checkpoint()
    reads = 0

    def page(*arguments: Any, **options: Any) -> Page:
        nonlocal reads
        reads += 1
        return read_page(*arguments, **options)

    read_page = written.store.page
    monkeypatch.setattr(written.store, "page", page)
    found = scan_page(
        written.state, b"\x01", b"\x02", 2, limit=100, size_max=10**6, reverse=reverse
    )
    assert (found.key_count, found.more) == (100, True)
    assert found.last == (keys[900] if reverse else keys[99])
    assert reads <= 1 + 800 / scan_cache.KEYS_MIN + 1


def check_some(written: Written, source: random.Random) -> None:
    view = source.randint(written.horizon, written.last_commit)
    start = b"\x01%02d" % source.randrange(40)
    end = b"\x01%02d" % source.randrange(45)
    written.check_pages(b"", None, view)
    written.check_pages(start, max(start, end), view)
    written.check_iterators(b"", None, view)
    written.check_iterators(start, max(start, end), view)
    expected = written.truth.scan(start, None, view)
    found = scan_page(written.state, start, b"\xff", view, limit=1000, size_max=40, reverse=False)
    assert found.items[::2] == [key[1:] for key, _ in expected[: found.key_count]]
    assert found.items[1::2] == [value for _, value in expected[: found.key_count]]
    assert found.more == (found.key_count < len(expected))
    assert len(found.packed) <= 40 or found.key_count == 1
    if found.more:
        key, value = expected[found.key_count]
        assert len(found.packed) + len(encode([key[1:], value])) - 1 > 40


def test_the_newest_snapshot_is_found_without_reading_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A snapshot may be megabytes long.
    database = Database(replace(SETTINGS, snapshots_kept=10))
    database.execute(["append", "a", -1, [[None, "T", b"", b""]] * 10])
    for version in range(1, 11):
        database.execute(["save_snapshot", "a", "", 0, version, b"%d" % version])
    database.checkpoint()
    found: list[bytes] = []
    right = MemoryStore.page

    def page(self: MemoryStore, *arguments: Any, **options: Any) -> Page:
        answer = right(self, *arguments, **options)
        found.extend(answer.values)
        return answer

    monkeypatch.setattr(MemoryStore, "page", page)
    assert database.engine.reader().load("a", "", 0).snapshot == (10, b"10")
    assert len(found) == 1
    opened = database.begin()
    assert opened.load("a", "", 0).snapshot == (10, b"10")
    assert len(found) == 2
