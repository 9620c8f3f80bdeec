"""The event log: events by position, crashes at any call, and damage that is found or repaired."""

import contextlib
import random
from collections.abc import Sequence

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_protocol.numbers import Position
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.file_system import make_durable_directory
from headwater_server.storage.log.log_segment import SEGMENT_HEADER_SIZE
from headwater_server.testing.memory_files import Crash, MemoryFileSystem

IDENTITY = bytes(range(16))
SEGMENT_SIZE = SEGMENT_HEADER_SIZE + 400
"""Room for about ten of the events below."""
ANY_SIZE = 2**60


def event(position: int) -> bytes:
    """The expected event at a position: 0 to 49 bytes."""
    return random.Random(position).randbytes(position * 7 % 50)


def events(first: int, last: int) -> list[bytes]:
    return [event(position) for position in range(first, last + 1)]


def open_log(disk: MemoryFileSystem, end: int, *, writable: bool = True) -> EventLog:
    make_durable_directory(disk, "e")
    return EventLog.open(
        disk,
        "e",
        Position(end),
        database_id=IDENTITY,
        segment_size=SEGMENT_SIZE,
        writable=writable,
    )


def written(last: int, chunk: int = 3) -> MemoryFileSystem:
    """A disk with a log of events up to *last*, durable and closed."""
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    for first in range(1, last + 1, chunk):
        log.append(events(first, min(last, first + chunk - 1)))
    log.sync()
    log.close()
    return disk


