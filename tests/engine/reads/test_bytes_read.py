"""A read is bounded by bytes before it reads: counted at the files, against the bound of a page.

A page of a stream of large events read up to 512 of them to return one: 896 MiB for 7 MiB.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from headwater_protocol import limits
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import EXAMINED_SIZE_MAX, Reader
from headwater_server.testing.memory_files import Call
from tests.engine.database import Database

LARGE = 300 * limits.KIB
COUNT = 60

READS: dict[str, tuple[Callable[[Reader], Any], int]] = {
    "stream": (lambda reader: reader.read_stream("a-1", 0, 1000, False).events, 1),
    "stream, from the end": (lambda reader: reader.read_stream("a-1", 0, 1000, True).events, 1),
    "load": (lambda reader: reader.load("a-1", "", 0).events, 1),
    "all": (lambda reader: reader.read_all(0, EventFilter(), 1000, False).events, 1),
    "all, from the end": (lambda reader: reader.read_all(0, EventFilter(), 1000, True).events, 1),
    "category": (
        lambda reader: reader.read_all(0, EventFilter(category="a"), 1000, False).events,
        4,
    ),
    "type, from the end": (
        lambda reader: reader.read_all(0, EventFilter(types=("T",)), 1000, True).events,
        4,
    ),
    "a prefix that few events have": (
        lambda reader: reader.read_all(0, EventFilter(prefix="none"), 1000, False),
        4,
    ),
    "stream, by type": (
        lambda reader: reader.read_all(0, EventFilter(stream="a-1", types=("U",)), 100, False),
        4,
    ),
}


def large_events() -> Database:
    database = Database()
    for number in range(COUNT):
        event = [None, "T", bytes([number]) * LARGE, b""]
        database.execute(["append", "a-1", -1, [event]])
    database.checkpoint()
    return database


def count_reads(database: Database, read: Callable[[Reader], Any]) -> tuple[int, Any]:
    """The bytes that a read has asked the files for, and its result."""
    count = 0

    def before(call: Call) -> None:
        nonlocal count
        if call.operation == "read":
            count += call.size

    database.files.faults.before = before
    try:
        result = read(database.engine.reader())
    finally:
        database.files.faults.before = None
    return count, result


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("name", READS)
def test_a_page_reads_as_many_bytes_as_it_may_have(name: str, hides: bool) -> None:
    database = large_events()
    if hides:
        database.execute(["truncate", "a-1", COUNT - 10])
        database.checkpoint()
    read, pages = READS[name]
    count, _ = count_reads(database, read)
    bound = EXAMINED_SIZE_MAX if hides else pages * limits.PAGE_SIZE_MAX
    # Where events are hidden, the log is read in pieces that need not end with an event.
    assert count <= 1.5 * bound + 2 * LARGE, f"{count / LARGE:.1f} events were read"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("wanted", [None, {}, {"category": "a"}, {"types": ("T",)}])
def test_reading_large_events_to_the_end_reads_each_about_once(
    wanted: dict[str, Any] | None, reverse: bool
) -> None:
    database = large_events()
    found: list[int] = []

    def read(reader: Reader) -> None:
        after = 0
        while True:
            if wanted is None:
                page: Any = reader.read_stream("a-1", after, 1000, reverse)
            else:
                page = reader.read_all(after, EventFilter(**wanted), 1000, reverse)
            found.extend(decode_event(stored).version for stored in page.events)
            if not page.more:
                return
            after = found[-1] if wanted is None else page.position

    count, _ = count_reads(database, read)
    numbers = list(range(1, COUNT + 1))
    assert found == (numbers[::-1] if reverse else numbers)
    # The first event of the next page was read with the last of this one, at most.
    assert count <= 1.6 * COUNT * LARGE


@pytest.mark.parametrize("seed", range(6))
def test_events_are_the_same_wherever_they_are_and_however_many_fit(seed: int) -> None:
    dice = random.Random(seed)
    database = Database()
    sizes: list[int] = []
    for number in range(80):
        sizes.append(dice.choice((1, 100, 10_000, 200_000)))
        database.execute(["append", "a-1", -1, [[None, "T", bytes(sizes[-1]), b""]]])
        if number == 40:
            database.checkpoint()
        if number == 60:
            assert database.engine.begin_checkpoint() is not None
    state = database.engine._state
    for _ in range(60):
        positions = sorted(
            dice.sample(range(1, 81), dice.randint(1, 40)), reverse=dice.random() < 0.5
        )
        every = state.events(positions)
        size_max = dice.choice((0, 1000, 100_000, 10**7))
        found = state.events_within(positions, size_max)
        assert found
        assert found == every[: len(found)]
        assert list(state.each_event(positions)) == every
