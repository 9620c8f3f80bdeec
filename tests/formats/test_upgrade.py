"""A directory of format 3 is upgraded to format 4 in place, even if power fails at any call."""

import contextlib
import json
import random
from functools import partial
from pathlib import Path

import msgpack
import pytest

from headwater_protocol.errors import FormatTooNew, TransactionForgotten
from headwater_server.engine.check.check import check
from headwater_server.engine.check.findings import Kind
from headwater_server.engine.format.index_keys import META_FORGOTTEN, parse_number
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.repair.repair import perform
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.errors import DiskFull, NoRoomToStart
from headwater_server.storage.files.directory import FORMAT
from headwater_server.storage.store.interface import Family
from headwater_server.storage.wal.interface import records
from headwater_server.storage.wal.offline import read_files
from headwater_server.testing.memory_files import Call, Crash, MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import Database, open_test_log
from tests.formats.unpacking import FIXTURES, load_files, load_store, name_of, unpack

CENTURY_US = 3_155_760_000_000_000
SETTINGS = EngineSettings(
    disk_reserve_size=0, history_window_us=CENTURY_US, transaction_retention_us=CENTURY_US
)
NOW = 1_900_000_000_000_000
OLD = [fixture for fixture in FIXTURES if fixture.parent.name == "3"]


def opened(files: MemoryFileSystem, store: MemoryStore) -> Database:
    return Database(SETTINGS, seed=3, files=files, store=store, now=NOW)


def format_of(files: MemoryFileSystem) -> int:
    found: int = json.loads(files.content("data/FORMAT"))["format"]
    return found


def versions_in_the_log(files: MemoryFileSystem, identity: bytes) -> set[int]:
    """The versions of the records in the log; 0 stands for records of format 3."""
    found = set()
    for _, encoded in records(read_files(files, "data/wal", database_id=identity)):
        members = msgpack.unpackb(encoded, use_list=False)
        found.add(0 if len(members) in (4, 8) else members[0])
    return found


@pytest.mark.parametrize("fixture", OLD, ids=name_of)
def test_a_start_upgrades_and_a_check_does_not(fixture: Path, tmp_path: Path) -> None:
    data = unpack(fixture, tmp_path)
    files, store = load_files(data), load_store(data)
    assert check(files, "data", open_store=lambda _: store).is_clean
    assert format_of(files) == 3
    database = opened(files, store)
    assert format_of(files) == FORMAT
    published = database.engine.published
    identity = database.engine.database_id
    database.execute(["put", b"k", b"v"])
    assert 1 in versions_in_the_log(files, identity)
    # The log now has records of both formats. A replay reads both.
    again = database.crash()
    assert again.engine.published == published + 1
    assert again.engine.get(b"k") == b"v"


@pytest.mark.parametrize("fixture", OLD, ids=name_of)
def test_power_may_fail_at_any_call_of_an_upgrade(fixture: Path, tmp_path: Path) -> None:
    data = unpack(fixture, tmp_path)
    files, old_store = load_files(data), load_store(data)
    before = files.calls
    whole = opened(files, old_store.crash())
    whole.execute(["put", b"k", b"v"])
    calls = files.calls
    published = whole.engine.published
    identity = whole.engine.database_id
    left = set()
    for call in range(before + 1, calls + 1):
        files, store = load_files(data, seed=call), old_store.crash()
        files.faults.crash_at = call
        with contextlib.suppress(Crash):
            opened(files, store).execute(["put", b"k", b"v"])
        found = files.crash()
        store = store.crash(random.Random(call))
        left.add(format_of(found))
        if format_of(found) == 3:
            # The older version could still open this directory.
            assert versions_in_the_log(found, identity) <= {0}
        database = opened(found, store)
        assert published - 1 <= database.engine.published <= published
        assert format_of(found) == FORMAT
    assert left == {3, FORMAT}


