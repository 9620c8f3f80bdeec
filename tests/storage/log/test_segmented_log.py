"""The segmented log with growing segments, as in the event log, and common behaviour of both."""

import contextlib
from typing import Final

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.log.log_segment import (
    SEGMENT_HEADER_SIZE,
    EntryScanner,
    SegmentHeader,
    end_of_data,
    entry_index,
    entry_payload,
    entry_size,
    find_entries,
    pack_entries,
    pack_entry,
    unpack_entry,
)
from headwater_server.storage.log.segmented_log import LogLayout, Place, Placed, SegmentedLog
from headwater_server.testing.memory_files import Crash, MemoryFileSystem

DATABASE_ID: Final = b"database-of-test"
ROOM: Final = 200


def layout(*, preallocate: bool = False) -> LogLayout:
    return LogLayout(
        kind=b"events",
        suffix=".events",
        database_id=DATABASE_ID,
        segment_size=SEGMENT_HEADER_SIZE + ROOM,
        entry_size_max=1000,
        preallocate=preallocate,
        attachment_of=lambda entry: entry[-8:],
    )


def new_log(disk: MemoryFileSystem, *, preallocate: bool = False) -> SegmentedLog:
    disk.make_directory("events")
    log = SegmentedLog.open(disk, "events", layout(preallocate=preallocate))
    log.start(1)
    return log


def entries(first: int, *sizes: int) -> list[bytes]:
    return [pack_entry(first + place, b"x" * size) for place, size in enumerate(sizes)]


def places_of(placed: list[Placed]) -> list[Place]:
    """The offset of each entry."""
    return [Place(run.segment, offset) for run in placed for offset in run.offsets]


def payload_at(log: SegmentedLog, place: Place, index: int) -> bytes | None:
    segment = log.segment_of(place.segment)
    assert segment is not None
    return unpack_entry(segment.file.read_at(place.offset, 1000), 0, index)


def test_entries_packed_in_bulk_equal_those_packed_one_by_one() -> None:
    payloads = [b"p" * size for size in (0, 1, 7, 8, 9, 300, 70_000)]
    for first in (1, 2**40):
        one_by_one = [pack_entry(first + place, each) for place, each in enumerate(payloads)]
        assert pack_entries(first, payloads) == one_by_one
    assert pack_entries(1, []) == []


@pytest.mark.parametrize("preallocate", [False, True])
def test_each_entry_is_where_append_said(preallocate: bool) -> None:
    log = new_log(MemoryFileSystem(1), preallocate=preallocate)
    group = entries(1, 10, 60, 0, 100, 33, 180, 1)
    log.reserve(group)
    places = places_of(log.append(group))
    assert len({place.segment for place in places}) > 2
    for index, (place, entry) in enumerate(zip(places, group, strict=True), 1):
        assert payload_at(log, place, index) == entry_payload(entry)
        assert payload_at(log, place, index + 1) is None
        segment = log.segment_of(index)
        assert segment is not None
        assert segment.first_index == place.segment
    assert log.next_index == 8


def test_an_entry_larger_than_a_segment_gets_its_own_growing_segment() -> None:
    log = new_log(MemoryFileSystem(1))
    places = places_of(log.append(entries(1, 10, 500, 10)))
    assert [place.segment for place in places] == [1, 2, 3]


def test_a_group_is_one_write_for_each_segment() -> None:
    disk = MemoryFileSystem(1)
    log = new_log(disk)
    operations: list[str] = []
    disk.faults.before = lambda call: operations.append(call.operation)
    log.append(entries(1, 10, 20, 30))
    log.sync()
    assert operations == ["write", "sync"]


def test_a_new_segment_gets_its_name_after_both_syncs() -> None:
    disk = MemoryFileSystem(1)
    log = new_log(disk)
    operations: list[str] = []
    disk.faults.before = lambda call: operations.append(call.operation)
    log.append(entries(1, 100, 100))
    crossing = ["write", "sync", "create", "write", "sync", "rename", "sync_directory"]
    assert operations == crossing


