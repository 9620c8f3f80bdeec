"""The write-ahead log in files: power loss at every call, and every kind of damage.

The guarantees under test: a group whose submit returned survives any crash; the log holds a prefix
of the submitted records; damage to an entry that a later one marks as durable is reported, never
cut off.
"""

import contextlib
import random
from dataclasses import dataclass, field, replace
from typing import Final

import pytest

from headwater_protocol.errors import DamagedFile, FormatTooNew
from headwater_protocol.limits import MIB
from headwater_server.storage.errors import DiskFull, LogFailed
from headwater_server.storage.files.file_system import make_durable_directory
from headwater_server.storage.log.log_segment import SEGMENT_HEADER_SIZE, SegmentHeader
from headwater_server.storage.wal.check import Damage, KeptEntries
from headwater_server.storage.wal.file_write_ahead_log import (
    COPIES_MAX,
    KEPT_SIZE_DEFAULT,
    FileWriteAheadLog,
)
from headwater_server.storage.wal.interface import WalIndex, records
from headwater_server.storage.wal.offline import begin_files, check_files, repair_files
from headwater_server.testing.memory_files import Call, Crash, MemoryFileSystem

DATABASE_ID: Final = b"database-of-test"
DIRECTORY: Final = "data/wal"
SEGMENT_SIZE: Final = SEGMENT_HEADER_SIZE + 1024
START: Final = WalIndex(0)


def open_log(
    disk: MemoryFileSystem,
    *,
    kind: type[FileWriteAheadLog] = FileWriteAheadLog,
    segment_size: int = SEGMENT_SIZE,
    known_durable: int = 0,
    kept_size_max: int = KEPT_SIZE_DEFAULT,
) -> FileWriteAheadLog:
    return kind.open(
        disk,
        DIRECTORY,
        database_id=DATABASE_ID,
        random=random.Random(1),
        segment_size=segment_size,
        known_durable=WalIndex(known_durable),
        kept_size_max=kept_size_max,
    )


def found_in(log: FileWriteAheadLog) -> list[bytes]:
    return [record for _, record in records(log.read(WalIndex(log.first_index - 1)))]


def segments_of(disk: MemoryFileSystem) -> list[str]:
    return [f"{DIRECTORY}/{name}" for name in disk.list(DIRECTORY) if name.endswith(".wal")]


def copies_of(disk: MemoryFileSystem) -> list[str]:
    return [f"{DIRECTORY}/{name}" for name in disk.list(DIRECTORY) if ".torn-" in name]


