"""One suite for all write-ahead logs: cursors, copies byte for byte, and trimming."""

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import (
    Diverged,
    Truncated,
)
from headwater_server.storage.log.log_segment import entry_index
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import (
    WalIndex,
    WriteAheadLog,
)
from headwater_server.testing.memory_files import Crash, MemoryFileSystem
from headwater_server.testing.memory_write_ahead_log import MemoryLog
from tests.storage.wal.logs import (
    START,
    Copies,
    all_records,
    fill,
    opener_of_files,
    packed_after,
)


@pytest.mark.parametrize("size_max", [1, 3000, 200_000])
def test_a_cursor_reads_every_entry_once_and_goes_on(log: WriteAheadLog, size_max: int) -> None:
    fill(log, 20)
    cursor = log.cursor(START)
    found: list[int] = []
    for _ in range(3):
        while taken := cursor.take(size_max):
            found += [entry_index(packed) for packed in taken]
        assert found == list(range(1, log.last_index + 1))
        fill(log, 3)
    for after in (5, 17, log.last_index - 1):
        indexes = [entry_index(packed) for packed in packed_after(log, after, size_max)]
        assert indexes == list(range(after + 1, log.last_index + 1))


def test_a_copy_has_the_same_bytes_and_the_same_ends(log: WriteAheadLog, copies: Copies) -> None:
    fill(log, 30)
    log.submit([b"x" * 20_000])
    copy, reopen = copies.make()
    assert copy.ingest(packed_after(log, 0, 5000)) == list(log.read(START))
    assert packed_after(copy, 0, 5000) == packed_after(log, 0, 5000)
    for index in range(1, log.last_index + 1):
        assert copy.end_at(WalIndex(index)) == log.end_at(WalIndex(index))
    copy.close()
    copy = reopen()
    assert all_records(copy) == all_records(log)
    assert copy.claim(copy.last_index) == 2
    copy.close()


def test_a_copy_can_begin_in_the_middle(log: WriteAheadLog, copies: Copies) -> None:
    fill(log, 12)
    copy, reopen = copies.make(log.end_at(WalIndex(7)))
    assert (copy.first_index, copy.last_index) == (8, 7)
    copy.ingest(packed_after(log, 7, 5000))
    copy.close()
    copy = reopen()
    assert all_records(copy, WalIndex(7)) == all_records(log, WalIndex(7))
    copy.close()


def test_entries_that_a_copy_has_are_skipped(log: WriteAheadLog, copies: Copies) -> None:
    fill(log, 6)
    copy, _ = copies.make()
    entries = packed_after(log, 0, 5000)
    assert [entry.index for entry in copy.ingest(entries[:4])] == [1, 2, 3, 4]
    assert [entry.index for entry in copy.ingest(entries[1:6])] == [5, 6]
    assert copy.ingest(entries[3:5]) == []
    assert packed_after(copy, 0, 5000) == entries[:6]
    copy.close()


def test_a_copy_refuses_a_gap_and_damage(log: WriteAheadLog, copies: Copies) -> None:
    fill(log, 6)
    copy, _ = copies.make()
    entries = packed_after(log, 0, 5000)
    copy.ingest(entries[:2])
    with pytest.raises(DamagedFile, match="entry 4 follows entry 2"):
        copy.ingest(entries[3:])
    for bit in range(0, 8 * len(entries[2]), 37):
        changed = bytearray(entries[2])
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedFile):
            copy.ingest([bytes(changed)])
    for short in (b"", entries[2][:8], entries[2][:-8]):
        with pytest.raises(DamagedFile):
            copy.ingest([short])
    assert copy.last_index == 2
    copy.ingest(entries[2:])
    assert copy.last_index == log.last_index
    copy.close()


def test_a_copy_refuses_the_entries_of_a_log_that_went_another_way(copies: Copies) -> None:
    """The old leader wrote entries that its follower never got, before that was promoted."""
    (old, _), (new, _) = copies.make(), copies.make()
    old.claim(START)
    fill(old, 3)
    new.ingest(packed_after(old, 0, 5000))
    fill(old, 2)
    beyond = packed_after(old, 0, 5000)
    old.close()
    new.claim(new.last_index)
    fill(new, 4)
    third, _ = copies.make()
    third.ingest(beyond)
    with pytest.raises(Diverged, match="entry 7 does not continue this log") as raised:
        third.ingest(packed_after(new, 6, 5000))
    assert raised.value.index == 7
    with pytest.raises(Diverged):
        third.ingest(packed_after(new, 5, 5000))
    for log in (new, third):
        log.close()


def test_what_was_trimmed_is_told_apart_from_damage(log: WriteAheadLog) -> None:
    fill(log, 60)
    behind = log.cursor(WalIndex(2))
    log.trim(WalIndex(40))
    first = log.first_index
    assert first > 4
    for reading in (
        lambda: list(log.read(START)),
        lambda: behind.take(1000),
        lambda: log.cursor(START).take(1000),
        lambda: log.end_at(WalIndex(2)),
    ):
        with pytest.raises(Truncated) as raised:
            reading()
        assert raised.value.first_index == first
    with pytest.raises(DamagedFile):
        log.end_at(WalIndex(log.last_index + 1))


def test_a_copy_can_let_go_of_all_its_entries(log: WriteAheadLog, copies: Copies) -> None:
    fill(log, 5)
    copy, reopen = copies.make()
    copy.ingest(packed_after(log, 0, 5000))
    for _ in range(2):
        copy.begin_segment(log.last_index)
    copy.trim(WalIndex(log.last_index + 1))
    if isinstance(copy, FileWriteAheadLog):
        assert copy.first_index == log.last_index + 1
    copy.close()
    copy = reopen()
    assert copy.last_index == log.last_index
    fill(log, 2)
    copy.ingest(packed_after(log, copy.last_index, 5000))
    copy.close()
    copy = reopen()
    assert copy.end_at(log.last_index) == log.end_at(log.last_index)
    copy.close()


def test_power_loss_while_a_copy_is_written_is_no_corruption() -> None:
    """A torn write may keep any later page; no entry there may say that a lost one was durable."""
    log = MemoryLog(1).open()
    log.claim(START)
    fill(log, 8, size=3000)
    entries = packed_after(log, 0, 10**6)
    lost = 0
    for seed in range(40):
        disk = MemoryFileSystem(seed)
        copy = opener_of_files(disk, "data/wal")()
        copy.ingest(entries[:2])
        disk.faults.crash_at = disk.calls + 1 + seed // 2
        try:
            copy.ingest(entries[2:])
        except Crash:
            lost += 1
        reopened = opener_of_files(disk.crash(), "data/wal")()
        assert 2 <= reopened.last_index <= len(entries)
        reopened.ingest(entries)
        assert all_records(reopened) == all_records(log)
        reopened.close()
    assert lost
