"""Commits that a wrong clock dated in the future: a check reports and a repair corrects them."""

import contextlib
import random
from dataclasses import replace

import pytest

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.check.check import check
from headwater_server.engine.check.clock import AHEAD_US_MAX
from headwater_server.engine.check.findings import Kind, Report
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.repair.repair import Outcome, perform, plan
from headwater_server.testing.memory_files import Crash
from tests.engine.damaged import SETTINGS, Closed, contents
from tests.engine.database import START_US, Database, all_events, open_test_log

SECOND_US = 1_000_000
TEN_YEARS_US = 10 * 365 * 24 * 3600 * SECOND_US
RETENTION_US = 3600 * SECOND_US
BEFORE = 6
"""Commits made while the clock was right. As many follow while it is wrong."""


def write_some(database: Database, number: int) -> None:
    event = [None, "T", b"%d" % number, b"", ["x"]]
    database.execute(["put", b"k", b"%d" % number], ["append", "a-1", -1, [event, event]])
    database.wait(SECOND_US)


def future_database(*, seed: int = 1, in_files: bool = True) -> tuple[Closed, int]:
    """A database that ran for a while with a clock ten years ahead, and the right time."""
    settings = replace(SETTINGS, transaction_retention_us=RETENTION_US)
    database = Database(settings, seed=seed, now=START_US)
    for number in range(BEFORE):
        write_some(database, number)
    database.checkpoint()
    right = database.now
    database.jump(TEN_YEARS_US)
    database = database.reopen()
    for number in range(BEFORE):
        write_some(database, number)
        if number == 2:
            database.engine.status(database.new_id(), resolve=True)
            database.sync()
        if in_files and number == 4:
            database.checkpoint()
    closed = Closed(database)
    closed.now = right + 60 * SECOND_US
    return closed, closed.now


def checked(closed: Closed, now: int | None) -> Report:
    return check(closed.files, "data", open_store=lambda _: closed.store, now=now)


def performed(closed: Closed, now: int) -> Outcome:
    return perform(
        closed.files,
        "data",
        open_store=lambda _: closed.store,
        open_store_to_check=lambda _: closed.store,
        repair_store=None,
        open_log=open_test_log,
        now=now,
    )


def events_of(database: Database) -> list[StoredEvent]:
    stored = all_events(database.engine.reader(), 0, EVERYTHING)
    return [decode_event(each) for each in stored]


@pytest.mark.parametrize("in_files", [True, False])
def test_a_check_warns_of_commits_in_the_future(*, in_files: bool) -> None:
    closed, now = future_database(in_files=in_files)
    assert checked(closed, None).warnings == []
    report = checked(closed, now)
    assert report.is_clean
    (warning,) = report.warnings
    assert warning.kind is Kind.CLOCK
    assert warning.number == BEFORE + 1
    assert "6 commits are dated in the future, the first of them commit 7: 2033-11-" in warning.what
    assert "this machine's clock says 2023-11-14 " in warning.what


def test_a_commit_that_is_ahead_by_an_accepted_clock_jump_is_not_reported() -> None:
    database = Database(now=START_US)
    database.execute(["put", b"k", b"v"])
    closed = Closed(database)
    assert checked(closed, START_US - AHEAD_US_MAX).warnings == []
    assert checked(closed, START_US - AHEAD_US_MAX - 1).warnings != []


@pytest.mark.parametrize("in_files", [True, False])
def test_a_repair_changes_only_the_times(*, in_files: bool) -> None:
    closed, now = future_database(in_files=in_files)
    before = contents(closed.files)
    planned = plan(closed.files, "data", open_store=lambda _: closed.store, now=now)
    assert [action.kinds for action in planned.actions] == [(Kind.CLOCK,)]
    assert contents(closed.files) == before, "a plan changes nothing"
    outcome = performed(closed, now)
    assert outcome.report.is_clean
    assert outcome.report.warnings == []
    assert outcome.done == ["changed the time of 6 commits and 12 events to that of this repair"]
    assert len(outcome.copies) == 2
    settings = replace(SETTINGS, transaction_retention_us=RETENTION_US)
    database = Database(settings, files=closed.files, store=closed.store, now=now)
    events = events_of(database)
    assert [int(event.data or b"") for event in events[::2]] == [*range(BEFORE), *range(BEFORE)]
    times = [row[2] for row in database.engine.looking.read_commits(0, 100)]
    assert times == sorted(times)
    assert all(time < now for time in times[:BEFORE])
    assert times[BEFORE:] == [now] * BEFORE
    assert all(event.time == times[event.commit - 1] for event in events)
    # Later commits get the right time.
    database.wait(SECOND_US)
    commit, time, *_ = database.execute(["put", b"k", b"new"])
    assert (commit, time) == (2 * BEFORE + 1, now + SECOND_US)
    assert database.engine.commit_at(now) == 2 * BEFORE
    assert checked(Closed(database.reopen()), database.now).warnings == []


