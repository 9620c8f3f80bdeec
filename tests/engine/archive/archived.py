"""A database with an archive in memory, and the picture that each commit must give when restored.

archived = Archived(seed=1)
archived.work(20)                     # random commits; each is noted
archived.archive()                    # copies the log, as the server does every few seconds
archived.check_restored(commit=7)     # restores, and compares with what was noted
"""

import random
from dataclasses import replace
from typing import Any

from headwater_server.engine.archive.archiver import Archiver, Begun
from headwater_server.engine.backup import write_backup
from headwater_server.engine.check.check import check
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.restore_moment import Moment, Opening, Restored, restore_moment
from headwater_server.storage.wal.offline import begin_files
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import SETTINGS, Database, all_events, open_test_log

SMALL = replace(SETTINGS, event_segment_size=8192)
PIECE_SIZE = 6_000
PARTS_MAX = 5
NOW = 1_800_000_000_000_000
Picture = tuple[list[Any], list[bytes]]


def picture(engine: Engine) -> Picture:
    reader = engine.reader()
    return reader.scan(b"", None, 10_000, False).items, all_events(reader, 0, EVERYTHING)


class Archived:
    """A database whose log is archived.

    Attributes:
        pictures: what the database looked like at each commit.
        times: the time of each commit.
        begun: the timelines that were begun.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        database: Database | None = None,
        pictures: dict[int, Picture] | None = None,
        times: dict[int, int] | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.database = database or Database(SMALL, seed=seed)
        self.pictures = {0: ([], [])} if pictures is None else pictures
        self.times = {} if times is None else times
        self.begun: list[Begun] = []
        self.stores: dict[str, MemoryStore] = {}
        for name in ("archive", "backups"):
            self.files.make_directory(name)
        self.files.sync_directory("")
        self.archiver = self.new_archiver()

    @property
    def files(self) -> MemoryFileSystem:
        return self.database.files

    def new_archiver(self) -> Archiver:
        made = self.database.engine.archived
        # As the server does at its start.
        self.database.engine.checkpoints.readers.note("archive", made.before_first)
        return Archiver(
            self.files,
            "archive",
            log=made.log,
            newest=made,
            database_id=made.database_id,
            created=made.created,
            owner=made.source.randbytes(16),
            piece_size=PIECE_SIZE,
            parts_max=PARTS_MAX,
            begun=self.begun.append,
        )

    # What a server does.

    def work(self, count: int, *, archive_every: int | None = None) -> None:
        """Make random commits, and note each."""
        for number in range(1, count + 1):
            self.database.now += self.random.choice([0, 1, 700_000, 2_000_000])
            self._commit()
            self.note()
            if archive_every is not None and number % archive_every == 0:
                self.archive()

    def note(self) -> None:
        """Note what the database looks like at its newest commit."""
        engine = self.database.engine
        commit = engine.published
        self.pictures[commit] = picture(engine)
        self.times[commit] = engine.looking.read_commits(commit - 1, 1)[0][2]

    def _commit(self) -> None:
        draw = self.random
        stream = f"account-{draw.randrange(4)}"
        writes: list[list[Any]] = [
            ["put", b"k%d" % draw.randrange(12), draw.randbytes(draw.choice([1, 40, 900]))],
            ["add", b"sum", draw.randrange(100)],
        ]
        kind = draw.randrange(8)
        if kind < 5:
            event = [None, "Moved", draw.randbytes(draw.choice([10, 500])), b""]
            writes.append(["append", stream, -1, [event] * draw.randrange(1, 4)])
        elif kind == 5:
            writes.append(["delete_range", b"k1", b"k2"])
        elif kind == 6:
            # A fence, which is a record without a commit.
            self.database.engine.status(self.database.new_id(), resolve=True)
        self.database.execute(*writes)

    def archive(self) -> None:
        """Copy the log, and let it be trimmed as far as it was copied."""
        self.archiver.archive()
        self.database.engine.checkpoints.readers.note("archive", self.archiver.archived)

    def backup(self, name: str) -> int:
        """Make a backup, and return its commit."""
        self.database.checkpoint()
        staged = self.database.engine.stage_backup()
        made = write_backup(staged, "backups", name, begin_log=begin_files)
        taken = self.database.store.checkpoints["data/backup.tmp/state"]
        self.stores[f"backups/{name}/state"] = taken.crash(random.Random(1))
        return made.commit

    def crash(self) -> None:
        """Lose the power, and start again."""
        self.archiver.close()
        self.database = self.database.crash()
        self.archiver = self.new_archiver()

    # Restoring.

    def opening(self, store: MemoryStore) -> Opening:
        def open_store(path: str) -> MemoryStore:
            return store

        def open_store_to_read(path: str) -> MemoryStore:
            return self.stores[path].crash(random.Random(1))

        return Opening(
            open_store=open_store,
            open_store_to_read=open_store_to_read,
            open_log=open_test_log,
            begin_log=begin_files,
            settings=SMALL,
            clock=lambda: NOW,
            source=random.Random(7),
        )

    def restore(
        self, *, backup: str | None = None, target: str = "new", **moment: Any
    ) -> tuple[Restored, MemoryStore]:
        """Restore to a moment, and return the store of the restored database."""
        store = MemoryStore()
        if backup is not None:
            store = self.stores[f"{backup}/state"].crash(random.Random(2))
        restored = restore_moment(
            self.files,
            target,
            archive="archive",
            backup=backup,
            moment=Moment(**moment),
            opening=self.opening(store),
        )
        return restored, store

    def check_restored(
        self, *, backup: str | None = None, expected: int | None = None, **moment: Any
    ) -> Restored:
        """Restore to a moment: sound files, and exactly what the database was at that commit."""
        target = f"new-{self.files.calls}"
        restored, store = self.restore(backup=backup, target=target, **moment)
        if expected is not None:
            assert restored.commit == expected
        if "commit" in moment:
            assert restored.commit == moment["commit"]
        report = check(self.files, target, open_store=lambda _: store.crash(random.Random(3)))
        assert report.is_clean, [str(finding) for finding in report.findings]
        engine = self.open_restored(target, store)
        assert engine.published == restored.commit
        assert picture(engine) == self.pictures[restored.commit]
        engine.close()
        return restored

    def open_restored(self, target: str, store: MemoryStore) -> Engine:
        return open_engine(
            self.files,
            target,
            open_store=lambda _: store,
            open_log=open_test_log,
            settings=SMALL,
            clock=lambda: NOW,
            source=random.Random(9),
        )
