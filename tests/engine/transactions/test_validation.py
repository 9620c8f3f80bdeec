"""Validation: what a conflict says, and when there is none."""

from typing import Any

import pytest

from headwater_protocol.errors import Conflict
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.engine.transactions.validation import CONFLICTS_MAX
from tests.engine.database import Database

LAYERS = ["active", "frozen", "files"]


def append(stream: str, *names: str) -> list[Any]:
    return ["append", stream, -1, [[None, name, b"", b""] for name in names]]


def refused(database: Database, running: Transaction, *writes: list[Any]) -> Conflict:
    with pytest.raises(Conflict) as failure:
        database.commit(running, *(writes or [["put", b"result", b""]]))
    assert failure.value.retryable
    return failure.value


def move(database: Database, layer: str) -> None:
    if layer == "frozen":
        assert database.engine.begin_checkpoint() is not None
    elif layer == "files":
        database.checkpoint()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_conflict_names_its_subject_kind_and_winner(layer: str) -> None:
    database = Database()
    database.execute(["put", b"k", b"v"], append("a-1", "One"))
    running = database.begin()
    running.get(b"k")
    running.scan(b"m", b"p", 10, False)
    running.scan(b"x", None, 10, False)
    running.read_stream("a-1", 0, 10, False)
    running.read_all(0, EventFilter(category="a", types=("Two",)), 10, False)
    winners = [database.new_id() for _ in range(4)]
    database.execute(["delete", b"k"], transaction=winners[0])
    database.execute(["put", b"o", b"1"], transaction=winners[1])
    database.execute(["put", b"z", b"1"], transaction=winners[2])
    database.execute(append("a-1", "Two"), transaction=winners[3])
    move(database, layer)
    error = refused(database, running)
    assert error.conflicts == [
        {"kind": "read-write", "key": b"k", "commit": 2, "transaction": winners[0]},
        {
            "kind": "read-write",
            "start": b"m",
            "end": b"p",
            "key": b"o",
            "commit": 3,
            "transaction": winners[1],
        },
        {
            "kind": "read-write",
            "start": b"x",
            "end": None,
            "key": b"z",
            "commit": 4,
            "transaction": winners[2],
        },
        {"kind": "read-write", "stream": "a-1", "commit": 5, "transaction": winners[3]},
        {
            "kind": "read-write",
            "query": {"category": "a", "types": ["Two"]},
            "commit": 5,
            "transaction": winners[3],
        },
    ]
    assert error.message == (
        f"read-write conflict on key b'k': written by commit 2, transaction {winners[0].hex()} "
        "(and 4 more)"
    )


@pytest.mark.parametrize("layer", LAYERS)
def test_at_snapshot_isolation_the_first_committer_of_a_key_or_range_wins(layer: str) -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    running = database.begin(isolation="snapshot")
    winner = database.new_id()
    database.execute(["put", b"k", b"w"], ["put", b"m", b"1"], transaction=winner)
    move(database, layer)
    error = refused(database, running, ["put", b"k", b"mine"], ["delete_range", b"l", b"n"])
    assert error.conflicts == [
        {"kind": "write-write", "key": b"k", "commit": 2, "transaction": winner},
        {
            "kind": "write-write",
            "start": b"l",
            "end": b"n",
            "key": b"m",
            "commit": 2,
            "transaction": winner,
        },
    ]


def test_at_snapshot_isolation_write_skew_is_possible() -> None:
    database = Database()
    database.execute(["put", b"a", b"1"], ["put", b"b", b"1"])
    one, two = (database.begin(isolation="snapshot") for _ in range(2))
    for running in (one, two):
        assert (running.get(b"a"), running.get(b"b")) == (b"1", b"1")
    database.commit(one, ["put", b"a", b"0"])
    database.commit(two, ["put", b"b", b"0"])
    reader = database.engine.reader()
    assert (reader.get(b"a"), reader.get(b"b")) == (b"0", b"0")


def test_atomics_and_appends_of_any_version_do_not_conflict() -> None:
    for isolation in ("serializable", "snapshot"):
        database = Database()
        database.execute(["put", b"n", b"\x01"], append("a", "One"))
        running = database.begin(isolation=isolation)
        database.execute(["add", b"n", 1], append("a", "Theirs"))
        database.commit(running, ["add", b"n", 1], append("a", "Mine"))
        assert database.engine.reader().get(b"n") == b"\x03"
        assert database.engine.reader().read_stream("a", 0, 1, False).version == 3


def test_serializable_writes_without_reads_do_not_conflict() -> None:
    database = Database()
    running = database.begin()
    database.execute(["put", b"k", b"theirs"], ["put", b"m", b"1"])
    database.commit(running, ["put", b"k", b"mine"], ["delete_range", b"l", b"n"])
    assert database.engine.reader().scan(b"", None, 10, False).items == [b"k", b"mine"]


def test_writes_before_the_view_do_not_conflict_in_any_layer() -> None:
    for layer in LAYERS:
        database = Database()
        database.execute(["put", b"k", b"v"], append("a", "One"))
        running = database.begin()
        running.get(b"k")
        running.scan(b"", None, 10, False)
        running.load("a", "", 0)
        running.read_all(0, EventFilter(), 10, False)
        move(database, layer)
        database.commit(running, ["put", b"z", b""])
        assert database.engine.published == 2


def test_a_conflict_on_a_snapshot_names_its_stream_and_no_stored_bytes() -> None:
    # The conflict was reported as a range of keys in the form of stored snapshots.
    database = Database()
    database.execute(append("account-ann", "Opened", "Changed"))
    for saved in ([], [["save_snapshot", "account-ann", "totals", 3, 1, b"s"]]):
        if saved:
            database.execute(*saved)
        running = database.begin()
        running.load("account-ann", "totals", 3)
        winner = database.new_id()
        database.execute(["save_snapshot", "account-ann", "totals", 3, 2, b"s"], transaction=winner)
        error = refused(database, running)
        assert error.conflicts == [
            {
                "kind": "read-write",
                "snapshot": ["account-ann", "totals", 3],
                "commit": database.engine.published,
                "transaction": winner,
            }
        ]
        assert "conflict on snapshot ['account-ann', 'totals', 3]: written" in error.message
    running = database.begin(isolation="snapshot")
    database.execute(["save_snapshot", "account-ann", "totals", 3, 2, b"s"])
    error = refused(database, running, ["save_snapshot", "account-ann", "totals", 3, 2, b"mine"])
    assert error.conflicts[0]["snapshot"] == ["account-ann", "totals", 3]


def test_all_conflicts_are_reported_up_to_a_bound() -> None:
    database = Database()
    for count in (CONFLICTS_MAX, CONFLICTS_MAX + 1):
        running = database.begin()
        keys = [b"k%03d" % place for place in range(count)]
        for key in keys:
            running.get(key)
        database.execute(*[["put", key, b"v"] for key in keys])
        error = refused(database, running)
        assert [conflict["key"] for conflict in error.conflicts] == keys[:CONFLICTS_MAX]
