"""Append conditions: which events fail them, at both isolation levels."""

from typing import Any

import pytest

from headwater_protocol.errors import (
    ConditionFailed,
    Conflict,
    HeadwaterError,
    InvalidArgument,
    TooLarge,
)
from headwater_server.engine import work_budget
from headwater_server.engine.reads.filters import Criterion, EventFilter
from tests.engine.database import Database

QUERY = {"query": [{"types": ["Taken"], "tags": ["name:ann"]}]}
LAYERS = ["active", "frozen", "files"]


def take(name: str, *, stream: str = "names", identity: bytes | None = None) -> list[Any]:
    return ["append", stream, -1, [[identity, "Taken", b"", b"", [f"name:{name}"]]]]


def move(database: Database, layer: str) -> None:
    if layer == "frozen":
        assert database.engine.begin_checkpoint() is not None
    elif layer == "files":
        database.checkpoint()


def failure_of(database: Database, *writes: list[Any], **rest: Any) -> HeadwaterError:
    with pytest.raises(HeadwaterError) as failure:
        database.execute(*writes, **rest)
    return failure.value


@pytest.mark.parametrize("layer", LAYERS)
def test_an_append_fails_if_a_matching_event_exists_and_the_error_names_the_event(
    layer: str,
) -> None:
    database = Database()
    database.execute(take("bob"))
    winner = database.new_id()
    database.execute(take("ann"), transaction=winner)
    database.execute(take("cid"))
    move(database, layer)
    for error in (
        failure_of(database, [*take("ann"), QUERY, 0]),
        failure_of(database, [*take("ann"), QUERY]),
        failure_of(database, take("ann"), conditions=[["no_events", QUERY, 1]]),
    ):
        assert type(error) is ConditionFailed
        assert not error.retryable
        (conflict,) = error.conflicts
        assert conflict.pop("message").startswith("the event at position 2, of commit 2, matches")
        assert conflict.pop("after") in (0, 1)
        assert conflict == {
            "kind": "condition",
            "query": QUERY,
            "position": 2,
            "commit": 2,
            "transaction": winner,
        }
    # After position 2, no event matches.
    database.execute([*take("ann"), QUERY, 2], conditions=[["no_events", QUERY, 2]])
    assert database.engine.published_position == 4


def test_a_matching_event_that_is_not_durable_fails_an_append() -> None:
    database = Database()
    first, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[[*take("ann"), QUERY]]
    )
    second, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[[*take("ann"), QUERY]]
    )
    assert first.error is None
    assert isinstance(second.error, ConditionFailed)
    # The commit that it names must be durable before the answer.
    assert second.sequence == first.sequence > database.engine.durable_sequence


def test_all_failures_are_reported_together() -> None:
    database = Database()
    database.execute(take("ann"), take("bob"))
    other = {"query": [{"tags": ["name:bob"]}]}
    error = failure_of(
        database,
        [*take("ann"), QUERY],
        ["append", "names", 7, [[None, "T", b"", b""]]],
        [*take("bob", stream="b"), other, 1],
    )
    assert type(error) is ConditionFailed
    assert [each["kind"] for each in error.conflicts] == [
        "expected version",
        "condition",
        "condition",
    ]
    assert database.engine.published == 1


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_failed_condition_is_retryable_if_it_held_at_the_read_view(isolation: str) -> None:
    database = Database()
    raced = database.begin(isolation=isolation)
    database.execute(take("ann"))
    wrong = database.begin(isolation=isolation)
    for running, retryable in ((raced, True), (wrong, False)):
        with pytest.raises(ConditionFailed) as failure:
            database.commit(running, [*take("ann"), QUERY])
        assert failure.value.retryable is retryable


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_own_events_do_not_fail_the_condition(isolation: str) -> None:
    database = Database()
    running = database.begin(isolation=isolation)
    running.write([[*take("ann"), QUERY], [*take("ann", stream="other"), QUERY]])
    assert database.commit(running)[2:4] == [1, 2]


def test_a_repeated_append_succeeds_whatever_its_condition() -> None:
    database = Database()
    write = [*take("ann", identity=bytes(16)), QUERY]
    answer = database.execute(write)
    assert database.execute(write) == answer


def test_a_future_position_cannot_have_been_read() -> None:
    database = Database()
    database.execute(take("bob"))
    assert isinstance(failure_of(database, [*take("ann"), QUERY, 2]), InvalidArgument)
    error = failure_of(database, conditions=[["no_events", QUERY, 2]])
    assert isinstance(error, InvalidArgument)
    assert "the newest is 1" in error.message


def test_a_condition_that_would_look_at_too_many_entries_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_budget, "WORK_MAX", 200)
    database = Database()
    events = [[None, "T", b"", b"", [("even", "odd")[n % 2]]] for n in range(3_000)]
    database.execute(["append", "n", -1, events])
    never = {"query": [{"tags": ["even", "odd"]}]}
    error = failure_of(database, [*take("ann"), never])
    assert isinstance(error, TooLarge)
    assert "give a later position" in error.message
    database.execute([*take("ann"), never, 2_500])
    # An index answers, however much there is.
    database.execute([*take("ann"), {"query": [{"tags": ["name:bob"]}]}])


@pytest.mark.parametrize("layer", LAYERS)
def test_a_query_is_validated_only_against_matching_events(layer: str) -> None:
    database = Database()
    wanted = EventFilter(query=(Criterion(("Taken",), ("name:ann",)),))
    one, other = database.begin(), database.begin()
    for running in (one, other):
        assert running.read_all(0, wanted, 10, False).events == []
    database.execute(
        take("bob"), ["append", "names", -1, [[None, "Other", b"", b"", ["name:ann"]]]]
    )
    move(database, layer)
    database.commit(one, take("ann"))
    with pytest.raises(Conflict) as failure:
        database.commit(other, take("ann"))
    (conflict,) = failure.value.conflicts
    assert (conflict["kind"], conflict["query"], conflict["commit"]) == ("read-write", QUERY, 2)
