"""One segment of the event log: its entries and their offsets.

    00000000000000000001.events    header block, then the entries of positions 1, 2, 3 ...
    00000000000000000001.idx       u32 | u32 | u32 ...     big-endian

The number at 4 * (position - first) in the .idx file is the offset of that position's entry in
the .events file. The .idx file needs no checksum: every entry contains its position and a checksum,
and both are checked. If they are wrong, the segment finds out which of the two files is damaged.
The .idx file can be rebuilt from the .events file.

Once the log has moved on to the next segment, neither file changes any more. Retention and erasure
write new files and replace the old ones by them: see event_rewrite.py. A removed event leaves an
empty entry, so that positions stay valid.
"""

import bisect
import itertools
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_protocol.limits import KIB, VALUE_SIZE_MAX
from headwater_server.storage.files.file_system import File, FileSystem, parent
from headwater_server.storage.log.log_segment import (
    ENTRY_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    EntryScanner,
    damaged,
    unpack_entries,
    unpack_entry,
)

EVENTS_SUFFIX: Final = ".events"
OFFSETS_SUFFIX: Final = ".idx"

ENTRY_SIZE_MAX: Final = 2 * VALUE_SIZE_MAX + 64 * KIB
"""Bytes of an entry: data and metadata of the largest size, names, and the header."""

_OFFSET_SIZE: Final = 4
_GAP_MAX: Final = 16 * KIB
"""If fewer bytes lie between two entries, one read of both is faster than two reads."""
_SPAN_MAX: Final = 4096 * KIB
"""Bytes after which a read of several entries ends."""
_ENTRY: Final = struct.Struct(">IIQ")


