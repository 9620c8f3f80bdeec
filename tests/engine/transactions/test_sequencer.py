"""The sequencer: sequence numbers, groups, tickets, and repeated answers."""

from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.errors import (
    Conflict,
    DuplicateEvent,
    HistoryGone,
    NotANumber,
    TransactionAborted,
    WrongVersion,
)
from headwater_server.engine.transactions.sequencer import Ticket
from tests.engine.database import OWNER, SETTINGS, START_US, Database


def sequenced(database: Database, *writes: list[Any], transaction: bytes | None = None) -> Ticket:
    """Execute, without a sync."""
    ticket, _ = database.engine.execute(
        transaction or database.new_id(), user=0, conditions=[], reads=None, writes=list(writes)
    )
    return ticket


def append(stream: str, *names: str, identity: bytes | None = None) -> list[Any]:
    return ["append", stream, -1, [[identity, name, b"", b""] for name in names]]


def test_commit_numbers_and_positions_have_no_gaps() -> None:
    database = Database()
    answers = [
        database.execute(["put", b"k", b"1"]),
        database.execute(append("a", "One", "Two")),
        database.execute(["put", b"k", b"2"], append("b", "Three")),
    ]
    assert answers == [
        [1, START_US, None, None, {}],
        [2, START_US, 1, 2, {"a": 2}],
        [3, START_US, 3, 3, {"b": 1}],
    ]


def test_nobody_sees_a_commit_before_it_is_durable() -> None:
    database = Database()
    engine = database.engine
    ticket = sequenced(database, ["put", b"k", b"v"], append("a", "One"))
    group = engine.take_group()
    assert group is not None
    assert engine.take_group() is None
    for written in (False, True):
        if written:
            engine.make_durable(group)
        assert engine.published == engine.published_position == engine.durable_sequence == 0
        assert engine.reader().get(b"k") is None
        assert engine.reader().read_stream("a", 0, 10, False).version == 0
        assert database.begin().get(b"k") is None
    engine.publish(group)
    assert (engine.published, engine.published_position) == (1, 1)
    assert engine.durable_sequence == ticket.sequence
    assert engine.reader().get(b"k") == b"v"
    assert engine.reader().read_stream("a", 0, 10, False).version == 1


def test_commits_sequenced_while_a_group_is_written_go_into_the_next() -> None:
    database = Database()
    engine = database.engine
    first = sequenced(database, ["put", b"a", b"1"])
    one = engine.take_group()
    second = sequenced(database, ["put", b"b", b"2"])
    third = sequenced(database, ["put", b"c", b"3"])
    assert one is not None
    engine.make_durable(one)
    engine.publish(one)
    assert engine.published == 1
    assert first.sequence <= engine.durable_sequence < second.sequence
    two = engine.take_group()
    assert two is not None
    assert len(two.records) == 2
    engine.make_durable(two)
    engine.publish(two)
    assert engine.published == 3
    assert engine.durable_sequence == third.sequence


def test_a_transaction_conflicts_with_a_commit_that_is_not_durable_yet() -> None:
    database = Database()
    reader, writer = database.begin(), database.begin()
    reader.get(b"k")
    writer.write([["put", b"k", b"v"]])
    first = database.engine.commit(writer.id, OWNER, [])
    second = database.engine.commit(reader.id, OWNER, [["put", b"other", b"1"]])
    assert isinstance(second.error, Conflict)
    assert second.error.conflicts[0]["transaction"] == writer.id
    # A crash could still undo the first commit, so the conflict is reported when it is durable.
    assert second.sequence == first.sequence > database.engine.durable_sequence


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        (["put", b"k", b"text"], ["add", b"k", 1], NotANumber),
        (
            append("a", "T", identity=bytes(16)),
            append("a", "X", identity=bytes(16)),
            DuplicateEvent,
        ),
        (append("a", "T"), ["append", "a", 0, [[None, "T", b"", b""]]], WrongVersion),
    ],
)
def test_an_error_waits_until_the_commits_it_depends_on_are_durable(
    before: list[Any], after: list[Any], error: type[Exception]
) -> None:
    # With an immediate answer, a client could act on a value that a crash then undoes.
    database = Database()
    first = sequenced(database, before)
    second = sequenced(database, after)
    assert isinstance(second.error, error)
    assert second.sequence == first.sequence > database.engine.durable_sequence
    running = database.begin()
    third = database.engine.commit(running.id, OWNER, [after])
    assert isinstance(third.error, error)
    assert third.sequence == first.sequence


