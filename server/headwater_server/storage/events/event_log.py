"""The event log: every event, in order of position, each as the client sent it.

    events/00000000000000000001.events   positions 1 to 78,411       sealed: never changes again
    events/00000000000000000001.idx      where each of them begins
    events/00000000000000078412.events   positions 78,412 and on     appended to
    events/00000000000000078412.idx

The .events files are a segmented log whose indexes are positions and whose payloads are stored
events; event_segment.py has what is in a pair of files, and how damage is told apart.

The log is derived, as the commit log is: its owner knows how far it counts and says so at open.
What lies beyond comes again from the write-ahead log. It is cut off by the first append and not
before, so that opening alone destroys nothing.
"""

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_protocol.limits import MIB
from headwater_protocol.numbers import Position
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.events.event_rewrite import is_half_done, rewrite_segment
from headwater_server.storage.events.event_segment import (
    ENTRY_SIZE_MAX,
    EVENTS_SUFFIX,
    EventSegment,
)
from headwater_server.storage.files.copying import FilePart
from headwater_server.storage.files.descriptor_cache import DescriptorCache
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.log.log_segment import damaged, pack_entries
from headwater_server.storage.log.segmented_log import LogLayout, SegmentedLog

SEGMENT_SIZE_DEFAULT: Final = 64 * MIB
"""Bytes of a segment: what a rewrite or a scan of one takes is well below a second."""

FIRST_POSITION: Final = Position(1)

_DIGITS: Final = 20
_RUN_GAP_MAX: Final = 64
"""Positions between two wanted ones below which their offsets are read in one call."""


