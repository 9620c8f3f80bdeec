"""An erasure takes along the reasons why the erased events failed: they often quote the data."""

from typing import Any

import pytest

from tests.engine.consumer_groups.consuming import Consuming
from tests.engine.database import Database

SECRET = "KeyError: 'Bob'"


def failed() -> Consuming:
    """One event is parked, one was replayed and failed again, and one waits for its retry."""
    group = Consuming(Database())
    group.create(retry_ms=60_000)
    for stream in "abc":
        group.append(f"{stream}-1", b"Bob", b"more")
    group.join()
    parked, replayed, retried = group.turn()
    group.nack(parked, replayed, reason=SECRET, park=True)
    group.nack(retried, reason=SECRET)
    group.replay(replayed.position)
    [again] = group.turn()
    group.nack(again, reason=SECRET)
    return group


def stored(group: Consuming) -> str:
    """All that is stored of groups."""
    state: Any = group.database.engine._state
    return repr([value for _, value in state.scan(b"\x04", b"\x05", state.last_commit)])


@pytest.mark.parametrize("active", [False, True])
def test_the_reasons_of_erased_events_go_with_their_data(active: bool) -> None:
    group = failed()
    assert stored(group).count("Bob") == 3
    if not active:
        group = group.restart(group.database.crash())
    writes = [["erase", f"{stream}-1", [1]] for stream in "abc"]
    group.database.execute(*writes)
    assert "Bob" not in stored(group)
    assert [reason for _, reason in group.parked()] == [""]
    if not active:
        group.join()
    group.pass_time(61)
    for one in group.turn():
        group.nack(one, reason="")
    assert "Bob" not in stored(group), "what is in memory must not bring it back"
    group = group.restart(group.database.crash())
    assert "Bob" not in stored(group)


def test_the_reasons_of_other_events_stay() -> None:
    group = failed()
    group.database.execute(["erase", "a-1", [2]])
    assert stored(group).count("Bob") == 3


def test_an_erasure_and_an_acknowledgement_in_one_transaction_both_count() -> None:
    group = Consuming(Database())
    group.create()
    group.append("a-1", b"Bob", b"more")
    group.join()
    [first] = group.turn()
    group.nack(first, reason=SECRET)
    [again] = group.turn()
    group.ack(again, writes=[["erase", "a-1", [1]]])
    assert "Bob" not in stored(group)
    assert [one.position for one in group.turn()] == [2]
