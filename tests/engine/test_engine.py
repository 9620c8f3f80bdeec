"""The interface of the engine: transactions, status, leases, past commits, and a full disk."""

import uuid
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.errors import (
    HeadwaterError,
    HistoryGone,
    InvalidArgument,
    NoSuchCommit,
    NotANumber,
    ReadOnly,
    TooMany,
    TransactionAborted,
    TransactionForgotten,
    TransactionGone,
)
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.settings import SECOND_US
from headwater_server.storage.errors import DiskFull
from headwater_server.testing.memory_files import MemoryFileSystem
from tests.engine.database import OWNER, SETTINGS, START_US, Database

OTHER = "another connection"


def append(stream: str, *names: str) -> list[Any]:
    return ["append", stream, -1, [[None, name, b"", b""] for name in names]]


def state_of(database: Database, transaction: bytes, *, resolve: bool = False) -> str:
    return database.engine.status(transaction, resolve=resolve).state


# The life of a transaction.


def test_a_transaction_belongs_to_the_connection_that_began_it() -> None:
    database = Database()
    running = database.begin()
    assert database.engine.transaction(running.id, OWNER) is running
    with pytest.raises(TransactionGone, match="not open on this connection"):
        database.engine.transaction(running.id, OTHER)
    with pytest.raises(TransactionGone):
        database.engine.write(running.id, OTHER, [["put", b"k", b"v"]])
    with pytest.raises(TransactionGone):
        database.engine.commit(running.id, OTHER, [])
    database.engine.rollback(running.id, OTHER)
    database.commit(running, ["put", b"k", b"v"])
    assert database.engine.reader().get(b"k") == b"v"


def test_an_id_that_is_open_or_has_an_outcome_cannot_be_begun_again() -> None:
    database = Database()
    running = database.begin()

    def refused() -> None:
        with pytest.raises(InvalidArgument, match="begun before"):
            database.engine.begin(running.id, owner=OTHER)

    refused()
    database.commit(running, ["put", b"k", b"v"])
    refused()
    # A fenced id was not used before, so it has another error, which allows a retry with a new id.
    for identity in (database.begin().id, database.new_id()):
        database.engine.status(identity, resolve=True)
        with pytest.raises(TransactionAborted, match="aborted by a status request") as caught:
            database.engine.begin(identity, owner=OTHER)
        assert caught.value.retryable
    # A rollback leaves no trace of the id, so it may be begun again.
    running = database.begin()
    database.engine.rollback(running.id, OWNER)
    database.engine.begin(running.id, owner=OWNER)


def test_the_id_of_an_open_transaction_cannot_be_executed() -> None:
    database = Database()
    running = database.begin()
    with pytest.raises(InvalidArgument, match="is open"):
        database.execute(["put", b"k", b"v"], transaction=running.id)


def test_a_commit_closes_its_transaction_even_if_it_fails() -> None:
    database = Database()
    database.execute(["put", b"text", b"not a number"])
    for writes, error in (
        ([["put", b"k", b"v"]], None),
        ([], None),
        ([["delete_range", b"b", b"a"]], InvalidArgument),
        ([["add", b"text", 1]], NotANumber),
    ):
        running = database.begin()
        try:
            database.settle(database.engine.commit(running.id, OWNER, writes))
            assert error is None
        except HeadwaterError as raised:
            assert type(raised) is error  # noqa: PT017
        assert database.engine.open_count(OWNER) == 0
        with pytest.raises(TransactionGone):
            database.engine.transaction(running.id, OWNER)


def test_a_write_that_fails_rolls_its_transaction_back() -> None:
    database = Database()
    running = database.begin()
    with pytest.raises(InvalidArgument):
        database.engine.write(
            running.id, OWNER, [["put", b"k", b"half"], ["delete_range", b"b", b"a"]]
        )
    with pytest.raises(TransactionGone):
        database.engine.commit(running.id, OWNER, [])
    database.sync()
    assert database.engine.reader().get(b"k") is None


def test_a_read_only_commit_answers_with_its_view() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    running = database.begin(read_only=True)
    database.now += 5
    database.execute(["put", b"k", b"w"])
    assert running.get(b"k") == b"v"
    assert database.commit(running) == [1, START_US, None, None, {}]


