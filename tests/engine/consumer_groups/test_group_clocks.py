"""Clocks that jump: a pause between two attempts lasts as long as it was meant to.

The law: whatever the wall clock does, in the running server or between its end and the next start,
a pause lasts no longer than its length by the clock that never goes back. While the server runs, it
does not last shorter either.
"""

import msgpack
import pytest

from headwater_server.engine.consumer_groups.records import (
    PAUSE_US_MAX,
    StreamEntry,
    encode_entry,
    read_streams,
    stream_key,
)
from headwater_server.engine.settings import SECOND_US
from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database

DAY_S = 24 * 3600
JUMPS_S = [-30 * DAY_S, -2 * DAY_S, -1, 0, 1, 2 * DAY_S, 30 * DAY_S]


def nacked(*, delay_ms: int | None = None, retry_ms: int = 1000) -> Consuming:
    """A group with an event that must wait."""
    database = Database()
    database.now += 100 * DAY_S * SECOND_US
    group = Consuming(database)
    group.create(retry_ms=retry_ms)
    group.append("a-1", b"1")
    group.join()
    [one] = group.turn()
    group.nack(one, delay_ms=delay_ms, reason="busy")
    return group


@pytest.mark.parametrize("jump_s", JUMPS_S)
@pytest.mark.parametrize("delay_ms", [1_000, 300_000, None])
def test_a_pause_has_its_full_length_while_the_server_runs(
    jump_s: int, delay_ms: int | None
) -> None:
    group = nacked(delay_ms=delay_ms)
    length_s = (delay_ms or 1_000) / 1000
    assert group.turn() == []
    group.database.now += jump_s * SECOND_US
    group.pass_time(length_s - 0.1)
    assert group.turn() == []
    group.pass_time(0.2)
    assert [one.attempt for one in group.turn()] == [2]


@pytest.mark.parametrize("jump_s", JUMPS_S)
@pytest.mark.parametrize("delay_ms", [1_000, 300_000, None])
def test_a_pause_is_no_longer_than_its_length_after_a_restart(
    jump_s: int, delay_ms: int | None
) -> None:
    group = nacked(delay_ms=delay_ms)
    length_s = (delay_ms or 1_000) / 1000
    restarted = group.restart(group.database.crash())
    restarted.database.now += jump_s * SECOND_US
    restarted.join()
    early = restarted.turn()
    assert not early or jump_s >= length_s, "only a clock that went ahead can end it early"
    restarted.pass_time(length_s + 0.1)
    assert [one.attempt for one in early + restarted.turn()] == [2]


@pytest.mark.parametrize("jump_s", JUMPS_S)
def test_a_replayed_event_has_the_same_pauses(jump_s: int) -> None:
    database = Database()
    database.now += 100 * DAY_S * SECOND_US
    group = Consuming(database)
    group.create(retry_ms=1000)
    group.append("a-1", b"1")
    group.join()
    [one] = group.turn()
    group.nack(one, reason="broken", park=True)
    group.replay(1)
    [again] = group.turn()
    group.nack(again, delay_ms=5_000)
    restarted = group.restart(group.database.crash())
    restarted.database.now += jump_s * SECOND_US
    restarted.join()
    early = restarted.turn()
    restarted.pass_time(5.1)
    assert len(early + restarted.turn()) == 1


def test_an_entry_of_an_earlier_version_has_the_longest_possible_pause() -> None:
    group = nacked()
    database = group.database
    definition = group.groups.active[group.name].definition
    state = database.engine._state
    [(name, entry)] = read_streams(state, state.last_commit, definition.number)
    assert entry == StreamEntry(0, 1, entry.retry_at, "busy", SECOND_US, 1)
    old = list(msgpack.unpackb(encode_entry(entry)))[:4]
    group.groups.write([stream_key(definition.number, name), msgpack.packb(old)])
    database.sync()
    [(_, read)] = read_streams(state, state.last_commit, definition.number)
    assert read == entry._replace(pause_us=PAUSE_US_MAX, tried=0)
