"""Power losses and disk errors at every call to the file system, of a workload and of recovery.

The workload is fixed: keys, streams, snapshots, a fence, commits during checkpoints, and segments
of the log that are created and removed. Whichever call fails, recovery must find the state after
some prefix of the commits, and that prefix must contain every acknowledged commit.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest

from headwater_server.engine.checkpoint.schedule import Checkpoint
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.settings import SECOND_US
from headwater_server.storage.errors import DiskFull
from headwater_server.testing.memory_files import Crash, MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import SEGMENT_SIZE, SETTINGS, Database, all_events

HISTORY = replace(SETTINGS, history_window_us=10 * SECOND_US, garbage_entries_max=8)
FENCED = b"fenced for good!"
SYNC_EVERY = 3
COMMITS = 24
LARGE = SEGMENT_SIZE // 5


class Picture(NamedTuple):
    """The results of all kinds of reads at a commit."""

    keys: list[bytes]
    events: list[bytes]
    loaded: Any
    other: Any


def picture(engine: Engine, commit: int | None = None) -> Picture:
    reader = engine.reader(commit)
    return Picture(
        reader.scan(b"", None, 10_000, False).items,
        all_events(reader, 0, EVERYTHING),
        reader.load("account-a", "", 0),
        reader.read_stream("account-b", 0, 100, True),
    )


def writes_of(place: int) -> list[list[Any]]:
    """The writes of the workload's commit *place*."""
    writes: list[list[Any]] = [
        ["put", b"k%d" % (place % 5), b"%d" % place * (LARGE if place % 3 == 1 else 1)],
        ["delete", b"k%d" % ((place + 2) % 5)],
        ["add", b"n", 1],
        ["append", "account-a", -1, [[None, "Changed", b"%d" % place, b""]]],
    ]
    if place % 2:
        event = [b"%016d" % place, "Opened", b"", b""]
        writes.append(["append", f"account-{'b' if place % 4 == 1 else place}", -1, [event]])
    if place % 5 == 4:
        writes.append(["delete_range", b"k3", b"k9"])
        writes.append(["save_snapshot", "account-a", "", 0, place, b"%d" % place])
    return writes


def identity(place: int) -> bytes:
    """The transaction's id, which is the same in every run."""
    return b"transaction %04d" % place


@dataclass
class Progress:
    """How far a run came, recorded outside of the disk."""

    acknowledged: int = 0
    fenced: bool = False
    checkpoint: Checkpoint | None = None
    transactions: list[bytes] = field(default_factory=list)


def workload(database: Database, progress: Progress) -> None:
    """Commits in groups, with checkpoints. Each checkpoint ends some commits after it began."""
    engine = database.engine
    for place in range(COMMITS):
        database.now += SECOND_US
        transaction = identity(place)
        progress.transactions.append(transaction)
        engine.execute(transaction, user=0, conditions=[], reads=None, writes=writes_of(place))
        if place % SYNC_EVERY == SYNC_EVERY - 1:
            database.sync()
            progress.acknowledged = place + 1
            engine.prepare_log()
        if place == 7:
            engine.status(FENCED, resolve=True)
        elif place == 9:
            progress.fenced = True
        if place % 7 == 3:
            progress.checkpoint = engine.begin_checkpoint()
        elif place % 7 == 6:
            assert progress.checkpoint is not None
            progress.checkpoint.run()
            engine.finish_checkpoint(progress.checkpoint)
            engine.trim_log()
    engine.seal_log()


def check(database: Database, pictures: list[Picture], progress: Progress) -> None:
    """Check that a prefix with all acknowledged commits was recovered and takes further commits."""
    engine = database.engine
    recovered = engine.published
    assert progress.acknowledged <= recovered <= len(progress.transactions)
    # Not every commit, because each picture reads the whole database.
    for commit in {engine.oldest_readable, *range(recovered, engine.oldest_readable, -3)}:
        assert picture(engine, commit) == pictures[commit], f"at commit {commit} of {recovered}"
    for place, transaction in enumerate(progress.transactions, 1):
        state = engine.status(transaction, resolve=False).state
        assert state == ("committed" if place <= recovered else "open"), f"transaction {place}"
    if progress.fenced:
        assert engine.status(FENCED, resolve=False).state == "aborted"
    assert [record[0] for record in engine.looking.read_commits(0, 100)] == list(
        range(1, recovered + 1)
    )


def check_continues(database: Database) -> None:
    """Check that the database takes another commit and checkpoint, and keeps them in a crash."""
    before = database.engine.published
    database.execute(["put", b"after", b"1"], ["append", "after", 0, [[None, "T", b"", b""]]])
    database.checkpoint()
    database = database.crash()
    assert database.engine.published == before + 1
    assert database.engine.reader().get(b"after") == b"1"


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """The picture after each commit of the workload, from a run without faults."""
    database = Database(replace(HISTORY, history_window_us=10**15))
    workload(database, Progress())
    return [picture(database.engine, commit) for commit in range(COMMITS + 1)]


def calls_of(run: Callable[[MemoryFileSystem], object]) -> int:
    files = MemoryFileSystem(random.Random(0))
    run(files)
    return files.calls


def run_with(files: MemoryFileSystem, store: MemoryStore, progress: Progress) -> None:
    workload(Database(HISTORY, files=files, store=store), progress)


def interrupted(call: int, seed: int) -> tuple[MemoryFileSystem, MemoryStore, Progress]:
    """Run the workload with a power loss in one call; return the disk and the progress."""
    files = MemoryFileSystem(random.Random(seed))
    store = MemoryStore(random.Random(seed))
    files.faults.crash_at = call
    progress = Progress()
    with pytest.raises(Crash):
        run_with(files, store, progress)
    return files.crash(), store.crash(), progress


