"""Evaluation at commit: expected versions, event ids, range deletes, snapshots."""

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from headwater_protocol import limits
from headwater_protocol.errors import (
    Conflict,
    DuplicateEvent,
    InvalidArgument,
    NotANumber,
    TooLarge,
    WrongVersion,
)
from headwater_protocol.numbers import ANY, NO_STREAM, STREAM_EXISTS
from headwater_server.engine.format.events import StoredEvent, decode_event, derive_event_id
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.state.layers import State
from tests.engine.database import SETTINGS, Database


def event(name: str, identity: bytes | None = None, data: bytes = b"") -> list[Any]:
    return [identity, name, data, b""]


def append(stream: str, expect: int, *names: str) -> list[Any]:
    return ["append", stream, expect, [event(name) for name in names]]


def events(database: Database, stream: str) -> list[StoredEvent]:
    page = database.engine.reader().read_stream(stream, 0, 10_000, False)
    return [decode_event(stored) for stored in page.events]


def identity(place: int) -> bytes:
    return bytes(15) + bytes([place])


# Expected versions.


@pytest.mark.parametrize(
    ("version", "expect", "holds"),
    [
        (0, ANY, True),
        (0, NO_STREAM, True),
        (0, STREAM_EXISTS, False),
        (0, 1, False),
        (2, ANY, True),
        (2, NO_STREAM, False),
        (2, STREAM_EXISTS, True),
        (2, 1, False),
        (2, 2, True),
        (2, 3, False),
    ],
)
def test_an_append_succeeds_exactly_if_its_expectation_holds(
    version: int, expect: int, holds: bool
) -> None:
    database = Database()
    if version:
        database.execute(append("a", ANY, *["Before"] * version))
    if holds:
        assert database.execute(append("a", expect, "New"))[4] == {"a": version + 1}
    else:
        with pytest.raises(WrongVersion) as failure:
            database.execute(append("a", expect, "New"))
        assert not failure.value.retryable
        (conflict,) = failure.value.conflicts
        assert (conflict["expected"], conflict["actual"]) == (expect, version)
        assert conflict.get("commit") == (1 if version else None)
    assert len(events(database, "a")) == version + holds


def test_every_wrong_version_is_reported_with_the_transaction_that_caused_it() -> None:
    database = Database()
    winner = database.new_id()
    database.execute(append("a", ANY, "One"), append("b", ANY, "One"), transaction=winner)
    with pytest.raises(WrongVersion, match=r"'a' is at version 1, not no stream \(and 1 more") as f:
        database.execute(append("a", 0, "X"), append("c", 0, "X"), append("b", 5, "X"))
    assert f.value.conflicts == [
        {
            "kind": "expected version",
            "stream": stream,
            "expected": expected,
            "actual": 1,
            "commit": 1,
            "transaction": winner,
        }
        for stream, expected in (("a", 0), ("b", 5))
    ]
    assert events(database, "c") == []


def test_two_appends_to_one_stream_get_consecutive_versions() -> None:
    database = Database()
    answer = database.execute(
        append("a", 0, "One", "Two"), append("b", 0, "B"), append("a", 2, "3")
    )
    assert answer == [1, database.now, 1, 4, {"a": 3, "b": 1}]
    assert [(found.version, found.position) for found in events(database, "a")] == [
        (1, 1),
        (2, 2),
        (3, 4),
    ]
    with pytest.raises(WrongVersion):
        database.execute(append("b", 1, "Two"), append("b", 1, "Three"))


def test_wrong_version_is_retryable_if_it_held_at_the_read_view() -> None:
    database = Database()
    running = database.begin()
    database.execute(append("a", 0, "Theirs"))
    with pytest.raises(WrongVersion) as failure:
        database.commit(running, append("a", 0, "Mine"))
    assert failure.value.retryable
    running = database.begin()
    database.execute(append("a", 1, "Theirs"))
    with pytest.raises(WrongVersion) as failure:
        database.commit(running, append("a", 0, "Mine"))
    assert not failure.value.retryable


