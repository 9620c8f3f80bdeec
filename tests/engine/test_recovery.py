"""Recovery: what a start restores, what that costs, and which directories it refuses."""

import random
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.errors import DamagedFile, DirectoryInUse
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.recovery import PROGRESS_RECORDS, open_engine
from headwater_server.engine.settings import SECOND_US
from headwater_server.storage.errors import NoRoomToStart
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import SEGMENT_SIZE, SETTINGS, START_US, Database, open_test_log


def opened(database: Database, **rest: Any) -> Database:
    """The directory of a database after a power loss, opened with other options."""
    return Database(files=database.files.crash(), store=database.store.crash(), **rest)


def append(stream: str, *events: tuple[str, bytes | None]) -> list[Any]:
    return ["append", stream, -1, [[identity, name, b"d", b"m"] for name, identity in events]]


def everything(database: Database) -> tuple[Any, ...]:
    """The results of all kinds of reads, at every readable commit."""
    engine = database.engine
    views = range(engine.oldest_readable, engine.published + 1)
    return (
        [engine.reader(view).scan(b"", None, 10_000, False).items for view in views],
        [engine.reader(view).read_all(0, EVERYTHING, 10_000, False).events for view in views],
        [engine.reader(view).load("account-a", "", 0) for view in views],
        engine.looking.read_commits(0, 10_000),
        engine.looking.read_snapshots(None, 100),
    )


def filled(database: Database, *, checkpoints: bool) -> Database:
    """Fill a database with writes of every kind; with checkpoints, some only in the files."""
    for place in range(30):
        database.now += 1000
        database.execute(
            ["put", b"k%d" % (place % 7), b"v%d" % place],
            ["delete", b"k%d" % (place % 5)],
            append("account-a", ("Changed", b"%016d" % place), ("Other", None)),
            append(f"account-{place}", ("Opened", None)),
            ["save_snapshot", "account-a", "", 0, 2 * place + 2, b"state"],
        )
        database.execute(["add", b"n", 1], ["delete_range", b"k5", b"k7"])
        if checkpoints and place % 9 == 4:
            database.checkpoint()
    database.engine.status(bytes(16), resolve=True)
    database.sync()
    return database


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_crash_or_a_clean_stop_changes_nothing(checkpoints: bool) -> None:
    database = filled(Database(), checkpoints=checkpoints)
    before = everything(database)
    for again in (database.crash(), database.crash().crash(), database.reopen()):
        assert everything(again) == before
        assert again.engine.status(bytes(16), resolve=False).state == "aborted"
        event = decode_event(again.engine.reader().read_stream("account-a", 4, 1, False).events[0])
        with pytest.raises(Exception, match="other content"):
            again.execute(["append", "account-a", -1, [[event.id, "New", b"", b""]]])
        # Commit numbers continue.
        assert again.execute(["put", b"k", b"v"])[0] == 61


def test_an_empty_directory_becomes_a_database_that_keeps_its_identity() -> None:
    database = Database()
    identity = database.engine.database_id
    assert len(identity) == 16
    assert database.engine.published == 0
    assert database.crash().engine.database_id == identity
    assert Database(seed=2).engine.database_id != identity


def test_a_directory_in_use_cannot_be_opened_again() -> None:
    database = Database()
    with pytest.raises(DirectoryInUse):
        Database(files=database.files, store=database.store)
    database.engine.close()
    Database(files=database.files, store=database.store)


def test_an_open_that_fails_releases_the_directory() -> None:
    database = filled(Database(), checkpoints=True)
    files, store = database.files.crash(), database.store.crash()
    (segment,) = [name for name in files.list("data/commits") if name.endswith(".commits")]
    files.flip_bit(f"data/commits/{segment}", 5)
    for _ in range(2):
        with pytest.raises(DamagedFile):
            Database(files=files, store=store)


