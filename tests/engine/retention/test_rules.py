"""Retention and erasure: reads return no hidden event, and nil for the data of an erased one."""

from typing import Any

import pytest

from headwater_protocol.errors import (
    Conflict,
    DuplicateEvent,
    InvalidArgument,
    NoSuchEvent,
    TooLarge,
    WrongVersion,
)
from headwater_protocol.numbers import NO_STREAM, STREAM_EXISTS
from headwater_server.engine.format.events import StoredEvent, category_of, decode_event
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.engine.reads.reading import Reader
from tests.engine.database import Database, all_events

DAY_US = 24 * 3600 * 1_000_000


def filters(stream: str) -> list[EventFilter]:
    """Filters that match a stream's events, by every index."""
    category = category_of(stream)
    return [
        EVERYTHING,
        EventFilter(stream=stream),
        EventFilter(category=category),
        EventFilter(prefix=stream[:1]),
        EventFilter(prefix=stream),
        EventFilter(types=("T",)),
        EventFilter(stream=stream, types=("T",)),
    ]


def append(stream: str, count: int = 1, expect: int = -1, data: bytes = b"data") -> list[Any]:
    return ["append", stream, expect, [[None, "T", data, b"meta"]] * count]


def given(stream: str, *numbers: int) -> list[Any]:
    return ["append", stream, -1, [[bytes([n] * 16), "T", b"data", b""] for n in numbers]]


def versions(events: list[bytes]) -> list[int]:
    return [decode_event(stored).version for stored in events]


def stream_versions(reader: Reader, stream: str = "a-1") -> list[int]:
    """The readable versions of a stream. All kinds of reads must agree on them."""
    page = reader.read_stream(stream, 0, 1000, False)
    found = versions(page.events)
    assert not page.more
    backwards = reader.read_stream(stream, 0, 1000, True)
    assert versions(backwards.events) == found[::-1]
    assert not backwards.more
    one_by_one: list[int] = []
    after = 0
    while (part := reader.read_stream(stream, after, 1, False)).events:
        one_by_one += versions(part.events)
        after = one_by_one[-1]
        assert part.more == (after < page.version)
    assert one_by_one == found
    assert versions(reader.load(stream, "", 0).events) == found
    for wanted in filters(stream):
        for reverse in (False, True):
            events = [decode_event(e) for e in all_events(reader, 0, wanted, reverse=reverse)]
            numbers = [event.version for event in events if event.stream == stream]
            assert numbers == (found[::-1] if reverse else found), (wanted, reverse)
    return found


def now(database: Database) -> Reader:
    return database.engine.reader()


@pytest.fixture(params=["in memory", "in the files", "after a crash"])
def database(request: pytest.FixtureRequest) -> Database:
    """A stream of nine events among others, in each place where events can be stored."""
    database = Database()
    database.execute(append("b-1"), append("a-1", 5))
    database.execute(append("a-2", 2), append("a-1", 4))
    if request.param == "in the files":
        database.checkpoint()
    return database.crash() if request.param == "after a crash" else database


def test_truncated_events_appear_only_in_reads_of_earlier_commits(database: Database) -> None:
    before = database.engine.published
    database.execute(["truncate", "a-1", 5])
    for _ in range(2):
        assert stream_versions(now(database)) == [5, 6, 7, 8, 9]
        assert stream_versions(now(database), "a-2") == [1, 2]
        assert stream_versions(database.engine.reader(before)) == [*range(1, 10)]
        database.checkpoint()
    database = database.crash()
    assert stream_versions(now(database)) == [5, 6, 7, 8, 9]
    assert now(database).read_stream("a-1", 0, 10, False).version == 9


def test_a_truncation_cannot_be_undone_or_exceed_the_end(database: Database) -> None:
    database.execute(["truncate", "a-1", 6])
    database.execute(["truncate", "a-1", 2])
    assert stream_versions(now(database)) == [6, 7, 8, 9]
    with pytest.raises(InvalidArgument, match="before version 11; it is at version 9"):
        database.execute(["truncate", "a-1", 11])
    database.execute(["truncate", "a-1", 10])
    assert stream_versions(now(database)) == []
    # The stream still exists, without readable events.
    with pytest.raises(WrongVersion):
        database.execute(append("a-1", 1, NO_STREAM))
    database.execute(append("a-1", 1, 9))
    assert stream_versions(now(database)) == [10]


