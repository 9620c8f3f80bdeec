"""Rewritten segments: space is freed, positions stay, and power may fail at any call."""

import contextlib
import random
from collections.abc import Callable

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_protocol.numbers import Position
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.file_system import make_durable_directory
from headwater_server.storage.log.log_segment import ENTRY_HEADER_SIZE, SEGMENT_HEADER_SIZE
from headwater_server.testing.memory_files import Crash, MemoryFileSystem

LAST = 60
SEGMENT_SIZE = SEGMENT_HEADER_SIZE + 600


def event(position: int) -> bytes:
    return random.Random(position).randbytes(40 + position % 9)


def open_log(disk: MemoryFileSystem, end: int = LAST) -> EventLog:
    make_durable_directory(disk, "e")
    return EventLog.open(disk, "e", Position(end), segment_size=SEGMENT_SIZE)


def written(last: int = LAST) -> MemoryFileSystem:
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    log.append([event(position) for position in range(1, last + 1)])
    log.sync()
    log.close()
    return disk


def contents(log: EventLog, last: int = LAST) -> list[bytes]:
    return log.read_many(range(1, last + 1))


def changed(position: int, payload: bytes) -> bytes:
    """Remove every third event, shorten every seventh, and keep the others."""
    if position % 3 == 0:
        return b""
    return payload[:8] if position % 7 == 0 else payload


def keep(_position: int, payload: bytes) -> bytes:
    return payload


CHANGED = [changed(position, event(position)) for position in range(1, LAST + 1)]
UNCHANGED = [event(position) for position in range(1, LAST + 1)]


def rewrite_all(log: EventLog, how: Callable[[int, bytes], bytes] = changed) -> int:
    return sum(log.rewrite(segment, how) for segment in log.segments)


def test_a_rewritten_segment_keeps_its_positions_and_frees_space() -> None:
    disk = written()
    log = open_log(disk)
    assert len(log.segments) > 3
    before = disk.used
    given = rewrite_all(log)
    log.close_replaced()
    assert given > 500
    assert disk.used == before - given
    assert contents(log) == CHANGED
    for first in (1, 2, 17, LAST):
        assert log.read(Position(first), LAST, 2**40) == CHANGED[first - 1 :]
    assert not list(log.find_damage())
    log.close()
    again = open_log(disk)
    assert contents(again) == CHANGED
    assert not [name for name in disk.list("e") if name.endswith(".tmp")]


def test_the_log_accepts_events_after_its_last_segment_was_rewritten() -> None:
    for opened_before in (True, False):
        disk = written(50)
        log = open_log(disk, 50)
        if opened_before:
            log.append([event(51)])
            log.sync()
        rewrite_all(log)
        first = int(log.last_position) + 1
        log.append([event(position) for position in range(first, LAST + 1)])
        log.sync()
        expected = CHANGED[: first - 1] + UNCHANGED[first - 1 :]
        assert contents(log) == expected
        again = open_log(disk.crash())
        assert contents(again) == expected
        assert not list(again.find_damage())


def test_a_rewrite_drops_bytes_beyond_the_end_of_the_log() -> None:
    disk = written()
    log = open_log(disk, 50)
    log.rewrite(log.segments[-1], keep)
    log.append([b"another"])
    log.sync()
    assert log.read(Position(51), 10, 2**40) == [b"another"]
    assert contents(open_log(disk.crash(), 51), 51) == [*UNCHANGED[:50], b"another"]


def test_a_reader_continues_with_its_old_file() -> None:
    log = open_log(written())
    segment = log.segments[0]
    log.rewrite(segment, changed)
    assert segment.read_many([3]) == [event(3)]
    assert log.read_many([Position(3)])[0] == b""
    log.close_replaced()


def test_a_damaged_event_keeps_its_segment_from_being_rewritten() -> None:
    disk = written()
    log = open_log(disk)
    segment = log.segments[1]
    sizes = log.segments[1].payload_sizes()[:2]
    offset = SEGMENT_HEADER_SIZE + sum(size + ENTRY_HEADER_SIZE for size in sizes) + 20
    disk.flip_bit(segment.path, offset)
    names = disk.list("e")
    with pytest.raises(DamagedFile):
        log.rewrite(segment, changed)
    assert disk.list("e") == names
    assert log.read_many([Position(segment.first)])[0] == event(segment.first)


def test_a_full_disk_leaves_the_old_segment() -> None:
    for room in range(0, 6000, 400):
        disk = written()
        log = open_log(disk)
        disk.faults.capacity = disk.used + room
        with contextlib.suppress(DiskFull):
            log.rewrite(log.segments[0], changed)
        assert contents(log) in (
            UNCHANGED,
            CHANGED[: log.segments[0].last] + UNCHANGED[log.segments[0].last :],
        )
        disk.faults.capacity = None
        rewrite_all(log)
        assert contents(log) == CHANGED
        assert contents(open_log(disk.crash())) == CHANGED


@pytest.mark.slow
def test_every_event_is_the_old_or_the_new_one_after_a_crash_at_any_call() -> None:
    def run(disk: MemoryFileSystem, done: list[int]) -> None:
        log = open_log(disk)
        for segment in log.segments:
            log.rewrite(segment, changed)
            done.append(segment.last)
        log.close()

    whole = written()
    before = whole.calls
    run(whole, [])
    for call in range(1, whole.calls - before + 1):
        for seed in range(3):
            disk = written()
            disk.random.seed(1000 * call + seed)
            disk.faults.crash_at = disk.calls + call
            done = [0]
            with contextlib.suppress(Crash):
                run(disk, done)
            where = f"call {call}, seed {seed}"
            found = disk.crash()
            looked_at = EventLog.open(
                found, "e", Position(LAST), segment_size=SEGMENT_SIZE, writable=False
            )
            assert not list(looked_at.find_damage()), where
            looked_at.close()
            log = open_log(found)
            for position, stored in enumerate(contents(log), 1):
                # Events rewritten before the crash do not come back.
                allowed = [CHANGED[position - 1]]
                if position > done[-1]:
                    allowed.append(UNCHANGED[position - 1])
                assert stored in allowed, f"{where}, position {position}"
            assert not list(log.find_damage()), where
            rewrite_all(log)
            assert contents(log) == CHANGED, where
            log.append([event(LAST + 1)])
            log.sync()
            assert contents(open_log(found.crash(), LAST + 1)) == CHANGED, where