def test_a_transaction_without_writes_never_conflicts() -> None:
    database = Database()
    running = database.begin()
    running.get(b"k")
    database.execute(["put", b"k", b"v"])
    assert database.commit(running) == [0, 0, None, None, {}]


# Status.


def test_the_status_of_a_transaction_at_each_of_its_stages() -> None:
    database = Database()
    running = database.begin()
    assert state_of(database, database.new_id()) == "open"
    assert state_of(database, running.id) == "open"
    ticket = database.engine.commit(running.id, OWNER, [["put", b"k", b"v"]])
    # It is sequenced and will commit; the answer waits until that is durable.
    status = database.engine.status(running.id, resolve=True)
    assert (status.state, status.ticket.payload) == ("committed", ticket.payload)
    assert status.ticket.sequence >= ticket.sequence > database.engine.durable_sequence
    database.sync()
    for again in (database, database.reopen(), database.crash()):
        assert state_of(again, running.id, resolve=True) == "committed"


def test_a_commit_that_a_crash_lost_can_be_repeated() -> None:
    database = Database()
    transaction = database.new_id()
    database.engine.execute(
        transaction, user=0, conditions=[], reads=None, writes=[["put", b"k", b"v"]]
    )
    database = database.crash()
    assert state_of(database, transaction) == "open"
    assert database.execute(["put", b"k", b"v"], transaction=transaction)[0] == 1


def test_a_fence_ends_an_open_transaction_of_any_connection() -> None:
    database = Database()
    running = database.begin()
    running.write([["put", b"k", b"v"]])
    assert state_of(database, running.id, resolve=True) == "aborted"
    assert database.engine.open_count(OWNER) == 0
    ticket = database.engine.commit(running.id, OWNER, [])
    assert isinstance(ticket.error, TransactionAborted)
    assert state_of(database, running.id) == "aborted"
    assert database.engine.reader().get(b"k") is None


def test_a_fence_holds_before_and_after_checkpoints_and_crashes() -> None:
    database = Database()
    seen, unseen = database.begin().id, database.new_id()
    for transaction in (seen, unseen):
        assert state_of(database, transaction, resolve=True) == "aborted"
    database.sync()

    def check(database: Database) -> None:
        for transaction in (seen, unseen):
            assert state_of(database, transaction) == "aborted"
            with pytest.raises(TransactionAborted):
                database.execute(["put", b"k", b"v"], transaction=transaction)
            # Asking again changes nothing and writes nothing.
            assert state_of(database, transaction, resolve=True) == "aborted"
            assert database.engine.take_group() is None

    check(database)
    check(database.crash())
    database.checkpoint()
    check(database)
    check(database.crash())
    check(database.reopen())


def test_a_fence_that_was_not_durable_may_be_lost_in_a_crash() -> None:
    database = Database()
    transaction = database.new_id()
    assert state_of(database, transaction, resolve=True) == "aborted"
    assert state_of(database.crash(), transaction) == "open"


def test_the_status_of_every_id_is_found_in_whatever_order_ids_arrive() -> None:
    # An id above all stored ones counts as new without a look-up in the files. So ids must be
    # found even if they do not arrive in ascending order.
    database = Database()
    unused = [new_transaction_id(START_US + us, database.random) for us in range(0, 40_000, 1000)]
    unused += [b"\x01\xff" + bytes([place]) * 14 for place in range(5)]
    unused += [b"\x02" + bytes([place]) * 15 for place in range(5)]
    unused += [bytes(16), b"\xff" * 16]
    for place in range(5):
        database.random.shuffle(unused)
        fresh, unused = unused[:9], unused[9:]
        for transaction in fresh:
            assert state_of(database, transaction) == "open"
            if database.random.random() < 0.3:
                assert state_of(database, transaction, resolve=True) == "aborted"
            else:
                database.execute(["put", b"k", b"v"], transaction=transaction)
        states = {transaction: state_of(database, transaction) for transaction in fresh}
        assert "open" not in states.values()
        if place == 1:
            checkpoint = database.engine.begin_checkpoint()
            assert checkpoint is not None
            database.sync()
            checkpoint.run()
            assert {known: state_of(database, known) for known in fresh} == states
            database.engine.finish_checkpoint(checkpoint)
            database.engine.trim_log()
        elif place != 3:
            database.checkpoint()
        database.sync()
        for again in (database, database.crash()):
            assert {known: state_of(again, known) for known in fresh} == states
            assert {state_of(again, unknown) for unknown in unused} <= {"open"}