def test_wrong_version_is_not_retryable_if_one_of_several_was_wrong_from_the_start() -> None:
    database = Database()
    database.execute(append("b", 0, "There"))
    running = database.begin()
    database.execute(append("a", 0, "Theirs"))
    with pytest.raises(WrongVersion) as failure:
        database.commit(running, append("a", 0, "Mine"), append("b", 0, "Mine"))
    assert not failure.value.retryable


def test_wrong_version_is_retryable_when_two_appends_to_one_stream_lost_the_race() -> None:
    # The second append expects the version that the first would have produced. It was compared
    # with a stream without the first append, which had failed, so the error was not retryable.
    database = Database()
    running = database.begin()
    database.execute(append("a", 0, "Theirs", "Theirs"))
    with pytest.raises(WrongVersion) as failure:
        database.commit(running, append("a", 0, "One", "Two"), append("a", 2, "Three"))
    assert [conflict["actual"] for conflict in failure.value.conflicts] == [2, 4]
    assert failure.value.retryable


def test_wrong_version_is_not_retryable_if_the_stream_had_to_exist() -> None:
    database = Database()
    running = database.begin()
    with pytest.raises(WrongVersion) as failure:
        database.commit(running, append("a", STREAM_EXISTS, "Mine"))
    assert not failure.value.retryable


def test_a_conflict_is_reported_together_with_wrong_versions() -> None:
    database = Database()
    running = database.begin()
    running.get(b"k")
    database.execute(["put", b"k", b"v"], append("a", 0, "Theirs"))
    with pytest.raises(Conflict) as failure:
        database.commit(running, append("a", 0, "Mine"))
    assert type(failure.value) is Conflict
    assert [conflict["kind"] for conflict in failure.value.conflicts] == [
        "read-write",
        "expected version",
    ]


# Events and their ids.


def test_a_stored_event_has_the_given_members_and_those_of_its_commit() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    database.now += 5
    transaction = database.new_id()
    given = [identity(7), "Opened", b"data", b"metadata"]
    database.execute(
        ["append", "a", 0, [event("Before"), given, event("After")]], transaction=transaction
    )
    assert events(database, "a")[1] == StoredEvent(
        2, "a", 2, 2, database.now, identity(7), "Opened", b"data", b"metadata"
    )
    assert [found.id for found in events(database, "a")][::2] == [
        derive_event_id(transaction, 0),
        derive_event_id(transaction, 2),
    ]


def test_derived_ids_are_all_different_and_the_same_when_the_log_is_replayed() -> None:
    database = Database()
    database.execute(append("a", ANY, *["T"] * 50), append("b", ANY, *["T"] * 50))
    found = [event.id for stream in "ab" for event in events(database, stream)]
    assert len(set(found)) == 100
    database = database.crash()
    assert [event.id for stream in "ab" for event in events(database, stream)] == found


LAYERS = ["active", "frozen", "files", "restarted", "restarted from files"]


def moved_to(database: Database, layer: str) -> Database:
    """The database, after moving all its content to this layer."""
    match layer:
        case "frozen":
            assert database.engine.begin_checkpoint() is not None
        case "files":
            database.checkpoint()
        case "restarted":
            database = database.crash()
        case "restarted from files":
            database.checkpoint()
            database = database.crash()
    return database


