"""The event log: all events in order of position, each as the client sent it.

    events/00000000000000000001.events   positions 1 to 78,411       sealed: never changes again
    events/00000000000000000001.idx      where each of them begins
    events/00000000000000078412.events   positions 78,412 and on     new events go here
    events/00000000000000078412.idx

The .events files are a segmented log whose indexes are positions and whose payloads are stored
events. event_segment.py describes a pair of files, and how to tell which one is damaged.

The log is derived data, as the commit log is. Its owner knows the last valid position and passes it
to open. Events beyond it come again from the write-ahead log. The first append cuts them off, so
opening alone destroys nothing.
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
"""Bytes of a segment: a rewrite or a scan of one takes well below a second."""

FIRST_POSITION: Final = Position(1)

_DIGITS: Final = 20
_RUN_GAP_MAX: Final = 64
"""If fewer positions lie between two wanted ones, their offsets are read in one call."""


class EventLog:
    """The event log of an open database. Any thread may read while one thread writes."""

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
        """Open the log in *directory*, which must exist; the log ends with position *end*.

        Args:
            first: the oldest event that must be there.
            database_id: 16 bytes, to detect a file of another database.
            segment_size: bytes of each new segment.
            writable: if False, nothing is changed, and append is not allowed.

        Raises:
            DamagedFile: an event up to *end* is missing. Open does not read all files, so a later
                read may still find damage.
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
        # A long history has more files, two for each segment, than we have descriptors.
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
        """Open the valid segments, and check that each ends where the next one begins."""
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

    # Beginning and end.

    @property
    def first_position(self) -> Position:
        """The oldest event in the log; one above the last if the log is empty."""
        segments = self._segments
        return Position(segments[0].first if segments else self._last + 1)

    @property
    def last_position(self) -> Position:
        """The newest event that was appended."""
        return Position(self._last)

    @property
    def directory(self) -> str:
        """The directory of the files."""
        return self._log.directory

    def newest_stored(self) -> int:
        """The newest position that the files have, at or beyond the end of the log.

        What is beyond is left from an unfinished checkpoint, or is of a later moment.
        """
        newest = self._last
        for segment in self._log.segments:
            if segment.problem is not None:
                continue
            if segment.first_index > self._last:
                scanner = self._log.scan(segment)
            elif self._segments and segment.first_index == self._segments[-1].first:
                scanner = self._log.scan(
                    segment, offset=self._segments[-1].end, index=self._last + 1
                )
            else:
                continue
            for _ in scanner:
                pass
            newest = max(newest, scanner.index - 1)
        return newest

    @property
    def segments(self) -> Sequence[EventSegment]:
        """The segments, in order; all but the last are sealed."""
        return self._segments

    @property
    def size(self) -> int:
        """Valid bytes of all files."""
        return sum(segment.size for segment in self._segments)

    def parts(self) -> list[FilePart]:
        """The files of all events, for a copy. Not concurrent with `append` and `rewrite`."""
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
        """Add the events that follow the last one, in one write. Not durable before `sync`.

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
            # A part may have been written; the next append cuts it off first.
            self._is_cut = False
            raise
        self._last += len(entries)

    def sync(self) -> None:
        """Wait until all appended events and their offsets are on the disk."""
        if not self._unsynced:
            return
        # Full segments were synced when the next one was begun.
        self._log.sync()
        # Offsets can be rebuilt; syncing them saves the next open that work.
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
        """Remove everything beyond the last event, the newest file first."""
        # No reader in another thread still uses the segments that were removed earlier.
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

    # Rewriting.

    def rewrite(self, segment: EventSegment, changed: Callable[[int, bytes], bytes]) -> int:
        """Rewrite one of the `segments`; *changed* gives the new event for each position.

        The new event must be the old one, the event without its data, or b"" to remove it. The
        rewrite is durable on return; readers in other threads see the old or the new event. The
        old file's space is free after `close_replaced`. Not concurrent with `append`.

        Returns:
            the number of bytes saved.

        Raises:
            DiskFull: there is no room; nothing was changed.
            DamagedFile: an event is damaged; nothing was changed.
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
        """Close files that `rewrite` has replaced; called by the reading thread."""
        self._close_removed()

    # Reading.

    def read(self, first: Position, count_max: int, size_max: int) -> list[bytes]:
        """Events from *first* on: at most *count_max* events and *size_max* bytes.

        If there is an event, at least one is returned, whatever its size. The result ends before a
        damaged event; a read that begins there raises the error.

        Raises:
            DamagedFile: the event at *first* is damaged.
        """
        # Read `_last` first: a segment is added before its events become valid.
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
            DamagedFile: one of them is damaged.
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

    def read_within(self, positions: Sequence[int], size_max: int, *, least: int) -> list[bytes]:
        """The first of the events at *positions* that have at most *size_max* bytes together.

        At least *least* of them, whatever their size. *positions* ascend or descend. What is not
        returned is not read: the offsets tell the sizes.

        Raises:
            DamagedFile: one of them is damaged.
        """
        segments = self._segments
        from_end = positions[0] > positions[-1]
        found: list[bytes] = []
        begun = 0
        for place in range(1, len(positions) + 1):
            segment = segments[self._place(segments, positions[begun])]
            if place < len(positions) and segment.first <= positions[place] <= segment.last:
                if abs(positions[place] - positions[place - 1]) <= _RUN_GAP_MAX:
                    continue
            run = positions[begun:place]
            more = segment.read_many(
                run[::-1] if from_end else run,
                size_max,
                least=max(0, least - len(found)),
                from_end=from_end,
            )
            found += more[::-1] if from_end else more
            if len(more) < len(run):
                break
            size_max = max(0, size_max - sum(map(len, more)))
            begun = place
        return found

    def _place(self, segments: Sequence[EventSegment], position: int) -> int:
        """The place in *segments* of the one that holds *position*."""
        place = bisect.bisect_right(segments, position, key=lambda each: each.first) - 1
        assert place >= 0, f"position {position} is before the log's first"
        assert position <= self._last, f"position {position} is above the last, {self._last}"
        return place

    def find_damage(self) -> Iterator[DamagedFile]:
        """Read all events; yield each damaged one, and wrong offsets."""
        for segment in self._segments:
            half_done = is_half_done(self._file_system, segment)
            yield from segment.find_damage(offsets_matter=not half_done)

    def close(self) -> None:
        """Close all files, without a sync. A second call does nothing."""
        self._close_removed()
        for segment in self._segments:
            segment.close()
        self._log.close()

    def _close_removed(self) -> None:
        for segment in self._removed:
            segment.close()
        self._removed.clear()
