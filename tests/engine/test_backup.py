"""A backup has exactly the commits up to one commit. After any failure it is complete or absent."""

import errno
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from headwater_protocol.errors import BackupFailed, InvalidArgument, ShuttingDown
from headwater_server.engine.backup import Backup, check_name, write_backup
from headwater_server.engine.check.check import check
from headwater_server.engine.check.findings import Report
from headwater_server.engine.check.recorded import check_recorded
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.restore import restore
from headwater_server.storage.files.copying import remove_tree
from headwater_server.storage.files.directory import PARTS
from headwater_server.storage.wal.offline import begin_files
from headwater_server.testing.memory_files import Call, Crash, MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import SETTINGS, Database, all_events, open_test_log

# A few commits fill several segments of this size, so some are sealed.
SMALL = replace(SETTINGS, event_segment_size=8192)
EVENT = b"e" * 1000


def add(database: Database, count: int) -> None:
    """Make commits of a key and an event each. The sum of ann and bob stays 0."""
    for _ in range(count):
        number = database.engine.published
        database.execute(
            ["put", b"k%d" % (number % 7), b"%d" % number],
            ["add", b"ann", 1],
            ["add", b"bob", -1],
            ["append", f"account-{number % 3}", -1, [[None, "Moved", EVENT, b""]]],
        )


def filled(*, seed: int = 1) -> Database:
    database = Database(SMALL, seed=seed)
    database.files.make_directory("backups")
    database.files.sync_directory("")
    add(database, 20)
    database.checkpoint()
    add(database, 5)
    return database


def stage_and_write(
    database: Database, name: str = "monday", between: Callable[[], None] = lambda: None
) -> Backup:
    database.checkpoint()
    staged = database.engine.stage_backup()
    between()
    return write_backup(staged, "backups", name, begin_log=begin_files)


def picture(engine: Engine) -> tuple[list[bytes], list[bytes]]:
    reader = engine.reader()
    return reader.scan(b"", None, 10_000, False).items, all_events(reader, 0, EVERYTHING)


def store_of(database: Database) -> MemoryStore:
    """The state store of the backup that was staged last."""
    return database.store.checkpoints["data/backup.tmp/state"].crash(random.Random(1))


def opened(files: MemoryFileSystem, path: str, store: MemoryStore) -> Engine:
    return open_engine(
        files,
        path,
        open_store=lambda _: store,
        open_log=open_test_log,
        settings=SMALL,
        clock=lambda: 1_800_000_000_000_000,
        source=random.Random(2),
    )


def check_backup(
    files: MemoryFileSystem, store: MemoryStore, wanted: tuple[list[bytes], list[bytes]]
) -> None:
    """Check that a backup is sound, has the wanted content, and takes further commits."""
    report = check(files, "backups/monday", open_store=lambda _: store)
    assert report.is_clean, [str(finding) for finding in report.findings]
    engine = opened(files, "backups/monday", store)
    assert picture(engine) == wanted
    before = engine.published
    ticket, _ = engine.execute(
        b"after the backup", user=0, conditions=[], reads=None, writes=[["put", b"new", b"1"]]
    )
    group = engine.take_group()
    assert group is not None
    engine.make_durable(group)
    engine.publish(group)
    assert ticket.payload[0] == before + 1
    engine.close()


def test_a_backup_is_a_data_directory_with_everything_that_was_committed() -> None:
    database = filled()
    wanted = picture(database.engine)
    made = stage_and_write(database)
    assert made.commit == database.engine.published
    assert made.position == database.engine.published_position
    files = database.files
    sizes = [
        len(files.content(f"backups/monday/{part}/{name}"))
        for part in PARTS
        for name in files.list(f"backups/monday/{part}")
    ]
    assert made.size == sum(sizes) + len(files.content("backups/monday/FORMAT"))
    assert "backup.tmp" not in files.list("data")
    assert files.list("backups") == ["monday"]
    check_backup(files, store_of(database), wanted)


def test_commits_during_a_backup_are_not_in_it_and_do_not_harm_it() -> None:
    database = filled()
    wanted = picture(database.engine)

    def change_everything() -> None:
        add(database, 12)
        database.execute(["set_retention", "account-1", 1, None], ["erase", "account-2", [1, 2]])
        database.now += 10**12
        add(database, 3)
        # Rewrite sealed segments, append to the last ones, and trim the log.
        database.rewrite()
        assert database.engine.rewriting.given_back > 0

    made = stage_and_write(database, between=change_everything)
    assert made.commit < database.engine.published
    check_backup(database.files, store_of(database), wanted)