RETENTION = replace(SETTINGS, transaction_retention_us=10 * SECOND_US, history_window_us=0)


def test_an_old_unknown_id_is_forgotten_and_cannot_commit() -> None:
    database = Database(RETENTION)
    old = new_transaction_id(database.now, database.random)
    fenced = new_transaction_id(database.now, database.random)
    assert uuid.UUID(bytes=old).version == 7
    database.execute(["put", b"k", b"v"], transaction=old)
    assert state_of(database, fenced, resolve=True) == "aborted"
    unused = new_transaction_id(database.now, database.random)
    database.now += RETENTION.transaction_retention_us + SECOND_US
    # Ids older than the retention are removed by a checkpoint, not before.
    assert state_of(database, old) == "committed"
    database.execute(["put", b"k", b"w"])
    database.checkpoint()
    database.execute(["put", b"k", b"x"])
    # After a crash the replay of the log restores the fence, so it may still be known.
    for again, forgotten in ((database, (old, fenced, unused)), (database.crash(), (old, unused))):
        for transaction in forgotten:
            for resolve in (False, True):
                status = again.engine.status(transaction, resolve=resolve)
                assert (status.state, status.ticket.sequence) == ("forgotten", 0)
            with pytest.raises(TransactionForgotten, match="retention of 10 s"):
                again.execute(["put", b"k", b"again"], transaction=transaction)
            with pytest.raises(TransactionForgotten):
                again.engine.begin(transaction, owner=OWNER)
            with pytest.raises(TransactionForgotten):
                again.engine.commit(transaction, OWNER, [])
        assert again.engine.reader().get(b"k") == b"x"


@pytest.mark.parametrize("age_days", [0, 1, 6, 8, 20, 40, 365, 3650])
@pytest.mark.parametrize("resolve", [False, True])
def test_a_status_that_is_final_is_what_a_commit_of_the_id_finds(
    age_days: int, resolve: bool
) -> None:
    # An id older than the database was "forgotten", which is final, and could still commit.
    day = 24 * 3600 * SECOND_US
    database = Database()
    for _ in range(30):
        database.now += day
        database.execute(["put", b"k", b"v"])
    identity = new_transaction_id(database.now - age_days * day, database.random)
    status = database.engine.status(identity, resolve=resolve)
    database.sync()
    try:
        database.execute(["put", b"k", b"w"], transaction=identity)
        found = "open"
    except TransactionForgotten:
        found = "forgotten"
    except TransactionAborted:
        found = "aborted"
    assert status.state == found
    assert not resolve or found != "open"


def test_an_id_without_a_time_is_reported_as_open_once_it_is_forgotten() -> None:
    database = Database(RETENTION)
    transaction = b"no time in here!"
    database.execute(["put", b"k", b"v"], transaction=transaction)
    database.now += RETENTION.transaction_retention_us + SECOND_US
    database.execute(["put", b"k", b"w"])
    database.checkpoint()
    assert state_of(database, transaction) == "open"


# Leases.


def test_a_transaction_that_was_idle_or_open_for_too_long_ends() -> None:
    settings = replace(SETTINGS, transaction_idle_us_max=10, transaction_age_us_max=25)
    database = Database(settings)
    idle, busy = database.begin(), database.begin()
    for _ in range(2):
        database.now += 5
        database.engine.transaction(busy.id, OWNER)
    # Exactly this long is allowed.
    assert database.now == START_US + 10
    assert database.engine.expire() == []
    database.now = START_US + 11
    assert database.engine.expire() == [idle]
    for _ in range(2):
        database.now += 7
        database.engine.transaction(busy.id, OWNER)
    assert database.now == START_US + 25
    assert database.engine.expire() == []
    database.now = START_US + 26
    assert database.engine.expire() == [busy]
    for ended in (idle, busy):
        with pytest.raises(TransactionGone, match="idle for too long"):
            database.engine.commit(ended.id, OWNER, [])


def test_a_transaction_ends_before_its_outcome_is_forgotten() -> None:
    """An older one could do all its work, and its commit would be refused for good."""
    database = Database(replace(SETTINGS, transaction_retention_us=10 * SECOND_US))
    opened = database.begin()
    for _ in range(10):
        database.now += SECOND_US
        database.engine.transaction(opened.id, OWNER)
    assert database.engine.expire() == []
    database.now += 1
    assert database.engine.expire() == [opened]
    with pytest.raises(TransactionGone):
        database.engine.commit(opened.id, OWNER, [])


