"""A directory with parts of different ages is refused, or nothing in any part is lost.

An operator can restore a part of a directory from a copy, or lose a part. If the event log and the
commit log were newer than the rest, the next checkpoint used to cut them silently.
"""

import itertools
import random
from functools import partial

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.check.check import check
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.repair.repair import perform
from headwater_server.storage.errors import DiskFull
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.damaged import SETTINGS, contents, some_database
from tests.engine.database import Database, all_events, open_test_log

PARTS = ("wal", "state", "events", "commits")
MOMENTS = ("empty", "old", "new")


class Moment:
    """The files of a directory at a moment, and its commits and events."""

    def __init__(self, database: Database, *, seed: int) -> None:
        self.now = database.now
        self.commits = database.engine.published
        self.events = database.engine.published_position
        self.files = contents(database.files.copy())
        self.format = database.files.content("data/FORMAT")
        self._store = database.store.crash(random.Random(seed))

    def store(self) -> MemoryStore:
        return self._store.crash(random.Random(0))


def moments(seed: int, in_log: int) -> dict[str, Moment]:
    """Snapshots of a directory: before its first commit, and twice later, as after a kill."""
    found: dict[str, Moment] = {}
    found["empty"] = Moment(Database(SETTINGS, seed=seed), seed=seed)
    database = some_database(seed, in_log=in_log)
    found["old"] = Moment(database, seed=seed)
    for number in range(60):
        database.now += 1_000_000
        stream = f"account-{number % 4}"
        events = [[None, "Later", b"later" + b"." * 800, b""]] * 3
        database.execute(["append", stream, -1, events], ["put", b"later%d" % number, b"v"])
        if number % 20 == 19 - in_log:
            database.checkpoint()
    found["new"] = Moment(database, seed=seed)
    return found


def combined(
    found: dict[str, Moment], choice: dict[str, str]
) -> tuple[MemoryFileSystem, MemoryStore]:
    """A directory whose parts are from the given moments. An empty part has no files."""
    files = MemoryFileSystem(1)
    for part in ("", *PARTS):
        files.make_directory(f"data/{part}".rstrip("/"))
        files.sync_directory(f"data/{part}".rstrip("/"))
    files.put("data/FORMAT", found["new"].format)
    for part, moment in choice.items():
        for path, content in found[moment].files.items():
            if path.startswith(f"data/{part}/") and moment != "empty":
                files.put(path, content)
    store = MemoryStore() if choice["state"] == "empty" else found[choice["state"]].store()
    return files, store


def kept(files: MemoryFileSystem) -> dict[str, bytes]:
    """The bytes of the event log and the commit log."""
    every = contents(files)
    return {path: data for path, data in every.items() if path.endswith((".events", ".commits"))}


def _given(store: MemoryStore, _path: str) -> MemoryStore:
    return store


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("in_log", [0, 5])
@pytest.mark.parametrize("wal", MOMENTS)
def test_parts_of_different_moments_are_refused_or_nothing_is_lost(
    seed: int, in_log: int, wal: str
) -> None:
    found = moments(seed, in_log)
    for others in itertools.product(MOMENTS, repeat=3):
        choice = dict(zip(PARTS, (wal, *others), strict=True))
        newest = found[max(choice.values(), key=MOMENTS.index)]
        files, store = combined(found, choice)
        report = check(files.copy(), "data", open_store=partial(_given, store))
        before = kept(files)
        try:
            opened = Database(SETTINGS, files=files, store=store, now=1_800_000_000_000_000)
        except DamagedFile:
            assert not report.is_clean, f"{choice}: refused, and check finds nothing"
            assert kept(files) == before, f"{choice}: a refused start cuts nothing"
            continue
        assert report.is_clean, f"{choice}: accepted, and check says {report.findings[0]}"
        assert opened.engine.published == newest.commits, choice
        events = all_events(opened.engine.reader(), 0, EVERYTHING)
        assert len(events) == newest.events, choice
        opened.checkpoint()
        assert len(all_events(opened.crash().engine.reader(), 0, EVERYTHING)) == newest.events


def test_a_repair_keeps_copies_of_newer_parts() -> None:
    found = moments(1, 5)
    choice = {"wal": "old", "state": "old", "events": "new", "commits": "new"}
    files, store = combined(found, choice)
    before = kept(files)
    outcome = perform(
        files,
        "data",
        open_store=lambda _: store,
        open_store_to_check=lambda _: store,
        repair_store=None,
        open_log=open_test_log,
        now=found["new"].now,
    )
    assert outcome.report.is_clean, outcome.report.findings
    assert [each for each in outcome.done if "copies kept" in each] == outcome.done
    left = {files.content(path) for path in [*outcome.copies, *kept(files)]}
    assert set(before.values()) <= left
    opened = Database(SETTINGS, files=files, store=store, now=found["new"].now)
    assert opened.engine.published == found["old"].commits
    opened.execute(["put", b"k", b"v"])
    opened.checkpoint()
    assert opened.crash().engine.get(b"k") == b"v"


def test_events_that_are_still_in_the_write_ahead_log_are_accepted() -> None:
    # A crash after the event log was written, and before the state store was: the rest of the
    # checkpoint comes again from the write-ahead log, although a replay makes checkpoints itself.
    database = some_database(3, in_log=40)
    checkpoint = database.engine.begin_checkpoint()
    assert checkpoint is not None
    database.store.full = True
    with pytest.raises(DiskFull):
        checkpoint.run()
    last = database.engine.published_position
    again = database.crash()
    assert again.engine.published_position == last