def test_a_log_is_cut_at_a_known_end_and_continues_there() -> None:
    disk = MemoryFileSystem(1)
    log = new_log(disk)
    places = places_of(log.append(entries(1, 50, 50, 50, 50, 50, 50)))
    log.sync()
    log.close()
    log = SegmentedLog.open(disk, "events", layout())
    aside = log.cut(places[2], 3)
    assert len(aside) == 1
    assert disk.exists(aside[0])
    (place,) = places_of(log.append([pack_entry(3, b"new")]))
    assert place == places[2]
    log.sync()
    log = SegmentedLog.open(disk.crash(), "events", layout())
    found = [entry_payload(entry) for segment in log.segments for entry in log.scan(segment)]
    assert found == [b"x" * 50, b"x" * 50, b"new"]


def test_a_scan_can_start_in_the_middle() -> None:
    log = new_log(MemoryFileSystem(1))
    places = places_of(log.append(entries(1, 10, 20, 30)))
    scanner = log.scan(log.segments[0], offset=places[1].offset, index=2)
    assert [entry_index(entry) for entry in scanner] == [2, 3]
    assert (scanner.offset, scanner.index, scanner.problem) == (log.end, 4, None)


def test_whole_old_segments_are_removed_and_never_the_last() -> None:
    disk = MemoryFileSystem(1)
    log = new_log(disk)
    for index in range(1, 20):
        log.append(entries(index, 60))
    assert log.remove_below(4) == 1
    assert log.segments[0].first_index == 3
    assert log.segment_of(2) is None
    log.remove_below(1000)
    assert len(log.segments) == 1
    assert log.size == disk.open(log.segments[0].path).size()


def test_power_loss_at_every_call_leaves_no_gap_between_segments() -> None:
    def workload(disk: MemoryFileSystem) -> None:
        log = new_log(disk)
        for index in range(1, 40, 4):
            log.append(entries(index, 60, 20, 90, 5))
            log.sync()
            log.remove_below(index - 5)
        log.cut(Place(log.segments[-2].first_index, SEGMENT_HEADER_SIZE), 1000)

    whole = MemoryFileSystem(1)
    workload(whole)
    for call in range(1, whole.calls + 1):
        disk = MemoryFileSystem(call)
        disk.faults.crash_at = call
        with contextlib.suppress(Crash):
            workload(disk)
        for outcome in range(4):
            print(f"call {call}, outcome {outcome}")
            found = disk.crash()
            if not found.exists("events"):
                continue
            log = SegmentedLog.open(found, "events", layout())
            expected = 0
            for segment in log.segments:
                assert segment.problem is None
                assert expected in (0, segment.first_index)
                scanner = log.scan(segment)
                expected = segment.first_index + len(list(scanner))


def test_a_full_disk_at_a_new_segment_leaves_a_log_that_can_be_cut_back() -> None:
    disk = MemoryFileSystem(1)
    log = new_log(disk)
    (place,) = places_of(log.append(entries(1, 100)))
    log.sync()
    end, next_index = log.end, log.next_index
    disk.faults.capacity = disk.used + 50
    with pytest.raises(DiskFull):
        log.append(entries(2, 150))
    assert len(disk.list("events")) == 1
    disk.faults.capacity = None
    log.cut(Place(1, end), next_index)
    log.append(entries(2, 150))
    assert len(log.segments) == 2
    assert payload_at(log, place, 1) == b"x" * 100


def test_a_damaged_header_is_recorded_with_its_file() -> None:
    disk = MemoryFileSystem(1)
    log = new_log(disk)
    log.append(entries(1, 100, 150))
    disk.flip_bit(log.segments[1].path, 2000)
    log = SegmentedLog.open(disk, "events", layout())
    assert [segment.problem is None for segment in log.segments] == [True, False]
    problem = log.segments[1].problem
    assert problem is not None
    assert problem.details["file"] == "events/00000000000000000002.events"