def test_a_clock_that_is_set_back_ends_no_lease() -> None:
    database = Database()
    database.begin()
    database.now -= 3600 * SECOND_US
    assert database.engine.expire() == []


def test_a_lease_has_its_usual_length_after_the_clock_was_set_back() -> None:
    database = Database(replace(SETTINGS, transaction_idle_us_max=10))
    idle = database.begin()
    database.now -= 3600 * SECOND_US
    assert database.engine.expire() == []
    database.now += 11
    assert database.engine.expire() == [idle]


def test_a_closed_connection_ends_its_transactions() -> None:
    database = Database()
    mine = [database.begin() for _ in range(3)]
    other = database.engine.begin(database.new_id(), owner=OTHER)
    assert database.engine.open_count(OWNER) == 3
    assert database.engine.close_owner(OWNER) == 3
    assert database.engine.close_owner(OWNER) == 0
    for running in mine:
        with pytest.raises(TransactionGone):
            database.engine.transaction(running.id, OWNER)
    assert database.engine.transaction(other.id, OTHER) is other


def test_the_number_of_open_transactions_is_bounded() -> None:
    database = Database(replace(SETTINGS, transactions_max=2))
    first = database.begin()
    database.begin()
    with pytest.raises(TooMany, match="allowed are 2"):
        database.begin()
    database.engine.rollback(first.id, OWNER)
    database.begin()


def test_the_bytes_of_open_transactions_are_bounded() -> None:
    database = Database(replace(SETTINGS, transactions_size_max=100_000))
    engine = database.engine
    first, second = database.begin(), database.begin()
    engine.write(first.id, OWNER, [["put", b"k", bytes(60_000)]])
    # The bytes of a write used to be counted only at the next request of its transaction. So ten
    # thousand transactions with one write each could hold ten thousand full frames.
    with pytest.raises(TooMany, match="held by open transactions; allowed are 100000"):
        engine.write(second.id, OWNER, [["put", b"k", bytes(60_000)]])
    # The transaction that exceeded the bound is gone, with everything that it held.
    with pytest.raises(TransactionGone):
        engine.transaction(second.id, OWNER)
    engine.write(first.id, OWNER, [["put", b"l", bytes(20_000)]])
    database.commit(first)
    third = database.begin()
    engine.write(third.id, OWNER, [["put", b"k", bytes(60_000)]])
    database.commit(third)


def test_statistics_list_the_oldest_views_with_their_owners() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"], append("a", "One"))
    old = database.engine.begin(database.new_id(), owner=OTHER)
    database.execute(["put", b"k", b"w"])
    database.now += 3 * SECOND_US
    database.begin()
    database.now += SECOND_US
    stats = database.engine.stats()
    assert stats["open_transactions"] == 2
    assert stats["oldest_views"][0] == {
        "transaction": old.id,
        "commit": 1,
        "owner": OTHER,
        "age": 4.0,
        "idle": 4.0,
    }
    assert [view["commit"] for view in stats["oldest_views"]] == [1, 2]
    assert (stats["commit"], stats["position"]) == (2, 1)
    assert (stats["memtable_commits"], stats["checkpoint_commit"]) == (2, 0)
    assert stats["memtable_size"] > 0
    assert stats["log_size"] > 0
    database.checkpoint()
    after = database.engine.stats()
    assert (after["memtable_commits"], after["checkpoint_commit"]) == (0, 2)
    assert (after["checkpoints"], after["memtable_size"]) == (1, 0)
    for _ in range(20):
        database.begin()
    assert len(database.engine.stats()["oldest_views"]) == 10


# Reads of past commits.


def test_a_past_commit_can_be_read_and_a_transaction_at_it_is_read_only() -> None:
    database = Database()
    database.execute(["put", b"k", b"1"])
    database.execute(["put", b"k", b"2"])
    past = database.begin(at_commit=1)
    assert (past.view, past.read_only, past.get(b"k")) == (1, True, b"1")
    with pytest.raises(InvalidArgument, match="read-only"):
        past.write([["put", b"k", b"3"]])
    assert database.begin(at_commit=0).get(b"k") is None
    assert database.engine.reader(1).get(b"k") == b"1"