def test_only_the_newest_events_are_kept_and_hidden_ones_never_return(database: Database) -> None:
    database.execute(["set_retention", "a-1", 3, None])
    assert stream_versions(now(database)) == [7, 8, 9]
    database.execute(append("a-1", 2))
    assert stream_versions(now(database)) == [9, 10, 11]
    database.execute(["set_retention", "a-1", None, None])
    assert stream_versions(now(database)) == [9, 10, 11]
    database.execute(append("a-1"))
    assert stream_versions(now(database)) == [9, 10, 11, 12]


def test_events_are_hidden_once_they_are_older_than_the_limit() -> None:
    database = Database()
    for _ in range(6):
        database.execute(append("a-1", 2), append("b-1"))
        database.now += DAY_US
    database.execute(["set_retention", "a-1", None, 3 * DAY_US])
    assert stream_versions(now(database)) == [7, 8, 9, 10, 11, 12]
    # Events expire even if nothing is committed.
    database.wait(DAY_US)
    for _ in range(2):
        assert stream_versions(now(database)) == [9, 10, 11, 12]
        # Hidden events stay hidden when the clock is set back.
        database.now -= DAY_US
        database.checkpoint()
    commit = database.engine.published
    database.execute(["put", b"k", b"v"])
    before = database.engine.reader(commit)
    database.wait(30 * DAY_US)
    assert stream_versions(now(database)) == []
    # A past commit still has the events that were readable until the next commit.
    assert stream_versions(before) == [9, 10, 11, 12]
    assert stream_versions(now(database), "b-1") == [1, 2, 3, 4, 5, 6]


def test_a_deleted_stream_does_not_exist_until_the_next_append(database: Database) -> None:
    database.execute(["save_snapshot", "a-1", "", 0, 9, b"state"])
    database.execute(["delete_stream", "a-1"])
    for _ in range(2):
        reader = now(database)
        assert stream_versions(reader) == []
        loaded = reader.load("a-1", "", 0)
        assert (loaded.version, loaded.snapshot, loaded.events) == (9, None, [])
        assert database.engine.looking.read_snapshots(None, 10) == ([], None)
        names = [entry.stream for entry in reader.list_streams("", None, 10).streams]
        assert names == ["a-2", "b-1"]
        with pytest.raises(WrongVersion, match="'a-1' was deleted, at version 9"):
            database.execute(append("a-1", 1, STREAM_EXISTS))
        database.checkpoint()
    database.execute(["delete_stream", "a-2"], ["delete_stream", "never"])
    assert [c.category for c in now(database).list_categories(None, 10).categories] == ["b"]
    database.execute(append("a-1", 2, NO_STREAM))
    assert stream_versions(now(database)) == [10, 11]
    assert now(database).list_streams("a", None, 10).streams == [("a-1", 11, 10, None, None, 10)]
    with pytest.raises(WrongVersion):
        database.execute(append("a-1", 1, NO_STREAM))


def test_a_deletion_applies_to_earlier_appends_of_its_transaction(database: Database) -> None:
    database.execute(append("a-1"), ["delete_stream", "a-1"], append("a-1", 1, NO_STREAM))
    assert stream_versions(now(database)) == [11]
    database.execute(append("c", 3), ["truncate", "c", 3])
    assert stream_versions(now(database), "c") == [3]


def test_the_id_of_a_truncated_event_can_be_used_again() -> None:
    database = Database()
    database.execute(given("a-1", 1, 2, 3))
    database.execute(["truncate", "a-1", 3])
    database.execute(given("a-1", 3))
    assert now(database).read_stream("a-1", 0, 10, False).version == 3
    database.execute(given("a-1", 1))
    assert stream_versions(now(database)) == [3, 4]
    database.execute(given("a-1", 1))
    assert stream_versions(now(database)) == [3, 4]
    database.execute(["delete_stream", "a-1"])
    database.execute(given("a-1", 1, 2, 3))
    assert stream_versions(now(database)) == [5, 6, 7]


