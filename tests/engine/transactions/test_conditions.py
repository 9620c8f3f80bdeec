"""Conditions of `execute`."""

from typing import Any

import msgpack
import pytest

from headwater_protocol.errors import ConditionFailed, HistoryGone, InvalidArgument
from headwater_protocol.numbers import ANY, NO_STREAM, STREAM_EXISTS
from tests.engine.database import SETTINGS, Database


def append(stream: str, name: str = "T") -> list[Any]:
    return ["append", stream, ANY, [[None, name, b"", b""]]]


def holds(database: Database, condition: list[Any]) -> bool:
    before = database.engine.published
    ticket, _ = database.engine.execute(
        database.new_id(),
        user=0,
        conditions=[condition],
        reads=None,
        writes=[["put", b"result", b""]],
    )
    database.sync()
    assert database.engine.published == before + (ticket.error is None)
    assert ticket.error is None or type(ticket.error) is ConditionFailed
    assert ticket.error is None or not ticket.error.retryable
    return ticket.error is None


def test_a_value_must_be_equal_and_absence_is_a_value() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"], ["put", b"empty", b""])
    assert holds(database, ["value", b"k", b"v"])
    assert not holds(database, ["value", b"k", b"w"])
    assert not holds(database, ["value", b"k", None])
    assert not holds(database, ["value", b"empty", None])
    assert holds(database, ["value", b"absent", None])
    assert not holds(database, ["value", b"absent", b""])


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [(b"k", b"w", "another value"), (b"k", None, "a value"), (b"absent", b"", "no value")],
)
def test_the_message_says_what_was_found(key: bytes, value: bytes | None, found: str) -> None:
    # For a key that should have been absent, the message used to say that it has no value.
    database = Database()
    database.execute(["put", b"k", b"v"])
    ticket, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[["value", key, value]], reads=None, writes=[]
    )
    assert isinstance(ticket.error, ConditionFailed)
    assert ticket.error.message.endswith(f"key {key!r} has {found}")


def test_a_stream_is_at_a_version_or_exists_or_does_not() -> None:
    database = Database()
    database.execute(append("a"), append("a"))
    assert holds(database, ["stream", "a", 2])
    assert not holds(database, ["stream", "a", 1])
    assert holds(database, ["stream", "a", STREAM_EXISTS])
    assert not holds(database, ["stream", "a", NO_STREAM])
    assert holds(database, ["stream", "b", NO_STREAM])


def test_the_condition_unchanged_names_the_transaction_that_changed_the_range() -> None:
    database = Database()
    database.execute(["put", b"b", b"1"])
    winner = database.new_id()
    database.execute(["delete", b"b"], transaction=winner)
    database.execute(["put", b"c", b"1"])
    assert holds(database, ["unchanged", b"a", b"c", 2])
    assert not holds(database, ["unchanged", b"a", b"c", 1])
    assert not holds(database, ["unchanged", b"a", None, 2])
    with pytest.raises(ConditionFailed) as failure:
        database.execute(conditions=[["unchanged", b"a", b"c", 1]])
    (conflict,) = failure.value.conflicts
    assert (conflict["start"], conflict["end"], conflict["key"]) == (b"a", b"c", b"b")
    assert (conflict["commit"], conflict["transaction"]) == (2, winner)


def test_unchanged_since_a_future_commit_is_refused() -> None:
    # Such a condition used to hold always, so a client with a wrong commit number did not notice.
    database = Database()
    database.execute(["put", b"k", b"v"])
    with pytest.raises(InvalidArgument, match="commit 2 was not made yet; the newest is 1"):
        database.execute(conditions=[["unchanged", b"", None, 2]])


def test_unchanged_since_a_commit_below_the_history_window_is_refused() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    database.execute(["put", b"k", b"w"])
    database.now += SETTINGS.history_window_us + 1
    database.checkpoint()
    assert holds(database, ["unchanged", b"", None, 2])
    with pytest.raises(HistoryGone, match="known from commit 2 on") as raised:
        database.execute(conditions=[["unchanged", b"", None, 1]])
    assert raised.value.details == {"oldest": 2}


def test_all_failed_conditions_are_reported_with_the_failed_expectations() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"], append("a"))
    with pytest.raises(ConditionFailed, match="4 of the conditions do not hold: key b'k'") as f:
        database.execute(
            ["append", "a", NO_STREAM, [[None, "T", b"", b""]]],
            conditions=[
                ["value", b"k", None],
                ["value", b"absent", None],
                ["stream", "a", 5],
                ["unchanged", b"", None, 0],
            ],
        )
    assert [conflict["kind"] for conflict in f.value.conflicts] == [
        "condition",
        "expected version",
        "condition",
        "expected version",
    ]


def test_a_failed_condition_is_reported_even_if_the_writes_are_invalid() -> None:
    # The value of the key is a text, so the add fails too. Its error used to hide the failure of
    # the condition.
    database = Database()
    database.execute(["put", b"k", b"text"])
    with pytest.raises(ConditionFailed):
        database.execute(["add", b"k", 1], conditions=[["value", b"k", None]])


def test_conditions_see_commits_that_are_sequenced_and_not_durable() -> None:
    database = Database()
    database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[["put", b"k", b"v"]]
    )
    ticket, results = database.engine.execute(
        database.new_id(),
        user=0,
        conditions=[["value", b"k", None]],
        reads=lambda reader: [reader.get(b"k")],
        writes=[],
    )
    assert isinstance(ticket.error, ConditionFailed)
    assert results == []
    # A crash could undo the commit that made the condition fail, so the answer waits until that
    # commit is durable.
    assert ticket.sequence == 1 > database.engine.durable_sequence


@pytest.mark.parametrize("stored", [-2, 0, 1.5, 2**63])
@pytest.mark.parametrize("number", [-2, 0, 1.5, 2, 2**63, float("inf")])
def test_a_number_must_be_in_the_order_that_a_condition_names(stored: float, number: float) -> None:
    database = Database()
    database.execute(["put", b"k", msgpack.packb(stored)])
    expected = {
        "less": stored < number,
        "at_most": stored <= number,
        "at_least": stored >= number,
        "greater": stored > number,
    }
    found = {
        relation: holds(database, ["compare", b"k", relation, number]) for relation in expected
    }
    assert found == expected


def test_what_is_no_number_is_in_no_order() -> None:
    database = Database()
    database.execute(
        ["put", b"text", msgpack.packb("1")],
        ["put", b"empty", b""],
        ["put", b"true", msgpack.packb(True)],
        ["put", b"nan", msgpack.packb(float("nan"))],
    )
    for key in (b"absent", b"text", b"empty", b"true", b"nan"):
        for relation in ("less", "at_most", "at_least", "greater"):
            assert not holds(database, ["compare", key, relation, 0])