def test_a_log_that_lost_durable_entries_is_not_replayed_past_the_gap() -> None:
    database = Database()
    for place in range(20):
        database.execute(["put", b"k%d" % place, bytes(SEGMENT_SIZE // 10)])
    database.checkpoint()
    database.execute(["put", b"k", b"v"])
    files = database.files.crash()
    # The store is lost, and the log no longer has the commits before the checkpoint.
    for _ in range(2):
        with pytest.raises(DamagedFile, match="missing"):
            Database(files=files, store=MemoryStore())
    assert Database(files=files, store=database.store.crash()).engine.published == 21


def test_a_replay_makes_checkpoints_and_reports_progress() -> None:
    database = filled(Database(), checkpoints=False)
    before = everything(database)
    settings = replace(SETTINGS, memtable_commits_max=7)
    again = opened(database, settings=settings)
    assert again.engine.stats()["checkpoints"] == 60 // 21
    assert again.engine.stats()["memtable_commits"] == 60 % 21
    assert everything(again)[0][-1] == before[0][-1]
    assert everything(again)[3] == before[3]
    reported: list[int] = []
    engine = open_engine(
        again.files.crash(),
        "data",
        open_store=lambda path: again.store.crash(),
        open_log=open_test_log,
        settings=settings,
        clock=lambda: START_US,
        source=random.Random(0),
        on_progress=reported.append,
    )
    assert engine.published == 60
    # The log is shorter than the interval of reports, so there is one report, at the end.
    assert len(reported) == 1
    assert 0 < reported[0] <= 61 < PROGRESS_RECORDS


def test_a_checkpoint_during_replay_keeps_the_rest_of_its_group() -> None:
    # Four commits were written as one entry. The replay made a checkpoint after the third and
    # trimmed the log, including that entry. The fourth commit, although acknowledged, was then
    # only in memory, and the next crash lost it.
    database = Database()
    value = bytes(SEGMENT_SIZE // 5)
    for place in range(4):
        database.engine.execute(
            database.new_id(),
            user=0,
            conditions=[],
            reads=None,
            writes=[["put", b"k%d" % place, value]],
        )
    database.sync()
    # This group begins the next segment, so the first one can be removed.
    database.execute(["put", b"other", value])
    database = opened(database, settings=replace(SETTINGS, memtable_commits_max=1))
    assert database.engine.stats()["checkpoints"] > 0
    for _ in range(2):
        assert database.engine.published == 5
        keys = database.engine.reader().scan(b"", None, 10, False).items[::2]
        assert keys == [b"k0", b"k1", b"k2", b"k3", b"other"]
        database = database.crash()


def test_a_replay_does_not_trim_entries_that_it_has_not_applied_yet() -> None:
    # Old ticks filled the memtable, although it had no commits. The checkpoint had nothing to
    # write, and trimmed the whole log, with later commits that were acknowledged.
    database = Database()
    database.execute(["put", b"k", b"v"])
    for _ in range(5):
        database.execute(["put", b"k", b"v"])
        database.wait(SECOND_US)
    database.checkpoint()
    values = {b"k%d" % place: bytes(SEGMENT_SIZE // 2) for place in range(4)}
    for key, value in values.items():
        database.execute(["put", key, value])
    database = opened(database, settings=replace(SETTINGS, memtable_size_max=100))
    assert database.engine.published == 10
    for _ in range(2):
        keys = database.engine.reader().scan(b"", None, 10, False).items[::2]
        assert keys == [b"k", *values]
        database = database.crash()


def test_a_transaction_larger_than_an_entry_is_restored_whole_or_not_at_all() -> None:
    database = Database()
    database.execute(["put", b"before", b""])
    running = database.begin()
    running.write([["put", b"k%d" % place, bytes(SEGMENT_SIZE // 2)] for place in range(8)])
    database.engine.commit(running.id, running.owner, [])
    group = database.engine.take_group()
    assert group is not None
    start = database.files.calls
    database.engine.make_durable(group)
    calls = database.files.calls - start
    assert database.crash().engine.published == 2
    assert calls > 8
    outcomes = set()
    for call in range(1, calls + 1):
        database = Database(seed=call)
        database.execute(["put", b"before", b""])
        running = database.begin()
        running.write([["put", b"k%d" % place, bytes(SEGMENT_SIZE // 2)] for place in range(8)])
        database.engine.commit(running.id, running.owner, [])
        database.files.faults.crash_at = database.files.calls + call
        with pytest.raises(Exception, match="power failed"):
            database.sync()
        database = database.crash()
        published = database.engine.published
        outcomes.add(published)
        keys = database.engine.reader().scan(b"", None, 100, False).items[::2]
        assert len(keys) == {1: 1, 2: 9}[published]
        assert database.execute(["put", b"after", b""])[0] == published + 1
    assert outcomes == {1, 2}


def test_files_of_another_database_are_refused() -> None:
    one = filled(Database(), checkpoints=True)
    other = filled(Database(seed=2), checkpoints=True)
    files = one.files.crash()
    for part in ("commits", "events", "wal"):
        foreign = other.files.crash()
        mixed = files.copy()
        for name in foreign.list(f"data/{part}"):
            mixed.put(f"data/{part}/{name}", foreign.content(f"data/{part}/{name}"))
        with pytest.raises(DamagedFile):
            Database(files=mixed, store=one.store.crash())


def test_a_start_on_a_full_disk_says_what_to_do_and_loses_nothing() -> None:
    # A replay that needs a checkpoint ended with a plain error of the file system.
    database = Database(replace(SETTINGS, memtable_commits_max=1000))
    for place in range(50):
        database.execute(["put", b"k%d" % place, bytes(100)], append("a", ("T", None)))
    files, store = database.files.crash(), database.store.crash()
    tight = replace(SETTINGS, memtable_commits_max=5)
    store.full = True
    with pytest.raises(NoRoomToStart, match="free at least 1048576 bytes and start again"):
        Database(tight, files=files, store=store)
    store = store.crash()
    files.faults.capacity = files.used + 100
    with pytest.raises(NoRoomToStart, match="nothing is lost"):
        Database(tight, files=files, store=store)
    files.faults.capacity = None
    opened = Database(tight, files=files, store=store.crash())
    assert opened.engine.published == 50
    assert opened.engine.stats()["checkpoints"] > 0


def test_the_cost_of_a_restart_does_not_grow_with_the_data() -> None:
    def calls(commits: int) -> int:
        database = Database(replace(SETTINGS, memtable_commits_max=20))
        for place in range(commits):
            database.execute(["put", b"k%d" % place, b"v"], append("a", ("T", None)))
            if database.engine.checkpoints.due:
                database.checkpoint()
        files: MemoryFileSystem = database.files.crash()
        Database(files=files, store=database.store.crash())
        return files.calls

    # The log is trimmed by whole segments. A segment has room for about 300 commits, so after
    # 300 commits the log is as long as it ever gets.
    assert calls(800) <= calls(300)
    assert calls(1600) <= calls(300)


def test_trimming_the_log_does_not_lose_the_time_of_the_log() -> None:
    # If only ticks were written since the last checkpoint, the log was trimmed without another
    # checkpoint. A restart then went back to an earlier time, and expired events reappeared.
    database = Database()
    database.execute(append("a", ("One", None)), ["set_retention", "a", None, 3600 * SECOND_US])
    database.checkpoint()
    for _ in range(2):
        database.wait(3600 * SECOND_US)
    time = database.engine.sequencer.published_time
    assert database.engine.reader().read_stream("a", 0, 10, False).events == []
    database.engine._log.roll()
    run_to_end(checkpoint_steps(database.engine))
    database.jump(-3600 * SECOND_US)
    database = database.crash()
    assert database.engine.sequencer.published_time == time
    assert database.engine.reader().read_stream("a", 0, 10, False).events == []


def test_a_replay_does_not_restore_a_forgotten_fence_of_a_committed_transaction() -> None:
    # A replay used to apply every fence in the log again, even if the files had a later commit of
    # the same transaction id.
    database = Database(replace(SETTINGS, transaction_retention_us=60 * SECOND_US))
    transaction = bytes(16)
    database.engine.status(transaction, resolve=True)
    database.wait(100 * SECOND_US)
    database.execute(["put", b"k", b"other"])
    database.checkpoint()
    committed = database.execute(["put", b"k", b"v"], transaction=transaction)
    database.checkpoint()
    database = database.crash()
    assert database.execute(["put", b"k", b"v"], transaction=transaction) == committed