def test_a_read_only_answer_waits_only_for_commits_that_it_read() -> None:
    database = Database()
    assert sequenced(database).sequence == 0
    ticket = sequenced(database, ["put", b"k", b"v"])
    running = database.begin()
    running.get(b"k")
    assert database.engine.commit(running.id, OWNER, []).sequence == 0
    seen, results = database.engine.execute(
        database.new_id(),
        user=0,
        conditions=[],
        reads=lambda reader: [reader.get(b"k")],
        writes=[],
    )
    assert results == [b"v"]
    assert seen.sequence == ticket.sequence
    assert seen.payload == [1, START_US, None, None, {}]


def test_the_same_transaction_gets_the_same_answer_on_any_connection_at_any_time() -> None:
    database = Database()
    database.execute(append("a", "Zero"))
    running = database.begin()
    transaction = running.id
    running.write([["put", b"k", b"v"], append("a", "One"), append("b", "Two"), append("a", "3")])
    first = database.engine.commit(transaction, OWNER, [])
    assert first.payload == [2, START_US, 2, 4, {"a": 3, "b": 1}]

    def check(database: Database, sequence: int) -> None:
        for owner in (OWNER, "another connection"):
            again = database.engine.commit(transaction, owner, [["put", b"k", b"other"]])
            assert (again.payload, again.error, again.sequence) == (first.payload, None, sequence)
        status = database.engine.status(transaction, resolve=True)
        assert (status.state, status.ticket.payload) == ("committed", first.payload)
        assert database.engine.take_group() is None

    # The commit is sequenced but not durable, so the answer waits.
    again = database.engine.commit(transaction, "another connection", [])
    assert again.payload == first.payload
    assert again.sequence == first.sequence > database.engine.durable_sequence
    database.sync()
    check(database, 2)
    database.checkpoint()
    check(database, 2)
    database = database.reopen()
    check(database, database.engine.durable_sequence)
    database = database.crash()
    check(database, database.engine.durable_sequence)
    assert database.engine.reader().get(b"k") == b"v"


def parts_of(answer: tuple[Ticket, list[Any]]) -> object:
    ticket, results = answer
    return ticket.sequence, ticket.payload, ticket.error, results


def test_a_repeated_execute_answers_with_its_first_reads() -> None:
    database = Database()
    database.execute(["put", b"n", b"\x05"])

    def send(transaction: bytes) -> tuple[Ticket, list[Any]]:
        return database.engine.execute(
            transaction,
            user=0,
            conditions=[["value", b"n", b"\x05"]],
            reads=lambda reader: [reader.get(b"n"), reader.get(b"m")],
            writes=[["add", b"n", 1]],
        )

    sequenced(database, ["put", b"m", b"not durable yet"])
    transaction = database.new_id()
    first = send(transaction)
    assert first[1] == [b"\x05", b"not durable yet"]
    # Both the commit and the one that it read still wait for a sync.
    assert parts_of(send(transaction)) == parts_of(first)
    database.sync()
    assert parts_of(send(transaction)) == parts_of(first)
    database.execute(["put", b"n", b"\x63"])
    database.checkpoint()
    database = database.crash()
    ticket, results = send(transaction)
    assert (ticket.payload, results) == (first[0].payload, first[1])
    assert database.engine.reader().get(b"n") == b"\x63"


def test_a_repeated_execute_reports_its_commit_even_if_its_reads_are_before_the_window() -> None:
    # A client that lost the answer sent the request again. It got HistoryGone without the commit,
    # and concluded that nothing was committed.
    database = Database(replace(SETTINGS, history_window_us=0))

    def send(transaction: bytes) -> tuple[Ticket, list[Any]]:
        return database.engine.execute(
            transaction,
            user=0,
            conditions=[],
            reads=lambda reader: [reader.get(b"n")],
            writes=[["put", b"n", b"1"]],
        )

    transaction = database.new_id()
    first, _ = send(transaction)
    database.sync()
    database.execute(["put", b"n", b"2"])
    database.checkpoint()
    with pytest.raises(HistoryGone, match="it was committed, as commit 1") as caught:
        send(transaction)
    assert caught.value.details["commit"] == first.payload[0]


def test_the_answer_to_a_fence_waits_until_the_fence_is_durable() -> None:
    database = Database()
    transaction = database.new_id()
    status = database.engine.status(transaction, resolve=True)
    assert status.state == "aborted"
    assert status.ticket.sequence == 1 > database.engine.durable_sequence
    late = sequenced(database, ["put", b"k", b"v"], transaction=transaction)
    assert isinstance(late.error, TransactionAborted)
    assert late.sequence == 1
    database.sync()
    assert database.engine.published == 0
    assert database.engine.reader().get(b"k") is None