def test_a_transaction_that_read_events_conflicts_with_hiding_them(database: Database) -> None:
    def reads(transaction: Reader) -> list[Any]:
        return [
            lambda: transaction.read_stream("a-1", 0, 3, False),
            lambda: transaction.read_stream("none", 0, 3, False),
            lambda: transaction.load("a-1", "", 0),
            lambda: transaction.read_all(0, EVERYTHING, 2, False),
            lambda: transaction.read_all(0, EventFilter(category="a"), 2, False),
            lambda: transaction.read_all(0, EventFilter(prefix="a"), 2, False),
            lambda: transaction.read_all(0, EventFilter(types=("T",)), 100, False),
            lambda: transaction.read_all(0, EventFilter(category="b"), 100, False),
        ]

    for place in range(8):
        opened = database.begin()
        reads(opened)[place]()
        database.execute(["truncate", "a-1", 2 + place])
        if place in (1, 7):
            database.commit(opened, ["put", b"k", b"v"])
            continue
        with pytest.raises(Conflict) as caught:
            database.commit(opened, ["put", b"k", b"v"])
        assert caught.value.conflicts[0]["commit"] == database.engine.published


@pytest.mark.parametrize("wanted", [{}, {"category": "a"}, {"prefix": "a-"}, {"stream": "a-1"}])
def test_a_transaction_that_read_events_conflicts_with_an_append_that_pushes_them_out(
    wanted: dict[str, Any],
) -> None:
    # The appended event does not match the query, and no retention was changed. But the stream
    # keeps only its newest events, so the append hides one that the query had found. This was not
    # reported as a conflict, so the history was not serializable.
    for stream, kept, conflicts in (("a-1", 3, True), ("a-1", 4, False), ("b-1", 3, False)):
        for limit in (1, 10):
            database = Database()
            database.execute(["append", "a-1", -1, [[None, "Rare", b"", b""]]], append("a-1", 2))
            database.execute(["set_retention", stream, kept, None], append("b-1", 3))
            opened = database.begin()
            found = opened.read_all(0, EventFilter(types=("Rare",), **wanted), limit, False)
            assert versions(found.events) == [1]
            database.execute(append("a-1"), append("b-1"))
            if not conflicts:
                database.commit(opened, ["put", b"k", b"v"])
                continue
            with pytest.raises(Conflict, match="read-write conflict on query") as caught:
                database.commit(opened, ["put", b"k", b"v"])
            assert caught.value.conflicts[0]["commit"] == database.engine.published


def test_a_transaction_does_not_see_events_that_it_hides(database: Database) -> None:
    opened = database.begin()
    opened.write([["truncate", "a-1", 8]])
    assert stream_versions(opened) == [8, 9]
    opened.write([append("a-1"), ["delete_stream", "a-1"]])
    assert versions(opened.read_stream("a-1", 0, 10, False).events) == []
    opened.write([append("a-1")])
    assert versions(opened.read_stream("a-1", 0, 10, False).events) == [11]
    database.commit(opened)
    assert stream_versions(now(database)) == [11]


def test_a_snapshot_is_usable_while_the_events_after_it_exist(database: Database) -> None:
    database.execute(["save_snapshot", "a-1", "", 0, 4, b"four"])
    database.execute(["truncate", "a-1", 5])
    loaded = now(database).load("a-1", "", 0)
    assert loaded.snapshot == (4, b"four")
    assert versions(loaded.events) == [5, 6, 7, 8, 9]
    before = database.engine.published
    database.execute(["truncate", "a-1", 6])
    assert now(database).load("a-1", "", 0).snapshot is None
    assert database.engine.reader(before).load("a-1", "", 0).snapshot == (4, b"four")
    # A client saves the snapshot after the truncation, without knowing of it.
    database.execute(["save_snapshot", "a-1", "", 0, 4, b"four"])
    assert now(database).load("a-1", "", 0).snapshot is None
    assert database.engine.looking.read_snapshots(None, 10) == ([], None)


def test_a_reader_can_tell_a_truncated_stream_from_a_deleted_one_that_began_again(
    database: Database,
) -> None:
    # Both have no events below some version. A client that builds a state from the events must
    # know whether earlier events are missing.
    def begins(at: int | None = None) -> list[int]:
        reader = database.engine.reader(at)
        listed = [e.begins for e in reader.list_streams("a-1", None, 1).streams]
        return [reader.load("a-1", "", 0).begins, *listed]

    assert begins() == [1, 1]
    database.execute(["truncate", "a-1", 4])
    assert begins() == [1, 1]
    before = database.engine.published
    database.execute(["delete_stream", "a-1"])
    assert begins() == [10]
    database.execute(append("a-1", 3))
    database.execute(["save_snapshot", "a-1", "", 0, 11, b"eleven"])
    for change in (["truncate", "a-1", 12], ["set_retention", "a-1", 1, None]):
        database.execute(change)
        database.checkpoint()
        assert begins() == [10, 10]
        assert begins(before) == [1, 1]
    opened = database.begin()
    opened.write([["delete_stream", "a-1"], append("a-1")])
    loaded = opened.load("a-1", "", 0)
    assert (loaded.begins, versions(loaded.events)) == (13, [13])
    database.engine.rollback(opened.id, opened.owner)


