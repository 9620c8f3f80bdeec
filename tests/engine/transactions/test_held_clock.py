"""The log's clock stands while a load keeps the times of a dump."""

from typing import Any

import pytest

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.settings import HOUR_US, SECOND_US
from tests.engine.database import START_US, Database


def append(stream: str, *names: str) -> list[Any]:
    return ["append", stream, -1, [[None, name, b"", b""] for name in names]]


def test_commits_get_the_times_at_which_the_clock_is_held() -> None:
    database = Database()
    holder = object()
    for time in (START_US - 5 * HOUR_US, START_US - 5 * HOUR_US, START_US - HOUR_US):
        database.engine.sequencer.hold_clock(holder, time)
        # However long a load takes, no tick of the present may come between.
        database.now += 10 * SECOND_US
        database.engine.tick()
        assert database.execute(append("a", "One"))[1] == time
    database.engine.sequencer.hold_clock(holder, None)
    assert database.execute(append("a", "One"))[1] == database.now
    for engine in (database.engine, database.crash().engine):
        events = engine.reader().read_all(0, EVERYTHING, 10, False).events
        times = [decode_event(event).time for event in events]
        assert times == [
            START_US - 5 * HOUR_US,
            START_US - 5 * HOUR_US,
            START_US - HOUR_US,
            database.now,
        ]
        assert engine.position_before(START_US - HOUR_US) == 2


def test_the_clock_cannot_be_held_before_what_is_written_nor_in_the_future() -> None:
    database = Database()
    holder, other = object(), object()
    hold = database.engine.sequencer.hold_clock
    for time in (0, database.now + 1):
        with pytest.raises(InvalidArgument, match="possible are"):
            hold(holder, time)
    hold(holder, START_US - HOUR_US)
    database.execute(["put", b"k", b"v"])
    with pytest.raises(InvalidArgument, match="possible are"):
        hold(holder, START_US - HOUR_US - 1)
    with pytest.raises(InvalidArgument, match="another connection holds"):
        hold(other, START_US)
    # A connection that never held it cannot let it go on.
    hold(other, None)
    assert database.execute(["put", b"k", b"w"])[1] == START_US - HOUR_US
    hold(holder, None)
    hold(other, database.now)


def test_a_held_clock_loses_no_transaction_and_its_log_is_sound() -> None:
    database = Database()
    holder = object()
    identities = []
    for time in range(START_US - 100 * HOUR_US, START_US, 10 * HOUR_US):
        database.engine.sequencer.hold_clock(holder, time)
        identities.append(database.new_id())
        database.execute(append("a", "One"), transaction=identities[-1])
        database.checkpoint()
    for identity in identities:
        assert database.engine.status(identity, resolve=False).state == "committed"
    database.engine.sequencer.hold_clock(holder, None)
    database.execute(append("a", "One"))
    assert database.crash().engine.published == len(identities) + 1