class EventLog:
    """The event log of an open database. Reads may run in any thread beside one writer."""

    def __init__(self, file_system: FileSystem, log: SegmentedLog, last: int) -> None:
        self._file_system = file_system
        self._log = log
        self._last = last
        self._segments: list[EventSegment] = []
        self._removed: list[EventSegment] = []
        self._unsynced: list[EventSegment] = []
        self._is_cut = False

    @staticmethod
    def open(
        file_system: FileSystem,
        directory: str,
        end: Position,
        *,
        first: Position = FIRST_POSITION,
        database_id: bytes = bytes(16),
        segment_size: int = SEGMENT_SIZE_DEFAULT,
        writable: bool = True,
    ) -> "EventLog":
        """Open the log in *directory*, which must exist, as one that ends with position *end*.

        Args:
            first: the oldest event that must be there.
            database_id: 16 bytes, so that a file of another database is noticed.
            segment_size: bytes of each segment that is begun from now on.
            writable: unless it is, nothing is changed, and append is not allowed.

        Raises:
            DamagedFile: an event up to *end* is not there, as far as that can be told without
                reading all; a file that is read later may still turn out to be damaged.
            FormatTooNew: a newer version wrote a file.
        """
        layout = LogLayout(
            kind=b"events",
            suffix=EVENTS_SUFFIX,
            database_id=database_id,
            segment_size=segment_size,
            entry_size_max=ENTRY_SIZE_MAX,
            preallocate=False,
        )
        # There are two files a segment, for all of history.
        files = DescriptorCache(file_system)
        segments = SegmentedLog.open(files, directory, layout, writable=writable)
        log = EventLog(files, segments, end)
        try:
            log._open_segments(first, writable=writable)
        except BaseException:
            log.close()
            raise
        return log

    def _open_segments(self, first: int, *, writable: bool) -> None:
        """Open the segments that count, and see that each goes as far as the next begins."""
        found = [each for each in self._log.segments if each.first_index <= self._last]
        if self._last and (not found or found[0].first_index > first):
            raise self._missing(first)
        for segment, following in itertools.zip_longest(found, found[1:]):
            if segment.problem is not None:
                raise segment.problem
            opened = EventSegment.open(
                self._file_system,
                segment.path,
                segment.first_index,
                segment.file,
                writable=writable,
            )
            self._segments.append(opened)
            last = self._last if following is None else following.first_index - 1
            opened.resume(last, is_sealed=following is not None, writable=writable)

    def _missing(self, position: int) -> DamagedFile:
        path = join(self._log.directory, f"{position:0{_DIGITS}d}{EVENTS_SUFFIX}")
        return damaged(path, 0, f"the file with position {position} is missing")

    # Where it begins and ends.

    @property
    def first_position(self) -> Position:
        """The oldest event that is there; one above the last if there is none."""
        segments = self._segments
        return Position(segments[0].first if segments else self._last + 1)

    @property
    def last_position(self) -> Position:
        """The newest event that was appended."""
        return Position(self._last)

    @property
    def segments(self) -> Sequence[EventSegment]:
        """The segments, in order; all but the last are sealed."""
        return self._segments

    @property
    def size(self) -> int:
        """Bytes of all files, as far as they count."""
        return sum(segment.size for segment in self._segments)

    def parts(self) -> list[FilePart]:
        """The files of all events, for a copy. Not beside `append` and `rewrite`."""
        found: list[FilePart] = []
        counting = [segment for segment in self._segments if segment.first <= self._last]
        for segment in counting:
            is_sealed = segment is not counting[-1]
            offsets_size = segment.size - segment.end
            found.append(FilePart(segment.path, segment.end, is_sealed))
            found.append(FilePart(segment.offsets_path, offsets_size, is_sealed))
        return found

    # Appending.

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add the events that follow the last one; one write. Not durable before `sync`.

        Raises:
            DiskFull: there is no room, and nothing was added; try again later.
        """
        if not payloads:
            return
        if not self._is_cut:
            self._cut()
        first = self._last + 1
        entries = pack_entries(first, payloads)
        try:
            for placed in self._log.append(entries):
                segment = self._segment_to_append(placed.segment)
                segment.appended(placed.offsets, placed.end)
        except DiskFull:
            # A part may be there. The next append removes it first.
            self._is_cut = False
            raise
        self._last += len(entries)

    def sync(self) -> None:
        """Wait until everything appended is on the disk, the offsets too."""
        if not self._unsynced:
            return
        # Full segments were synced when the next one was begun.
        self._log.sync()
        # Not for safety, offsets can be made again: so that the next open need not do it.
        for segment in self._unsynced:
            segment.sync_offsets()
        self._unsynced.clear()

    def _segment_to_append(self, first: int) -> EventSegment:
        if not self._segments or self._segments[-1].first != first:
            begun = self._log.segment_of(first)
            assert begun is not None
            assert begun.first_index == first
            segment = EventSegment.open(
                self._file_system, begun.path, first, begun.file, writable=True
            )
            self._segments = [*self._segments, segment]
        segment = self._segments[-1]
        if segment not in self._unsynced:
            self._unsynced.append(segment)
        return segment

    def _cut(self) -> None:
        """Remove what lies beyond the last event, the newest file first."""
        # Those that a reader in another thread may just have picked are long done with.
        self._close_removed()
        while self._log.segments and self._log.segments[-1].first_index > self._last:
            segment = self._log.segments.pop()
            if self._segments and self._segments[-1].first == segment.first_index:
                self._removed.append(self._segments[-1])
                self._segments = self._segments[:-1]
            else:
                segment.file.close()
            self._remove_files(segment.path)
        self._unsynced.clear()
        if self._segments:
            last = self._segments[-1]
            last.resume(self._last, is_sealed=False, writable=True)
            last.cut()
            self._log.resume(self._last + 1, last.end)
        else:
            self._log.start(self._last + 1)
        self._is_cut = True

    def _remove_files(self, path: str) -> None:
        offsets_path = EventSegment.offsets_path_of(path)
        if self._file_system.exists(offsets_path):
            self._file_system.remove(offsets_path)
        self._file_system.remove(path)
        self._file_system.sync_directory(self._log.directory)

    # Writing anew.

    def rewrite(self, segment: EventSegment, changed: Callable[[int, bytes], bytes]) -> int:
        """Write one of the `segments` anew, each event as *changed* gives it for its position.

        Nothing but an event without its data, or b"" for one that is removed, may come of it.
        Durable at the end; readers in other threads see the old event or the new one. The old
        file's room is free after `close_replaced`. Not beside `append`.

        Returns:
            bytes that the segment is smaller by.

        Raises:
            DiskFull: there is no room, and nothing was changed.
            DamagedFile: an event is not what was written; nothing was changed.
        """
        place = self._segments.index(segment)
        log_segment = self._log.segment_of(segment.first)
        assert log_segment is not None
        assert log_segment.first_index == segment.first
        replaced = rewrite_segment(self._file_system, segment, changed)
        log_segment.file = replaced.file
        self._removed.append(segment)
        if segment in self._unsynced:
            self._unsynced.remove(segment)
        self._segments = [*self._segments[:place], replaced, *self._segments[place + 1 :]]
        if place == len(self._segments) - 1 and self._is_cut:
            self._log.resume(self._last + 1, replaced.end)
        return segment.size - replaced.size

    def close_replaced(self) -> None:
        """Let go of files that `rewrite` has replaced; called by the thread that reads."""
        self._close_removed()

    # Reading.

    def read(self, first: Position, count_max: int, size_max: int) -> list[bytes]:
        """Events from *first* on: at most *count_max*, and no more than *size_max* bytes.

        At least one is given if there is one, however large. Fewer than could be are given
        where a damaged one follows; reading from there on tells which.

        Raises:
            DamagedFile: the event at *first* is not what was written.
        """
        # In this order: a segment is there before its events count.
        end = min(self._last, first + count_max - 1)
        segments = self._segments
        found: list[bytes] = []
        size = 0
        position = int(first)
        place = self._place(segments, position) if position <= end else 0
        while position <= end and (not found or size < size_max):
            segment = segments[place]
            last = min(end, segment.last)
            try:
                more = segment.read(position, last, size_max - size)
            except DamagedFile:
                if not found:
                    raise
                break
            added = sum(map(len, more))
            if found and size + added > size_max:
                break
            found = found + more if found else more
            size += added
            position += len(more)
            place += position > segment.last
        return found

    def read_many(self, positions: Sequence[int]) -> list[bytes]:
        """The events at *positions*, in their order. Neighbours are read in one call.

        Raises:
            DamagedFile: one of them is not what was written.
        """
        segments = self._segments
        wanted = sorted(set(positions))
        found: dict[int, bytes] = {}
        begun = 0
        for place in range(1, len(wanted) + 1):
            segment = segments[self._place(segments, wanted[begun])]
            if place < len(wanted) and wanted[place] <= segment.last:
                if wanted[place] - wanted[place - 1] <= _RUN_GAP_MAX:
                    continue
            run = wanted[begun:place]
            found.update(zip(run, segment.read_many(run), strict=True))
            begun = place
        return [found[position] for position in positions]

    def _place(self, segments: Sequence[EventSegment], position: int) -> int:
        """The place of the segment that holds *position*."""
        place = bisect.bisect_right(segments, position, key=lambda each: each.first) - 1
        assert place >= 0, f"position {position} is before the log's first"
        assert position <= self._last, f"position {position} is above the last, {self._last}"
        return place

    def find_damage(self) -> Iterator[DamagedFile]:
        """Read every event; gives each that is not what was written, and wrong offsets."""
        for segment in self._segments:
            half_done = is_half_done(self._file_system, segment)
            yield from segment.find_damage(offsets_matter=not half_done)

    def close(self) -> None:
        """Close all files. Nothing is synced. Twice is allowed."""
        self._close_removed()
        for segment in self._segments:
            segment.close()
        self._log.close()

    def _close_removed(self) -> None:
        for segment in self._removed:
            segment.close()
        self._removed.clear()
