"""Rewrites a segment of the event log, without removed events and erased data.

    1  write 00000000000000000001.events.tmp with all events in their new form, and sync it
    2  write 00000000000000000001.idx.tmp with the offset of each event, and sync it
    3  sync the directory            so that a .tmp file stays if its rename is lost
    4  ….events.tmp -> ….events      atomic: the old file or the new one
    5  ….idx.tmp -> ….idx
    6  sync the directory            from here on the old events cannot come back

A power loss may undo 4 or 5 or both, and leaves a .tmp file as a sign of that. The next open
removes .tmp files. It detects an .idx file that does not fit its .events file, and rebuilds it: no
new entry is longer than the old one, so if the last entry begins at its old offset, all entries do.

A removed event becomes an entry without payload, of 16 bytes. So positions stay dense, and an event
is still found at a computed place.
"""

import contextlib
import sys
from array import array
from collections.abc import Callable
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_protocol.limits import MIB
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.events.event_segment import EventSegment
from headwater_server.storage.files.file_system import File, FileSystem, parent
from headwater_server.storage.log.log_segment import SEGMENT_HEADER_SIZE, pack_entry
from headwater_server.storage.log.segmented_log import TEMPORARY

_READ_SIZE: Final = MIB


def rewrite_segment(
    file_system: FileSystem, segment: EventSegment, changed: Callable[[int, bytes], bytes]
) -> EventSegment:
    """Rewrite a segment and replace the old one by it, durably; returns the open new segment.

    The old one stays open for its readers.

    Raises:
        DiskFull: there is no room; nothing was changed.
        DamagedFile: an event is damaged; nothing was changed.
    """
    path, offsets_path = segment.path, segment.offsets_path
    directory = parent(path)
    temporaries = (path + TEMPORARY, offsets_path + TEMPORARY)
    for temporary in temporaries:
        if file_system.exists(temporary):
            file_system.remove(temporary)
    file: File | None = None
    offsets_file: File | None = None
    try:
        file = file_system.create(temporaries[0])
        offsets = _write_events(segment, file, changed)
        file.sync()
        offsets_file = file_system.create(temporaries[1])
        offsets_file.write_at(0, _packed(offsets))
        offsets_file.sync()
    except (DiskFull, DamagedFile):
        for opened in (file, offsets_file):
            if opened is not None:
                opened.close()
        for temporary in temporaries:
            if file_system.exists(temporary):
                file_system.remove(temporary)
        raise
    except BaseException:
        for opened in (file, offsets_file):
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.close()
        raise
    file_system.sync_directory(directory)
    file_system.rename(temporaries[0], path)
    file_system.rename(temporaries[1], offsets_path)
    file_system.sync_directory(directory)
    replaced = EventSegment(path, segment.first, file, offsets_file)
    replaced.resume(segment.last, is_sealed=False, writable=True)
    return replaced


def is_half_done(file_system: FileSystem, segment: EventSegment) -> bool:
    """Whether a rewrite was interrupted, and the log was not opened for writing since.

    Then one of its two files may be new and the other old.
    """
    paths = (segment.path, segment.offsets_path)
    return any(file_system.exists(path + TEMPORARY) for path in paths)


def _write_events(
    segment: EventSegment, file: File, changed: Callable[[int, bytes], bytes]
) -> "array[int]":
    """Write the header and all entries; return the offset of each entry."""
    file.write_at(0, segment.file.read_at(0, SEGMENT_HEADER_SIZE))
    offsets = array("I")
    end = SEGMENT_HEADER_SIZE
    position = segment.first
    while position <= segment.last:
        entries: list[bytes] = []
        start = end
        for payload in segment.read(position, segment.last, _READ_SIZE):
            new = changed(position, payload)
            assert len(new) <= len(payload), "a rewritten event is never longer"
            entry = pack_entry(position, new)
            offsets.append(end)
            entries.append(entry)
            end += len(entry)
            position += 1
        file.write_at(start, b"".join(entries))
    return offsets


def _packed(offsets: "array[int]") -> bytes:
    if sys.byteorder == "little":
        offsets = offsets[:]
        offsets.byteswap()
    return offsets.tobytes()