def test_a_commit_cannot_be_read_before_it_is_published() -> None:
    database = Database()
    database.execute(["put", b"k", b"1"])
    database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[["put", b"k", b"2"]]
    )
    for read in (database.engine.reader, lambda commit: database.begin(at_commit=commit)):
        with pytest.raises(NoSuchCommit, match="commit 2 was not made yet; the newest is 1"):
            read(2)


def test_a_read_of_a_commit_before_the_window_fails_and_names_the_oldest_readable_one() -> None:
    database = Database(replace(SETTINGS, history_window_us=10 * SECOND_US))
    for value in range(4):
        database.execute(["put", b"k", b"%d" % value])
        database.now += 6 * SECOND_US
    # The window ends at the time of the last log entry, so older commits stay readable until
    # the next entry.
    assert database.engine.reader(2).get(b"k") == b"1"
    database.wait(0)
    # Commit 3 was made 12 s ago. It was the newest commit 10 s ago, so the window begins with it.
    assert database.engine.oldest_readable == 3
    with pytest.raises(HistoryGone, match="the oldest that can be read is 3") as failure:
        database.engine.reader(2)
    assert failure.value.details == {"oldest": 3}
    with pytest.raises(HistoryGone):
        database.begin(at_commit=2)
    for again in (database, database.crash()):
        assert [again.engine.reader(commit).get(b"k") for commit in (3, 4)] == [b"2", b"3"]


def test_an_open_view_does_not_change_while_older_versions_are_collected() -> None:
    database = Database(replace(SETTINGS, history_window_us=0))
    database.execute(["put", b"k", b"1"], ["put", b"gone", b"1"], append("a", "One"))
    old = database.begin()
    for value in range(2, 6):
        database.now += SECOND_US
        database.execute(["put", b"k", b"%d" % value], ["delete", b"gone"], append("a", "More"))
        database.checkpoint()
        assert old.scan(b"", None, 10, False).items == [b"gone", b"1", b"k", b"1"]
        assert old.read_stream("a", 0, 10, False).version == 1
        assert len(old.read_all(0, EVERYTHING, 10, False).events) == 1
    database.engine.rollback(old.id, OWNER)
    with pytest.raises(HistoryGone):
        database.engine.reader(1)


def test_a_commit_before_the_window_can_be_read_while_an_open_transaction_reads_at_it() -> None:
    database = Database(replace(SETTINGS, history_window_us=0))
    database.execute(["put", b"k", b"1"], ["put", b"gone", b"1"], append("a", "One"))
    held = database.begin()
    for value in range(2, 6):
        database.now += SECOND_US
        database.execute(["put", b"k", b"%d" % value], ["delete", b"gone"], append("a", "More"))
        database.checkpoint()
        # A transaction has an age limit. Before it ends, another one can take its place.
        following = database.begin(at_commit=1)
        database.engine.rollback(held.id, OWNER)
        held = following
        past = database.engine.reader(1)
        assert past.scan(b"", None, 10, False).items == [b"gone", b"1", b"k", b"1"]
        assert past.read_stream("a", 0, 10, False).version == 1
    for commit in (2, 3):
        with pytest.raises(HistoryGone):
            database.engine.reader(commit)
    database.engine.rollback(held.id, OWNER)
    with pytest.raises(HistoryGone):
        database.engine.reader(1)


def test_the_commit_at_a_time_is_found_in_every_layer() -> None:
    database = Database()
    assert database.engine.commit_at(START_US) == 0
    for place in range(9):
        database.now = START_US + 10 * place
        database.execute(["put", b"k", b"%d" % place])
        if place == 2:
            database.checkpoint()
        if place == 5:
            assert database.engine.begin_checkpoint() is not None
    for us in range(-1, 110):
        assert database.engine.commit_at(START_US + us) == min(us // 10 + 1, 9)
    # A commit that is not durable yet is never the answer.
    database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[["put", b"k", b""]]
    )
    assert database.engine.commit_at(database.now + 1) == 9