# Entries and headers, without a log.


def test_a_header_is_read_back_as_it_was_written() -> None:
    disk = MemoryFileSystem(1)
    header = SegmentHeader(b"wal", 77, 4096, DATABASE_ID, b"attached")
    disk.put("a", header.pack())
    found = SegmentHeader.read(disk.open("a"), "a")
    assert found.attachment == b"attached".ljust(64, b"\0")
    assert (found.kind, found.first_index, found.size) == (b"wal", 77, 4096)
    assert len(header.pack()) == SEGMENT_HEADER_SIZE


def test_a_file_that_is_not_a_segment_is_refused() -> None:
    disk = MemoryFileSystem(1)
    disk.put("a", b"short")
    with pytest.raises(DamagedFile, match="the file ends inside"):
        SegmentHeader.read(disk.open("a"), "a")


def test_a_flip_of_any_bit_of_an_entry_is_detected() -> None:
    for size in range(18):
        entry = bytearray(pack_entry(5, bytes(range(size))))
        assert len(entry) == entry_size(size)
        assert unpack_entry(bytes(entry), 0, 5) == bytes(range(size))
        for offset in range(len(entry)):
            for bit in range(8):
                entry[offset] ^= 1 << bit
                assert unpack_entry(bytes(entry), 0, 5) is None, f"{size}: {offset}, {bit}"
                entry[offset] ^= 1 << bit


def test_a_scan_over_more_than_it_reads_at_once_gives_every_entry() -> None:
    disk = MemoryFileSystem(1)
    group = [pack_entry(index, b"y" * (index * 97 % 40_000)) for index in range(1, 120)]
    disk.put("a", b"".join(group) + bytes(3000))
    scanner = EntryScanner(disk.open("a"), offset=0, index=1, entry_size_max=50_000)
    assert list(scanner) == group
    assert (scanner.problem, scanner.offset) == (None, sum(map(len, group)))


@pytest.mark.parametrize(
    ("tail", "problem"),
    [
        (pack_entry(9, b"abc"), "index 9 in place of 2"),
        (pack_entry(2, bytes(500)), "allowed are 400"),
        (pack_entry(2, b"abc")[:20], "beyond the end of the file"),
        (b"\0\0\0\1", "inside the header of an entry"),
        (pack_entry(2, b"abc")[:-8] + b"\1" * 8, "fails its checksum"),
    ],
)
def test_a_scan_reports_why_it_stopped(tail: bytes, problem: str) -> None:
    disk = MemoryFileSystem(1)
    first = pack_entry(1, b"first")
    disk.put("a", first + tail)
    scanner = EntryScanner(disk.open("a"), offset=0, index=1, entry_size_max=400)
    assert list(scanner) == [first]
    assert scanner.problem is not None
    assert problem in scanner.problem
    assert scanner.offset == len(first)


def test_later_entries_are_found_behind_garbage() -> None:
    disk = MemoryFileSystem(1)
    later = [pack_entry(8, b"eight"), pack_entry(9, b"nine")]
    garbage = b"\xff" * 40
    content = b"".join([garbage, later[0], garbage, later[1], bytes(32), pack_entry(3, b"old")])
    disk.put("a", content)
    found = find_entries(disk.open("a"), offset=0, index=7, index_max=100, entry_size_max=1000)
    assert [(offset, entry_payload(entry)) for offset, entry in found] == [
        (40, b"eight"),
        (40 + len(later[0]) + 40, b"nine"),
    ]


def test_the_end_of_data_is_after_the_last_nonzero_byte() -> None:
    disk = MemoryFileSystem(1)
    disk.put("a", bytes(10) + b"x" + bytes(3_000_000) + b"y" + bytes(100))
    file = disk.open("a")
    assert end_of_data(file, 0) == 3_000_012
    assert end_of_data(file, 3_000_012) == 3_000_012
    assert end_of_data(file, 10_000_000) == 10_000_000
