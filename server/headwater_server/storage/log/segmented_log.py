"""An append-only log of checksummed entries, cut into segments: files of bounded size.

The write-ahead log uses it with preallocated segments and a chain of hashes in the payloads, the
event log with growing segments. SegmentedLog knows files and the order of their syncs. Its owner
knows what a payload means, where the log ends, and whether damage is a torn tail.

    00000000000000000001.wal   entries 1 to 812      full: never written again
    00000000000000000813.wal   entries 813 to 1530   the last one: appended to
    spare-3.tmp                                      preallocated, without final name and header

A segment is named after the index of its first entry. It gets that name only once its contents are
durable. So a new segment begins with this order of syncs:

    1. sync the full segment           if the new segment exists, the old one is durable
    2. write header and first entries to the temporary file, and sync it
    3. rename                          from here on it may be found after a power loss
    4. sync the directory              from here on it is certain to be found

Hence a power loss never damages a segment that is not the last.
"""

import bisect
import contextlib
import itertools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import File, FileSystem, join
from headwater_server.storage.log.log_segment import (
    SEGMENT_HEADER_SIZE,
    EntryScanner,
    SegmentHeader,
    end_of_data,
    entry_index,
    write_zeros,
)

TEMPORARY: Final = ".tmp"
TORN: Final = ".torn-"
_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class LogLayout:
    """The layout of a log's segments.

    Attributes:
        kind: up to 8 ASCII bytes in each header.
        suffix: of each segment's file name, with the dot.
        database_id: 16 bytes in each header.
        segment_size: bytes at which a segment is full.
        entry_size_max: bytes of the largest entry, with its header. A preallocated segment must
            have room for one; existing segments may be smaller if the setting was changed.
        preallocate: segments are filled with zeros in advance, and keep their size.
        attachment_of: makes the attachment of a new segment's header from its first entry.
    """

    kind: bytes
    suffix: str
    database_id: bytes
    segment_size: int
    entry_size_max: int
    preallocate: bool
    attachment_of: Callable[[bytes], bytes] = lambda _: b""


@dataclass(slots=True)
class Segment:
    """A segment of an open log.

    Attributes:
        path: of the file.
        file: the open file.
        first_index: index of its first entry, according to its name.
        header: its header; None if that is damaged.
        problem: what is wrong with the header; None if it is sound.
    """

    path: str
    file: File
    first_index: int
    header: SegmentHeader | None
    problem: DamagedFile | None = None


class Place(NamedTuple):
    """The place of an entry: the first index of its segment, and the offset in that file."""

    segment: int
    offset: int


class Placed(NamedTuple):
    """Where appended entries are: the first index of their segment, their offsets, the end."""

    segment: int
    offsets: list[int]
    end: int