@pytest.mark.parametrize("restarted", [False, True])
def test_a_rejected_clock_is_not_used_to_find_the_commit_at_a_time(
    restarted: bool,
) -> None:
    # A time at or after the present has the newest commit. The present was taken from the
    # rejected clock, which showed 1970, so every time had the newest commit.
    database = Database()
    database.execute(["put", b"k", b"1"])
    database.wait(10 * SECOND_US)
    database.execute(["put", b"k", b"2"])
    database.jump(-database.now)
    if restarted:
        database = database.reopen()
    assert database.engine.commit_at(START_US + 5 * SECOND_US) == 1
    assert database.engine.commit_at(START_US + 10 * SECOND_US) == 2
    assert database.engine.commit_at(START_US - 1) == 0


def test_the_commit_log_is_read_in_pages_over_all_layers() -> None:
    database = Database()
    transactions = []
    for place in range(7):
        transactions.append(database.new_id())
        database.now += 1
        writes = [append("a", "One", "Two")] if place % 2 else [["put", b"k", b"%d" % place]]
        database.execute(*writes, transaction=transactions[-1])
        if place == 3:
            database.checkpoint()
    wanted: list[list[Any]] = []
    for number, transaction in enumerate(transactions, 1):
        # Every second commit appends two events: 1 and 2, 3 and 4, 5 and 6.
        first, count = (0, 0) if number % 2 else (number - 1, 2)
        wanted.append([number, transaction, START_US + number, None, first, count])
    assert database.engine.looking.read_commits(0, 100) == wanted
    assert database.engine.looking.read_commits(2, 3) == wanted[2:5]
    assert database.engine.looking.read_commits(7, 3) == []
    assert database.engine.looking.read_commits(99, 3) == []


def test_stored_snapshots_are_listed_in_pages() -> None:
    database = Database()
    for stream in ("b", "a", "a-1"):
        database.execute(append(stream, "One", "Two"))
        for schema in (2, 1):
            database.execute(["save_snapshot", stream, "totals", schema, 2, stream.encode()])
    wanted = [
        [stream, "totals", schema, 2, stream.encode()]
        for stream in ("a", "a-1", "b")
        for schema in (1, 2)
    ]
    for limit in (1, 2, 4, 6, 7):
        found: list[list[Any]] = []
        cursor: bytes | None = None
        while True:
            page, cursor = database.engine.looking.read_snapshots(cursor, limit)
            found += page
            if cursor is None:
                break
            assert len(page) == limit
        assert found == wanted, limit


def test_a_page_of_snapshots_is_bounded_in_bytes() -> None:
    database = Database()
    for stream in ("a", "b", "c"):
        database.execute(
            append(stream, "One"), ["save_snapshot", stream, "", 0, 1, bytes(PAGE_SIZE_MAX)]
        )
    page, cursor = database.engine.looking.read_snapshots(None, 100)
    assert [snapshot[0] for snapshot in page] == ["a"]
    page, cursor = database.engine.looking.read_snapshots(cursor, 100)
    assert [snapshot[0] for snapshot in page] == ["b"]


# A full disk.


def test_the_engine_is_read_only_while_less_than_the_reserve_is_free_on_the_disk() -> None:
    files = MemoryFileSystem(1)
    database = Database(replace(SETTINGS, disk_reserve_size=1000), files=files)
    database.execute(["put", b"k", b"v"])
    running = database.begin()
    database.engine.prepare_log()
    assert database.engine.read_only_reason is None
    files.faults.capacity = files.used + 999
    database.engine.prepare_log()
    assert "999 bytes are free, and 1000 are kept" in str(database.engine.read_only_reason)
    assert database.engine.stats()["read_only"] == database.engine.read_only_reason
    with pytest.raises(ReadOnly, match="nearly full"):
        database.execute(["put", b"k", b"w"])
    with pytest.raises(ReadOnly):
        database.engine.commit(running.id, OWNER, [["put", b"k", b"w"]])
    with pytest.raises(ReadOnly):
        database.engine.status(database.new_id(), resolve=True)
    # Reads are still served, in transactions and outside of them.
    assert database.engine.reader().get(b"k") == b"v"
    assert database.commit(database.begin())[0] == 1
    assert state_of(database, database.new_id()) == "open"
    assert database.execute(reads=lambda reader: [reader.get(b"k")])[0] == 1
    # A tick is due, and needs room in the log. A transaction without writes does not wait for it.
    database.now += 2 * SECOND_US
    ticket, _ = database.engine.execute(
        database.new_id(),
        user=0,
        conditions=[["value", b"k", b"other"]],
        reads=None,
        writes=[],
    )
    assert ticket.error is not None
    assert ticket.sequence == database.engine.durable_sequence
    files.faults.capacity = files.used + 1000
    database.engine.prepare_log()
    assert database.engine.read_only_reason is None
    database.execute(["put", b"k", b"w"])