def read_all(log: EventLog, last: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < last:
        found += log.read(Position(len(found) + 1), last, ANY_SIZE)
    return found


def damage_of(log: EventLog) -> list[str]:
    return [str(error.details["file"]) for error in log.find_damage()]


def test_an_event_is_read_back_as_it_was_appended() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    assert (log.first_position, log.last_position, log.size) == (1, 0, 0)
    assert log.read(Position(1), 10, ANY_SIZE) == []
    log.append(events(1, 4))
    log.append([])
    log.append(events(5, 50))
    log.sync()
    assert (log.first_position, log.last_position) == (1, 50)
    assert len(log.segments) > 3
    assert read_all(log, 50) == events(1, 50)
    assert [log.read_many([Position(position)])[0] for position in range(1, 51)] == events(1, 50)
    assert log.size == disk.used
    log.close()
    log.close()


@pytest.mark.parametrize("last", [1, 9, 10, 11, 50])
def test_a_log_can_be_reopened_with_any_end(last: int) -> None:
    log = open_log(written(50), last)
    assert log.last_position == last
    assert read_all(log, last) == events(1, last)
    assert log.read(Position(last), 10, ANY_SIZE) == events(last, last)
    assert log.read(Position(last + 1), 10, ANY_SIZE) == []


@pytest.mark.parametrize("first", range(1, 30))
@pytest.mark.parametrize("count_max", [1, 2, 9, 40])
def test_a_read_returns_at_most_its_count_of_events_from_any_number_of_files(
    first: int, count_max: int
) -> None:
    log = open_log(written(30), 30)
    last = min(30, first + count_max - 1)
    assert log.read(Position(first), count_max, ANY_SIZE) == events(first, last)


@pytest.mark.parametrize("size_max", [0, 1, 16, 100, 300, 1000])
def test_a_read_stays_within_its_size_but_returns_at_least_one_event(size_max: int) -> None:
    log = open_log(written(50), 50)
    position = 1
    while position <= 50:
        found = log.read(Position(position), 50, size_max)
        assert found == events(position, position + len(found) - 1)
        assert len(found) == 1 or sum(map(len, found)) <= size_max
        position += len(found)


def test_events_at_any_positions_are_returned_in_the_requested_order() -> None:
    log = open_log(written(200), 200)
    source = random.Random(3)
    for count in (1, 2, 10, 300):
        positions = [source.randrange(1, 201) for _ in range(count)]
        assert log.read_many(positions) == [event(position) for position in positions]
    assert log.read_many([]) == []
    assert log.read_many(range(1, 201)) == events(1, 200)


def test_an_event_larger_than_a_segment_gets_its_own_segment() -> None:
    disk = MemoryFileSystem(1)
    log = open_log(disk, 0)
    large = bytes(5 * 1024 * 1024)
    log.append([b"a", large, b"b"])
    log.append([large])
    log.sync()
    again = open_log(disk.crash(), 4)
    assert again.read(Position(1), 2, 100) == [b"a"]
    assert again.read(Position(2), 2, 100) == [large]
    assert again.read_many([4, 1, 2, 3]) == [large, b"a", large, b"b"]


def test_neighbours_are_read_in_one_call() -> None:
    disk = written(8)
    log = open_log(disk, 8)
    before = disk.calls
    log.read(Position(1), 8, ANY_SIZE)
    log.read_many([7, 1, 5])
    assert disk.calls - before == 4, "each read takes one call for offsets and one for entries"


def test_opening_cuts_nothing_and_the_first_append_cuts_the_rest() -> None:
    disk = written(50)
    log = open_log(disk, 12)
    assert log.last_position == 12
    log.close()
    assert read_all(open_log(disk, 50), 50) == events(1, 50)
    log = open_log(disk, 12)
    log.append([b"other"])
    log.sync()
    log.close()
    assert [name for name in disk.list("e") if name > f"{13:020d}"] == []
    with pytest.raises(DamagedFile):
        open_log(disk, 14)
    log = open_log(disk, 13)
    assert log.read_many([12, 13]) == [event(12), b"other"]


@pytest.mark.parametrize("last", range(21))
def test_a_cut_may_fall_anywhere(last: int) -> None:
    disk = written(50)
    log = open_log(disk, last)
    log.append(events(last + 1, last + 30))
    log.sync()
    assert read_all(log, last + 30) == events(1, last + 30)
    again = open_log(disk.crash(), last + 30)
    assert read_all(again, last + 30) == events(1, last + 30)
    assert not damage_of(again)


def firsts(disk: MemoryFileSystem) -> list[str]:
    """The paths of the segments without their suffix."""
    return [
        f"e/{name.removesuffix('.events')}" for name in disk.list("e") if name.endswith(".events")
    ]


def test_missing_short_or_wrong_offsets_are_rebuilt() -> None:
    sound = written(50)
    for path in firsts(sound):
        for change in ("missing", "empty", "short", "zeros", "shifted"):
            disk = sound.copy()
            content = disk.content(f"{path}.idx")
            match change:
                case "missing":
                    disk.remove(f"{path}.idx")
                case "empty":
                    disk.put(f"{path}.idx", b"")
                case "short":
                    disk.put(f"{path}.idx", content[:-1])
                case "zeros":
                    disk.put(f"{path}.idx", bytes(len(content)))
                case _:
                    disk.put(f"{path}.idx", content[4:] + content[-4:])
            reader = open_log(disk.copy(), 50, writable=False)
            assert read_all(reader, 50) == events(1, 50)
            log = open_log(disk, 50)
            assert log.read_many(range(1, 51)) == events(1, 50), (path, change)
            log.append(events(51, 60))
            assert read_all(log, 60) == events(1, 60)


def test_flipped_bits_of_the_offsets_never_change_a_read() -> None:
    """Damage that only a read finds is repaired in memory, also in the last segment."""
    sound = written(30)
    for path in firsts(sound):
        for offset in range(len(sound.content(f"{path}.idx"))):
            disk = sound.copy()
            disk.flip_bit(f"{path}.idx", offset, bit=offset % 8)
            log = open_log(disk, 30)
            if offset % 3:
                log.append(events(31, 33))
            damage = damage_of(log)
            assert damage in ([f"{path}.idx"], []), "no damage is found only if opening repaired it"
            if offset % 2:
                assert [log.read_many([Position(p)])[0] for p in range(1, 31)] == events(1, 30)
            assert log.read_many(range(1, 31)) == events(1, 30)
            log.append(events(int(log.last_position) + 1, 50))
            assert read_all(log, 50) == events(1, 50)


def test_descending_offsets_are_rebuilt() -> None:
    # Distant events are read by their offsets within one span of the file. An offset before that
    # span used to become negative.
    sound = written(9, chunk=9)
    for seed in range(200):
        source = random.Random(seed)
        disk = sound.copy()
        path = firsts(disk)[0]
        size = len(disk.content(f"{path}.idx"))
        at = source.randrange(size // 4) * 4
        disk.overwrite(f"{path}.idx", at, source.randrange(4096 + 400).to_bytes(4, "big"))
        log = open_log(disk, 9)
        wanted = sorted(source.sample(range(1, 10), source.randint(1, 9)))
        assert log.read_many(wanted) == [event(position) for position in wanted], f"seed {seed}"


def test_no_flipped_bit_of_the_events_gives_a_wrong_event() -> None:
    sound = written(22)
    for path in firsts(sound):
        content = sound.content(f"{path}.events")
        places = [*range(0, 140, 7), *range(SEGMENT_HEADER_SIZE, len(content), 3)]
        for offset in places:
            disk = sound.copy()
            disk.flip_bit(f"{path}.events", offset, bit=offset % 8)
            check_damage(disk, f"{path}.events", offset)


def check_damage(disk: MemoryFileSystem, file: str, offset: int) -> None:
    """One event or header is damaged: the error names the place, and all others can be read."""
    if offset < SEGMENT_HEADER_SIZE:
        with pytest.raises(DamagedFile) as refused:
            open_log(disk, 22)
        assert refused.value.details["file"] == file
        return
    try:
        log = open_log(disk, 22)
    except DamagedFile as error:
        # Opening the log reads the last event of a segment.
        details = error.details
    else:
        found = [try_to_read(log, position) for position in range(1, 23)]
        (hit,) = [place + 1 for place, each in enumerate(found) if each is None]
        assert [each for each in found if each is not None] == events(1, hit - 1) + events(
            hit + 1, 22
        )
        assert damage_of(log) == [file]
        assert hit == 1 or log.read(Position(1), 22, ANY_SIZE) == events(1, hit - 1)
        assert log.read(Position(hit + 1), 22, ANY_SIZE) == events(hit + 1, 22)
        with pytest.raises(DamagedFile):
            log.read_many([1, hit, 22])
        with pytest.raises(DamagedFile) as caught:
            log.read(Position(hit), 5, ANY_SIZE)
        details = caught.value.details
    assert details["file"] == file
    assert 0 <= offset - details["offset"] < 16 + 56


def try_to_read(log: EventLog, position: int) -> bytes | None:
    try:
        return log.read_many([Position(position)])[0]
    except DamagedFile:
        return None


def test_a_damaged_event_is_reported_without_reading_its_whole_segment() -> None:
    disk = written(50)
    path = f"{firsts(disk)[2]}.events"
    disk.flip_bit(path, SEGMENT_HEADER_SIZE + 200)
    log = open_log(disk, 50)
    sizes: list[int] = []
    disk.faults.before = lambda call: sizes.append(call.size)
    lost = [position for position in range(1, 51) if try_to_read(log, position) is None]
    assert len(lost) == 1
    sizes.clear()
    assert try_to_read(log, lost[0]) is None
    assert sum(sizes) < 4 * (16 + 56)


def test_a_missing_or_short_file_is_reported_at_open() -> None:
    sound = written(50)
    for path in firsts(sound):
        disk = sound.copy()
        disk.remove(f"{path}.events")
        with pytest.raises(DamagedFile):
            open_log(disk, 50)
        disk = sound.copy()
        file = disk.open(f"{path}.events")
        file.truncate(file.size() - 8)
        with pytest.raises(DamagedFile) as caught:
            open_log(disk, 50)
        assert caught.value.details["file"] == f"{path}.events"
    with pytest.raises(DamagedFile):
        open_log(MemoryFileSystem(1), 1)


def test_a_file_of_another_database_is_refused() -> None:
    with pytest.raises(DamagedFile, match="database id"):
        EventLog.open(written(3), "e", Position(3), database_id=bytes(16))


def test_a_full_disk_loses_nothing_and_can_be_tried_again() -> None:
    sound = written(9)
    for room in range(0, 6000, 61):
        disk = sound.copy()
        log = open_log(disk, 9)
        log.append(events(10, 12))
        disk.faults.capacity = disk.used + room
        with contextlib.suppress(DiskFull):
            log.append(events(13, 40))
        last = int(log.last_position)
        assert last in (12, 40)
        assert read_all(log, last) == events(1, last)
        with contextlib.suppress(DiskFull):
            log.append(events(last + 1, last + 1))
        disk.faults.capacity = None
        last = int(log.last_position)
        log.append(events(last + 1, 60))
        log.sync()
        again = open_log(disk.crash(), 60)
        assert read_all(again, 60) == events(1, 60), room
        assert not damage_of(again)


def test_a_log_opened_for_reading_changes_nothing() -> None:
    disk = written(50)
    disk.create("e/spare-9.tmp").close()
    disk.remove(f"{firsts(disk)[1]}.idx")
    before = disk.list("e")
    log = open_log(disk, 20, writable=False)
    assert read_all(log, 20) == events(1, 20)
    log.close()
    assert disk.list("e") == before


STEPS: Sequence[tuple[int, int]] = ((4, 2), (5, 1), (30, 9), (31, 1), (45, 30), (46, 1))
"""The last event before each sync, and the number of events in each append."""


def workload(disk: MemoryFileSystem, synced: list[int], start: int = 0) -> None:
    """Append and sync; *synced* gets each position that was made durable."""
    log = open_log(disk, start)
    for last, chunk in STEPS:
        for first in range(int(log.last_position) + 1, last + 1, chunk):
            log.append(events(first, min(last, first + chunk - 1)))
        log.sync()
        synced.append(max(last, start))
    log.close()


def test_everything_synced_is_there_after_a_crash_at_any_call() -> None:
    whole = MemoryFileSystem(0)
    workload(whole, [])
    calls = whole.calls
    assert calls > 60
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
            assert read_all(log, synced[-1]) == events(1, synced[-1]), where
            log.close()
            # The log continues from there, through a second crash.
            found.faults.crash_at = random.Random(call * 7 + seed).randrange(1, 60)
            second = list(synced)
            with contextlib.suppress(Crash):
                workload(found, second, start=synced[-1])
            last = second[-1]
            again = open_log(found.crash(), last)
            assert read_all(again, last) == events(1, last), where
            assert not damage_of(again), where