def test_after_a_repair_new_transaction_ids_are_accepted_and_older_ones_stay_forgotten() -> None:
    closed, now = future_database()
    older = new_transaction_id(now - 2 * SECOND_US, random.Random(1))
    settings = replace(SETTINGS, transaction_retention_us=RETENTION_US)
    wrong = Database(settings, files=closed.files, store=closed.store, now=now)
    newer = new_transaction_id(wrong.now + SECOND_US, random.Random(2))
    assert wrong.engine.status(newer, resolve=False).state == "forgotten"
    wrong.engine.close()
    performed(closed, now)
    database = Database(settings, files=closed.files, store=closed.store, now=now)
    database.wait(SECOND_US)
    assert database.engine.status(newer, resolve=False).state == "open"
    # The id may be of a commit that was forgotten while the clock was wrong.
    assert database.engine.status(older, resolve=False).state == "forgotten"


def test_after_a_repair_outcomes_are_remembered_for_as_long_as_usual() -> None:
    """Those that the wrong clock did not make the database forget."""
    closed, now = future_database(in_files=False)
    performed(closed, now)
    settings = replace(SETTINGS, transaction_retention_us=RETENTION_US, history_window_us=0)
    database = Database(settings, files=closed.files, store=closed.store, now=now)
    rows = database.engine.looking.read_commits(0, 100)
    known = [bytes(row[1]) for row in rows]
    assert len(known) == 2 * BEFORE
    for _ in range(2):
        write_some(database, 100)
        database.checkpoint()
    for transaction in known:
        assert database.engine.status(transaction, resolve=False).state == "committed"
    database.wait(RETENTION_US + SECOND_US)
    for _ in range(2):
        write_some(database, 100)
        database.checkpoint()
    for transaction in known:
        assert database.engine.status(transaction, resolve=False).state != "committed"


def test_a_clock_that_was_reset_is_refused() -> None:
    closed, _ = future_database()
    before = contents(closed.files)
    with pytest.raises(InvalidArgument, match="put it right"):
        performed(closed, SECOND_US)
    assert contents(closed.files) == before


def test_damage_is_repaired_first_and_then_the_times() -> None:
    closed, now = future_database()
    (path,) = closed.paths("commits", ".commits")
    # The time of a commit in the future.
    closed.flip(path, 64 * (BEFORE + 2) + 25)
    planned = plan(closed.files, "data", open_store=lambda _: closed.store, now=now)
    assert [action.kinds[0] for action in planned.actions] == [Kind.COMMIT, Kind.CLOCK]
    outcome = performed(closed, now)
    assert outcome.report.is_clean
    assert outcome.report.warnings == []
    database = Database(SETTINGS, files=closed.files, store=closed.store, now=now)
    assert [row[2] for row in database.engine.looking.read_commits(BEFORE, 100)] == [now] * BEFORE


@pytest.mark.slow
def test_a_power_loss_at_any_call_of_the_repair_loses_nothing_and_the_next_one_completes_it() -> (
    None
):
    closed, now = future_database()
    first = closed.files.calls
    assert performed(closed, now).report.warnings == []
    last = closed.files.calls
    assert last - first > 50
    for call in range(first + 1, last + 1):
        closed, now = future_database()
        closed.files.faults.crash_at = call
        with contextlib.suppress(Crash):
            performed(closed, now)
        closed.files = closed.files.crash()
        closed.store = closed.store.crash(random.Random(call))
        report = checked(closed, now)
        assert report.is_clean, f"call {call}: {report.findings[0]}"
        if call % 2:
            # Somebody starts a server in between.
            between = Database(SETTINGS, files=closed.files, store=closed.store, now=now)
            # An id without a time. The log is ten years ahead, so an id with the right time would
            # count as forgotten.
            between.execute(
                ["put", b"between", b""], transaction=b"\xff" * 15 + bytes([call % 256])
            )
            assert Closed(between).check().is_clean
        outcome = performed(closed, now + SECOND_US)
        assert outcome.report.is_clean
        assert outcome.report.warnings == []
        database = Database(SETTINGS, files=closed.files, store=closed.store, now=now + SECOND_US)
        events = events_of(database)
        assert [int(event.data or b"") for event in events[::2]] == [*range(BEFORE), *range(BEFORE)]
        times = [row[2] for row in database.engine.looking.read_commits(0, 100)]
        assert times == sorted(times)
        assert times[-1] <= now + SECOND_US
        assert all(event.time == times[event.commit - 1] for event in events)
