"""After a repair the check is clean, the database opens, and every loss was reported."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from headwater_protocol.errors import DamagedFile, DirectoryInUse
from headwater_server.engine.check.findings import Kind
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.engine.repair.repair import Outcome, perform, plan
from headwater_server.storage.commits.commit_log_repair import (
    segment_files,
    segment_path,
    sound_records,
    write_segment,
)
from headwater_server.storage.store.interface import Family
from headwater_server.testing.memory_files import Call, Crash
from tests.engine.damaged import SETTINGS, Closed, contents, some_database
from tests.engine.database import Database

CHANGES = {"create", "write", "sync", "rename", "hard_link", "remove", "sync_directory"}
"""Calls that change what a power loss leaves."""


def repaired(closed: Closed) -> tuple[Outcome, Database]:
    """Plan, perform and check a repair; then open the database and commit."""
    before = contents(closed.files)
    planned = plan(closed.files, "data", open_store=lambda _: closed.store)
    assert contents(closed.files) == before, "a plan changes nothing"
    assert planned.actions
    assert planned.hopeless == []
    outcome = perform(
        closed.files,
        "data",
        open_store=lambda _: closed.store,
        open_store_to_check=lambda _: closed.store,
        repair_store=None,
    )
    assert outcome.report.findings == []
    assert outcome.done
    crashed = closed.files.crash()
    store = closed.store.crash()
    database = Database(SETTINGS, files=crashed, store=store, now=closed.now)
    database.execute(["put", b"after", b"repair"], ["append", "new", 0, [[None, "T", b"", b""]]])
    database.checkpoint()
    assert Closed(database).check().findings == []
    return outcome, Database(SETTINGS, files=database.files, store=store, now=closed.now)


@pytest.mark.slow
def test_an_interrupted_repair_loses_nothing_that_was_sound() -> None:
    """The old file used to be renamed before the new one was in place, so a crash left neither."""

    def damaged() -> tuple[Closed, list[list[Any]]]:
        database = some_database()
        rows = database.engine.looking.read_commits(0, 1000)
        closed = Closed(database)
        (path,) = closed.paths("commits", ".commits")
        # The user of commit 7.
        closed.flip(path, 64 * 7 + 33)
        return closed, rows

    def perform_on(closed: Closed) -> Outcome:
        return perform(
            closed.files,
            "data",
            open_store=lambda _: closed.store,
            open_store_to_check=lambda _: closed.store,
            repair_store=None,
        )

    closed, _ = damaged()
    changing: list[int] = []

    def note(call: Call) -> None:
        # A power loss in a call that only reads is like one in the next that changes something.
        if call.operation in CHANGES and call.path.startswith("data/commits"):
            changing.append(call.number)

    closed.files.faults.before = note
    assert perform_on(closed).report.is_clean
    assert len(changing) > 5
    for number in changing:
        closed, rows = damaged()
        closed.files.faults.crash_at = number
        with contextlib.suppress(Crash):
            perform_on(closed)
        closed.files, closed.store = closed.files.crash(), closed.store.crash()
        assert perform_on(closed).report.is_clean
        database = Database(SETTINGS, files=closed.files, store=closed.store, now=closed.now)
        found = database.engine.looking.read_commits(0, 1000)
        assert [row for row in found if row[0] != 7] == [row for row in rows if row[0] != 7]


def test_a_missing_oldest_file_of_the_commit_log_is_found_and_rebuilt() -> None:
    """A log without that file looks like a trimmed log, so lost commits used to stay unnoticed."""
    database = some_database()
    before = database.engine.looking.read_commits(0, 100)
    closed = Closed(database)
    directory = "data/commits"
    ((first, path),) = segment_files(closed.files, directory)
    file = closed.files.open(path)
    known = list(sound_records(file, first))
    file.close()
    closed.files.remove(path)
    for begin, end in ((0, 5), (5, len(known))):
        write_segment(
            closed.files,
            segment_path(directory, 1 + begin),
            1 + begin,
            end - begin if begin == 0 else 1000,
            known[begin:end],
            database_id=database.engine.database_id,
        )
    closed.files.sync_directory(directory)
    assert closed.check().findings == []
    closed.files.remove(segment_path(directory, 1))
    closed.files.sync_directory(directory)
    with pytest.raises(DamagedFile, match="the file with commit 1 is missing"):
        Database(SETTINGS, files=closed.files.copy(), store=closed.store, now=closed.now)
    assert [finding.kind for finding in closed.check().findings] == [Kind.COMMIT_FILE]
    _, database = repaired(closed)
    after = database.engine.looking.read_commits(0, 100)
    assert after[: len(before)] == before


def all_events(database: Database) -> list[bytes]:
    found: list[bytes] = []
    while True:
        page = database.engine.reader(None).read_all(len(found), EVERYTHING, 1000, reverse=False)
        found += page.events
        if not page.more:
            return found


def test_a_database_in_use_is_not_repaired() -> None:
    database = some_database()
    with pytest.raises(DirectoryInUse):
        plan(database.files, "data", open_store=lambda _: database.store)
    with pytest.raises(DirectoryInUse):
        perform(
            database.files,
            "data",
            open_store=lambda _: database.store,
            open_store_to_check=lambda _: database.store,
            repair_store=None,
        )


def test_a_sound_database_needs_no_repair() -> None:
    closed = Closed(some_database())
    assert plan(closed.files, "data", open_store=lambda _: closed.store).actions == []
    outcome = perform(
        closed.files,
        "data",
        open_store=lambda _: closed.store,
        open_store_to_check=lambda _: closed.store,
        repair_store=None,
    )
    assert outcome.done == []


def test_a_damaged_write_ahead_log_is_cut_and_the_rest_kept() -> None:
    database = some_database(in_log=30)
    last = database.engine.published
    closed = Closed(database)
    path = closed.paths("wal", ".wal")[-1]
    closed.flip(path, closed.files.content(path).index(b"data 1"))
    planned = plan(closed.files, "data", open_store=lambda _: closed.store)
    assert "cut" in str(planned.actions[0]).lower()
    outcome, database = repaired(closed)
    assert outcome.copies
    assert b"data 149" in closed.files.content(outcome.copies[0])
    assert database.engine.published < last


def test_a_damaged_event_is_replaced_and_the_rest_is_as_it_was() -> None:
    database = some_database()
    before = all_events(database)
    closed = Closed(database)
    path = closed.paths("events", ".events")[0]
    data = closed.files.content(path)
    wanted = [
        place
        for place, event in enumerate(before)
        if (decode_event(event).data or b"").startswith(b"data 50.")
    ]
    closed.flip(path, data.index(b"data 50."))
    outcome, database = repaired(closed)
    assert any("positions" in line for line in outcome.done)
    assert closed.files.content(outcome.copies[0])[:100] == data[:100]
    after = all_events(database)[: len(before)]
    changed = [place for place in range(len(before)) if before[place] != after[place]]
    assert changed == wanted[:1]
    old, new = decode_event(before[changed[0]]), decode_event(after[changed[0]])
    assert new == old._replace(type="$damaged", data=b"", metadata=b"", tags=())
    found = database.engine.reader(None).read_all(
        0, EventFilter(types=("$damaged",)), 10, reverse=False
    )
    assert [decode_event(event).position for event in found.events] == [old.position]


def test_a_damaged_event_that_the_write_ahead_log_still_has_is_restored() -> None:
    database = Database(SETTINGS)
    for number in range(20):
        database.execute(["append", "s", -1, [[None, "T", b"data %d" % number, b""]]])
    before = all_events(database)
    database.checkpoint()
    closed = Closed(database)
    path = closed.paths("events", ".events")[0]
    closed.flip(path, closed.files.content(path).index(b"data 11"))
    _, database = repaired(closed)
    assert all_events(database)[:20] == before


def test_a_missing_file_of_events_is_replaced_event_by_event() -> None:
    closed = Closed(some_database())
    for path in closed.paths("events"):
        closed.files.remove(path)
    outcome, database = repaired(closed)
    events = [decode_event(event) for event in all_events(database)]
    assert {event.type for event in events[:50]} == {"$damaged"}
    assert {event.stream for event in events} <= {f"account-{n}" for n in range(4)} | {"new"}
    assert any("content of" in line for line in outcome.done)


def test_damaged_commit_records_are_rebuilt() -> None:
    database = some_database()
    before = database.engine.looking.read_commits(0, 1000)
    closed = Closed(database)
    path = closed.paths("commits")[0]
    for commit in (1, 2, 3, 40, 41, 90, 120):
        closed.flip(path, 64 * commit + 20)
    _, database = repaired(closed)
    after = database.engine.looking.read_commits(0, 1000)
    # Commit, transaction, time, user, first position, events.
    for old, new in zip(before, after, strict=False):
        assert new[:2] == old[:2]
        assert new[4:] == old[4:]
        if old[5]:
            assert new[2] == old[2]


def test_a_missing_commit_log_is_rebuilt() -> None:
    database = some_database()
    before = database.engine.looking.read_commits(0, 1000)
    closed = Closed(database)
    closed.files.remove(closed.paths("commits")[0])
    _, database = repaired(closed)
    after = database.engine.looking.read_commits(0, 1000)
    assert [each[1] for each in after[:120]] == [each[1] for each in before[:120]]


def damage_index(closed: Closed) -> None:
    for prefix in (b"s", b"S", b"c", b"T", b"e"):
        for key, _ in closed.entries(Family.INDEX, prefix)[::2]:
            closed.overwrite(Family.INDEX, key, None)


def damage_transactions(closed: Closed) -> None:
    for key, _ in closed.entries(Family.TRANSACTIONS)[::3]:
        closed.overwrite(Family.TRANSACTIONS, key, None)
    for key, _ in closed.entries(Family.INDEX, b"a")[::2]:
        closed.overwrite(Family.INDEX, key, None)


def damage_history(closed: Closed) -> None:
    for key, _ in closed.entries(Family.HISTORY)[::2]:
        closed.overwrite(Family.HISTORY, key, None)


def damage_changes(closed: Closed) -> None:
    for key, _ in closed.entries(Family.CHANGES)[::2]:
        closed.overwrite(Family.CHANGES, key, None)


def damage_snapshots(closed: Closed) -> None:
    key, value = closed.entries(Family.LATEST, b"\x02account-0")[-1]
    closed.overwrite(Family.LATEST, key[:-8] + (10_000).to_bytes(8, "big"), value)


def damage_meta(closed: Closed) -> None:
    for key, _ in closed.entries(Family.INDEX, b"m"):
        closed.overwrite(Family.INDEX, key, None)


def damage_offsets(closed: Closed) -> None:
    for path in closed.paths("events", ".idx"):
        closed.flip(path, 30)


@pytest.mark.parametrize(
    "damage",
    [
        damage_index,
        damage_transactions,
        damage_history,
        damage_changes,
        damage_snapshots,
        damage_offsets,
        damage_meta,
    ],
)
def test_everything_derived_from_the_logs_is_rebuilt(damage: Callable[[Closed], None]) -> None:
    database = some_database()
    events = all_events(database)
    newest = database.engine.reader(None).scan(b"", None, 1000, reverse=False).items
    commits = database.engine.looking.read_commits(0, 1000)
    closed = Closed(database)
    damage(closed)
    outcome, database = repaired(closed)
    assert outcome.done
    assert all_events(database)[: len(events)] == events
    found = database.engine.reader(None).scan(b"", None, 1000, reverse=False).items
    assert found == [b"after", b"repair", *newest]
    assert database.engine.looking.read_commits(0, 1000)[: len(commits)] == commits


def test_damage_everywhere_is_repaired() -> None:
    closed = Closed(some_database(in_log=30))
    damage_index(closed)
    damage_transactions(closed)
    damage_history(closed)
    path = closed.paths("events", ".events")[0]
    closed.flip(path, closed.files.content(path).index(b"data 30"))
    closed.flip(closed.paths("commits")[0], 64 * 30 + 3)
    path = closed.paths("wal", ".wal")[-1]
    closed.flip(path, closed.files.content(path).index(b"data 1"))
    planned = plan(closed.files, "data", open_store=lambda _: closed.store)
    answered = {kind for action in planned.actions for kind in action.kinds}
    assert {finding.kind for finding in planned.report.findings} <= answered
    repaired(closed)


def test_a_state_store_without_means_of_repair_says_so() -> None:
    closed = Closed(some_database())

    def broken(path: str) -> None:
        raise DamagedFile(f"{path}/000012.sst: bad", details={"file": f"{path}/000012.sst"})

    planned = plan(closed.files, "data", open_store=broken)  # type: ignore[arg-type]
    assert planned.actions[0].kinds == (Kind.STORE,)
    with pytest.raises(DamagedFile, match="restore"):
        perform(
            closed.files,
            "data",
            open_store=lambda _: closed.store,
            open_store_to_check=broken,  # type: ignore[arg-type]
            repair_store=None,
        )