@pytest.mark.parametrize("layer", LAYERS)
def test_an_append_of_events_that_all_exist_succeeds_without_effect(layer: str) -> None:
    database = Database()
    first = [event("One", identity(1), b"1"), event("Two", identity(2), b"2")]
    database.execute(append("a", ANY, "Before"))
    answer = database.execute(["append", "a", 1, first], ["put", b"k", b"v"])
    database.execute(append("a", ANY, "After"))
    database = moved_to(database, layer)
    # The expected version does not matter.
    for expect in (1, 0, ANY, 99):
        assert database.execute(["append", "a", expect, first]) == answer
    # The same holds for an append of only some of these events.
    assert database.execute(["append", "a", ANY, first[1:]]) == answer
    # Each of these transactions has its own commit, so its status can be asked later.
    assert database.engine.published == 8
    assert len(events(database, "a")) == 4
    # In another stream, these ids are unused.
    database.execute(["append", "b", 0, first])
    assert len(events(database, "b")) == 2


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("appended", "reason"),
    [
        ([event("One", identity(1)), event("New", identity(9))], "event 1 .* is not stored"),
        ([event("New", identity(9)), event("One", identity(1))], "event 0 .* is not stored"),
        ([event("One", identity(1)), event("Three", identity(3))], "not in sequence"),
        ([event("Two", identity(2)), event("One", identity(1))], "not in sequence"),
        ([event("Other", identity(1))], "other content"),
        ([event("One", identity(1), b"other")], "other content"),
        ([[identity(1), "One", b"", b"other"]], "other content"),
        ([[identity(1), "One", b"", b"", ["x"]]], "other content"),
        ([event("One", identity(1)), event("Two")], "event 1 .* is not stored"),
        ([event("New", identity(9)), event("New", identity(9))], "twice in one transaction"),
        ([event("One", identity(1)), event("One", identity(1))], "twice in one transaction"),
    ],
)
def test_events_that_exist_in_part_or_with_other_content_are_refused(
    layer: str, appended: list[Any], reason: str
) -> None:
    database = Database()
    stored = [event(name, identity(n)) for n, name in enumerate(("One", "Two", "Three"), 1)]
    database.execute(["append", "a", 0, stored])
    database = moved_to(database, layer)
    with pytest.raises(DuplicateEvent, match=reason):
        database.execute(["append", "a", ANY, appended])
    assert len(events(database, "a")) == 3


@pytest.mark.parametrize("layer", LAYERS)
def test_the_tags_of_an_append_that_is_sent_again_are_compared(layer: str) -> None:
    database = Database()
    write = ["append", "a", 0, [[identity(1), "One", b"", b"", ["x", "y"]]]]
    answer = database.execute(write)
    database = moved_to(database, layer)
    assert database.execute(write) == answer
    for other in (["x"], ["y", "x"], []):
        changed = ["append", "a", 0, [[identity(1), "One", b"", b"", other]]]
        with pytest.raises(DuplicateEvent, match="other content"):
            database.execute(changed)


@pytest.mark.parametrize("layer", LAYERS)
def test_events_keep_their_tags_in_order_and_those_without_have_none(layer: str) -> None:
    database = Database()
    tagged = [None, "T", b"", b"", ["b", "a"]]
    database.execute(["append", "a", 0, [event("T"), tagged, [None, "T", b"", b"", []]]])
    running = database.begin()
    running.write([["append", "a", 3, [tagged]]])
    own = running.read_stream("a", 3, 1, False).events
    assert decode_event(own[0]).tags == ("b", "a")
    database = moved_to(database, layer)
    assert [each.tags for each in events(database, "a")] == [(), ("b", "a"), ()]


def test_an_event_too_large_for_a_frame_is_refused() -> None:
    database = Database()
    half = bytes(limits.VALUE_SIZE_MAX)
    with pytest.raises(TooLarge, match="of data, metadata and tags"):
        database.execute(["append", "a", 0, [[None, "T", half, half]]])


def test_an_id_in_two_appends_of_a_transaction_is_refused() -> None:
    database = Database()
    write = ["append", "a", ANY, [event("One", identity(1))]]
    with pytest.raises(DuplicateEvent, match="twice"):
        database.execute(write, write)
    assert database.execute(write, ["append", "b", ANY, [event("One", identity(1))]])[0] == 1


def test_the_answer_to_new_writes_beside_a_repeated_append_is_of_the_new_commit() -> None:
    database = Database()
    repeated = ["append", "a", 0, [event("One", identity(1))]]
    database.execute(repeated)
    transaction = database.new_id()
    answer = database.execute(repeated, append("b", 0, "New"), transaction=transaction)
    assert answer == [2, database.now, 2, 2, {"b": 1}]
    # If the request is sent again, the answer is derived from the log. It must be the same.
    assert database.execute(repeated, append("b", 0, "New"), transaction=transaction) == answer
    assert len(events(database, "a")) == 1


def test_an_event_id_is_found_before_its_commit_is_durable() -> None:
    database = Database()
    write = ["append", "a", 0, [event("One", identity(1))]]
    first, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[write]
    )
    again, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[write]
    )
    assert again.payload == first.payload
    assert again.sequence >= first.sequence > database.engine.durable_sequence