def test_the_workload_crosses_segments_and_checkpoints(pictures: list[Picture]) -> None:
    files = MemoryFileSystem(random.Random(0))
    database = Database(HISTORY, files=files)
    progress = Progress()
    workload(database, progress)
    assert progress.acknowledged == COMMITS
    assert database.engine.stats()["checkpoints"] == 3
    assert database.engine.oldest_readable > 0
    # The log has removed segments, and more than one is left.
    names = [name for name in files.list("data/wal") if name.endswith(".wal")]
    assert min(names) > min(Database().files.list("data/wal"))
    assert len(names) > 1
    assert len(set(map(str, pictures))) == COMMITS + 1
    check(database, pictures, progress)


@pytest.mark.slow
def test_a_crash_at_each_call_recovers_to_a_prefix_with_all_that_was_acknowledged(
    pictures: list[Picture],
) -> None:
    calls = calls_of(lambda files: run_with(files, MemoryStore(), Progress()))
    outcomes = set()
    for call in range(1, calls + 1):
        for seed in range(2):
            print(f"crash at call {call} of {calls}, seed {seed}")
            files, store, progress = interrupted(call, seed)
            database = Database(HISTORY, files=files, store=store, seed=seed)
            check(database, pictures, progress)
            outcomes.add((database.engine.published, progress.acknowledged))
            if seed == 0:
                check_continues(database)
    # The crashes must cover every group, and the time between a sync and its answer.
    assert {acknowledged for _, acknowledged in outcomes} == set(range(0, COMMITS + 1, SYNC_EVERY))
    assert any(recovered > acknowledged for recovered, acknowledged in outcomes)


@pytest.mark.slow
def test_a_crash_at_each_call_of_recovery_loses_nothing(pictures: list[Picture]) -> None:
    calls = calls_of(lambda files: run_with(files, MemoryStore(), Progress()))
    source = random.Random(1)
    for call in sorted(source.sample(range(1, calls + 1), 8)):
        files, store, progress = interrupted(call, call)
        whole = files.copy()
        settings = replace(HISTORY, memtable_commits_max=4)
        again = Database(settings, files=whole, store=store.crash())
        recovered, recovery_calls = again.engine.published, whole.calls
        for second in range(1, recovery_calls + 1):
            print(f"crash at call {call}, then at call {second} of {recovery_calls} of recovery")
            disk = files.copy()
            disk.faults.crash_at = second
            found = store.crash(random.Random(second))
            with pytest.raises(Crash):
                Database(settings, files=disk, store=found)
            database = Database(settings, files=disk.crash(), store=found.crash())
            check(database, pictures, progress)
            # A recovery may already have been read from, so its commits must stay.
            assert database.engine.published == recovered


def test_a_disk_error_at_each_call_loses_nothing_that_was_acknowledged(
    pictures: list[Picture],
) -> None:
    calls = calls_of(lambda files: run_with(files, MemoryStore(), Progress()))
    for call in range(1, calls + 1):
        print(f"disk error at call {call} of {calls}")
        files = MemoryFileSystem(random.Random(call))
        store = MemoryStore(random.Random(call))
        files.faults.error_at = call
        progress = Progress()
        try:
            run_with(files, store, progress)
        except OSError:
            # The process ends; the disk keeps what the operating system has.
            pass
        database = Database(HISTORY, files=files.crash(), store=store.crash())
        check(database, pictures, progress)


def test_a_failed_sync_ends_the_group_and_is_never_retried(
    pictures: list[Picture],
) -> None:
    for seed in range(20):
        files = MemoryFileSystem(random.Random(seed))
        database = Database(HISTORY, files=files)
        progress = Progress()
        for place in range(4):
            database.now += SECOND_US
            progress.transactions.append(identity(place))
            database.execute(*writes_of(place), transaction=progress.transactions[-1])
        progress.acknowledged = 4
        progress.transactions.append(identity(4))
        database.now += SECOND_US
        database.engine.execute(
            progress.transactions[-1], user=0, conditions=[], reads=None, writes=writes_of(4)
        )
        files.faults.sync_error_in = "wal"
        group = database.engine.take_group()
        assert group is not None
        with pytest.raises(OSError, match="sync failed"):
            database.engine.make_durable(group)
        files.faults.sync_error_in = None
        # The kernel would report success now, and might have dropped the pages.
        with pytest.raises(Exception, match="failed before"):
            database.engine.make_durable(group)
        assert database.engine.published == 4
        check(
            Database(HISTORY, files=files.crash(), store=database.store.crash()), pictures, progress
        )


def test_a_full_disk_stops_commits_and_checkpoints_and_loses_nothing(
    pictures: list[Picture],
) -> None:
    files = MemoryFileSystem(random.Random(1))
    database = Database(replace(HISTORY, disk_reserve_size=0), files=files)
    progress = Progress()
    for place in range(4):
        database.now += SECOND_US
        progress.transactions.append(identity(place))
        database.execute(*writes_of(place), transaction=progress.transactions[-1])
    progress.acknowledged = 4
    database.engine.prepare_log()
    database.sync()
    files.faults.capacity = files.used
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    with pytest.raises(DiskFull):
        checkpoint.run()
    assert picture(database.engine) == pictures[4]
    database.store.full = True
    files.faults.capacity = None
    with pytest.raises(DiskFull):
        checkpoint.run()
    database.store.full = False
    checkpoint.start_over()
    checkpoint.run()
    database.engine.finish_checkpoint(checkpoint)
    database.engine.trim_log()
    assert picture(database.engine) == pictures[4]
    check(database.crash(), pictures, progress)
