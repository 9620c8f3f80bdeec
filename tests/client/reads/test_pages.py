"""Pages, without a server: a function answers the requests."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from headwater.blocking.pages import BlockingPages
from headwater.codecs.codec import MsgpackCodec
from headwater.errors import Undecodable
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
