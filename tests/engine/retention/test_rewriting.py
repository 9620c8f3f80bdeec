"""Rewriting segments frees their space, keeps all other data, and restores nothing erased."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from headwater_server.engine.check.check import check as check_directory
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.engine.repair.state import StateRepair
from headwater_server.storage.store.interface import Family
from headwater_server.testing.memory_files import Crash, MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import OWNER, SETTINGS, Database, all_events
from tests.engine.retention.test_rules import contents, stream_versions

SMALL = replace(
    SETTINGS, event_segment_size=4096 + 1500, history_window_us=1_000_000, rewrite_dead_share=0.1
)
SECRET = b"the data that must go"
STATE = b"a state with the data in it"


def append(stream: str, count: int = 1, data: bytes = SECRET) -> list[Any]:
    return ["append", stream, -1, [[None, "T", data, b""]] * count]


def write_events(database: Database) -> None:
    """Twelve events of one stream among twenty-four of others, in several segments."""
    for number in range(12):
        database.execute(append("a-1"), append(f"b-{number}", 2, b"other"))
        database.now += 1000
    database.checkpoint()


def every_byte(files: MemoryFileSystem, directory: str = "data") -> Iterator[bytes]:
    """The content of all files."""
    for name in files.list(directory):
        path = f"{directory}/{name}"
        try:
            file = files.open(path)
        except OSError:
            yield from every_byte(files, path)
            continue
        yield file.read_at(0, file.size())
        file.close()


def is_on_disk(database: Database, secret: bytes) -> bool:
    stored = (entry for family in Family for _, entry in database.store.scan(family, b""))
    return any(secret in data for data in (*every_byte(database.files), *stored))


def check_sound(database: Database) -> None:
    """Check that `headwater check` finds nothing."""
    files, store = database.files.crash(), database.store.crash(database.random)
    report = check_directory(files, "data", open_store=lambda _: store)
    assert [str(finding) for finding in report.findings] == []


def test_the_space_of_unreadable_events_is_freed() -> None:
    database = Database(SMALL)
    write_events(database)
    database.execute(["truncate", "a-1", 11])
    before = database.engine.published - 1
    database.rewrite()
    # The events are still readable in the history window.
    assert database.engine.rewriting.removed == 0
    assert stream_versions(database.engine.reader(before)) == [*range(1, 13)]
    database.wait(10_000_000)
    database.rewrite()
    assert database.engine.rewriting.removed == 10
    assert database.engine.rewriting.given_back > 10 * len(SECRET)
    assert database.engine.oldest_readable > before
    for _ in range(2):
        assert stream_versions(database.engine.reader()) == [11, 12]
        reader = database.engine.reader()
        assert len(all_events(reader, 0, EVERYTHING)) == 26
        assert len(all_events(reader, 0, EVERYTHING, reverse=True)) == 26
        assert reader.read_all(0, EVERYTHING, 100, False).position == 36
        check_sound(database)
        database = database.crash()
    # There is nothing left to do.
    names = database.files.list("data/events")
    database.rewrite()
    assert database.engine.rewriting.removed == 0
    assert database.files.list("data/events") == names


def test_an_open_transaction_keeps_what_it_can_read() -> None:
    database = Database(SMALL)
    write_events(database)
    opened = database.begin()
    database.execute(["delete_stream", "a-1"])
    database.wait(10_000_000)
    database.rewrite()
    assert stream_versions(opened) == [*range(1, 13)]
    database.engine.rollback(opened.id, opened.owner)
    database.rewrite()
    assert database.engine.rewriting.removed == 12
    database.execute(append("a-1"))
    assert stream_versions(database.engine.reader()) == [13]
    assert database.engine.reader().list_streams("a", None, 9).streams == [
        ("a-1", 13, 13, None, None, 13)
    ]
    check_sound(database)


def test_old_events_are_removed_without_any_commit() -> None:
    database = Database(SMALL)
    write_events(database)
    database.execute(["set_retention", "a-1", None, 60_000_000])
    database.wait(70_000_000)
    database.rewrite()
    assert database.engine.rewriting.removed == 12
    assert stream_versions(database.engine.reader()) == []
    check_sound(database)


def test_events_that_grow_old_after_a_view_began_stay_until_it_ends() -> None:
    # A rewrite measured age at the commit after the oldest view, or at the newest time of the log.
    # So it removed events that an open transaction had already read.
    database = Database(SMALL)
    database.execute(["set_retention", "a-1", None, 5_000_000])
    write_events(database)
    opened = database.begin()
    before = stream_versions(opened)
    assert before == [*range(1, 13)]
    database.wait(10_000_000)
    database.execute(append("b-1"))
    database.wait(10_000_000)
    database.rewrite()
    assert database.engine.rewriting.removed == 0
    assert stream_versions(opened) == before
    database.engine.rollback(opened.id, OWNER)
    database.rewrite()
    assert database.engine.rewriting.removed > 0
    assert stream_versions(database.engine.reader()) == []
    check_sound(database)


def test_a_long_run_of_removed_events_is_skipped_page_by_page() -> None:
    database = Database(replace(SMALL, examined_events_max=5))
    write_events(database)
    database.execute(*(["delete_stream", f"b-{number}"] for number in range(12)))
    database.wait(10_000_000)
    database.rewrite()
    reader = database.engine.reader()
    assert len(all_events(reader, 0, EVERYTHING)) == 12
    position = 0
    while position < 36:
        page = database.engine.events_page(position, EVERYTHING, 1000)
        assert page.position > position
        position = page.position
    assert position == 36


def test_erased_data_is_nowhere_on_disk() -> None:
    database = Database(SMALL)
    write_events(database)
    database.execute(["save_snapshot", "a-1", "", 0, 12, STATE])
    database.execute(["erase", "a-1", [*range(1, 13)]])
    assert database.engine.rewriting.begin() is not None
    assert is_on_disk(database, SECRET)
    database.rewrite()
    for _ in range(2):
        assert contents(database.engine.reader()) == [None] * 12
        assert not is_on_disk(database, SECRET)
        assert not is_on_disk(database, STATE)
        check_sound(database)
        database = database.crash()
    assert not database.engine.rewriting.erasing
    assert not list(database.store.scan(Family.LATEST, b"\xf1", b"\xf2"))
    database.execute(["erase", "a-1", [1, 12]])
    assert not database.engine.rewriting.erasing


def test_erasing_a_removed_event_removes_its_snapshots() -> None:
    # The event was already removed by a rewrite, so erasing it did nothing. Its data stayed in
    # the snapshot. Before the rewrite, the same erasure would have removed the snapshot.
    database = Database(SMALL)
    write_events(database)
    database.execute(["save_snapshot", "a-1", "", 0, 11, STATE])
    database.execute(["truncate", "a-1", 12])
    database.wait(10_000_000)
    database.rewrite()
    assert database.engine.rewriting.removed
    before = database.engine.published
    assert database.engine.reader().load("a-1", "", 0).snapshot == (11, STATE)
    database.execute(["erase", "a-1", [3]])
    for at in (None, before):
        assert database.engine.reader(at).load("a-1", "", 0).snapshot is None
    assert database.engine.looking.read_snapshots(None, 10) == ([], None)


def test_a_rewrite_keeps_older_snapshots_that_an_erasure_left() -> None:
    # The history of a snapshot was emptied from the lowest version on that was ever erased, also
    # versions that an erasure had left because they do not hold its data.
    database = Database(replace(SMALL, history_window_us=3_600_000_000))
    write_events(database)
    database.execute(["erase", "a-1", [2]])
    made = database.engine.published
    database.execute(["save_snapshot", "a-1", "", 0, 5, b"of the rest", made])
    database.execute(["save_snapshot", "a-1", "", 0, 8, STATE, made])
    database.execute(["erase", "a-1", [7]])
    erased = database.engine.published
    database.execute(["save_snapshot", "a-1", "", 0, 5, b"anew", erased])
    database.rewrite()
    for _ in range(2):
        assert database.engine.reader(erased).load("a-1", "", 0).snapshot == (5, b"of the rest")
        assert database.engine.reader().load("a-1", "", 0).snapshot == (5, b"anew")
        assert not is_on_disk(database, STATE)
        check_sound(database)
        database = database.crash()


def test_an_event_that_was_hidden_and_erased_is_removed() -> None:
    database = Database(SMALL)
    write_events(database)
    database.execute(["erase", "a-1", [2, 5]])
    database.execute(["truncate", "a-1", 4])
    database.rewrite()
    database.wait(10_000_000)
    database.rewrite()
    assert contents(database.engine.reader())[:3] == [SECRET, None, SECRET]
    check_sound(database)


@pytest.mark.slow
def test_a_crash_at_any_call_loses_nothing_and_restores_nothing_erased() -> None:
    def begun(files: MemoryFileSystem, store: MemoryStore) -> Database:
        database = Database(SMALL, files=files, store=store)
        write_events(database)
        database.execute(["truncate", "a-1", 9])
        database.wait(10_000_000)
        database.execute(["erase", "a-1", [10, 12]], ["put", b"k", b"v"])
        return database

    def check(database: Database, where: str) -> None:
        reader = database.engine.reader()
        assert contents(reader) == [SECRET, None, SECRET, None], where
        assert reader.get(b"k") == b"v", where
        events = [decode_event(e) for e in all_events(reader, 0, EVERYTHING)]
        others = [event.data for event in events if event.stream != "a-1"]
        assert others == [b"other"] * 24, where

    files = MemoryFileSystem(1)
    database = begun(files, MemoryStore())
    before = files.calls
    database.rewrite()
    calls = files.calls - before
    assert calls > 40
    for call in range(1, calls + 1):
        where = f"call {call}"
        files = MemoryFileSystem(call)
        database = begun(files, MemoryStore(random.Random(call)))
        files.faults.crash_at = files.calls + call
        with contextlib.suppress(Crash):
            database.rewrite()
        database = database.crash()
        check(database, where)
        check_sound(database)
        database.rewrite()
        check(database, where)
        assert database.engine.reader().load("a-1", "", 0).version == 12
        data = b"".join(every_byte(database.files))
        assert data.count(SECRET) == 2, where
        check_sound(database)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_reads_agree_with_a_model_whatever_is_hidden_erased_and_rewritten(seed: int) -> None:
    print(f"seed {seed}")
    source = random.Random(seed)
    database = Database(SMALL, seed=seed)
    streams: dict[str, list[bytes | None]] = {f"s-{n}": [] for n in range(5)}
    first = dict.fromkeys(streams, 1)
    keep = dict.fromkeys(streams, 0)
    for step in range(150):
        database.now += 100_000
        name = source.choice(sorted(streams))
        stored = streams[name]
        match source.randrange(8):
            case 0 if stored:
                before = source.randrange(1, len(stored) + 2)
                database.execute(["truncate", name, before])
                first[name] = max(first[name], before)
            case 1 if stored:
                chosen = source.sample(range(1, len(stored) + 1), min(3, len(stored)))
                database.execute(["erase", name, chosen])
                for version in chosen:
                    stored[version - 1] = None
            case 2 if source.random() < 0.4 and stored:
                database.execute(["delete_stream", name])
                first[name], keep[name] = len(stored) + 1, 0
            case 3:
                keep[name] = source.randrange(0, 6)
                database.execute(["set_retention", name, keep[name] or None, None])
            case _:
                data = [source.randbytes(source.randrange(1, 120)) for _ in range(3)]
                database.execute(*(append(name, 1, each) for each in data))
                stored += data
        if keep[name]:
            first[name] = max(first[name], len(stored) - keep[name] + 1)
        if step % 15 == 14:
            database.rewrite()
            check_sound(database)
        if step % 25 == 24:
            database = database.crash()
        if step % 5 != 4:
            continue
        for name, stored in streams.items():
            assert contents(database.engine.reader(), name) == stored[first[name] - 1 :], step


def test_a_rebuilt_index_counts_removed_events() -> None:
    database = Database(SMALL)
    write_events(database)
    database.execute(["truncate", "a-1", 9], ["delete_stream", "b-3"], ["delete_stream", "b-11"])
    database.wait(10_000_000)
    database.rewrite()
    assert database.engine.rewriting.removed == 12
    before = all_events(database.engine.reader(), 0, EVERYTHING)
    repair = StateRepair(database.engine._state.files)
    assert repair.rebuild_index() == 24
    check_sound(database)
    reader = database.engine.reader()
    assert all_events(reader, 0, EVERYTHING) == before
    assert stream_versions(reader) == [9, 10, 11, 12]
    database.execute(append("b-3"), append("b-11"), append("a-1"))
    assert stream_versions(database.engine.reader(), "b-3") == [3]
    assert stream_versions(database.engine.reader(), "b-11") == [3]
    assert stream_versions(database.engine.reader()) == [9, 10, 11, 12, 13]