def test_a_server_on_a_backup_completes_unfinished_erasures() -> None:
    database = filled()
    secret = b"a secret" * 10
    append = ["append", "person-1", -1, [[None, "Moved", secret, b""]]]
    database.execute(append)
    database.checkpoint()
    database.execute(["erase", "person-1", [1]])
    stage_and_write(database)
    assert files_with(database.files, "backups/monday/events", secret)
    store = store_of(database)
    engine = opened(database.files, "backups/monday", store)
    assert not [event for event in picture(engine)[1] if secret in event]
    for _ in range(10):
        rewrite = engine.rewriting.begin()
        if rewrite is None:
            break
        rewrite.run()
        engine.rewriting.finish(rewrite)
        if engine.rewriting.wants_roll:
            engine.seal_log()
            assert engine.begin_checkpoint() is None
            engine.trim_log()
    assert not engine.rewriting.erasing
    for part in ("events", "wal"):
        assert not files_with(database.files, f"backups/monday/{part}", secret)
    engine.close()


def files_with(files: MemoryFileSystem, directory: str, data: bytes) -> list[str]:
    return [name for name in files.list(directory) if data in files.content(f"{directory}/{name}")]


def test_an_empty_database_can_be_backed_up() -> None:
    database = Database(SMALL)
    database.files.make_directory("backups")
    made = stage_and_write(database)
    assert (made.commit, made.position) == (0, 0)
    check_backup(database.files, store_of(database), ([], []))


def test_a_server_on_a_backup_can_make_backups() -> None:
    database = filled()
    wanted = picture(database.engine)
    stage_and_write(database)
    store = store_of(database)
    engine = opened(database.files, "backups/monday", store)
    assert engine.begin_checkpoint() is None
    write_backup(engine.stage_backup(), "backups", "tuesday", begin_log=begin_files)
    engine.close()
    engine = opened(
        database.files, "backups/tuesday", store.checkpoints["backups/monday/backup.tmp/state"]
    )
    assert picture(engine) == wanted
    engine.close()


def test_sealed_files_are_linked_and_growing_files_are_copied() -> None:
    database = filled()
    linked: list[str] = []

    def note(call: Call) -> None:
        if call.operation == "hard_link" and call.path.startswith("backups"):
            linked.append(call.path.rpartition("/")[2])

    database.files.faults.before = note
    stage_and_write(database)
    last = max(database.files.list("data/events"))
    assert len([name for name in linked if name.endswith(".events")]) > 2
    assert last not in linked
    assert not [name for name in linked if name.endswith(".commits")]


def test_without_links_everything_is_copied() -> None:
    database = filled()
    wanted = picture(database.engine)

    def refuse(call: Call) -> None:
        if call.operation == "hard_link":
            raise OSError(errno.EXDEV, "two disks", call.path)

    database.files.faults.before = refuse
    stage_and_write(database)
    database.files.faults.before = None
    check_backup(database.files, store_of(database), wanted)


def test_a_backup_after_a_crash_contains_commits_that_were_only_in_the_log() -> None:
    database = filled().crash()
    database.files.make_directory("backups")
    wanted = picture(database.engine)
    made = stage_and_write(database)
    assert made.commit == 25
    check_backup(database.files, store_of(database), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_power_loss_the_backup_is_complete_or_absent(seed: int) -> None:
    print(f"seed {seed}")
    database = filled(seed=seed)
    wanted = picture(database.engine)
    database.checkpoint()
    twin = database.files.copy()
    before = database.files.calls
    stage_and_write(database)
    calls = database.files.calls - before
    assert calls > 100
    whole = crashes = 0
    for call in range(1, calls + 1):
        # Each seed takes every third call, and the three seeds together take all.
        if call % 3 != seed:
            continue
        files = twin.copy()
        store = database.store.crash()
        engine = opened(files, "data", store)
        files.faults.crash_at = files.calls + call
        with suppress(Crash):
            write_backup(engine.stage_backup(), "backups", "monday", begin_log=begin_files)
        # Removing a directory that is not empty fails before the simulated power loss.
        crashes += files.crashed
        found = files.crash()
        names = [name for name in found.list("backups") if not name.startswith(".")]
        if names:
            assert names == ["monday"]
            made = store.checkpoints["data/backup.tmp/state"]
            check_backup(found, made, wanted)
            whole += 1
        source = opened(found, "data", store.crash())
        assert picture(source) == wanted
        assert "backup.tmp" not in found.list("data")
        if not names:
            # The files of an unfinished backup do not prevent another one.
            write_backup(source.stage_backup(), "backups", "monday", begin_log=begin_files)
            assert found.list("backups") == ["monday"]
        source.close()
    assert whole, "the last calls leave a backup"
    assert crashes > calls // 3 - 5


@pytest.mark.parametrize("seed", range(2))
def test_a_backup_with_a_failed_call_leaves_no_files_and_the_database_continues(seed: int) -> None:
    database = filled()
    wanted = picture(database.engine)
    database.checkpoint()
    before = database.files.calls
    stage_and_write(database, "first")
    calls = database.files.calls - before
    failed = 0
    for call in range(1 + seed, calls + 1, 2):
        database.files.faults.error_at = database.files.calls + call
        name = f"backup-{call}"
        try:
            stage_and_write(database, name)
        except BackupFailed:
            failed += 1
            assert name not in database.files.list("backups")
        else:
            # Only the removal of unneeded files failed.
            remove_tree(database.files, f"backups/{name}")
    database.files.faults.error_at = None
    assert failed > calls // 3
    assert picture(database.engine) == wanted
    stage_and_write(database, "third")
    assert "backup.tmp" not in database.files.list("data")
    assert "third" in database.files.list("backups")


def test_a_full_disk_is_reported_and_the_unfinished_backup_is_removed() -> None:
    database = filled()
    database.checkpoint()
    database.files.faults.capacity = database.files.used + 60_000
    with pytest.raises(BackupFailed, match="backups/monday could not be made"):
        stage_and_write(database)
    assert database.files.list("backups") == []
    assert "backup.tmp" not in database.files.list("data")
    database.files.faults.capacity = None
    stage_and_write(database)
    assert database.files.list("backups") == ["monday"]


def test_an_aborted_backup_leaves_nothing() -> None:
    database = filled()
    database.checkpoint()
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise ShuttingDown("going down")

    with pytest.raises(ShuttingDown):
        write_backup(
            database.engine.stage_backup(), "backups", "monday", look=look, begin_log=begin_files
        )
    assert database.files.list("backups") == []
    assert "backup.tmp" not in database.files.list("data")


def test_a_name_that_is_taken_or_a_directory_that_is_missing_is_refused() -> None:
    database = filled()
    stage_and_write(database)
    with pytest.raises(BackupFailed, match="already"):
        stage_and_write(database)
    assert database.files.list("backups") == ["monday"]
    with pytest.raises(BackupFailed, match="nowhere is missing"):
        write_backup(database.engine.stage_backup(), "nowhere", "monday", begin_log=begin_files)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "ä", "a\n", "x" * 101])