@pytest.mark.parametrize("fixture", OLD, ids=name_of)
def test_an_id_that_the_older_version_forgot_cannot_commit_after_the_upgrade(
    fixture: Path, tmp_path: Path
) -> None:
    data = unpack(fixture, tmp_path)
    files, store = load_files(data), load_store(data)
    database = opened(files, store)
    last_forgotten = parse_number(store.get(Family.INDEX, META_FORGOTTEN))
    assert last_forgotten > 10
    oldest = database.engine.looking.read_commits(last_forgotten, 1)[0]
    # This id was made a second before the oldest known commit.
    forgotten = new_transaction_id(oldest[2] - 1_000_000, random.Random(1))
    with pytest.raises(TransactionForgotten):
        database.execute(["put", b"k", b"v"], transaction=forgotten)
    assert database.engine.status(forgotten, resolve=True).state == "forgotten"
    # Ids that were not forgotten are still known.
    assert database.engine.status(oldest[1], resolve=False).state == "committed"


def test_damage_to_the_record_of_the_last_forgotten_commit_is_found_and_repaired(
    tmp_path: Path,
) -> None:
    data = unpack(next(each for each in OLD if name_of(each) == "3-stopped"), tmp_path)
    files, store = load_files(data), load_store(data)
    last_forgotten = parse_number(store.get(Family.INDEX, META_FORGOTTEN))
    (name,) = files.list("data/commits")
    files.flip_bit(f"data/commits/{name}", 64 * (last_forgotten + 1) + 33, 3)
    report = check(files, "data", open_store=lambda _: store)
    assert report.has(Kind.COMMIT)
    outcome = perform(
        files,
        "data",
        open_store=lambda _: store,
        open_store_to_check=lambda _: store,
        repair_store=None,
        open_log=open_test_log,
    )
    assert outcome.report.is_clean
    assert opened(files, store).engine.published > last_forgotten


def same(store: MemoryStore, _: str) -> MemoryStore:
    return store


def test_an_upgrade_is_reported_before_it_is_done(tmp_path: Path) -> None:
    data = unpack(OLD[0], tmp_path)
    files, store = load_files(data), load_store(data)
    told = []
    for _ in range(2):
        store = store.crash()
        engine = open_engine(
            files,
            "data",
            open_store=partial(same, store),
            open_log=open_test_log,
            settings=SETTINGS,
            clock=lambda: NOW,
            source=random.Random(1),
            on_upgrade=lambda old, new: told.append((old, new, format_of(files))),
        )
        engine.close()
    assert told == [(3, FORMAT, 3)]


def test_a_full_disk_leaves_the_old_format_and_says_so(tmp_path: Path) -> None:
    data = unpack(next(each for each in OLD if name_of(each) == "3-stopped"), tmp_path)
    files, store = load_files(data), load_store(data)

    def full(call: Call) -> None:
        if call.path == "data/FORMAT.tmp" and call.operation == "write":
            raise DiskFull("data", 100)

    files.faults.before = full
    with pytest.raises(NoRoomToStart):
        opened(files, store)
    assert format_of(files) == 3
    files.faults.before = None
    opened(files, store.crash())
    assert format_of(files) == FORMAT


def newer(commit: int, position: int, **parts: object) -> list[object]:
    """A commit record with members of a later version."""
    record: list[object] = [1, 1, commit, bytes(16), 0, 0, [], position, [], [], None]
    for place, part in parts.items():
        record[int(place[1:])] = part
    return record


@pytest.mark.parametrize("change", [{"_0": 2}, {"_1": 9}, {"_10": [1, [0, 10**15]]}])
def test_a_record_of_a_later_version_is_refused_at_start_and_never_skipped(
    change: dict[str, object],
) -> None:
    database = Database()
    database.execute(["put", b"k", b"v"])
    engine = database.engine
    record = newer(engine.published + 1, engine.published_position + 1, **change)
    engine._log.submit([msgpack.packb(record)])
    with pytest.raises(FormatTooNew):
        database.reopen()
