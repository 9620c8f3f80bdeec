"""The checkpoint schedule: when a checkpoint is due, its steps, and its mark in the log."""

from dataclasses import replace

import pytest

from headwater_server.engine.checkpoint.schedule import (
    QUIET_INTERVAL_US,
    QUIET_US,
    Checkpoint,
    Trim,
    WaitDurable,
    WaitForRoom,
    Write,
    checkpoint_steps,
    run_to_end,
)
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.stored_state import read_applied
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import Family
from tests.engine.database import Database

WINDOW_US = 3_000_000_000
SETTINGS = EngineSettings(disk_reserve_size=0, history_window_us=WINDOW_US)


def put(database: Database, value: bytes) -> None:
    database.execute(["put", b"k", value])


def due_after_quiet(database: Database) -> bool:
    """Whether a checkpoint is due after a quiet time that is long enough."""
    database.engine.checkpoints.due_in_quiet()
    database.now += max(QUIET_US, QUIET_INTERVAL_US)
    return database.engine.checkpoints.due_in_quiet()


def test_a_checkpoint_marks_the_log_as_durable_with_the_commits_in_progress() -> None:
    """A checkpoint used to record the log's end at its begin, before its last commits were durable.

    A log that lost exactly those commits then passed as sound.
    """
    database = Database()
    put(database, b"1")
    ticket, _ = database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=[["put", b"k", b"2"]]
    )
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    database.settle(ticket)
    checkpoint.run()
    assert checkpoint.last_commit == 2
    assert read_applied(database.store).log_index == database.engine._log.last_index


def test_no_checkpoint_is_due_after_a_checkpoint() -> None:
    """A replay of ticks that the files had filled a memtable that no checkpoint would freeze.

    The checkpoint was due for ever, and the server did nothing else.
    """
    database = Database(replace(SETTINGS, memtable_size_max=2000))
    database.execute(["set_retention", "s", None, 10**12])
    for _ in range(20):
        # A rule by age makes the log tick each second.
        database.wait(1_100_000)
    database.checkpoint()
    assert not database.engine.checkpoints.due
    restarted = database.crash()
    assert restarted.engine.checkpoints.due, "the log still had the ticks, and they were replayed"
    restarted.checkpoint()
    assert not restarted.engine.checkpoints.due


def test_the_last_writes_reach_the_files_in_quiet_times() -> None:
    database = Database(SETTINGS)
    assert not due_after_quiet(database), "nothing was ever written"
    put(database, b"1")
    assert not database.engine.checkpoints.due_in_quiet()
    database.now += QUIET_US - 1
    assert not database.engine.checkpoints.due_in_quiet()
    put(database, b"2")
    database.now += QUIET_US
    assert not database.engine.checkpoints.due_in_quiet(), "somebody wrote meanwhile"
    assert due_after_quiet(database)
    database.checkpoint(tidy=True)
    assert not due_after_quiet(database), "there is nothing left to do"
    assert database.engine.stats()["checkpoint_commit"] == 2


@pytest.mark.parametrize(("frozen", "allowed"), [(10, 20), (12, 18), (20, 10), (30, 10), (45, 10)])
def test_writers_wait_once_both_memtables_together_hold_three_times_the_bound(
    frozen: int, allowed: int
) -> None:
    """Writers used to wait in nearly every checkpoint, as soon as the active memtable was full."""
    database = Database(replace(SETTINGS, memtable_commits_max=10))
    for _ in range(frozen):
        put(database, b"v")
    assert database.engine.checkpoints.due
    assert database.engine.begin_checkpoint() is not None
    for _ in range(allowed):
        assert not database.engine.checkpoints.behind
        put(database, b"v")
    assert database.engine.checkpoints.behind


def test_a_memtable_is_freed_only_after_its_checkpoint_is_finished() -> None:
    database = Database(SETTINGS)
    put(database, b"1")
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    checkpoint.run()
    with pytest.raises(AssertionError, match="it was finished"):
        checkpoint.free()
    database.engine.finish_checkpoint(checkpoint)
    checkpoint.free()
    assert not checkpoint.frozen.chains