MAKES_ROOM: list[list[Any]] = [
    ["delete", b"k"],
    ["delete_range", b"a", b"z"],
    ["truncate", "s", 2],
    ["set_retention", "s", 1, None],
    ["erase", "s", [1]],
    ["erase_positions", [1]],
    ["delete_stream", "s"],
]
TAKES_ROOM: list[list[Any]] = [
    ["put", b"k", b"v"],
    ["add", b"n", 1],
    ["append", "s", -1, [[None, "T", b"", b""]]],
    ["save_snapshot", "t", "", 0, 1, b"state"],
]


RESERVE = 200_000


@pytest.mark.parametrize("free", [RESERVE, RESERVE - 1, RESERVE // 2, RESERVE // 2 - 1])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_only_what_makes_room_is_written_in_the_reserve(free: int, in_transaction: bool) -> None:
    # All was refused, so a database that had filled its disk could not be made smaller.
    files = MemoryFileSystem(1)
    database = Database(replace(SETTINGS, disk_reserve_size=RESERVE), files=files)
    database.execute(["put", b"k", b"v"], append("s", "One", "Two"), append("t", "One"))

    def commit(*writes: list[Any]) -> bool:
        files.faults.capacity = None
        database.engine.prepare_log()
        opened = database.begin()
        files.faults.capacity = files.used + free
        database.engine.prepare_log()
        try:
            if in_transaction:
                database.commit(opened, *writes)
            else:
                database.execute(*writes)
        except ReadOnly:
            return False
        return True

    for write in MAKES_ROOM:
        assert commit(write) == (free >= RESERVE // 2), write
        assert commit(write, ["put", b"k", b"v"]) == (free >= RESERVE), write
    for write in TAKES_ROOM:
        assert commit(write) == (free >= RESERVE), write
    # A transaction that is large against the reserve is not let into it.
    large = [["delete", b"%04d" % number + bytes(8000)] for number in range(140)]
    assert free >= RESERVE or not commit(*large)


def test_the_history_window_moves_on_in_the_reserve_so_that_what_is_hidden_can_go() -> None:
    files = MemoryFileSystem(1)
    settings = replace(SETTINGS, disk_reserve_size=200_000, history_window_us=SECOND_US)
    database = Database(settings, files=files)
    database.execute(append("s", "One"))
    database.execute(append("s", "Two"))
    files.faults.capacity = files.used + 199_999
    database.engine.prepare_log()
    database.execute(["truncate", "s", 2])
    before = database.engine.oldest_readable
    database.wait(20 * SECOND_US)
    assert database.engine.oldest_readable == database.engine.published > before
    assert database.engine.stats()["oldest_readable_commit"] == database.engine.published


def test_a_log_without_room_makes_the_engine_read_only() -> None:
    files = MemoryFileSystem(1)
    database = Database(files=files)
    database.engine.prepare_log()
    # The spare segment is used up, and there is no room for another one.
    for _ in range(8):
        database.execute(["put", b"k", bytes(10_000)])
    files.faults.capacity = files.used
    database.engine.prepare_log()
    assert "the disk is full" in str(database.engine.read_only_reason)
    with pytest.raises(ReadOnly):
        database.execute(["put", b"k", b""])
    files.faults.capacity = None
    database.engine.prepare_log()
    database.execute(["put", b"k", b"w"])
    assert database.crash().engine.reader().get(b"k") == b"w"


def test_a_group_that_found_the_disk_full_can_be_written_later() -> None:
    files = MemoryFileSystem(1)
    database = Database(files=files)
    database.execute(["put", b"before", b""])
    for key in (b"a", b"b"):
        database.engine.execute(
            database.new_id(),
            user=0,
            conditions=[],
            reads=None,
            writes=[["put", key, bytes(60_000)]],
        )
    files.faults.capacity = files.used
    group = database.engine.take_group()
    assert group is not None
    with pytest.raises(DiskFull):
        database.engine.make_durable(group)
    assert database.engine.published == 1
    files.faults.capacity = None
    database.engine.make_durable(group)
    database.engine.publish(group)
    assert database.engine.published == 3
    assert database.crash().engine.reader().scan(b"", None, 9, False).items[::2] == [
        b"a",
        b"b",
        b"before",
    ]


# Checkpoints.


def test_a_checkpoint_is_due_after_enough_commits_or_bytes() -> None:
    database = Database(replace(SETTINGS, memtable_commits_max=3))
    for place in range(3):
        assert not database.engine.checkpoints.due
        database.execute(["put", b"k", b"%d" % place])
    assert database.engine.checkpoints.due
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    assert not database.engine.checkpoints.due
    assert database.engine.begin_checkpoint() is None
    checkpoint.run()
    database.engine.finish_checkpoint(checkpoint)
    database.engine.trim_log()
    assert not database.engine.checkpoints.due
    assert database.engine.begin_checkpoint() is None
    database = Database(replace(SETTINGS, memtable_size_max=10_000))
    database.execute(["put", b"k", bytes(9_000)])
    assert not database.engine.checkpoints.due
    database.execute(append("a", *["T" * 100] * 10))
    assert database.engine.checkpoints.due


def test_commits_and_reads_continue_while_a_checkpoint_runs() -> None:
    database = Database()
    database.execute(["put", b"k", b"1"], ["put", b"old", b"1"], append("a", "One"))
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None

    def check(value: bytes, version: int) -> None:
        reader = database.engine.reader()
        assert reader.scan(b"", None, 9, True).items == [b"old", b"1", b"k", value]
        events = [decode_event(e) for e in reader.read_stream("a", 0, 9, False).events]
        assert [event.version for event in events] == list(range(1, version + 1))
        assert database.engine.reader(1).get(b"k") == b"1"

    check(b"1", 1)
    database.execute(["put", b"k", b"2"], append("a", "Two"))
    check(b"2", 2)
    checkpoint.run()
    check(b"2", 2)
    database.execute(["put", b"k", b"3"], append("a", "Three"))
    check(b"3", 3)
    database.engine.finish_checkpoint(checkpoint)
    database.engine.trim_log()
    check(b"3", 3)
    database = database.crash()
    check(b"3", 3)
    assert database.engine.stats()["memtable_commits"] == 2


def test_a_checkpoint_trims_the_log_up_to_its_own_last_commit() -> None:
    # Each group fills a segment, so a segment removed too early would lose a commit.
    database = Database()
    for place in range(3):
        database.execute(["put", b"k%d" % place, bytes(40_000)])
    size = database.engine.stats()["log_size"]
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    for place in range(3, 6):
        database.execute(["put", b"k%d" % place, bytes(40_000)])
    checkpoint.run()
    database.engine.finish_checkpoint(checkpoint)
    database.engine.trim_log()
    assert database.engine.stats()["log_size"] <= size + 1000
    database = database.crash()
    assert database.engine.published == 6
    assert len(database.engine.reader().scan(b"", None, 10, False).items) == 12


def test_no_read_begins_at_a_commit_that_a_running_checkpoint_may_collect() -> None:
    database = Database(replace(SETTINGS, history_window_us=0))
    database.execute(["put", b"k", b"1"])
    database.execute(["put", b"k", b"2"])
    assert database.engine.reader(1).get(b"k") == b"1"
    database.wait(SECOND_US)
    assert database.engine.begin_checkpoint() is not None
    with pytest.raises(HistoryGone):
        database.engine.reader(1)
    with pytest.raises(HistoryGone):
        database.begin(at_commit=1)


def test_a_fence_alone_is_enough_for_a_checkpoint() -> None:
    database = Database()
    assert database.engine.begin_checkpoint() is None
    database.engine.status(database.new_id(), resolve=True)
    database.checkpoint()
    assert database.engine.stats()["checkpoints"] == 1


def test_a_random_id_that_looks_like_an_old_uuid7_is_accepted() -> None:
    # One random id in ten thousand looks like that, and used to be refused as forgotten. A client
    # with random ids failed in one of ten runs of 1,000 commits.
    database = Database()
    looks_old = uuid.UUID("00b11bab-4c16-7171-a1bb-4c6e1fd4145b").bytes
    database.execute(["put", b"k", b"v"], transaction=looks_old)
    assert database.engine.reader().get(b"k") == b"v"
    database.begin()
    assert database.engine.status(looks_old, resolve=False).state == "committed"
