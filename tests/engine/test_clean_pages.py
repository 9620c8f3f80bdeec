"""Clean pages: what they know, what they forget, and that a scan over them is a scan."""

import random
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.messages import encode
from headwater_server.engine import checkpointed, clean_pages, scanning, state
from headwater_server.engine.clean_pages import CleanPage, CleanPages, packed_run
from headwater_server.engine.scanning import scan_page
from headwater_server.storage.memory_store import MemoryStore
from headwater_server.storage.state_store import Page
from tests.engine.database import SETTINGS, Database
from tests.engine.written import Written


def page(start: bytes, end: bytes, size: int = 10) -> CleanPage:
    return CleanPage(start, end, packed_run([start], [bytes(size)], None), 1)


def filled(start: int, end: int, *, newest: int = 1) -> CleanPage:
    """A page of every number of a range, of which those that three divides are deleted."""
    keys = [stored(number) for number in range(start, end)]
    values = [value_of(number) for number in range(start, end)]
    return CleanPage(stored(start), stored(end), packed_run(keys, values, None), newest)


def stored(number: int) -> bytes:
    return b"\x01%04d" % number


def value_of(number: int) -> bytes | None:
    return None if number % 3 == 0 else bytes(number % 300)


def test_a_page_is_found_by_every_key_of_its_range() -> None:
    pages = CleanPages()
    first, second = page(b"b", b"d"), page(b"f", b"h")
    pages.add(second)
    pages.add(first)
    found = {bytes([letter]): pages.find(bytes([letter])) for letter in b"abcdefgh"}
    assert found == {
        b"a": None, b"b": first, b"c": first, b"d": None,
        b"e": None, b"f": second, b"g": second, b"h": None,
    }  # fmt: skip
    assert pages.next_start(b"a", b"z") == b"b"
    assert pages.next_start(b"d", b"z") == b"f"
    assert pages.next_start(b"d", b"e") == b"e"
    assert pages.next_start(b"h", b"z") == b"z"


def test_pages_that_were_not_used_for_the_longest_make_room() -> None:
    pages = CleanPages(size_max=3 * page(b"a", b"b").size)
    for letter in (b"a", b"b", b"c"):
        pages.add(page(letter, letter + b"\xff"))
    assert pages.find(b"a") is not None
    pages.add(page(b"d", b"e"))
    assert [pages.find(letter) is not None for letter in (b"a", b"b", b"c", b"d")] == [
        True, False, True, True,
    ]  # fmt: skip
    assert len(pages) == 3
    assert pages.size == 3 * page(b"a", b"b").size


def test_a_page_that_is_too_large_is_not_kept() -> None:
    pages = CleanPages()
    pages.add(page(b"a", b"b", size=clean_pages.PAGE_SIZE_MAX))
    assert (len(pages), pages.size) == (0, 0)


def test_forgotten_pages_are_not_found_and_go_when_they_are_met() -> None:
    pages = CleanPages()
    for letter in (b"a", b"c", b"e"):
        pages.add(page(letter, letter + b"\xff"))
    pages.forget_all()
    assert pages.find(b"a") is None
    assert len(pages) == 2
    assert pages.next_start(b"b", b"d") == b"d"
    assert len(pages) == 1
    pages.add(page(b"b", b"e"))
    assert pages.find(b"c") is not None
    assert pages.size == page(b"a", b"b").size + page(b"b", b"e").size


def test_pages_that_touch_become_one_that_knows_the_keys_of_all() -> None:
    pages = CleanPages()
    pages.add(filled(0, 10, newest=3))
    pages.add(filled(20, 30, newest=7))
    pages.add(filled(40, 50))
    assert len(pages) == 3
    pages.add(filled(10, 20))
    assert len(pages) == 2
    joined = pages.find(stored(0))
    assert joined is not None
    assert joined is pages.find(stored(29))
    whole = filled(0, 30)
    assert (joined.start, joined.end, joined.newest) == (stored(0), stored(30), 7)
    assert (joined.keys, joined.packed, joined.offsets) == (
        whole.keys, whole.packed, whole.offsets,
    )  # fmt: skip
    assert pages.size == joined.size + filled(40, 50).size
    assert joined.size == whole.size


def test_pages_are_joined_only_while_they_are_small_and_right() -> None:
    pages = CleanPages()
    half = clean_pages.JOINED_SIZE_MAX // 2
    pages.add(page(b"a", b"b", half))
    pages.add(page(b"b", b"c", half))
    assert len(pages) == 2
    pages.forget_all()
    pages.add(page(b"c", b"d"))
    assert len(pages) == 3
    assert pages.find(b"b") is None


def test_the_size_of_a_page_is_what_it_takes_in_memory() -> None:
    numbers = range(1000)
    keys = [b"\x01key:%012d" % number for number in numbers]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run = packed_run([bytes([*key]) for key in keys], [bytes(100)] * len(keys), None)
        made = CleanPage(keys[0], b"\x02", run, 1)
        del run
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken * 0.9 < made.size < taken * 1.1


@pytest.mark.parametrize("seed", range(6))
def test_pages_of_any_size_make_a_scan_that_equals_the_truth(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers are cut at different keys, pages are pieces, and checkpoints run in between."""
    print("seed", seed)
    for module in (scanning, state):
        monkeypatch.setattr(module, "RUN_KEYS", 4)
    monkeypatch.setattr(checkpointed, "KEYS_MIN", 2)
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
def test_whether_more_follows_many_deleted_keys_is_found_out_in_few_reads(
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
    assert reads <= 1 + 800 / clean_pages.KEYS_MIN + 1


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
    # A snapshot may have megabytes.
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
