"""Clean pages: what they know, what they forget, and that a scan over them is a scan."""

import random

import pytest

from headwater_protocol.messages import encode
from headwater_server.engine import checkpointed, clean_pages, scanning
from headwater_server.engine.clean_pages import CleanPage, CleanPages
from headwater_server.engine.scanning import scan_page
from tests.engine.written import Written


def page(start: bytes, end: bytes, size: int = 10) -> CleanPage:
    return CleanPage(start, end, [start], [bytes(size)], 1)


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


@pytest.mark.parametrize("seed", range(6))
def test_pages_of_any_size_make_a_scan_that_equals_the_truth(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers are cut at different keys, pages are pieces, and checkpoints run in between."""
    print("seed", seed)
    monkeypatch.setattr(scanning, "_RUN_KEYS", 4)
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


def check_some(written: Written, source: random.Random) -> None:
    view = source.randint(written.horizon, written.last_commit)
    start = b"\x01%02d" % source.randrange(40)
    end = b"\x01%02d" % source.randrange(45)
    written.check_pages(b"", None, view)
    written.check_pages(start, max(start, end), view)
    expected = written.truth.scan(start, None, view)
    found = scan_page(written.state, start, b"\xff", view, limit=1000, size_max=40, reverse=False)
    assert found.items[::2] == [key[1:] for key, _ in expected[: found.key_count]]
    assert found.items[1::2] == [value for _, value in expected[: found.key_count]]
    assert found.more == (found.key_count < len(expected))
    assert len(found.packed) <= 40 or found.key_count == 1
    if found.more:
        key, value = expected[found.key_count]
        assert len(found.packed) + len(encode([key[1:], value])) - 1 > 40