def test_a_name_that_is_not_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        check_name(name)
    for good in ("monday", "2026-11-23T06.00", "_a", "-", "x" * 100):
        check_name(good)


def restored(files: MemoryFileSystem, store: MemoryStore, target: str = "new") -> int:
    return restore(files, "backups/monday", target, open_store=lambda _: store).commit


@pytest.mark.parametrize("change", ["flipped", "longer", "missing"])
def test_a_check_compares_a_backup_with_its_digests(change: str) -> None:
    database = filled()
    files = database.files

    def refuse(call: Call) -> None:
        if call.operation == "hard_link":
            raise OSError(errno.EXDEV, "two disks", call.path)

    files.faults.before = refuse
    stage_and_write(database)
    files.faults.before = None
    name = next(name for name in files.list("backups/monday/commits"))
    path = f"backups/monday/commits/{name}"
    file = files.open(path)
    # Preallocated or unused bytes of a file are compared, too.
    if change == "flipped":
        at = file.size() - 1
        file.write_at(at, bytes([file.read_at(at, 1)[0] ^ 1]))
    elif change == "longer":
        file.write_at(file.size(), b"x")
    else:
        files.remove(path)
    report = Report()
    check_recorded(files, "backups/monday", report)
    (finding,) = report.findings
    assert (finding.file, finding.offset) == (path, None)


def test_the_digests_of_a_backup_are_not_compared_after_a_server_ran_on_it() -> None:
    database = filled()
    stage_and_write(database)
    report = Report()
    check_recorded(database.files, "backups/monday", report)
    assert not report.findings
    assert not report.notes
    database.files.create("backups/monday/LOCK").close()
    check_recorded(database.files, "backups/monday", report)
    assert not report.findings
    assert "a server has run" in report.notes[0]


def test_a_restored_directory_is_a_full_copy_that_shares_no_files_with_the_backup() -> None:
    database = filled()
    wanted = picture(database.engine)
    made = stage_and_write(database)
    store = store_of(database)
    files = database.files
    links: list[str] = []
    files.faults.before = lambda call: (
        links.append(call.path) if call.operation == "hard_link" else None
    )
    assert restored(files, store) == made.commit
    assert not links
    # The result is durable: it survives a power loss right after.
    engine = opened(files.crash(), "new", store.crash())
    assert picture(engine) == wanted
    engine.close()


def test_a_target_that_is_not_empty_or_has_no_parent_is_refused() -> None:
    database = filled()
    stage_and_write(database)
    with pytest.raises(InvalidArgument, match="not empty"):
        restored(database.files, store_of(database), "data")
    with pytest.raises(InvalidArgument, match="nowhere is missing"):
        restored(database.files, store_of(database), "nowhere/new")
    with pytest.raises(InvalidArgument, match="no data directory"):
        restore(database.files, "backups/x", "new", open_store=lambda _: MemoryStore())
    with pytest.raises(InvalidArgument, match="is not a directory"):
        restored(database.files, store_of(database), "data/FORMAT")
    assert "new" not in database.files.list("")


def test_a_restore_that_finds_the_disk_full_leaves_the_target_as_it_was() -> None:
    database = filled()
    stage_and_write(database)
    files = database.files
    files.make_directory("empty")
    used = files.used
    files.faults.capacity = used + 30_000
    for target in ("new", "empty"):
        with pytest.raises(OSError, match="no room"):
            restored(files, store_of(database), target)
    assert files.used <= used + 10
    assert "new" not in files.list("")
    assert files.list("empty") == []
