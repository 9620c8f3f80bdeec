"""How many events wait behind parked ones."""

import pytest

from headwater_server.engine.consumer_groups.waiting import WaitingCount
from headwater_server.engine.reads.filters import EventFilter
from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database


def waiting(group: Consuming) -> int:
    """The number, which a group with members and one without must tell alike."""
    [row] = group.groups.overview()
    assert row[3] == group.info()["waiting"]
    return int(row[3])


@pytest.mark.parametrize("joined", [False, True])
def test_events_behind_a_parked_one_are_counted_until_it_is_replayed(joined: bool) -> None:
    """Nothing told of them: the lag was 0."""
    group = Consuming(Database())
    group.create(wanted=EventFilter(types=("Happened",)))
    group.append("a-1", b"1", b"2", b"3", b"4")
    group.append("a-1", b"another type", kind="Else")
    group.append("b-1", b"1", b"2")
    member = group.join()
    for one in group.turn():
        if one.stream == "a-1":
            group.nack(one, park=True)
        else:
            group.ack(one)
    group.drain()
    if not joined:
        group.leave(member)
    assert waiting(group) == 3
    assert group.info()["newest"] == group.info()["position"]
    group.append("a-1", b"5")
    if joined:
        group.turn()
    assert waiting(group) == 4
    group.replay()
    assert waiting(group) == 0


def test_of_several_parked_events_of_a_stream_none_waits() -> None:
    group = Consuming(Database())
    group.create(parked_stream="continue")
    group.append("a-1", b"1", b"2", b"3")
    group.join()
    for _ in range(2):
        [one] = group.turn()
        group.nack(one, park=True)
    assert waiting(group) == 0
    group.database.settle(group.groups.update(group.name, None, None, {"parked_stream": "hold"}))
    assert waiting(group) == 1


@pytest.mark.parametrize(
    ("bound", "expected"), [(WaitingCount(events=5), 5), (WaitingCount(streams=2), 18)]
)
def test_counting_is_bounded(bound: WaitingCount, expected: int) -> None:
    group = Consuming(Database())
    group.create()
    for n in range(3):
        group.append(f"s-{n}", *[b""] * 10)
    group.join()
    group.nack(*group.turn(), park=True)
    state = group.database.engine._state
    definition = group.groups._definition(group.name)
    assert bound.of(state, state.last_commit, group.groups.reader(), definition) == expected