class SegmentedLog:
    """The segments of one log in one directory.

    `segments` is sorted by first index; `has_copies` says that parts were set aside before. After
    `open`, the owner finds the end of the log and calls `resume`; only then can it append. Not
    thread-safe, except that other threads may call `prepare` and `remove_below` at any time.
    """

    def __init__(
        self,
        file_system: FileSystem,
        directory: str,
        layout: LogLayout,
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> None:
        self.directory = directory
        self.layout = layout
        self.segments: list[Segment] = []
        self.has_copies = False
        self.next_index = 0
        self.end = 0
        self.limit = 0
        self._file_system = file_system
        self._spares: deque[File] = deque()
        self._spare_numbers = itertools.count(1)
        self._preparing: contextlib.AbstractContextManager[object] = lock or threading.Lock()

    @staticmethod
    def open(
        file_system: FileSystem,
        directory: str,
        layout: LogLayout,
        *,
        writable: bool = True,
        lock: contextlib.AbstractContextManager[object] | None = None,
    ) -> "SegmentedLog":
        """Open every segment in *directory*, which must exist; there may be none.

        *lock* guards the spare segments between threads, a `threading.Lock` by default. A
        simulation has no threads and passes one that lets other tasks run while it waits.

        A damaged header is recorded in `Segment.problem`; the owner decides whether it is fatal.
        If *writable*, left-over temporary files are removed.

        Raises:
            FormatTooNew: a newer version wrote a segment.
        """
        log = SegmentedLog(file_system, directory, layout, lock)
        for name in file_system.list(directory):
            stem = name.removesuffix(layout.suffix)
            if stem != name and stem.isdigit() and len(stem) == _DIGITS:
                log.segments.append(log._open_segment(join(directory, name), int(stem), writable))
            elif name.endswith(TEMPORARY) and writable:
                file_system.remove(join(directory, name))
            elif layout.suffix + TORN in name:
                log.has_copies = True
        return log

    def _open_segment(self, path: str, first_index: int, writable: bool) -> Segment:
        file = self._file_system.open(path, writable=writable)
        segment = Segment(path, file, first_index, None)
        try:
            header = SegmentHeader.read(file, path)
        except DamagedFile as error:
            segment.problem = error
            return segment
        segment.header = header
        expected = (self.layout.kind, first_index, self.layout.database_id)
        found = (header.kind, header.first_index, header.database_id)
        if found != expected:
            segment.problem = DamagedFile(
                f"{path}: kind, first index and database id are {found} in place of {expected}",
                details={"file": path, "offset": 0},
            )
        return segment

    # Reading.

    def scan(self, segment: Segment, *, offset: int = 0, index: int = 0) -> EntryScanner:
        """Walk the entries of a segment, from its first or from a known place."""
        return EntryScanner(
            segment.file,
            offset=offset or SEGMENT_HEADER_SIZE,
            index=index or segment.first_index,
            entry_size_max=self.layout.entry_size_max,
        )

    def segment_of(self, index: int) -> Segment | None:
        """The segment that holds entry *index*; None if the log begins later."""
        found = bisect.bisect_right(self.segments, index, key=lambda each: each.first_index)
        return self.segments[found - 1] if found else None

    @property
    def size(self) -> int:
        """Bytes of all segments up to the end of the log, with headers."""
        segments = list(self.segments)
        return sum(each.file.size() for each in segments[:-1]) + (self.end if segments else 0)

    # Appending.

    def start(self, first_index: int, attachment: bytes = b"") -> None:
        """Begin a log without segments: make the first one, empty and durable.

        Raises:
            DiskFull: there is no room; nothing was changed.
        """
        assert not self.segments
        assert first_index > 0
        if self.layout.preallocate and not self._spares:
            self.prepare()
        self._open_next(first_index, attachment, b"")

    def resume(self, next_index: int, end: int) -> None:
        """Set the end of the log: the next index, and its offset in the last file."""
        assert self.segments
        assert end >= SEGMENT_HEADER_SIZE
        self.next_index = next_index
        self.end = end
        # A preallocated segment keeps its size, even if the setting has changed.
        header = self.segments[-1].header
        made_with = header.size if header is not None else 0
        self.limit = made_with or self.layout.segment_size

    @property
    def spares(self) -> int:
        """How many preallocated segments are ready."""
        return len(self._spares)

    def _fits(self, entries: Sequence[bytes]) -> bool:
        """Whether all entries fit into the last segment."""
        size = len(entries[0]) if len(entries) == 1 else sum(map(len, entries))
        return self.end + size <= self.limit

    def prepare(self, spares: int = 1) -> None:
        """Preallocate segments until *spares* are ready. Safe to call from any thread.

        Raises:
            DiskFull: there is no room; the unfinished file is removed.
        """
        assert self.layout.preallocate
        with self._preparing:
            while len(self._spares) < spares:
                self._spares.append(self._new_spare())

    def _new_spare(self) -> File:
        path = join(self.directory, f"spare-{next(self._spare_numbers)}{TEMPORARY}")
        file = self._file_system.create(path)
        try:
            # Write zeros instead of only allocating: the first sync of a block that was never
            # written needs the file system's journal. We pay for that here, not in a commit.
            write_zeros(file, 0, self.layout.segment_size)
            file.sync()
        except DiskFull:
            file.close()
            self._file_system.remove(path)
            raise
        return file

    def reserve(self, entries: Sequence[bytes]) -> None:
        """Make sure that `append` of these entries needs no new space on the disk.

        Raises:
            DiskFull: there is no room; nothing was changed.
        """
        if len(entries) == 1 and self.end + len(entries[0]) <= self.limit:
            return
        needed = len(self._runs(entries)) - 1
        if needed > len(self._spares) and self.layout.preallocate:
            self.prepare(needed)

    def append(self, entries: Sequence[bytes]) -> list[Placed]:
        """Write packed entries, whose indexes start at `next_index`; one write for each segment.

        Nothing is durable before `sync`. After an error the log must not be used again: only the
        next start can find out what the disk holds.

        Returns:
            where the entries are, in each segment.
        """
        assert entries
        if len(entries) == 1 and self.end + len(entries[0]) <= self.limit:
            # Nearly every group of commits is one entry.
            entry, offset = entries[0], self.end
            self.segments[-1].file.write_at(offset, entry)
            self.end = offset + len(entry)
            self.next_index += 1
            return [Placed(self.segments[-1].first_index, [offset], self.end)]
        assert entry_index(entries[0]) == self.next_index
        runs = self._runs(entries)
        placed: list[Placed] = []
        if runs[0]:
            data = runs[0][0] if len(runs[0]) == 1 else b"".join(runs[0])
            self.segments[-1].file.write_at(self.end, data)
            placed.append(self._placed(runs[0]))
        for run in runs[1:]:
            self.segments[-1].file.sync()
            first = run[0]
            self._open_next(entry_index(first), self.layout.attachment_of(first), b"".join(run))
            placed.append(self._placed(run))
        return placed

    def _placed(self, run: Sequence[bytes]) -> Placed:
        """Record that a run of entries was written to the last segment."""
        offsets = list(itertools.accumulate(map(len, run), initial=self.end))
        self.end = offsets.pop()
        self.next_index += len(run)
        return Placed(self.segments[-1].first_index, offsets, self.end)

    def sync(self) -> None:
        """Wait until all appended entries are on the disk. Full segments already are."""
        self.segments[-1].file.sync()

    def _runs(self, entries: Sequence[bytes]) -> list[Sequence[bytes]]:
        """The entries for the last segment (maybe none), for the next, and so on."""
        if self._fits(entries):
            return [entries]
        at, limit = self.end, self.limit
        runs: list[Sequence[bytes]] = []
        run: list[bytes] = []
        for entry in entries:
            # An entry larger than a segment gets a segment of its own, which grows.
            if at + len(entry) > limit and at > SEGMENT_HEADER_SIZE:
                runs.append(run)
                run, at, limit = [], SEGMENT_HEADER_SIZE, self.layout.segment_size
            run.append(entry)
            at += len(entry)
        runs.append(run)
        return runs

    def _open_next(self, first_index: int, attachment: bytes, data: bytes) -> None:
        """Make the next segment, with its first entries. See the order of syncs above."""
        layout = self.layout
        header = SegmentHeader(
            layout.kind,
            first_index,
            layout.segment_size if layout.preallocate else 0,
            layout.database_id,
            attachment,
        )
        if layout.preallocate:
            file = self._spares.popleft()
        else:
            number = next(self._spare_numbers)
            file = self._file_system.create(join(self.directory, f"spare-{number}{TEMPORARY}"))
        try:
            file.write_at(0, header.pack() + data)
        except DiskFull:
            # Only a growing file can hit this; its owner may cut the log and continue.
            file.close()
            self._file_system.remove(file.path)
            raise
        file.sync()
        path = join(self.directory, f"{first_index:0{_DIGITS}d}{layout.suffix}")
        self._file_system.rename(file.path, path)
        self._file_system.sync_directory(self.directory)
        self.segments.append(Segment(path, file, first_index, header))
        self.resume(first_index, SEGMENT_HEADER_SIZE)

    def begin_segment(self, attachment: bytes) -> None:
        """Begin the next segment, durably, although the last one is not full.

        Everything in the last one is durable, and a spare is prepared.
        """
        self._open_next(self.next_index, attachment, b"")

    # Cutting and removing.

    def keep_copy(self, segment: Segment, start: int, end: int) -> str:
        """Copy a range of a segment durably to a file beside it; returns that file's path."""
        path = self._torn_path(segment)
        temporary = path + TEMPORARY
        copy = self._file_system.create(temporary)
        try:
            for at in range(start, end, SEGMENT_HEADER_SIZE * 256):
                size = min(SEGMENT_HEADER_SIZE * 256, end - at)
                copy.write_at(at - start, segment.file.read_at(at, size))
            copy.sync()
        finally:
            copy.close()
        self._file_system.rename(temporary, path)
        self._file_system.sync_directory(self.directory)
        return path

    def remove_old_copies(self, keep: int) -> None:
        """Remove all copies of parts that were set aside, except the *keep* newest."""
        copies: list[tuple[int, int, str]] = []
        for name in self._file_system.list(self.directory):
            stem, found, number = name.partition(self.layout.suffix + TORN)
            if found and stem.isdigit() and number.isdigit():
                copies.append((int(stem), int(number), name))
        copies.sort()
        for _, _, name in copies[: max(0, len(copies) - keep)]:
            self._file_system.remove(join(self.directory, name))

    def _torn_path(self, segment: Segment) -> str:
        """A free name: 00000000000000000813.wal.torn-1, then -2 and so on."""
        for number in itertools.count(1):
            path = f"{segment.path}{TORN}{number}"
            if not self._file_system.exists(path):
                return path
        raise AssertionError("count() has no end")

    def cut(self, place: Place, next_index: int) -> list[str]:
        """Make the log end at *place*: set later segments aside, and erase the rest of this one.

        It keeps no copy of the rest; see `keep_copy`. Later segments get the name of a copy, the
        last one first, so that a power loss in between leaves a log without a gap. Everything is
        durable on return.

        Returns:
            the paths of the segments set aside.
        """
        aside: list[str] = []
        while self.segments[-1].first_index > place.segment:
            aside.append(self.set_last_aside())
        segment = self.segments[-1]
        assert segment.first_index == place.segment
        if self.layout.preallocate:
            write_zeros(segment.file, place.offset, end_of_data(segment.file, place.offset))
            if segment.header is not None and segment.file.size() < segment.header.size:
                write_zeros(segment.file, segment.file.size(), segment.header.size)
        else:
            segment.file.truncate(place.offset)
        segment.file.sync()
        self.resume(next_index, place.offset)
        return aside

    def set_last_aside(self) -> str:
        """Give the last segment the name of a copy, durably; returns its new path."""
        segment = self.segments.pop()
        path = self._torn_path(segment)
        self._file_system.rename(segment.path, path)
        self._file_system.sync_directory(self.directory)
        segment.file.close()
        return path

    def remove_below(self, index: int) -> int:
        """Remove the segments whose entries are all below *index*, but never the last one.

        The oldest goes first, so that a power loss in between leaves no gap.

        Returns:
            how many were removed.
        """
        removed = 0
        while len(self.segments) > 1 and self.segments[1].first_index <= index:
            segment = self.segments.pop(0)
            self._file_system.remove(segment.path)
            # Without this sync, a power loss could keep only the next removal, and leave a gap.
            self._file_system.sync_directory(self.directory)
            segment.file.close()
            removed += 1
        return removed

    def close(self) -> None:
        """Close all files, without a sync. The next open removes the spares."""
        with contextlib.ExitStack() as closing:
            for segment in self.segments:
                closing.callback(segment.file.close)
            for spare in self._spares:
                closing.callback(spare.close)
