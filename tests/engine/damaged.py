"""A closed database with data of every kind, for tests that damage and check it."""

import random
from typing import Any

from headwater_server.engine.check.check import check
from headwater_server.engine.check.findings import Kind, Report
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.store.interface import Family, WriteBatch
from headwater_server.testing.memory_files import MemoryFileSystem
from tests.engine.database import Database

SETTINGS = EngineSettings(disk_reserve_size=0, history_window_us=30_000_000)
"""The commits take longer than this window, so there is garbage to collect."""

PADDING = b"." * 800
"""Makes events large enough that the write-ahead log is trimmed up to the last of them."""

CHECKPOINTS = 6
COMMITS_EACH = 20


def some_database(seed: int = 1, *, in_log: int = 5) -> Database:
    """Keys, streams, snapshots and event ids over several checkpoints, and *in_log* more
    commits that are in the write-ahead log only."""
    database = Database(SETTINGS, seed=seed)
    source = random.Random(seed)
    for number in range(CHECKPOINTS * COMMITS_EACH + in_log):
        database.now += 1_000_000
        database.execute(*_writes(database, source, number))
        if number % COMMITS_EACH == COMMITS_EACH - 1 and number < CHECKPOINTS * COMMITS_EACH:
            database.engine.status(database.new_id(), resolve=True)
            database.checkpoint()
    database.sync()
    return database


def _writes(database: Database, source: random.Random, number: int) -> list[list[Any]]:
    writes: list[list[Any]] = [["put", b"key%d" % source.randrange(20), source.randbytes(8)]]
    if source.random() < 0.3:
        writes.append(["delete", b"other%d" % source.randrange(5)])
    if source.random() < 0.8:
        stream = f"account-{source.randrange(4)}"
        events = [
            [
                source.randbytes(16) if source.random() < 0.3 else None,
                source.choice(["Opened", "Deposited"]),
                b"data %d" % number + PADDING,
                b"",
                ["branch:2", "branch:1", "teller:a"][: (number + place) % 4],
            ]
            for place in range(source.randint(1, 4))
        ]
        writes.append(["append", stream, -1, events])
        head = database.engine.reader(None).read_stream(stream, 0, 1, reverse=False)
        if head.version:
            writes.append(["save_snapshot", stream, "n", 1, head.version, b"state"])
    return writes


class Closed:
    """The files of a closed database."""

    def __init__(self, database: Database) -> None:
        database.engine.close()
        self.files = database.files
        self.store = database.store
        self.now = database.now

    def check(self) -> Report:
        before = contents(self.files)
        report = check(self.files, "data", open_store=lambda _: self.store)
        assert contents(self.files) == before, "a check changes nothing"
        return report

    def kinds(self) -> set[Kind]:
        return {finding.kind for finding in self.check().findings}

    def paths(self, part: str, suffix: str = "") -> list[str]:
        directory = f"data/{part}"
        names = self.files.list(directory)
        return [f"{directory}/{name}" for name in names if name.endswith(suffix)]

    def flip(self, path: str, offset: int) -> None:
        self.files.flip_bit(path, offset, 3)

    def overwrite(self, family: Family, key: bytes, value: bytes | None) -> None:
        """Change the state store directly."""
        batch = WriteBatch()
        if value is None:
            batch.delete(family, key)
        else:
            batch.put(family, key, value)
        self.store.write(batch)
        self.store.flush()

    def entries(self, family: Family, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return [
            (key, value) for key, value in self.store.scan(family, prefix) if key.startswith(prefix)
        ]


def contents(files: MemoryFileSystem) -> dict[str, bytes]:
    """The content of all log files. The lock file is left out: each check writes its pid."""
    found = {}
    for part in ("wal", "commits", "events"):
        for name in files.list(f"data/{part}"):
            path = f"data/{part}/{name}"
            found[path] = files.content(path)
    return found