# Keys.


def test_atomics_and_range_deletes_see_everything_sequenced_before_them() -> None:
    database = Database()
    database.execute(["put", b"n", msgpack.packb(1)], ["put", b"c", b"old"])
    one, two = database.begin(), database.begin()
    one.write([["add", b"n", 10], ["put", b"b", b"1"]])
    two.write([["add", b"n", 100], ["delete_range", b"a", b"d"]])
    database.engine.commit(one.id, one.owner, [])
    database.engine.commit(two.id, two.owner, [])
    database.sync()
    reader = database.engine.reader()
    assert msgpack.unpackb(reader.get(b"n") or b"") == 111
    assert reader.scan(b"", b"d", 10, False).items == []


def test_a_transaction_whose_add_fails_at_commit_writes_nothing() -> None:
    database = Database()
    running = database.begin()
    running.write([["put", b"other", b"1"], ["add", b"n", 1], append("a", ANY, "Gone")])
    database.execute(["put", b"n", b"text"])
    with pytest.raises(NotANumber):
        database.commit(running)
    reader = database.engine.reader()
    assert reader.get(b"other") is None
    assert reader.read_all(0, EVERYTHING, 10, False).events == []
    assert database.engine.take_group() is None


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "write",
    [
        ["delete", b"x"],
        ["delete_range", b"x", None],
        ["truncate", "a", 1],
        ["delete_stream", "never"],
        ["set_retention", "a", None, None],
        ["erase", "a", [1]],
        ["append", "a", ANY, [event("One", identity(1))]],
    ],
)
def test_a_write_that_changes_nothing_has_a_commit_of_its_own(layer: str, write: list[Any]) -> None:
    """The answer named an earlier commit, and the status of the transaction stayed "open"."""
    database = Database()
    first = database.execute(["append", "a", ANY, [event("One", identity(1))]])
    if write[0] == "erase":
        database.execute(write)
    transaction = database.new_id()
    answer = database.execute(write, transaction=transaction)
    database = moved_to(database, layer)
    status = database.engine.status(transaction, resolve=True)
    assert status.state == "committed"
    assert status.ticket.payload[0] == database.engine.published
    # A repeated request gets the first answer.
    assert database.execute(write, transaction=transaction) == answer
    assert answer == (first if write[0] == "append" else status.ticket.payload)


@pytest.mark.slow
def test_a_range_delete_counts_each_key_towards_the_writes_of_a_transaction() -> None:
    database = Database()
    half = limits.WRITES_MAX // 2
    for part in range(2):
        database.execute(
            *[["put", b"r" + (part * half + n).to_bytes(4, "big"), b""] for n in range(half)]
        )
    delete = ["delete_range", b"r", b"s"]
    database.execute(["put", b"r-one more", b""])
    with pytest.raises(TooLarge, match="delete the range in parts"):
        database.execute(delete)
    database.execute(["delete", b"r-one more"])
    with pytest.raises(TooLarge, match="delete the range in parts"):
        database.execute(delete, ["put", b"other", b""])
    assert database.execute(delete, ["put", b"r" + bytes(4), b"kept"])[0] == 5
    assert database.engine.reader().scan(b"", None, 10, False).items == [b"r" + bytes(4), b"kept"]


