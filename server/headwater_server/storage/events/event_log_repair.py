"""Reads and writes whole segments of the event log, for a repair, which cannot open the log."""

from collections.abc import Iterable, Iterator

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.events.event_segment import ENTRY_SIZE_MAX, EVENTS_SUFFIX
from headwater_server.storage.files.file_system import File, FileSystem, join
from headwater_server.storage.log.log_segment import (
    SEGMENT_HEADER_SIZE,
    EntryScanner,
    SegmentHeader,
    entry_index,
    entry_payload,
    find_entries,
    pack_entry,
)

_DIGITS = 20
_WRITE_SIZE = 1024 * 1024


def segment_files(file_system: FileSystem, directory: str) -> list[tuple[int, str]]:
    """The first position and the path of each segment, from the file names alone."""
    found = []
    for name in file_system.list(directory):
        stem = name.removesuffix(EVENTS_SUFFIX)
        if stem != name and stem.isdigit() and len(stem) == _DIGITS:
            found.append((int(stem), join(directory, name)))
    return found


def segment_path(directory: str, first: int) -> str:
    """The path of the segment that begins with a position."""
    return join(directory, f"{first:0{_DIGITS}d}{EVENTS_SUFFIX}")


def has_sound_header(file: File, path: str, first: int, database_id: bytes) -> bool:
    """Whether a segment's header block is sound."""
    try:
        header = SegmentHeader.read(file, path)
    except DamagedFile:
        return False
    return (header.first_index, header.database_id) == (first, database_id)


def sound_events(file: File, first: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Position and payload of each readable event of a segment, skipping damage in between."""
    offset, position = SEGMENT_HEADER_SIZE, first
    while position <= last:
        scanner = EntryScanner(file, offset=offset, index=position, entry_size_max=ENTRY_SIZE_MAX)
        for packed in scanner:
            yield scanner.index, entry_payload(packed)
            if scanner.index == last:
                return
        # Search for the next sound entry after the damage.
        found = next(
            find_entries(
                file,
                offset=scanner.offset,
                index=scanner.index - 1,
                index_max=last,
                entry_size_max=ENTRY_SIZE_MAX,
            ),
            None,
        )
        if found is None:
            return
        offset, position = found[0], entry_index(found[1])


def write_segment(
    file_system: FileSystem,
    path: str,
    first: int,
    payloads: Iterable[bytes],
    *,
    database_id: bytes,
) -> None:
    """Write a whole segment to *path* and sync it; the caller makes its name durable."""
    file = file_system.create(path)
    try:
        header = SegmentHeader(b"events", first, 0, database_id)
        file.write_at(0, header.pack())
        at = SEGMENT_HEADER_SIZE
        pending: list[bytes] = []
        size = 0
        for position, payload in enumerate(payloads, first):
            entry = pack_entry(position, payload)
            pending.append(entry)
            size += len(entry)
            if size >= _WRITE_SIZE:
                file.write_at(at, b"".join(pending))
                at += size
                pending.clear()
                size = 0
        file.write_at(at, b"".join(pending))
        file.sync()
    finally:
        file.close()