# Erasing.


def contents(reader: Reader, stream: str = "a-1") -> list[bytes | None]:
    """The data of a stream's events. All kinds of reads must agree on it."""
    decoded = [decode_event(e) for e in reader.read_stream(stream, 0, 1000, False).events]
    for wanted in filters(stream):
        found = [decode_event(e) for e in all_events(reader, 0, wanted)]
        assert [event for event in found if event.stream == stream] == decoded
    for event in decoded:
        assert (event.data is None) == (event.metadata is None)
    return [event.data for event in decoded]


D = b"data"


def test_erased_data_is_nil_at_every_commit(database: Database) -> None:
    database.execute(["erase", "a-1", [2, 7]], ["erase_positions", [1]])
    expected = [D, None, D, D, D, D, None, D, D]
    for _ in range(2):
        for commit in (2, 3):
            assert contents(database.engine.reader(commit)) == expected
        assert contents(now(database), "b-1") == [None]
        assert contents(database.engine.reader(1))[:2] == [D, None]
        database.checkpoint()
    database = database.crash()
    assert contents(now(database)) == expected
    event = decode_event(now(database).read_stream("a-1", 1, 1, False).events[0])
    assert event[:3] == (3, "a-1", 2)
    assert event.type == "T"


def test_an_erasure_is_visible_once_it_is_durable_and_not_before(database: Database) -> None:
    ticket, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[["erase", "a-1", [1]]]
    )
    assert contents(now(database))[0] == D
    database.settle(ticket)
    assert contents(now(database))[0] is None


def test_erasing_twice_succeeds_and_erasing_a_missing_event_is_an_error(
    database: Database,
) -> None:
    database.execute(["erase", "a-1", [2, 2]])
    database.execute(["erase", "a-1", [2]])
    for wrong, message in (
        (["erase", "a-1", [1, 10]], "no version 10; it is at version 9"),
        (["erase", "none", [1]], "no version 1; it is at version 0"),
        (["erase_positions", [13]], "no event at position 13; the newest is at 12"),
        (["erase_ids", "a-1", [bytes(16)]], "no event with the given id 0000"),
    ):
        with pytest.raises(NoSuchEvent, match=message):
            database.execute(wrong)
    assert contents(now(database))[0] == D
    with pytest.raises(TooLarge):
        database.execute(["erase", "a-1", [1] * 10_000], ["erase", "a-1", [1]])


def test_events_are_erased_by_given_ids() -> None:
    database = Database()
    database.execute(given("a-1", 1, 2, 3))
    database.execute(["erase_ids", "a-1", [bytes([2] * 16)]])
    assert contents(now(database)) == [D, None, D]
    # Whether the repeated append has the same content, nobody can tell.
    with pytest.raises(DuplicateEvent, match="version 2, which was erased"):
        database.execute(given("a-1", 1, 2, 3))
    assert now(database).read_stream("a-1", 0, 10, False).version == 3


def test_a_hidden_event_can_be_erased(database: Database) -> None:
    before = database.engine.published
    database.execute(["truncate", "a-1", 5])
    database.execute(["erase", "a-1", [1]])
    assert contents(database.engine.reader(before))[0] is None


def test_snapshots_with_erased_data_are_hidden_in_the_past_too(
    database: Database,
) -> None:
    database.execute(["save_snapshot", "a-1", "", 0, 3, b"three"])
    database.execute(["save_snapshot", "a-1", "", 0, 6, b"six"])
    database.execute(["save_snapshot", "a-1", "", 0, 9, b"nine"])
    commits = range(database.engine.published - 2, database.engine.published + 1)
    database.execute(["erase", "a-1", [5]])
    for _ in range(2):
        for commit in commits:
            reader = database.engine.reader(commit)
            assert reader.load("a-1", "", 0).snapshot == (3, b"three") or commit > commits[1]
            kept = database.engine.looking.read_snapshots(None, 10, commit)[0]
            assert all(version < 5 for _, _, _, version, _ in kept)
            assert b"six" not in str(reader.load("a-1", "", 0)).encode()
            assert b"nine" not in str(reader.load("a-1", "", 0)).encode()
        database.checkpoint()
    # A snapshot of the remaining events is valid.
    database.execute(["save_snapshot", "a-1", "", 0, 9, b"anew", database.engine.published])
    assert now(database).load("a-1", "", 0).snapshot == (9, b"anew")