@dataclass
class Ledger:
    """The submits of a workload and their results, kept outside the disk."""

    submitted: list[bytes] = field(default_factory=list)
    acknowledged: int = 0
    trimmed: int = 0

    def submit(self, log: FileWriteAheadLog, *sizes: int) -> None:
        first = len(self.submitted)
        # No zeros: a surviving sector of zeros would look like a lost one.
        group = [(b"%06d;" % (first + place)) * (size // 7 + 1) for place, size in enumerate(sizes)]
        self.submitted += group
        log.submit(group)
        self.acknowledged = len(self.submitted)

    def check(self, found: list[bytes]) -> None:
        """Check that the records are whole and without gaps, and include all acknowledged ones."""
        if not found:
            assert self.acknowledged == self.trimmed
            return
        start = self.submitted.index(found[0])
        assert found == self.submitted[start : start + len(found)]
        assert start <= self.trimmed
        assert start + len(found) >= self.acknowledged


def workload(disk: MemoryFileSystem, ledger: Ledger) -> None:
    """Two sessions: groups across segments, a record in three segments, a trim and a seal."""
    segment_size = SEGMENT_HEADER_SIZE + 4096
    log = open_log(disk, segment_size=segment_size)
    log.claim(START)
    ledger.submit(log, 40)
    log.prepare()
    ledger.submit(log, 1600, 80, 120)
    ledger.submit(log, 1200, 1200)
    ledger.submit(log, 20, 8800, 28)
    ledger.trimmed = 4
    log.trim(WalIndex(4))
    log.prepare()
    ledger.submit(log, 160)
    log.seal()
    log.close()
    log = open_log(disk, segment_size=segment_size)
    log.claim(log.last_index)
    ledger.submit(log, 1, 2000, 3)
    ledger.submit(log, 3600)
    for _ in range(2):
        ledger.submit(log, 1200)
        ledger.submit(log, 700, 700)
    log.close()


def calls_of_the_workload() -> int:
    disk = MemoryFileSystem(1)
    workload(disk, Ledger())
    return disk.calls


def crashed_at(call: int, seed: int) -> tuple[MemoryFileSystem, Ledger]:
    disk = MemoryFileSystem(seed)
    disk.faults.crash_at = call
    ledger = Ledger()
    with contextlib.suppress(Crash):
        workload(disk, ledger)
    return disk, ledger


# Power loss.


@pytest.mark.slow
def test_power_loss_at_every_call_keeps_what_was_acknowledged() -> None:
    calls = calls_of_the_workload()
    assert calls > 100
    torn = 0
    for call in range(1, calls + 2):
        disk, ledger = crashed_at(call, seed=call)
        for outcome in range(16):
            print(f"call {call}, seed {call}, outcome {outcome}")
            found = disk.crash()
            log = open_log(found)
            ledger.check(found_in(log))
            torn += log.torn is not None
            log.claim(log.last_index)
            log.submit([b"after the crash"])
            assert found_in(log)[-1] == b"after the crash"
            log.close()
    assert torn > 10, "the workload must produce torn tails, or this test proves little"


@pytest.mark.slow
def test_power_loss_at_every_call_of_the_recovery_keeps_what_was_acknowledged() -> None:
    for call in range(1, calls_of_the_workload() + 1):
        disk, ledger = crashed_at(call, seed=call)
        disk = disk.crash()
        again = 0
        while True:
            again += 1
            print(f"call {call}, seed {call}, then call {again}")
            second = disk.copy()
            second.faults.crash_at = again
            try:
                log = open_log(second)
                log.claim(log.last_index)
            except Crash:
                log = open_log(second.crash())
                ledger.check(found_in(log))
                log.close()
            else:
                log.close()
                break


def test_data_that_a_killed_process_left_in_the_cache_is_made_durable_at_open() -> None:
    seen_more = 0
    for call in range(1, calls_of_the_workload() + 1):
        disk, ledger = crashed_at(call, seed=call)
        print(f"call {call}, seed {call}")
        # Only the process died, so the next one sees everything that was written.
        survivor = disk.copy()
        log = open_log(survivor)
        found = found_in(log)
        ledger.check(found)
        seen_more += ledger.acknowledged < len(ledger.submitted) == len(found)
        log = open_log(survivor.crash())
        assert found_in(log) == found
    assert seen_more


def test_data_that_is_read_after_a_failed_sync_survives_a_power_loss() -> None:
    for seed in range(50):
        print(f"seed {seed}")
        disk = MemoryFileSystem(seed)
        log = open_log(disk)
        log.claim(START)
        log.submit([b"sure"])
        # The segment was created under this name.
        disk.faults.sync_error_in = ".tmp"
        with pytest.raises(OSError, match="sync failed"):
            log.submit([b"unsure" * 100])
        with pytest.raises(LogFailed):
            log.submit([b"more"])
        with pytest.raises(LogFailed):
            log.seal()
        log.close()
        disk.faults.sync_error_in = None
        log = open_log(disk)
        found = found_in(log)
        assert found in ([b"sure", b"unsure" * 100], [b"sure"])
        assert found_in(open_log(disk.crash())) == found


def test_an_unfinished_record_is_dropped_and_never_joined_with_a_later_one() -> None:
    dropped = 0
    for seed in range(150):
        print(f"seed {seed}")
        disk = MemoryFileSystem(seed)
        log = open_log(disk)
        log.claim(START)
        disk.faults.crash_at = disk.calls + 1 + seed % 50
        with contextlib.suppress(Crash):
            log.submit([b"A" * 4000])
        disk = disk.crash()
        log = open_log(disk)
        whole = found_in(log)
        assert whole in ([], [b"A" * 4000])
        dropped += log.last_index > 1 and not whole
        log.claim(log.last_index)
        log.submit([b"B" * 4000])
        assert found_in(log) == [*whole, b"B" * 4000]
        assert found_in(open_log(disk)) == [*whole, b"B" * 4000]
    assert dropped


# Torn tails.


LARGE_SEGMENT_SIZE: Final = SEGMENT_HEADER_SIZE + 4096


def log_with_torn_tail() -> MemoryFileSystem:
    """A log of one segment whose last group has entries 4 to 6, of which entry 4 is bad."""
    disk = MemoryFileSystem(1)
    log = open_log(disk, segment_size=LARGE_SEGMENT_SIZE)
    log.claim(START)
    log.submit([b"sure"])
    log.close()
    # Opened with small segments, the log writes small entries, still into the large segment.
    log = open_log(disk, segment_size=SEGMENT_HEADER_SIZE + 600)
    log.claim(WalIndex(2))
    log.submit([b"a" * 400, b"b" * 400, b"c" * 400])
    log.close()
    (segment,) = segments_of(disk)
    disk.flip_bit(segment, disk.content(segment).index(b"a" * 400))
    return disk


def test_a_torn_tail_is_cut_and_kept_as_a_copy() -> None:
    disk = log_with_torn_tail()
    (segment,) = segments_of(disk)
    before = disk.content(segment)
    log = open_log(disk, segment_size=LARGE_SEGMENT_SIZE)
    assert log.torn is not None
    assert (log.torn.index, log.torn.readable_after, log.torn.known_durable) == (4, 2, 3)
    assert found_in(log) == [b"sure"]
    (copy,) = copies_of(disk)
    assert copy == f"{segment}.torn-1"
    start = log.torn.offset
    assert disk.content(copy) == before[start:].rstrip(b"\0")
    assert disk.content(segment) == before[:start] + bytes(len(before) - start)
    for _ in range(20):
        assert disk.crash().content(copy) == disk.content(copy)


def test_a_server_that_crashes_repeatedly_keeps_only_the_last_torn_tails() -> None:
    """Each crash used to leave a copy, so a crash loop would have filled the disk."""
    disk = MemoryFileSystem(1)
    open_log(disk).close()
    torn: list[str] = []
    for number in range(COPIES_MAX + 5):
        log = open_log(disk)
        log.claim(log.last_index)
        log.submit([b"%d" % number])
        end = log._log.end
        log.close()
        file = disk.open(segments_of(disk)[-1])
        file.write_at(end, b"torn %d" % number)
        file.sync()
        file.close()
        before = set(copies_of(disk))
        log = open_log(disk)
        assert log.torn is not None
        log.close()
        torn += set(copies_of(disk)) - before
    assert sorted(copies_of(disk)) == sorted(torn[-COPIES_MAX:])


def test_entries_beyond_a_torn_tail_cannot_come_back() -> None:
    disk = log_with_torn_tail()
    log = open_log(disk, segment_size=LARGE_SEGMENT_SIZE)
    log.claim(WalIndex(3))
    # The claim and this entry are together as long as the torn entry, so the old entry 5 would
    # follow them directly if it were still there.
    log.submit([b"A" * 320])
    log = open_log(disk.crash(), segment_size=LARGE_SEGMENT_SIZE)
    assert found_in(log) == [b"sure", b"A" * 320]


def test_stray_bytes_after_the_end_are_set_aside() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    log.submit([b"sure"])
    disk.flip_bit(segments_of(disk)[0], SEGMENT_SIZE - 5)
    log = open_log(disk)
    assert log.torn is not None
    assert "bytes other than zero" in log.torn.reason
    assert found_in(log) == [b"sure"]
    assert len(copies_of(disk)) == 1
    assert open_log(disk).torn is None


# Corruption.


def sealed_log(seed: int = 1) -> tuple[MemoryFileSystem, list[bytes]]:
    """A log of several segments and two epochs; its last entry marks all others as durable."""
    disk = MemoryFileSystem(seed)
    ledger = Ledger()
    log = open_log(disk)
    log.claim(START)
    ledger.submit(log, 10)
    ledger.submit(log, 400, 20, 30)
    ledger.submit(log, 2200)
    log = open_log(disk)
    log.claim(log.last_index)
    ledger.submit(log, 100)
    ledger.submit(log, 3)
    log.seal()
    log.close()
    return disk, ledger.submitted


@pytest.mark.slow
def test_every_flipped_bit_is_reported_unless_nothing_known_durable_is_lost() -> None:
    disk, submitted = sealed_log()
    sealed = list(open_log(disk).read(START))[-1]
    source = random.Random(11)
    corrupt = torn = 0
    for path in segments_of(disk):
        content = disk.content(path)
        # Test only some bytes of the header's zeros and of long bodies: one checksum covers them.
        offsets = [*range(128), *range(128, 4092, 32), *range(4092, len(content), 3)]
        for offset in offsets:
            for bit in range(8) if content[offset] else [source.randrange(8)]:
                disk.flip_bit(path, offset, bit)
                report = check_files(disk, DIRECTORY, database_id=DATABASE_ID)
                disk.flip_bit(path, offset, bit)
                assert report is not None
                assert report.damage is not None, f"{path}, offset {offset}, bit {bit}"
                assert report.damage.path == path
                if report.damage.is_corruption:
                    corrupt += 1
                else:
                    torn += 1
                    assert report.damage.index > sealed.durable
    assert corrupt > 5000
    assert torn > 100, "only the seal and the zeros after it may be lost"
    assert found_in(open_log(disk)) == submitted


def test_open_agrees_with_the_check() -> None:
    source = random.Random(12)
    for _ in range(150):
        disk, submitted = sealed_log()
        path = source.choice(segments_of(disk))
        offset = source.randrange(len(disk.content(path)))
        print(f"{path}, offset {offset}")
        disk.flip_bit(path, offset, source.randrange(8))
        report = check_files(disk, DIRECTORY, database_id=DATABASE_ID)
        assert report is not None
        assert report.damage is not None
        if not report.damage.is_corruption:
            assert found_in(open_log(disk)) == submitted
            continue
        with pytest.raises(DamagedFile) as refusal:
            open_log(disk)
        assert refusal.value.details == {"file": path, "offset": report.damage.offset}
        assert copies_of(disk) == [], "a refused open changes nothing"


def test_without_the_diagnosis_acknowledged_records_vanish() -> None:
    class WithoutDiagnosis(FileWriteAheadLog):
        @staticmethod
        def _is_corruption(damage: Damage) -> bool:
            return False

    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    for number in range(4):
        log.submit([b"acknowledged %d" % number])
    log.close()
    # Rot in the third of four entries: the fourth was written after the third was durable.
    offset = disk.content(segments_of(disk)[0]).index(b"acknowledged 2")
    disk.flip_bit(segments_of(disk)[0], offset)

    with pytest.raises(DamagedFile) as refusal:
        open_log(disk)
    assert refusal.value.details["offset"] < offset
    assert "would cut the log before entry 4 and discard entries 4 to 5" in refusal.value.message
    assert found_in(open_log(disk, kind=WithoutDiagnosis)) == [b"acknowledged 0", b"acknowledged 1"]


def test_a_zeroed_entry_is_corruption_if_a_later_one_is_there() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    for number in range(4):
        log.submit([b"acknowledged %d" % number])
    log.close()
    path = segments_of(disk)[0]
    content = bytearray(disk.content(path))
    # The entry begins 76 bytes before its record: two headers and a length.
    start = content.index(b"acknowledged 1") - 76
    content[start : start + 96] = bytes(96)
    disk.put(path, bytes(content))
    with pytest.raises(DamagedFile, match="entry 3"):
        open_log(disk)


def test_a_bad_end_of_a_full_segment_is_corruption_even_if_no_entry_says_it_was_durable() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    log.submit([b"a" * 700, b"b" * 700])
    log.close()
    first, _ = segments_of(disk)
    disk.flip_bit(first, disk.content(first).index(b"a" * 700))
    with pytest.raises(DamagedFile, match="this is not a torn tail"):
        open_log(disk)


def test_a_missing_segment_is_corruption() -> None:
    disk, _ = sealed_log()
    segments = segments_of(disk)
    assert len(segments) > 3
    disk.remove(segments[2])
    with pytest.raises(DamagedFile, match="but the one before it ends with entry") as refusal:
        open_log(disk)
    assert refusal.value.details["file"] == segments[3]


def test_an_empty_segment_of_another_log_is_corruption() -> None:
    disk, _ = sealed_log()
    path = segments_of(disk)[-1]
    header = SegmentHeader(
        b"wal",
        int(path.removeprefix(f"{DIRECTORY}/").removesuffix(".wal")),
        SEGMENT_SIZE,
        DATABASE_ID,
        b"\0" * 8 + b"some other chain",
    )
    disk.put(path, header.pack().ljust(SEGMENT_SIZE, b"\0"))
    with pytest.raises(DamagedFile, match="does not continue the chain"):
        open_log(disk)


def test_missing_entries_that_a_checkpoint_saw_are_detected_at_open() -> None:
    disk, _ = sealed_log()
    last = open_log(disk).last_index
    disk.remove(segments_of(disk)[-1])
    assert open_log(disk.copy()).last_index < last
    with pytest.raises(DamagedFile, match=f"but entry {last} was durable"):
        open_log(disk, known_durable=last)
    for path in segments_of(disk):
        disk.remove(path)
    with pytest.raises(DamagedFile, match="no log"):
        open_log(disk, known_durable=last)


def test_a_torn_last_group_that_a_checkpoint_saw_is_corruption() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    log.submit([b"checkpointed"])
    log.close()
    disk.flip_bit(segments_of(disk)[0], SEGMENT_HEADER_SIZE + 150)
    open_log(disk.copy())
    with pytest.raises(DamagedFile, match="entries up to 2 are known to have been durable"):
        open_log(disk, known_durable=2)


def test_a_sound_entry_that_does_not_fit_the_chain_is_corruption() -> None:
    disk, _ = sealed_log()
    # The same log with other ids: each entry is sound, but the hashes differ.
    other = MemoryFileSystem(1)
    log = FileWriteAheadLog.open(
        other,
        DIRECTORY,
        database_id=DATABASE_ID,
        random=random.Random(99),
        segment_size=SEGMENT_SIZE,
    )
    log.claim(START)
    log.submit([b"x"])
    content = bytearray(disk.content(segments_of(disk)[0]))
    second = SEGMENT_HEADER_SIZE + 72
    content[second : second + 80] = other.content(segments_of(other)[0])[second : second + 80]
    disk.put(segments_of(disk)[0], bytes(content))
    with pytest.raises(DamagedFile, match="does not carry the hash"):
        open_log(disk)


def test_a_truncated_file_is_corruption() -> None:
    disk, _ = sealed_log()
    path = segments_of(disk)[-1]
    disk.put(path, disk.content(path)[:-1])
    with pytest.raises(DamagedFile, match="the file ends after"):
        open_log(disk)


def test_a_segment_of_another_database_is_refused() -> None:
    disk, _ = sealed_log()
    with pytest.raises(DamagedFile, match="database id"):
        FileWriteAheadLog.open(disk, DIRECTORY, database_id=bytes(16), random=random.Random(1))


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, _ = sealed_log()
    monkeypatch.setattr("headwater_server.storage.log.log_segment.FORMAT", 0)
    with pytest.raises(FormatTooNew):
        open_log(disk)


def test_rot_after_open_is_detected_by_the_next_read_of_the_files() -> None:
    disk, written = sealed_log()
    log = open_log(disk)
    nothing_kept = open_log(disk, kept_size_max=0)
    disk.flip_bit(segments_of(disk)[1], SEGMENT_HEADER_SIZE + 100)
    # The first read returns the entries kept in memory, which were sound when the log was opened.
    assert found_in(log) == written
    for each in (log, nothing_kept):
        with pytest.raises(DamagedFile, match="it changed since open"):
            found_in(each)


def test_entries_that_were_not_kept_are_read_from_the_files() -> None:
    disk, written = sealed_log()
    whole = list(open_log(disk, kept_size_max=0).read(START))
    kept: set[int] = set()
    for size in range(0, 12_000, 100):
        log = open_log(disk, kept_size_max=size)
        kept.add(len(log._kept))
        assert list(log.read(START)) == whole
        assert not log._kept
        assert found_in(log) == written
    assert kept == set(range(len(whole) + 1))
    # Entries are kept without a gap: the second is too large, so the third is not kept either.
    entries = KeptEntries(3000)
    for size in (1000, 2000, 10):
        entries.add(replace(whole[0], body=bytes(size)))
    assert [len(entry.body) for entry in entries.entries] == [1000]


@pytest.mark.parametrize("size", range(0, 400, 8))
def test_a_reader_may_trim_the_log_up_to_the_entry_that_it_has(size: int) -> None:
    """Recovery does, if it makes a checkpoint on the way. Some sizes fill a segment exactly."""
    disk = MemoryFileSystem()
    log = open_log(disk)
    log.claim(START)
    for _ in range(30):
        log.submit([bytes(size)])
    log.close()
    log = open_log(disk, kept_size_max=0)
    seen = []
    for entry in log.read(START):
        seen.append(entry.index)
        log.trim(WalIndex(entry.index + 1))
    assert seen == list(range(seen[0], log.last_index + 1))
    assert len(segments_of(disk)) == 1


def test_concurrent_readers_miss_nothing() -> None:
    disk, _ = sealed_log()
    whole = list(open_log(disk, kept_size_max=0).read(START))
    log = open_log(disk)
    first = log.read(START)
    assert [next(first), next(first)] == whole[:2]
    second = log.read(START)
    assert next(second) == whole[0]
    third = log.read(WalIndex(3))
    assert next(third) == whole[3]
    assert list(first) == whole[2:]
    assert list(second) == whole[1:]
    assert list(third) == whole[4:]


def test_after_the_claim_no_entries_are_kept() -> None:
    disk, _ = sealed_log()
    log = open_log(disk)
    whole = list(log.read(START))
    log = open_log(disk)
    assert log._kept
    log.claim(log.last_index)
    assert not log._kept
    assert list(log.read(START))[:-1] == whole


# Check and repair.


def test_a_check_writes_nothing() -> None:
    disk, _ = sealed_log()
    disk.flip_bit(segments_of(disk)[0], SEGMENT_HEADER_SIZE + 20)

    def read_only(call: Call) -> None:
        assert call.operation in {"exists", "list", "open", "read", "size"}

    disk.faults.before = read_only
    report = check_files(disk, DIRECTORY, database_id=DATABASE_ID)
    assert report is not None
    assert report.damage is not None
    assert (report.entries, report.damage.index, report.damage.is_corruption) == (0, 1, True)
    assert "discard entries 1 to" in report.damage.describe()


def test_a_check_of_a_sound_log_counts_its_entries() -> None:
    disk, _ = sealed_log()
    report = check_files(disk, DIRECTORY, database_id=DATABASE_ID)
    assert report is not None
    assert report.damage is None
    assert report.segments == len(segments_of(disk))
    assert (report.first_index, report.entries) == (1, report.last.index)
    assert check_files(disk, "elsewhere", database_id=DATABASE_ID) is None


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("offset", [3, SEGMENT_HEADER_SIZE + 100])
def test_a_repair_keeps_entries_before_the_damage_and_a_copy_of_the_rest(
    place: int, offset: int
) -> None:
    disk, submitted = sealed_log()
    whole = disk.copy()
    path = segments_of(disk)[place]
    disk.flip_bit(path, offset)
    report = check_files(disk, DIRECTORY, database_id=DATABASE_ID)
    assert report is not None
    assert report.damage is not None
    with pytest.raises(DamagedFile):
        open_log(disk)
    repair = repair_files(disk, DIRECTORY, database_id=DATABASE_ID, segment_size=SEGMENT_SIZE)
    assert repair is not None
    assert repair.last_index == report.damage.index - 1 == report.last.index
    assert set(repair.copies) == set(copies_of(disk))
    log = open_log(disk.crash())
    found = found_in(log)
    assert found == submitted[: len(found)]
    assert log.last_index == repair.last_index
    log.claim(log.last_index)
    log.submit([b"after the repair"])
    assert found_in(log) == [*found, b"after the repair"]
    kept = b"".join(disk.content(copy) for copy in repair.copies)
    assert whole.content(segments_of(whole)[-1]).rstrip(b"\0")[-50:] in kept


def test_a_repair_of_a_sound_log_changes_nothing() -> None:
    disk, submitted = sealed_log()
    assert repair_files(disk, DIRECTORY, database_id=DATABASE_ID, segment_size=SEGMENT_SIZE) is None
    assert found_in(open_log(disk)) == submitted
    assert copies_of(disk) == []


# Space.


def test_segments_are_full_of_zeros_before_they_are_used() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    log.prepare()
    used = disk.used
    log.submit([b"a" * 500])
    log.submit([b"a" * 500])
    assert len(segments_of(disk)) == 2
    assert disk.used == used, "a submit takes no new space"


def test_a_full_disk_at_prepare_changes_nothing() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    names = disk.list(DIRECTORY)
    disk.faults.capacity = disk.used + SEGMENT_SIZE - 1
    for _ in range(3):
        with pytest.raises(DiskFull):
            log.prepare()
    assert disk.list(DIRECTORY) == names
    # The open segment still has room.
    log.submit([b"a" * 500])
    # A group without room is refused before anything is written, and can be retried.
    with pytest.raises(DiskFull):
        log.submit([b"b" * 700])
    assert found_in(log) == [b"a" * 500]
    disk.faults.capacity = None
    log.prepare()
    log.submit([b"b" * 700])
    assert found_in(open_log(disk.crash())) == [b"a" * 500, b"b" * 700]


def test_a_full_disk_during_a_write_into_preallocated_space_is_fatal() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    disk.faults.error_at = disk.calls + 1
    disk.faults.error = lambda call: DiskFull(call.path, call.size)
    with pytest.raises(LogFailed):
        log.submit([b"a"])
    with pytest.raises(LogFailed):
        log.submit([b"a"])


def test_the_segment_size_may_change_between_opens() -> None:
    disk = MemoryFileSystem(1)
    submitted: list[bytes] = []
    for segment_size in (SEGMENT_SIZE, 3 * SEGMENT_SIZE, SEGMENT_HEADER_SIZE + 512, SEGMENT_SIZE):
        log = open_log(disk, segment_size=segment_size)
        log.claim(log.last_index)
        for size in (50, 3000, 9000, 100):
            submitted.append(bytes([len(submitted)]) * size)
            log.submit(submitted[-1:])
        log.close()
    assert found_in(open_log(disk.crash())) == submitted


def test_left_over_spares_are_removed_at_open() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk)
    log.claim(START)
    log.prepare()
    log.close()
    assert any(name.endswith(".tmp") for name in disk.list(DIRECTORY))
    open_log(disk).close()
    assert not any(name.endswith(".tmp") for name in disk.list(DIRECTORY))


def test_a_log_for_a_copy_continues_after_the_entries_of_the_copy() -> None:
    disk = MemoryFileSystem(1)
    make_durable_directory(disk, DIRECTORY)
    begin_files(disk, DIRECTORY, database_id=DATABASE_ID, after=WalIndex(41))
    disk = disk.crash()
    report = check_files(disk, DIRECTORY, database_id=DATABASE_ID, known_durable=WalIndex(41))
    assert report is not None
    assert (report.damage, report.entries) == (None, 0)
    log = FileWriteAheadLog.open(
        disk,
        DIRECTORY,
        database_id=DATABASE_ID,
        random=random.Random(1),
        known_durable=WalIndex(41),
    )
    assert (log.first_index, log.last_index) == (42, 41)
    log.claim(log.last_index)
    # The largest entry still fits.
    large = random.Random(2).randbytes(3 * MIB)
    assert log.submit([large]) > 43
    log.close()
    log = FileWriteAheadLog.open(
        disk.crash(),
        DIRECTORY,
        database_id=DATABASE_ID,
        random=random.Random(1),
        known_durable=WalIndex(42),
    )
    assert found_in(log) == [large]
    log.close()
    # The copy's files hold everything up to its last entry; the log begins after that.
    with pytest.raises(DamagedFile):
        shorter = MemoryFileSystem(1)
        shorter.make_directory(DIRECTORY)
        begin_files(shorter, DIRECTORY, database_id=DATABASE_ID, after=WalIndex(41))
        open_log(shorter, known_durable=42)