def test_commit_times_never_decrease_even_if_the_clock_is_set_back() -> None:
    database = Database()
    database.execute(["put", b"k", b"1"])
    database.now -= 1_000_000
    assert database.execute(append("a", "One"))[1] == START_US
    # The same after a restart. Here the newest commit is only in the log, not in the files.
    database = database.crash()
    assert database.now < START_US
    assert database.execute(["put", b"k", b"2"])[1] == START_US
    database.checkpoint()
    database = database.crash()
    assert database.execute(["put", b"k", b"3"])[1] == START_US
    database.now = START_US + 5
    assert database.execute(["put", b"k", b"4"])[1] == START_US + 5
    assert [database.engine.commit_at(START_US + us) for us in (-1, 0, 4, 5)] == [0, 4, 4, 5]


def test_appends_are_answered_correctly_after_the_commit_of_their_stream_is_forgotten() -> None:
    # Event ids are kept forever, but commit records are not. An append that was repeated after
    # the retention was answered with "history_gone". So was a wrong expected version, if the
    # stream's last commit was forgotten.
    database = Database(replace(SETTINGS, history_window_us=0, transaction_retention_us=10_000))
    database.engine._state.files.commit_log._records = 2
    event = append("a", "One", "Two", identity=None)
    event[3][0][0] = b"1" * 16
    event[3][1][0] = b"2" * 16
    answer = database.execute(event, append("b", "Other"))
    for value in range(6):
        database.now += 20_000
        database.execute(["put", b"k", bytes([value])])
        database.checkpoint()
    assert database.engine._state.files.oldest_commit > 1
    assert database.execute(event) == [*answer[:2], 1, 2, {"a": 2}]
    with pytest.raises(WrongVersion) as failure:
        database.execute(["append", "a", 0, [[None, "Three", b"", b""]]])
    assert failure.value.conflicts == [
        {"kind": "expected version", "stream": "a", "expected": 0, "actual": 2, "commit": 1}
    ]


def test_a_repeated_commit_without_new_events_gets_its_first_answer_again() -> None:
    # Execute was right. A repeated commit used to be answered with its own number, not with that of
    # the commit that had appended the events.
    database = Database()
    event = append("a", "One", identity=bytes(range(16)))
    first = database.execute(event)
    transaction = database.begin()
    assert database.commit(transaction, event) == first
    for layer in ("memtable", "files"):
        assert database.commit(transaction, event) == first, layer
        database.checkpoint()
    # The transaction may also have writes from before the commit request.
    other = database.begin()
    database.engine.write(other.id, OWNER, [["put", b"k", b"v"]])
    first = database.commit(other, event)
    assert database.engine.reader(first[0]).get(b"k") == b"v"
    for layer in ("memtable", "files"):
        assert database.commit(other, event) == first, layer
        database.checkpoint()
    # A status request contains no writes, so it gets the transaction's own commit.
    status = database.engine.status(transaction.id, resolve=False)
    assert status.ticket.payload == [2, START_US, None, None, {}]


def test_an_answer_names_the_commit_with_the_writes_even_if_the_events_existed() -> None:
    # A put beside a repeated append was answered with the number of a commit without the put.
    database = Database()
    event = append("a", "One", identity=bytes(range(16)))
    database.execute(event)
    identity = database.new_id()
    first = database.execute(event, ["put", b"k", b"v"], transaction=identity)
    assert database.engine.reader(first[0]).get(b"k") == b"v"
    assert database.execute(event, ["put", b"k", b"v"], transaction=identity) == first
    assert database.engine.status(identity, resolve=False).ticket.payload == first
    # When the request is repeated, the range is already empty.
    identity = database.new_id()
    writes = event, ["delete_range", b"k", b"l"]
    first = database.execute(*writes, transaction=identity)
    assert database.execute(*writes, transaction=identity) == first


def test_a_repeated_commit_is_answered_even_if_its_writes_would_now_fail() -> None:
    database = Database()
    identity, event_id = database.new_id(), bytes(range(16))
    database.execute(append("a", "One", identity=event_id))
    # All its events exist already, so this commit appends none.
    database.execute(append("a", "One", identity=event_id), transaction=identity)
    commit = database.engine.published
    database.execute(["delete_stream", "a"])
    database.execute(append("a", "Another", identity=event_id))
    again = database.execute(append("a", "One", identity=event_id), transaction=identity)
    assert again == [commit, START_US, None, None, {}]
    assert database.engine.published == commit + 2