def test_checkpoints_in_quiet_times_are_an_interval_apart() -> None:
    database = Database(SETTINGS)
    put(database, b"1")
    assert due_after_quiet(database)
    database.checkpoint(tidy=True)
    put(database, b"2")
    assert not database.engine.checkpoints.due_in_quiet()
    database.now += QUIET_US
    assert not database.engine.checkpoints.due_in_quiet()
    database.now += QUIET_INTERVAL_US - QUIET_US
    assert database.engine.checkpoints.due_in_quiet()


def test_garbage_is_collected_without_further_writes() -> None:
    """Old versions used to stay until the next commit, which may never come."""
    database = Database(SETTINGS)
    for value in (b"1", b"2", b"3"):
        put(database, value)
    database.checkpoint()
    assert len(list(database.store.scan(Family.HISTORY, b""))) == 2
    assert not due_after_quiet(database), "the history window still has them"
    database.wait(WINDOW_US)
    assert due_after_quiet(database)
    database.checkpoint(tidy=True)
    assert list(database.store.scan(Family.HISTORY, b"")) == []
    assert not due_after_quiet(database)
    assert database.crash().engine.get(b"k") == b"3"


def test_a_clock_that_is_set_back_does_not_delay_the_checkpoint() -> None:
    database = Database(SETTINGS)
    put(database, b"1")
    assert due_after_quiet(database)
    database.checkpoint(tidy=True)
    put(database, b"2")
    database.now -= 10**9
    assert due_after_quiet(database)


def test_a_commit_waits_no_longer_than_a_minute_for_its_checkpoint() -> None:
    """At one commit a second, nothing left the disk until 24,000 commits filled the memtable."""
    database = Database(SETTINGS)
    schedule = database.engine.checkpoints
    waited_s = 0
    for number in range(130):
        put(database, bytes([number]))
        if schedule.due_in_time():
            assert waited_s >= SETTINGS.checkpoint_age_us_max // 1_000_000
            database.checkpoint()
            waited_s = 0
        database.now += 1_000_000
        waited_s += 1
    assert schedule.count == 2
    assert database.engine.stats()["checkpoint_commit"] == 122


def test_a_checkpoint_by_age_gives_room_back_under_a_trickle_of_commits() -> None:
    settings = replace(SETTINGS, history_window_us=5_000_000)
    database = Database(settings)
    for number in range(100):
        put(database, bytes([number]))
    database.checkpoint()
    assert len(list(database.store.scan(Family.HISTORY, b""))) == 99
    schedule = database.engine.checkpoints
    for number in range(70):
        database.execute(["put", b"other", bytes([number])])
        database.wait(1_000_000)
        if schedule.due_in_time():
            database.checkpoint()
    assert len(list(database.store.scan(Family.HISTORY, b""))) < 10


def test_a_clock_that_is_set_back_does_not_delay_a_checkpoint_by_age() -> None:
    database = Database(SETTINGS)
    put(database, b"1")
    assert not database.engine.checkpoints.due_in_time()
    database.now -= 10**12
    for _ in range(62):
        database.now += 1_000_000
        put(database, b"2")
        due = database.engine.checkpoints.due_in_time()
    assert due


def test_the_steps_of_a_checkpoint_wait_write_and_trim() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    steps = checkpoint_steps(database.engine)
    assert next(steps) == WaitDurable(database.engine.sequencer.sequence)
    write = next(steps)
    assert isinstance(write, Write)
    write.call()
    assert database.engine.checkpoints.running
    trim = next(steps)
    assert isinstance(trim, Trim)
    assert not database.engine.checkpoints.running, "readers use the files before the log is cut"
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value.applied.commit == 1
    assert [type(step) for step in checkpoint_steps(database.engine)] == [Trim]


def test_a_checkpoint_without_room_is_repeated_when_there_is_room() -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    steps = checkpoint_steps(database.engine)
    next(steps)
    for _ in range(3):
        assert isinstance(next(steps), Write)
        full = DiskFull("state", 4096)
        assert steps.throw(full) == WaitForRoom(full)
    write = next(steps)
    assert isinstance(write, Write)
    write.call()
    assert [type(step) for step in steps] == [Trim]
    assert database.engine.get(b"k") == b"v"


def test_recovery_abandons_a_checkpoint_without_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    full = DiskFull("state", 4096)

    def no_room(_: Checkpoint, *__: object) -> None:
        raise full

    monkeypatch.setattr(Checkpoint, "run", no_room)
    with pytest.raises(DiskFull) as raised:
        run_to_end(checkpoint_steps(database.engine))
    assert raised.value is full
