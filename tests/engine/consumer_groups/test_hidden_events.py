"""A hidden event is done, whatever a consumer group was about to do with it."""

from collections.abc import Callable

import pytest

from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database

WAYS: dict[str, Callable[[Database], object]] = {
    "truncated": lambda database: database.execute(["truncate", "a-1", 2]),
    "pushed out by a rule": lambda database: database.execute(["set_retention", "a-1", 2, None]),
    "its stream deleted": lambda database: database.execute(["delete_stream", "a-1"]),
}


def holding(**settings: object) -> Consuming:
    """A group that has parked the first event of a stream, which has two more."""
    group = Consuming(Database())
    group.create(**settings)  # type: ignore[arg-type]
    group.append("a-1", b"1", b"2", b"3")
    group.join()
    [first] = group.turn()
    group.nack(first, reason="broken", park=True)
    return group


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("restarts", [False, True])
def test_a_parked_event_that_has_gone_holds_its_stream_no_longer(way: str, restarts: bool) -> None:
    group = holding()
    WAYS[way](group.database)
    left = [] if "deleted" in way else [2, 3]
    if restarts:
        group = group.restart(group.database.crash())
        group.join()
    group.pass_time(2)
    assert [one.position for one in group.drain()] == left
    [new] = group.append("a-1", b"of the new life, perhaps")
    assert [one.position for one in group.drain()] == [new]
    assert group.parked() == []
    assert group.info()["parked"] == 0


def test_a_new_event_of_a_held_stream_finds_out_at_once_that_the_parked_one_has_gone() -> None:
    group = holding()
    group.turn()
    group.database.execute(["delete_stream", "a-1"])
    [new] = group.append("a-1", b"of the new life")
    assert [one.position for one in group.drain()] == [new]


def test_parked_events_that_have_gone_are_forgotten_in_a_group_that_continues_too() -> None:
    group = holding(parked_stream="continue")
    assert [one.position for one in group.drain()] == [2, 3]
    group.database.execute(["truncate", "a-1", 2])
    group.pass_time(2)
    group.turn()
    assert group.parked() == []


def test_many_parked_events_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater_server.engine.consumer_groups.hidden.LOOKED_AT_MAX", 2)
    group = Consuming(Database())
    group.create()
    for n in range(9):
        group.append(f"s-{n}", b"")
    group.join()
    group.nack(*group.turn(), park=True)
    for n in range(4, 9):
        group.database.execute(["delete_stream", f"s-{n}"])
    for _ in range(5):
        group.pass_time(1)
        group.turn()
    assert [position for position, _ in group.parked()] == [1, 2, 3, 4]


@pytest.mark.parametrize("restarts", [False, True])
def test_the_event_after_one_that_has_gone_begins_with_no_attempt(restarts: bool) -> None:
    """Its first failure parked it: the attempts were those of the event before it."""
    group = Consuming(Database())
    group.create(attempts_max=2)
    group.append("a-1", b"1", b"2")
    member = group.join()
    [first] = group.turn()
    group.nack(first, reason="broken")
    group.leave(member)
    group.database.execute(["truncate", "a-1", 2])
    if restarts:
        group = group.restart(group.database.crash())
    group.join()
    for attempt in (1, 2):
        [second] = group.turn()
        assert (second.position, second.attempt) == (2, attempt)
        group.nack(second, reason="broken too")
    assert group.parked() == [(2, "broken too")]
