"""Writing a segment of the event log anew: without events that were removed or erased.

    1  00000000000000000001.events.tmp     all events, as they are from now on      write, sync
    2  00000000000000000001.idx.tmp        where each of them begins                write, sync
    3  the directory is synced             so a name that 4 or 5 does not take stays
    4  ….events.tmp -> ….events            one name, so the old file or the new one
    5  ….idx.tmp -> ….idx
    6  the directory is synced             from here on the old events cannot come back

A power loss may undo 4 and 5, or one of them; the .tmp file that is left tells it. An .idx file
that is not of its .events file is noticed at the next open and made again: no entry of the new
file is longer than that of the old one, so if the last one begins where it did before, all do.
Left-over .tmp files are removed there.

What is left of a removed event is an entry without a payload, of 16 bytes: positions stay dense,
and an event is found at its place by arithmetic, as before.
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
    """Write a segment anew and put it in the place of the old one, durably; it is open.

    The old one stays open, for those that read it.

    Raises:
        DiskFull: there is no room; nothing was changed.
        DamagedFile: an event is not what was written; nothing was changed.
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
    """Whether a rewrite was cut off, and nobody has opened the log to write since.

    Then one of its two files may be the new one, and the other the old one.
    """
    paths = (segment.path, segment.offsets_path)
    return any(file_system.exists(path + TEMPORARY) for path in paths)


def _write_events(
    segment: EventSegment, file: File, changed: Callable[[int, bytes], bytes]
) -> "array[int]":
    """Write the header and all entries; where each begins."""
    file.write_at(0, segment.file.read_at(0, SEGMENT_HEADER_SIZE))
    offsets = array("I")
    end = SEGMENT_HEADER_SIZE
    position = segment.first
    while position <= segment.last:
        entries: list[bytes] = []
        start = end
        for payload in segment.read(position, segment.last, _READ_SIZE):
            new = changed(position, payload)
            assert len(new) <= len(payload), "what is written anew is never longer"
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