class EventSegment:
    """An open segment. Any thread may read while one thread appends.

    Attributes:
        path: of the .events file.
        offsets_path: of the .idx file.
        first: the position of its first event.
        file: the .events file.
    """

    def __init__(self, path: str, first: int, file: File, offsets: File | None) -> None:
        self.path = path
        self.offsets_path = self.offsets_path_of(path)
        self.first = first
        self.file = file
        self._offsets_file = offsets
        self._rebuilt: array[int] | None = None
        # Last position and the offset behind it. One tuple, so that both change together.
        self._tail = (first - 1, SEGMENT_HEADER_SIZE)

    @staticmethod
    def open(
        file_system: FileSystem, path: str, first: int, file: File, *, writable: bool
    ) -> "EventSegment":
        """Open the segment of the .events file *file*. If *writable*, make a missing .idx file."""
        offsets_path = EventSegment.offsets_path_of(path)
        offsets: File | None = None
        if file_system.exists(offsets_path):
            offsets = file_system.open(offsets_path, writable=writable)
        elif writable:
            offsets = file_system.create(offsets_path)
            file_system.sync_directory(parent(offsets_path))
        return EventSegment(path, first, file, offsets)

    @staticmethod
    def offsets_path_of(path: str) -> str:
        """The path of the .idx file beside an .events file."""
        return path.removesuffix(EVENTS_SUFFIX) + OFFSETS_SUFFIX

    @property
    def last(self) -> int:
        """The position of its last event; one below the first if it is empty."""
        return self._tail[0]

    @property
    def end(self) -> int:
        """The offset behind its last event."""
        return self._tail[1]

    @property
    def size(self) -> int:
        """Valid bytes of both files."""
        last, end = self._tail
        return end + _OFFSET_SIZE * (last + 1 - self.first)

    @property
    def entries_size(self) -> int:
        """Bytes of the entries and their offsets, without the header of the segment."""
        return self.size - SEGMENT_HEADER_SIZE

    # Finding the end.

    def resume(self, last: int, *, is_sealed: bool, writable: bool) -> None:
        """Set its last event, and rebuild the .idx file if that is damaged.

        Raises:
            DamagedFile: the .events file ends before *last*.
        """
        count = last + 1 - self.first
        assert count >= 0
        end = self._end_of(last, is_sealed=is_sealed) if count else SEGMENT_HEADER_SIZE
        if end is None or (is_sealed and end != self.file.size()):
            end = self._rebuild(last, writable=writable)
        if is_sealed and end != self.file.size():
            raise damaged(self.path, end, f"there are bytes after position {last}")
        self._tail = (last, end)

    def _end_of(self, last: int, *, is_sealed: bool) -> int | None:
        """The offset behind the entry of *last*, if the .idx file leads to one."""
        (offset,) = self._offsets_in_file(last, last)
        if offset < SEGMENT_HEADER_SIZE:
            return None
        if not is_sealed:
            # Check the whole entry: nothing may be appended behind a damaged one.
            payload = self._entry(last, offset)
            return None if payload is None else offset + _size_of(len(payload))
        # Check only the header, and leave the checksum to readers: one damaged event must not make
        # all others unreadable.
        header = self.file.read_at(offset, ENTRY_HEADER_SIZE)
        if len(header) < ENTRY_HEADER_SIZE:
            return None
        length, _, position = _ENTRY.unpack(header)
        end: int = offset + _size_of(length)
        return end if position == last and end <= self.file.size() else None

    def _entry(self, position: int, offset: int) -> bytes | None:
        """The payload of the entry at *offset*, if it is sound and has this position."""
        if offset < SEGMENT_HEADER_SIZE:
            return None
        header = self.file.read_at(offset, ENTRY_HEADER_SIZE)
        if len(header) < ENTRY_HEADER_SIZE:
            return None
        size = _size_of(_ENTRY.unpack(header)[0])
        if size > ENTRY_SIZE_MAX:
            return None
        return unpack_entry(self.file.read_at(offset, size), 0, position)

    def _rebuild(self, last: int, *, writable: bool) -> int:
        """Rebuild the .idx file up to *last*; returns the offset behind that event.

        Raises:
            DamagedFile: the .events file is damaged, or ends before *last*.
        """
        offsets = array("I")
        scanner = self._scanner(SEGMENT_HEADER_SIZE, self.first)
        for _ in scanner:
            offsets.append(scanner.offset)
            if scanner.index == last:
                break
        if len(offsets) < last + 1 - self.first:
            problem = scanner.problem or f"the file ends before position {last}"
            raise damaged(self.path, scanner.offset, problem)
        if writable:
            self._write_offsets(self.first, offsets)
            self.sync_offsets()
        else:
            self._rebuilt = offsets
        payload = self._entry(last, offsets[-1])
        assert payload is not None
        return offsets[-1] + _size_of(len(payload))

    def _scanner(self, offset: int, position: int) -> EntryScanner:
        return EntryScanner(self.file, offset=offset, index=position, entry_size_max=ENTRY_SIZE_MAX)

    # Appending.

    def appended(self, offsets: Sequence[int], end: int) -> None:
        """Record entries that were written after the last one; *end* is the offset behind them."""
        last, _ = self._tail
        self._write_offsets(last + 1, array("I", offsets))
        self._tail = (last + len(offsets), end)

    def sync_offsets(self) -> None:
        """Wait until the .idx file is on the disk."""
        assert self._offsets_file is not None, "opened to read"
        self._offsets_file.sync()

    def _write_offsets(self, first: int, offsets: "array[int]") -> None:
        assert self._offsets_file is not None, "opened to read"
        if sys.byteorder == "little":
            offsets = offsets[:]
            offsets.byteswap()
        self._offsets_file.write_at(_OFFSET_SIZE * (first - self.first), offsets.tobytes())

    def cut(self) -> None:
        """Cut both files behind the last event, and wait until that is on the disk."""
        assert self._offsets_file is not None, "opened to read"
        last, end = self._tail
        self.file.truncate(end)
        self.file.sync()
        if self._rebuilt is not None:
            self._rebuilt = self._rebuilt[: last + 1 - self.first]
        self._offsets_file.truncate(_OFFSET_SIZE * (last + 1 - self.first))
        self._offsets_file.sync()

    # Reading.

    def read(self, first: int, last: int, size_max: int) -> list[bytes]:
        """Payloads from *first* to *last*, at least one.

        The result ends earlier at *size_max* bytes, or before a damaged entry.

        Raises:
            DamagedFile: the entry of *first* is damaged.
        """
        offsets = self._offsets(first, last)
        start = offsets[0]
        # Take the entries that end within the size. Entry n ends at the offset of entry n + 1.
        count = bisect.bisect_right(offsets, start + min(size_max, _SPAN_MAX)) - 1
        count = max(1, min(count, last - first + 1))
        data = self.file.read_at(start, max(0, offsets[count] - start))
        payloads = unpack_entries(data, first, count)
        if payloads:
            return payloads
        self._settle(first)
        return self.read(first, last, size_max)

    def read_many(
        self,
        positions: Sequence[int],
        size_max: int | None = None,
        *,
        least: int = 0,
        from_end: bool = False,
    ) -> list[bytes]:
        """Payloads of *positions*, which are sorted and lie within the segment.

        With *size_max*, of as many as have at most that many bytes, but of *least* at least. They
        are the first ones, or the last ones if *from_end*.

        Raises:
            DamagedFile: an entry is damaged.
        """
        first = positions[0]
        offsets = self._offsets(first, positions[-1])
        if size_max is not None and offsets[-1] - offsets[0] > size_max:
            sizes = [offsets[each - first + 1] - offsets[each - first] for each in positions]
            count = max(least, _fitting(sizes[::-1] if from_end else sizes, size_max))
            if not count:
                return []
            positions = positions[-count:] if from_end else positions[:count]
        payloads: list[bytes] = []
        begun = 0
        for place in range(1, len(positions) + 1):
            behind = offsets[positions[place - 1] - first + 1]
            if place < len(positions):
                start = offsets[positions[place] - first]
                near = 0 <= start - behind <= _GAP_MAX
                if near and start - offsets[positions[begun] - first] <= _SPAN_MAX:
                    continue
            start = offsets[positions[begun] - first]
            data = self.file.read_at(start, max(0, behind - start))
            for position in positions[begun:place]:
                payload = unpack_entry(data, offsets[position - first] - start, position)
                if payload is None:
                    self._settle(position)
                    return self.read_many(positions)
                payloads.append(payload)
            begun = place
        return payloads

    def _offsets(self, first: int, last: int) -> "array[int]":
        """The offsets of the entries from *first* to *last*, and the end of the last."""
        tail_last, end = self._tail
        assert self.first <= first <= last <= tail_last
        upto = min(last + 1, tail_last)
        if self._rebuilt is None:
            offsets = self._offsets_in_file(first, upto)
        else:
            # Offsets that were appended after the rebuild are only in the file.
            offsets = self._rebuilt[first - self.first : upto + 1 - self.first]
            if len(offsets) < upto + 1 - first:
                offsets += self._offsets_in_file(first + len(offsets), upto)
        if last == tail_last:
            offsets.append(end)
        # A wrong offset must not cost us memory: no entry is outside of the file.
        if offsets[0] < SEGMENT_HEADER_SIZE or max(offsets) > end:
            self._settle(first)
            return self._offsets(first, last)
        return offsets

    def _settle(self, position: int) -> None:
        """Find out which file is damaged, after the entry of *position* was not at its offset.

        Raises:
            DamagedFile: the .events file is damaged. Otherwise the .idx file was, and its offsets
                were rebuilt.
        """
        known = self._known_offset(position)
        if known is not None and self._entry(position, known) is None:
            raise damaged(self.path, known, f"the event at position {position} is not sound")
        # Keep the offsets in memory: a read must not change the disk.
        self._rebuild(self._tail[0], writable=False)

    def _known_offset(self, position: int) -> int | None:
        """The offset of *position*, from the entry before it; None if that is not sound."""
        if position == self.first:
            return SEGMENT_HEADER_SIZE
        if self._rebuilt is not None:
            return self._rebuilt[position - self.first]
        (before,) = self._offsets_in_file(position - 1, position - 1)
        payload = self._entry(position - 1, before)
        return None if payload is None else before + _size_of(len(payload))

    def _offsets_in_file(self, first: int, last: int) -> "array[int]":
        """Unchecked offsets from the .idx file; 0 where the file is too short."""
        size = _OFFSET_SIZE * (last + 1 - first)
        data = b""
        if self._offsets_file is not None:
            data = self._offsets_file.read_at(_OFFSET_SIZE * (first - self.first), size)
        offsets = array("I", data.ljust(size, b"\0"))
        if sys.byteorder == "little":
            offsets.byteswap()
        return offsets

    def payload_sizes(self) -> "array[int]":
        """Bytes of each event in the segment, in order; 0 for one that was removed.

        They come unchecked from the .idx file, and are rounded up as entries are.
        """
        last, _ = self._tail
        if last < self.first:
            return array("I")
        offsets = self._offsets(self.first, last)
        return array(
            "I", [max(0, b - a - ENTRY_HEADER_SIZE) for a, b in itertools.pairwise(offsets)]
        )

    def find_damage(self, *, offsets_matter: bool = True) -> Iterator[DamagedFile]:
        """Read all entries; yield each damaged one and, if *offsets_matter*, wrong offsets.

        Offsets do not matter after an interrupted rewrite: the next open rebuilds them.
        """
        last, end = self._tail
        if last < self.first:
            return
        offsets = self._offsets_in_file(self.first, last)
        offsets.append(end)
        at, position, wrong = SEGMENT_HEADER_SIZE, self.first, 0
        while at < end:
            scanner = self._scanner(at, position)
            for _ in scanner:
                wrong += offsets[scanner.index - self.first] != scanner.offset
                if scanner.index == last:
                    break
            else:
                problem = scanner.problem or f"the file ends before position {last}"
                yield damaged(self.path, scanner.offset, f"position {scanner.index}: {problem}")
                # The .idx file may tell where the next entry begins.
                position = scanner.index + 1
                at = offsets[position - self.first]
                if at > scanner.offset:
                    continue
            break
        if wrong and offsets_matter:
            yield damaged(self.offsets_path, 0, f"{wrong} offsets are wrong; they can be rebuilt")

    def close(self) -> None:
        """Close both files, without a sync. A second call does nothing."""
        self.file.close()
        if self._offsets_file is not None:
            self._offsets_file.close()


def _size_of(payload_size: int) -> int:
    """Bytes of an entry with a payload of this size."""
    return ENTRY_HEADER_SIZE + (payload_size + 7 & ~7)


def _fitting(sizes: Sequence[int], size_max: int) -> int:
    """How many of the first sizes add up to at most *size_max*."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > size_max:
            return count
    return len(sizes)
