"""A backup on another disk writes only what the last one lacks, and is complete all the same."""

import errno
import random

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.backup import write_backup
from headwater_server.engine.backup_record import RECORD_NAME, BackupRecord, read_record
from headwater_server.engine.check.check import check
from headwater_server.storage.wal.offline import begin_files
from headwater_server.testing.memory_files import Call, MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import Database
from tests.engine.test_backup import SMALL, add, opened, picture


class TwoDisks(MemoryFileSystem):
    """The backups are on another disk than the data: no link leads from one to the other.

    Attributes:
        pruned: every backup that is linked from was removed a moment before.
    """

    pruned = False

    def hard_link(self, path: str, new: str) -> None:
        if path.split("/")[0] != new.split("/")[0]:
            raise OSError(errno.EXDEV, "another disk", new)
        if self.pruned and path.startswith("backups/"):
            raise FileNotFoundError(errno.ENOENT, "it was removed", path)
        super().hard_link(path, new)


def made(database: Database, name: str, now: int = 0) -> BackupRecord:
    database.checkpoint()
    staged = database.engine.stage_backup()
    write_backup(staged, "backups", name, begin_log=begin_files, now=now)
    record = read_record(database.files, f"backups/{name}")
    assert record is not None
    return record


def filled() -> Database:
    database = Database(SMALL, files=TwoDisks(random.Random(1)))
    database.files.make_directory("backups")
    database.files.sync_directory("")
    add(database, 40)
    return database


def store_of(database: Database) -> MemoryStore:
    return database.store.checkpoints["data/backup.tmp/state"].crash(random.Random(1))


def content(database: Database, path: str) -> dict[str, bytes]:
    files = database.files
    return {
        f"{part}/{name}": files.open(f"{path}/{part}/{name}").read_at(0, 10**7)
        for part in ("events", "commits")
        for name in files.list(f"{path}/{part}")
    }


def test_the_second_backup_writes_only_new_files_and_both_are_sound() -> None:
    database = filled()
    first = made(database, "one", now=1)
    assert first.copied >= 0.9 * sum(
        each.size for name, each in first.files.items() if not name.startswith("wal")
    )
    before = content(database, "backups/one")
    add(database, 5)
    wanted = picture(database.engine)
    second = made(database, "two", now=2)
    assert second.size > first.size - 10
    assert second.copied < first.copied / 2
    assert content(database, "backups/one") == before
    store = store_of(database)
    report = check(database.files, "backups/two", open_store=lambda _: store)
    assert report.is_clean
    engine = opened(database.files.crash(), "backups/two", store)
    assert picture(engine) == wanted


def test_a_file_of_the_same_name_and_size_with_other_bytes_is_copied() -> None:
    database = filled()
    record = made(database, "one", now=1)
    name, size = next(
        (name, each.size) for name, each in record.files.items() if each.digest is not None
    )
    # The live file is replaced, as a rewrite does: same name, same size, other bytes.
    path = f"data/{name}"
    old = database.files.open(path).read_at(0, size)
    database.files.remove(path)
    file = database.files.create(path)
    file.write_at(0, old[:-1] + bytes([old[-1] ^ 1]))
    made(database, "two", now=2)
    assert database.files.open(f"backups/two/{name}").read_at(0, size) == old[:-1] + bytes(
        [old[-1] ^ 1]
    )
    assert database.files.open(f"backups/one/{name}").read_at(0, size) == old


def test_a_backup_on_which_a_server_ran_or_whose_record_is_damaged_is_not_linked_from() -> None:
    database = filled()
    full = made(database, "one", now=1).copied
    database.files.create("backups/one/LOCK").close()
    assert made(database, "two", now=2).copied >= full
    record = database.files.open(f"backups/two/{RECORD_NAME}")
    record.write_at(5, b"X")
    assert made(database, "three", now=3).copied >= full
    assert made(database, "four", now=4).copied < full / 2
    with pytest.raises(DamagedFile, match=RECORD_NAME):
        read_record(database.files, "backups/two")


def test_without_hard_links_every_backup_is_a_full_copy() -> None:
    database = filled()

    def no_links(call: Call) -> None:
        if call.operation == "hard_link":
            raise OSError(errno.EPERM, "no links here", call.path)

    database.files.faults.before = no_links
    full = made(database, "one", now=1).copied
    assert made(database, "two", now=2).copied >= full


def test_a_base_that_is_removed_meanwhile_is_copied_instead() -> None:
    database = filled()
    full = made(database, "one", now=1).copied

    assert isinstance(database.files, TwoDisks)
    database.files.pruned = True
    assert made(database, "two", now=2).copied >= full
