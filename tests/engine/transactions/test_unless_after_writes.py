"""The condition of an append is evaluated after the earlier writes of its transaction.

The law, tested with random writes: the condition holds exactly if a transaction with these writes
reads no matching event after the position, among those that are stored already.
"""

import random
from typing import Any

import pytest

from headwater_protocol.errors import ConditionFailed, HeadwaterError
from headwater_protocol.numbers import ANY
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from tests.engine.database import Database, all_events

STREAMS = ("a-1", "a-2", "ab-1", "b", "b-x-1")
TAGS = ("t1", "t2", "t3")
SELECTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"stream": "a-1"},
    {"category": "a"},
    {"prefix": "a"},
    {"prefix": "ab"},
    {"prefix": "b-x"},
    {"types": ["T"]},
    {"query": [{"tags": ["t1"]}]},
    {"query": [{"types": ["U"], "tags": ["t2"]}, {"tags": ["t1", "t3"]}]},
)


def some_append(dice: random.Random, stream: str, events_max: int) -> list[Any]:
    events = [
        [None, dice.choice("TU"), b"data", b"", dice.sample(TAGS, dice.randint(0, 2))]
        for _ in range(dice.randint(1, events_max))
    ]
    return ["append", stream, ANY, events]


def some_write(dice: random.Random, reader: Reader, events_max: int) -> list[Any]:
    stream = dice.choice(STREAMS)
    version = reader.read_stream(stream, 0, 1, False).version
    if dice.random() < 0.65:
        return some_append(dice, stream, events_max)
    return dice.choice(
        (
            ["truncate", stream, max(1, dice.randint(version - 3, version + 1))],
            ["delete_stream", stream],
            ["set_retention", stream, dice.choice((None, 1, 2, 5)), None],
        )
    )


def stored_events(reader: Reader) -> list[StoredEvent]:
    """All events that can be read, by their streams, in the order of the log."""
    found: list[StoredEvent] = []
    for stream in STREAMS:
        page = reader.read_stream(stream, 0, 1000, False)
        assert not page.more
        found += map(decode_event, page.events)
    return sorted(event for event in found if event.position)


@pytest.mark.parametrize("seed", range(80))
def test_a_condition_holds_exactly_if_its_transaction_reads_no_such_event(seed: int) -> None:
    dice = random.Random(seed)
    database = Database()
    for _ in range(dice.randint(1, 10)):
        try:
            database.execute(some_write(dice, database.engine.reader(), 25))
        except HeadwaterError:
            continue
        match dice.randrange(6):
            case 0:
                database.checkpoint()
            case 1:
                database = database.crash()
    for _ in range(4):
        reader = database.engine.reader()
        writes = [some_write(dice, reader, 3) for _ in range(dice.randint(0, 3))]
        members = {**dice.choice(SELECTIONS), **dice.choice(SELECTIONS)}
        wanted, after = EventFilter.from_wire(members), dice.randint(0, reader.position)
        opened = database.begin()
        opened.write(writes)
        try:
            events = stored_events(opened)
        except HeadwaterError:
            # A truncation after the end of the stream, which the commit refuses too.
            continue
        matching = [each.position for each in events if each.position > after and wanted.fits(each)]
        read = [decode_event(each).position for each in all_events(opened, after, wanted)]
        assert read == matching, f"seed {seed}"
        conditional = [*some_append(dice, "b", 1), members, after]
        if not matching:
            database.execute(*writes, conditional)
            continue
        with pytest.raises(ConditionFailed) as caught:
            database.execute(*writes, conditional)
        assert caught.value.details["conflicts"][0]["position"] == matching[0], f"seed {seed}"