def test_a_range_delete_counts_the_bytes_of_each_key_too() -> None:
    # Only the number of keys was bounded. A range of 100,000 keys of the largest size (800 MiB)
    # was collected and encoded before it was refused.
    database = Database()
    keys = limits.TRANSACTION_SIZE_MAX // limits.KEY_SIZE_MAX
    for part in range(2):
        numbers = range(part * keys // 2, (part + 1) * keys // 2)
        database.execute(
            *[["put", b"%08d" % n + bytes(limits.KEY_SIZE_MAX - 8), b""] for n in numbers]
        )
    with pytest.raises(TooLarge, match=r"bytes of keys.* delete the range in parts"):
        database.execute(["delete_range", b"", None])
    assert database.execute(["delete_range", b"", b"%08d" % (keys - 2)])[0] == 3
    assert len(database.engine.reader().scan(b"", None, 10, False).items) == 4


# Snapshots.


def stored_snapshots(database: Database, at_commit: int | None = None) -> list[int]:
    """The versions of the snapshots of stream "a" with name "" and schema 0, newest first."""
    reader = database.engine.reader(at_commit)
    found = []
    version = reader.load("a", "", 0).version
    while version >= 0:
        snapshot = reader._newest_snapshot("a", "", 0, version, version)
        if snapshot is None:
            break
        found.append(snapshot[0])
        version = snapshot[0] - 1
    return found


def save(version: int, *, schema: int = 0, name: str = "") -> list[Any]:
    return ["save_snapshot", "a", name, schema, version, b"state"]


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_only_the_newest_snapshots_are_kept_and_past_commits_keep_theirs(kept: int) -> None:
    database = Database(replace(SETTINGS, snapshots_kept=kept))
    database.execute(append("a", 0, *["T"] * 6))
    database.execute(save(1, schema=9), save(1, name="other"))
    for version in range(1, 6):
        if version == 3:
            database.checkpoint()
        database.execute(save(version))
    assert stored_snapshots(database) == [5, 4, 3, 2, 1][:kept]
    assert stored_snapshots(database, at_commit=4) == [2, 1][:kept]
    assert database.engine.reader().load("a", "", 9).snapshot == (1, b"state")
    assert database.engine.reader().load("a", "other", 0).snapshot == (1, b"state")


def test_a_new_snapshot_of_a_version_replaces_the_old_one() -> None:
    database = Database()
    database.execute(append("a", 0, "T"), save(1))
    database.execute(["save_snapshot", "a", "", 0, 1, b"better"])
    assert database.engine.reader().load("a", "", 0).snapshot == (1, b"better")
    assert stored_snapshots(database) == [1]


def test_a_snapshot_beyond_the_streams_version_is_refused() -> None:
    database = Database()
    database.execute(append("a", 0, "T"))
    with pytest.raises(InvalidArgument, match="at version 2; the stream is at version 1"):
        database.execute(save(2))
    with pytest.raises(InvalidArgument, match="at version 3; the stream is at version 2"):
        database.execute(append("a", 1, "T"), save(3))
    assert database.execute(append("a", 1, "T"), save(2))[0] == 2


def test_a_read_of_a_past_commit_finds_no_later_snapshot() -> None:
    database = Database()
    database.execute(append("a", 0, "One"), save(1))
    database.execute(append("a", 1, "Two"), save(2))
    loaded = database.engine.reader(1).load("a", "", 0)
    assert (loaded.version, loaded.snapshot, loaded.events) == (1, (1, b"state"), [])


class FetchedState(State):
    """A state that counts the keys that it was asked for in ranges."""

    met = 0

    def first_items(self, *arguments: Any, **rest: Any) -> Any:
        self.met += rest["count_max"]
        return super().first_items(*arguments, **rest)


@pytest.mark.source
@pytest.mark.parametrize("in_files", [False, True])
def test_a_save_does_not_meet_the_snapshots_that_earlier_saves_have_pruned(in_files: bool) -> None:
    met = []
    for saves in (50, 300):
        database = Database()
        database.execute(append("a", 0, *["T"] * saves))
        for version in range(1, saves):
            database.execute(save(version))
        if in_files:
            database.checkpoint()
        state = database.engine._state
        state.__class__ = FetchedState
        database.execute(save(saves))
        assert isinstance(state, FetchedState)
        met.append(state.met)
        assert stored_snapshots(database) == [saves, saves - 1]
    assert met[0] == met[1]


def test_saves_prune_what_is_too_much_after_fewer_snapshots_are_to_be_kept() -> None:
    database = Database(replace(SETTINGS, snapshots_kept=30))
    database.execute(append("a", 0, *["T"] * 40))
    for version in range(1, 31):
        database.execute(save(version))
    assert len(stored_snapshots(database)) == 30
    database.settings = replace(SETTINGS, snapshots_kept=1)
    database = database.crash()
    for version in range(31, 36):
        database.execute(save(version))
    assert stored_snapshots(database) == [35]
