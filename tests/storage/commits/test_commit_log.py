"""The commit log: records at computed places, crashes at any call, and detected damage."""

import contextlib
import random
import struct
import zlib

import pytest

from headwater_protocol.errors import DamagedFile, FormatTooNew, HistoryGone, NoSuchCommit
from headwater_protocol.numbers import CommitNumber
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.commits.commit_records import RECORD_SIZE, CommitRecord, pack_records
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import make_durable_directory
from headwater_server.testing.memory_files import Crash, MemoryFileSystem

IDENTITY = bytes(range(16))
RECORDS = 8
"""Records of a segment in these tests."""


def record(commit: int) -> CommitRecord:
    """The expected record of a commit; three commits share each time."""
    return CommitRecord(
        commit,
        transaction=commit.to_bytes(16, "big"),
        time=1_000 * (commit // 3),
        user=commit % 2,
        first_position=commit * 2,
        event_count=2,
    )


def records(first: int, last: int) -> list[CommitRecord]:
    return [record(commit) for commit in range(first, last + 1)]


def open_log(disk: MemoryFileSystem, last: int, *, writable: bool = True) -> CommitLog:
    make_durable_directory(disk, "c")
    return CommitLog.open(
        disk,
        "c",
        CommitNumber(last),
        database_id=IDENTITY,
        records=RECORDS,
        writable=writable,
    )


def written(last: int) -> MemoryFileSystem:
    """A disk with a log of commits up to *last*, durable and closed."""
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    log.append(records(1, last))
    log.sync()
    log.close()
    return disk


def path_of(commit: int) -> str:
    return f"c/{commit:020d}.commits"


@pytest.mark.parametrize("with_events", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_records_are_packed_consecutively(count: int, with_events: bool) -> None:
    source = random.Random(count)
    position = source.getrandbits(63)
    given = [
        CommitRecord(
            source.getrandbits(63),
            source.randbytes(16),
            source.getrandbits(63),
            source.getrandbits(40) if with_events else 0,
            source.getrandbits(63) if with_events else position,
            source.getrandbits(32) if with_events else 0,
        )
        for _ in range(count)
    ]
    expected = b""
    for commit, transaction, time, user, first_position, event_count in given:
        fields = struct.pack(
            ">16sQQQQI8x", transaction, commit, time, user, first_position, event_count
        )
        expected += fields + zlib.crc32(fields).to_bytes(4, "big")
    assert pack_records(given) == expected


def test_a_record_is_read_back_as_it_was_appended() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    assert (log.first_commit, log.last_commit, log.size) == (1, 0, 0)
    log.append(records(1, 3))
    log.append([])
    log.append(records(4, 30))
    log.sync()
    for commit in range(1, 31):
        assert log.read(CommitNumber(commit)) == record(commit)
    assert (log.first_commit, log.last_commit) == (1, 30)
    assert log.size == RECORD_SIZE * (30 + 4)
    assert disk.list("c") == [f"{first:020d}.commits" for first in (1, 9, 17, 25)]
    log.close()
    log.close()


@pytest.mark.parametrize(("first", "count"), [(1, 30), (5, 4), (8, 1), (8, 2), (9, 8), (29, 9)])
def test_a_range_goes_over_files_and_ends_with_the_log(first: int, count: int) -> None:
    log = open_log(written(30), 30)
    expected = records(first, min(30, first + count - 1))
    assert log.read_range(CommitNumber(first), count) == expected


def test_a_record_is_where_the_format_says() -> None:
    disk = written(12)
    data = disk.open(path_of(9)).read_at(RECORD_SIZE * (12 - 9 + 1), RECORD_SIZE)
    assert data[:16] == record(12).transaction
    assert int.from_bytes(data[16:24], "big") == 12
    assert int.from_bytes(data[24:32], "big") == record(12).time
    header = disk.open(path_of(9)).read_at(0, RECORD_SIZE)
    assert header[:8] == b"HWCOMMIT"
    assert header[24:40] == IDENTITY


def test_commits_are_dense() -> None:
    log = open_log(written(3), 3)
    for wrong in ([record(5)], [record(3)], [record(4), record(6)]):
        with pytest.raises(AssertionError, match="dense"):
            log.append(wrong)


def test_trimmed_and_future_commits_have_different_errors() -> None:
    log = open_log(written(20), 20)
    log.trim(CommitNumber(12))
    with pytest.raises(HistoryGone) as caught:
        log.read(CommitNumber(8))
    assert caught.value.details["oldest"] == 9
    with pytest.raises(NoSuchCommit):
        log.read(CommitNumber(21))
    with pytest.raises(HistoryGone):
        log.read_range(CommitNumber(0), 5)


def test_the_commit_at_a_time_is_the_newest_not_after_it() -> None:
    log = open_log(written(30), 30)
    for time in range(0, 12_000, 250):
        expected = max((r.commit for r in records(1, 30) if r.time <= time), default=0)
        assert log.at_time(time) == expected
    assert log.at_time(-1) == 0
    log.trim(CommitNumber(17))
    assert log.at_time(1_000) == 16, "the commit before the oldest one in the log"
    assert log.at_time(7_000) == 23
    assert open_log(MemoryFileSystem(1), 0).at_time(5) == 0


def test_trimming_removes_whole_files_below_and_never_the_last() -> None:
    disk = written(30)
    log = open_log(disk, 30)
    assert log.trim(CommitNumber(8)) == 0
    assert log.trim(CommitNumber(9)) == 1
    assert log.first_commit == 9
    assert log.trim(CommitNumber(1000)) == 2
    assert log.first_commit == 25
    assert disk.list("c") == [f"{25:020d}.commits"]
    log.append(records(31, 40))
    log.sync()
    again = open_log(disk, 40)
    assert again.read_range(CommitNumber(25), 99) == records(25, 40)


def test_opening_cuts_nothing_and_the_first_append_cuts_the_rest() -> None:
    disk = written(30)
    log = open_log(disk, 12)
    assert log.last_commit == 12
    with pytest.raises(NoSuchCommit):
        log.read(CommitNumber(13))
    log.close()
    assert open_log(disk, 30).read(CommitNumber(30)) == record(30)
    log = open_log(disk, 12)
    log.append(records(13, 14))
    log.sync()
    assert len(disk.list("c")) == 2
    with pytest.raises(DamagedFile):
        open_log(disk, 15)


@pytest.mark.parametrize("last", [0, 8, 16])
def test_a_cut_may_fall_between_two_files(last: int) -> None:
    disk = written(30)
    log = open_log(disk, last)
    log.append(records(last + 1, last + 3))
    log.sync()
    again = open_log(disk, last + 3)
    assert again.read_range(CommitNumber(1), 99) == records(1, last + 3)


def test_a_missing_or_short_file_is_reported_at_open() -> None:
    for missing in (9, 17, 25):
        disk = written(30)
        disk.remove(path_of(missing))
        with pytest.raises(DamagedFile) as caught:
            open_log(disk, 30)
        assert caught.value.details["file"] == path_of(missing)
    for short in (9, 25):
        disk = written(30)
        file = disk.open(path_of(short))
        file.truncate(file.size() - 1)
        with pytest.raises(DamagedFile) as caught:
            open_log(disk, 30)
        assert caught.value.details == {"file": path_of(short), "offset": file.size()}
    disk = MemoryFileSystem(1)
    with pytest.raises(DamagedFile):
        open_log(disk, 1)


def test_no_flipped_bit_gives_a_wrong_record() -> None:
    """Flip every byte of a file: open (header) or reading that record reports the damage."""
    for offset in range(RECORD_SIZE * (RECORDS + 1)):
        disk = written(12)
        disk.flip_bit(path_of(1), offset, bit=offset % 8)
        if offset < RECORD_SIZE:
            with pytest.raises(DamagedFile):
                open_log(disk, 12)
            continue
        log = open_log(disk, 12)
        hit = offset // RECORD_SIZE
        with pytest.raises(DamagedFile) as caught:
            log.read(CommitNumber(hit))
        assert caught.value.details == {"file": path_of(1), "offset": RECORD_SIZE * hit}
        assert [error.details["offset"] for error in log.find_damage()] == [RECORD_SIZE * hit]
        others = [commit for commit in range(1, 13) if commit != hit]
        assert [log.read(CommitNumber(commit)) for commit in others] == [*map(record, others)]


def test_a_record_in_the_place_of_another_is_damage() -> None:
    disk = written(8)
    file = disk.open(path_of(1))
    file.write_at(RECORD_SIZE * 3, file.read_at(RECORD_SIZE * 4, RECORD_SIZE))
    with pytest.raises(DamagedFile, match="commit 4 in place of 3"):
        open_log(disk, 8).read(CommitNumber(3))


def test_times_that_go_back_are_found() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    log.append([*records(1, 6), record(7)._replace(time=1), record(8)])
    (error,) = log.find_damage()
    assert error.details["offset"] == RECORD_SIZE * 7


def test_a_file_of_another_database_or_a_newer_format_is_refused() -> None:
    disk = written(3)
    with pytest.raises(DamagedFile, match="belongs to the database"):
        CommitLog.open(disk, "c", CommitNumber(3), database_id=bytes(16))
    file = disk.open(path_of(1))
    newer = bytearray(file.read_at(0, RECORD_SIZE - 4))
    newer[11] = 2
    file.write_at(0, bytes(newer) + zlib.crc32(newer).to_bytes(4, "big"))
    with pytest.raises(FormatTooNew, match="has format 2; this version reads up to 1"):
        open_log(disk, 3)


def test_a_full_disk_loses_nothing_and_can_be_tried_again() -> None:
    disk = written(6)
    log = open_log(disk, 6)
    log.append(records(7, 7))
    disk.faults.capacity = disk.used + RECORD_SIZE + 10
    with pytest.raises(DiskFull):
        log.append(records(8, 30))
    assert log.last_commit == 8
    assert log.read_range(CommitNumber(1), 99) == records(1, 8)
    disk.faults.capacity = None
    log.append(records(log.last_commit + 1, 30))
    log.sync()
    assert open_log(disk.crash(), 30).read_range(CommitNumber(1), 99) == records(1, 30)


def test_a_log_opened_for_reading_changes_nothing() -> None:
    disk = written(30)
    disk.create("c/00000000000000000031.commits.tmp").close()
    before = disk.list("c")
    log = open_log(disk, 10, writable=False)
    assert not list(log.find_damage())
    assert log.read_range(CommitNumber(1), 99) == records(1, 10)
    log.close()
    assert disk.list("c") == before


def workload(disk: MemoryFileSystem, synced: list[int], start: int = 0) -> None:
    """Append, sync and trim; *synced* gets each commit number that was made durable."""
    log = open_log(disk, start)
    for last, trim in ((5, 0), (6, 0), (20, 0), (22, 9), (23, 0), (40, 18)):
        if last > start:
            log.append(records(int(log.last_commit) + 1, last))
            log.sync()
            synced.append(last)
            if trim:
                log.trim(CommitNumber(trim))
    log.close()


def test_everything_synced_is_there_after_a_crash_at_any_call() -> None:
    whole = MemoryFileSystem(0)
    workload(whole, [])
    calls = whole.calls
    assert calls > 50
    for call in range(1, calls + 1):
        for seed in range(3):
            disk = MemoryFileSystem(1000 * call + seed)
            disk.faults.crash_at = call
            synced = [0]
            with contextlib.suppress(Crash):
                workload(disk, synced)
            found = disk.crash()
            where = f"call {call}, seed {seed}: {disk.last_calls[-1]}"
            log = open_log(found, synced[-1])
            first = log.first_commit
            assert first <= 17, where
            if synced[-1]:
                got = log.read_range(first, 99)
                assert got == records(first, synced[-1]), where
            log.close()
            # The log continues from there, through a second crash.
            found.faults.crash_at = random.Random(call * 7 + seed).randrange(1, 40)
            second = list(synced)
            with contextlib.suppress(Crash):
                workload(found, second, start=synced[-1])
            last = second[-1]
            again = open_log(found.crash(), last)
            if last:
                assert again.read(CommitNumber(last)) == record(last), where
            assert not list(again.find_damage()), where