def test_an_erasure_removes_only_snapshots_that_may_hold_what_it_erases(
    database: Database,
) -> None:
    # Every erasure removed all snapshots from the lowest version on that was ever erased, also
    # those that were made since. So each load of a long stream read its events again.
    database.execute(["save_snapshot", "a-1", "", 0, 3, b"with event 2"])
    database.execute(["erase", "a-1", [2]])
    between = database.engine.published
    database.execute(["save_snapshot", "a-1", "", 0, 5, b"five", between])
    database.execute(["save_snapshot", "a-1", "", 0, 8, b"with event 7", between])
    database.execute(["erase", "a-1", [7]])
    erased = database.engine.published
    for _ in range(2):
        assert now(database).load("a-1", "", 0).snapshot == (5, b"five")
        kept = database.engine.looking.read_snapshots(None, 10)[0]
        assert [version for _, _, _, version, _ in kept] == [5]
        assert database.engine.reader(between - 1).load("a-1", "", 0).snapshot is None
        database.checkpoint()
    # The same within a transaction: those that it saved before an erasure, and those after it.
    opened = database.begin()
    writes: list[list[Any]] = [
        ["erase", "a-1", [1]],
        ["save_snapshot", "a-1", "", 0, 4, b"four", erased],
        ["save_snapshot", "a-1", "", 0, 6, b"with event 6", erased],
        ["erase", "a-1", [6]],
    ]
    opened.write(writes)
    assert opened.load("a-1", "", 0).snapshot == (4, b"four")
    database.commit(opened)
    assert now(database).load("a-1", "", 0).snapshot == (4, b"four")


def test_own_appends_do_not_restore_a_snapshot_with_erased_data() -> None:
    # Only snapshots below the erased event may be used. The bound was computed from a version that
    # included the transaction's own events, so a snapshot above the erased event was found.
    database = Database()
    database.execute(append("a-1", 5))
    database.execute(["save_snapshot", "a-1", "", 0, 2, b"two"])
    database.execute(["save_snapshot", "a-1", "", 0, 5, b"five"])
    opened = database.begin()
    database.execute(["erase", "a-1", [4]])
    opened.write([append("a-1", 3)])
    assert opened.load("a-1", "", 0).snapshot == (2, b"two")


def test_a_snapshot_cannot_restore_data_that_was_erased_after_its_transaction_read_it() -> None:
    # At the isolation level "snapshot", reads are not checked. A transaction read data that was
    # then erased, and saved it in a snapshot, where no later erasure removed it.
    database = Database()
    database.execute(append("a-1", 5))
    for version, conflicts in ((5, True), (2, False)):
        opened = database.begin(isolation="snapshot")
        opened.load("a-1", "", 0)
        database.execute(append("a-1", 1), ["erase", "a-1", [version - 2 if conflicts else 4]])
        writes = [["save_snapshot", "a-1", "", 0, version, b"with what was erased"]]
        if conflicts:
            with pytest.raises(Conflict, match="conflict on snapshot"):
                database.commit(opened, *writes)
        else:
            database.commit(opened, *writes)
    assert now(database).load("a-1", "", 0).snapshot == (2, b"with what was erased")


def test_a_transaction_that_read_events_conflicts_with_erasing_them(database: Database) -> None:
    opened = database.begin()
    opened.read_stream("a-1", 0, 10, False)
    database.execute(["erase", "a-1", [1]])
    with pytest.raises(Conflict):
        database.commit(opened, ["save_snapshot", "a-1", "", 0, 9, b"with what was erased"])


def test_without_retention_there_are_no_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database()
    database.execute(append("a-1", 3))

    def fail(*_arguments: Any) -> StoredEvent:
        raise AssertionError("looked up")

    monkeypatch.setattr("headwater_server.engine.reads.reading.as_of", fail)
    monkeypatch.setattr("headwater_server.engine.retention.rules.stored_rule", fail)
    assert stream_versions(now(database)) == [1, 2, 3]
