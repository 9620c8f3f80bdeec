"""Pages, without a server: a function answers the requests."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from headwater.blocking.pages import BlockingPages
from headwater.codecs.codec import MsgpackCodec
from headwater.errors import HistoryGone, Undecodable
from headwater.reads import listing
from headwater.reads.listing import CategoryPages, StreamPages
from headwater.reads.pages import EventPages, KeyPages, Pages, SnapshotPages
from headwater.records import RecordedEvent
from headwater.transport.stepping import step
from headwater_protocol.keys import encode_key

COUNT = 300
BAD = {0, 7, 127, 128, COUNT - 1}
"""Items that cannot be decoded: the first and the last item of a page, and one between them."""


def stored(number: int) -> bytes:
    return b"\xc1" if number in BAD else MsgpackCodec().encode(number)


def key_pages() -> Pages[Any]:
    async def fetch(
        name: str, first: bytes, last: bytes | None, size: int, reverse: bool, *, at_commit: int
    ) -> list[Any]:
        keys = [encode_key((number,)) for number in range(COUNT)]
        page = [(key, n) for n, key in enumerate(keys) if key >= first][:size]
        flat = [part for key, number in page for part in (key, stored(number))]
        return [7, flat, bool(page) and page[-1][1] < COUNT - 1]

    return KeyPages(fetch, MsgpackCodec(), b"", None, reverse=False, limit=None)


def event_pages() -> Pages[Any]:
    async def fetch(name: str, stream: str, after: int, size: int, reverse: bool) -> list[Any]:
        numbers = range(after, min(after + size, COUNT))
        rows = [[n + 1, "s", n + 1, 1, 0, b"0" * 16, "A", stored(n), b""] for n in numbers]
        return [7, COUNT, rows, after + size < COUNT]

    return EventPages(fetch, MsgpackCodec(), "s", 0, {}, reverse=False, limit=None)


def snapshot_pages() -> Pages[Any]:
    async def fetch(name: str, cursor: bytes | None, size: int, commit: int | None) -> list[Any]:
        begin = int(cursor or b"0")
        rows = [["s", "", 0, n, stored(n)] for n in range(begin, min(begin + size, COUNT))]
        end = begin + len(rows)
        return [rows, None if end == COUNT else b"%d" % end]

    return SnapshotPages(fetch, MsgpackCodec())


ALL = pytest.mark.parametrize("pages", [key_pages, event_pages, snapshot_pages])


def number_of(item: Any) -> int:
    match item:
        case (_, number):
            pass
        case RecordedEvent():
            number = item.data
        case _:
            number = item.state
    assert isinstance(number, int)
    return number


@ALL
def test_a_caller_that_continues_after_an_unreadable_item_gets_all_others(
    pages: Callable[[], Pages[Any]],
) -> None:
    async def collect(items: AsyncIterator[Any]) -> tuple[list[int], int]:
        seen: list[int] = []
        failed = 0
        while True:
            try:
                seen.append(number_of(await anext(items)))
            except Undecodable:
                failed += 1
            except StopAsyncIteration:
                return seen, failed

    seen, failed = step(collect(pages()))
    assert seen == [number for number in range(COUNT) if number not in BAD]
    assert failed == len(BAD)


@ALL
def test_a_blocking_caller_that_continues_after_an_unreadable_item_gets_all_others(
    pages: Callable[[], Pages[Any]],
) -> None:
    items = BlockingPages(pages())
    seen: list[int] = []
    failed = 0
    while True:
        try:
            seen.append(number_of(next(items)))
        except Undecodable:
            failed += 1
        except StopIteration:
            break
    assert seen == [number for number in range(COUNT) if number not in BAD]
    assert failed == len(BAD)


@ALL
def test_a_blocking_caller_that_loops_again_after_an_unreadable_item_gets_all_others(
    pages: Callable[[], Pages[Any]],
) -> None:
    """A new loop began with the next page, and left out the rest of the current one."""
    items = BlockingPages(pages())
    seen: list[int] = []
    failed = 0
    for _ in range(COUNT):
        try:
            for item in items:
                seen.append(number_of(item))
            break
        except Undecodable:
            failed += 1
    assert seen == [number for number in range(COUNT) if number not in BAD]
    assert failed == len(BAD)


# The position of a page never passes what was not handed out.


def of_all_events(heads: list[int]) -> Pages[Any]:
    """Every third event matches; the log grows with each request, and each commit has one event."""

    async def fetch(
        name: str, after: int, wanted: dict[str, Any], size: int, reverse: bool
    ) -> list[Any]:
        head = heads.pop(0) if len(heads) > 1 else heads[0]
        if reverse:
            matching = range((after - 1 if after else head) // 3 * 3, 0, -3)[:size]
        else:
            matching = range((after // 3 + 1) * 3, head + 1, 3)[:size]
        rows = [[n, "s", n, n, 0, b"0" * 16, "A", b"\x01", b""] for n in matching]
        more = len(rows) == size
        end = 1 if reverse else head
        return [head, matching[-1] if more else end, rows, more]

    return EventPages(fetch, MsgpackCodec(), None, 0, {}, reverse=False, limit=None)


def test_the_position_of_pages_moves_with_what_was_handed_out() -> None:
    pages = of_all_events([1000])
    items = BlockingPages(pages)
    before: tuple[object, object] = (items.position, items.commit)
    assert before == (None, None)
    for event in items:
        assert items.position is not None
        # All up to the next one that matches.
        assert items.position in (event.position, event.position + 1, event.position + 2)
    # After the last one, the newest position: nothing that matches is behind the last event.
    after: tuple[object, object] = (items.position, items.commit)
    assert after == (1000, 1000)


def test_the_position_of_pages_does_not_pass_events_that_came_meanwhile() -> None:
    """They are not handed out, as the pages are of one commit: an append must see them."""
    pages = of_all_events([500, 2000])
    seen = [event.position for event in BlockingPages(pages)]
    assert seen == [*range(3, 501, 3)]
    assert pages.commit == 500
    assert pages.position is not None
    assert 500 <= pages.position < 501


def test_the_position_of_pages_that_were_left_is_before_the_next_event() -> None:
    items = BlockingPages(of_all_events([1000]))
    assert [next(items).position for _ in range(5)] == [3, 6, 9, 12, 15]
    assert items.position == 17
    assert next(items).position == 18


def test_other_pages_have_a_commit_and_no_position() -> None:
    for made in (key_pages(), event_pages()):
        items = BlockingPages(made)
        with suppress(Undecodable):
            next(items)
        assert (items.commit, items.position) == (7, None)


@pytest.mark.parametrize("kind", ["keys", "streams", "categories"])
def test_a_listing_that_outlasts_the_history_window_goes_on_and_says_so(kind: str) -> None:
    # It ended with HistoryGone after an hour, with a part of what was asked for.
    asked: list[int | None] = []
    newest = 7

    async def answer(after: int, size: int, commit: int | None) -> tuple[int, range]:
        nonlocal newest
        asked.append(commit)
        # Each page takes longer than the window.
        newest += 10
        if commit is not None and len(asked) > 2:
            raise HistoryGone(f"commit {commit} is older than the history window")
        return newest if commit is None else commit, range(after, min(after + size, 3000))

    async def scan(
        _: str, first: bytes, last: bytes | None, size: int, reverse: bool, *, at_commit: int | None
    ) -> list[Any]:
        after = len([n for n in range(3000) if encode_key((n,)) < first])
        commit, found = await answer(after, size, at_commit)
        flat = [part for n in found for part in (encode_key((n,)), MsgpackCodec().encode(n))]
        return [commit, flat, found.stop < 3000]

    async def names(*arguments: Any) -> list[Any]:
        *_, cursor, size, at_commit = arguments
        commit, found = await answer(0 if cursor is None else int(cursor) + 1, size, at_commit)
        rows = [[f"{n:05d}", 1, 1, None, None, 1] for n in found]
        return [commit, rows, rows[-1][0] if found.stop < 3000 else None]

    pages: Pages[Any]
    if kind == "keys":
        pages = KeyPages(scan, MsgpackCodec(), b"", None, reverse=False, limit=None)
    elif kind == "streams":
        pages = StreamPages(names, "", listing.newest)
    else:
        pages = CategoryPages(names, listing.newest)
    blocking: BlockingPages[Any] = BlockingPages(pages)
    assert len(list(blocking)) == 3000
    assert pages.moved
    assert blocking.moved
    # The commit of the first page: whoever subscribes from there misses nothing.
    assert pages.commit == 17
    assert asked == [None, 17, 17, None, None][: len(asked)]


def test_a_read_of_the_past_does_not_become_one_of_another_commit() -> None:
    async def past() -> int:
        return 5

    async def names(*arguments: Any) -> list[Any]:
        *_, cursor, _, at_commit = arguments
        if cursor is not None:
            raise HistoryGone(f"commit {at_commit} is older than the history window")
        return [at_commit, [["a", 1, 1, None, None, 1]], "a"]

    pages = BlockingPages(StreamPages(names, "", past))
    with pytest.raises(HistoryGone):
        list(pages)
    assert not pages.moved
