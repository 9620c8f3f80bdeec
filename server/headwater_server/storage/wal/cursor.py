"""A cursor in a log of files: reads packed entries onwards, for a copy elsewhere.

It remembers the place after the last entry, so that following a log costs as much as the new
entries. The entries are read from the files and checked again, since a copy must not spread damage.
"""

from collections.abc import Callable
from typing import Final

from headwater_protocol.limits import KIB
from headwater_server.storage.errors import Truncated
from headwater_server.storage.log.log_segment import (
    ENTRY_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    damaged,
    entry_size,
    unpack_entry,
)
from headwater_server.storage.log.segmented_log import Segment, SegmentedLog
from headwater_server.storage.wal.interface import ENTRY_SIZE_MAX, WalIndex

_READ_SIZE: Final = 64 * KIB
"""Bytes that one read of the file asks for: a group of commits is seldom larger."""


class FileCursor:
    """A LogCursor on a segmented log; *last* tells its newest durable entry."""

    def __init__(self, log: SegmentedLog, after: WalIndex, last: Callable[[], int]) -> None:
        self._log = log
        self._last = last
        self._next = after + 1
        self._segment: Segment | None = None
        self._offset = 0

    def take(self, size_max: int) -> list[bytes]:
        entries: list[bytes] = []
        size = 0
        last = self._last()
        try:
            while self._next <= last and size < size_max:
                for entry in self._take_some(last, size_max - size):
                    entries.append(entry)
                    size += len(entry)
        except (OSError, ValueError):
            # Another thread may have trimmed the segment, and closed its file.
            first = self._log.segments[0].first_index
            if first > self._next:
                raise Truncated(self._next, first) from None
            raise
        return entries

    def _take_some(self, last: int, size_max: int) -> list[bytes]:
        """Entries from one read of one segment; the first one in any case."""
        segment = self._find_segment()
        size = min(size_max, _READ_SIZE)
        data = segment.file.read_at(self._offset, max(size, ENTRY_HEADER_SIZE))
        length = int.from_bytes(data[:4], "big")
        first_size = entry_size(length)
        if first_size > ENTRY_SIZE_MAX:
            raise damaged(segment.path, self._offset, f"an entry of {first_size} bytes")
        if first_size > len(data):
            data = segment.file.read_at(self._offset, first_size)
        entries: list[bytes] = []
        at = 0
        while self._next <= last and at + ENTRY_HEADER_SIZE <= len(data):
            end = at + entry_size(int.from_bytes(data[at : at + 4], "big"))
            if end > len(data) and entries:
                break
            if data[at : at + ENTRY_HEADER_SIZE] == bytes(ENTRY_HEADER_SIZE) and entries:
                break
            if unpack_entry(data, at, self._next) is None:
                raise damaged(
                    segment.path, self._offset, f"entry {self._next} fails its checks since open"
                )
            entries.append(data[at:end])
            self._next += 1
            self._offset += end - at
            at = end
            if size_max <= at:
                break
        return entries

    def _find_segment(self) -> Segment:
        """The segment of the next entry. The cursor goes to its first entry, or on where it is."""
        segments = list(self._log.segments)
        found: Segment | None = None
        for each in segments:
            if each.first_index > self._next:
                break
            found = each
        if found is None:
            raise Truncated(self._next, segments[0].first_index)
        if found is self._segment:
            return found
        self._segment = found
        self._offset = SEGMENT_HEADER_SIZE
        if found.first_index < self._next:
            scanner = self._log.scan(found)
            for _ in scanner:
                if scanner.index == self._next - 1:
                    break
            # At its last yield the scanner was at the entry before ours.
            self._offset = scanner.offset
            self._skip_entry(found)
        return found

    def _skip_entry(self, segment: Segment) -> None:
        header = segment.file.read_at(self._offset, ENTRY_HEADER_SIZE)
        index = int.from_bytes(header[8:16], "big")
        if index != self._next - 1:
            raise damaged(segment.path, self._offset, f"entry {self._next - 1} is not there")
        self._offset += entry_size(int.from_bytes(header[:4], "big"))
