"""The commit log: one record of 64 bytes for each commit, at a computed place.

    00000000000000000001.commits    commits 1 to 1,048,576
    00000000000001048577.commits    the next 1,048,576; new records go to the last segment

    0             64            128           192
    +-------------+-------------+-------------+----
    | header      | record n    | record n+1  |        n: the first commit, as in the file's name
    +-------------+-------------+-------------+----

    header    magic 8 | format u32 | records u32 | first commit u64 | database id 16 | zeros 20 |
              crc32 u32 of all before it
    record    transaction id 16 | commit u64 | time u64 | user u64 | first position u64 |
              event count u32 | zeros 8 | crc32 u32 of all before it

Numbers are big-endian. Record n is at 64 * (n - first + 1), so a look-up by commit needs one read.
Times never go back, so a look-up by time is a binary search of about twenty reads.

The log is derived data. Its owner knows the last valid commit (the applied commit) and passes it to
open. Records beyond it are not valid yet and come again from the write-ahead log. The first append
cuts them off, so opening alone destroys nothing.
"""

import bisect
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_protocol.errors import DamagedFile, FormatTooNew, HistoryGone, NoSuchCommit
from headwater_protocol.limits import NUMBER_MAX
from headwater_protocol.numbers import CommitNumber
from headwater_server.storage.commits.commit_records import (
    CRC_AT,
    FORMAT,
    HEADER,
    MAGIC,
    RECORD,
    RECORD_SIZE,
    CommitRecord,
    commit_in,
    pack_header,
    pack_records,
    unpack_record,
)
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.copying import FilePart
from headwater_server.storage.files.file_system import File, FileSystem, join

RECORDS_DEFAULT: Final = 1024 * 1024
"""Records of a segment: 64 MiB, so that trimming frees space in useful pieces."""

SUFFIX: Final = ".commits"
_TEMPORARY: Final = ".tmp"
DIGITS: Final = 20
_READ_RECORDS: Final = 16384
"""Records read in one call: 1 MiB."""


@dataclass(frozen=True, slots=True)
class _Segment:
    path: str
    file: File
    first: int
    capacity: int

    @property
    def last(self) -> int:
        """The last commit that the segment has room for."""
        return self.first + self.capacity - 1

    def offset(self, commit: int) -> int:
        return RECORD_SIZE * (commit - self.first + 1)


class CommitLog:
    """The commit log of an open database. Any thread may read while one thread writes."""

    def __init__(
        self,
        file_system: FileSystem,
        directory: str,
        last: int,
        *,
        database_id: bytes,
        records: int,
    ) -> None:
        self._file_system = file_system
        self._directory = directory
        self._database_id = database_id
        self._records = records
        self._segments: list[_Segment] = []
        self._removed: list[_Segment] = []
        self._last = last
        self._is_cut = False

    @staticmethod
    def open(
        file_system: FileSystem,
        directory: str,
        last: CommitNumber,
        *,
        database_id: bytes = bytes(16),
        records: int = RECORDS_DEFAULT,
        first: int = NUMBER_MAX,
        writable: bool = True,
    ) -> "CommitLog":
        """Open the log in *directory*, which must exist; the log ends with commit *last*.

        Args:
            database_id: 16 bytes, to detect a file of another database.
            records: records of each new segment.
            first: the oldest commit that must be there; earlier ones may have been trimmed.
            writable: if False, nothing is changed, and append and trim are not allowed.

        Raises:
            DamagedFile: a file is missing or too short, or its header is damaged.
            FormatTooNew: a newer version wrote a file.
        """
        log = CommitLog(file_system, directory, last, database_id=database_id, records=records)
        try:
            for name in file_system.list(directory):
                stem = name.removesuffix(SUFFIX)
                if stem != name and stem.isdigit() and len(stem) == DIGITS:
                    log._segments.append(log._open_segment(name, int(stem), writable))
                elif name.endswith(_TEMPORARY) and writable:
                    file_system.remove(join(directory, name))
            log._check_files(first)
        except BaseException:
            log.close()
            raise
        return log

    def _open_segment(self, name: str, first: int, writable: bool) -> _Segment:
        path = join(self._directory, name)
        file = self._file_system.open(path, writable=writable)
        try:
            return _Segment(path, file, first, self._read_header(file, path, first))
        except BaseException:
            file.close()
            raise

    def _read_header(self, file: File, path: str, first: int) -> int:
        """Check a segment's header; returns how many records the segment can hold."""
        block = file.read_at(0, RECORD_SIZE)
        if len(block) < RECORD_SIZE:
            raise _damaged(path, len(block), "the file ends inside its header")
        magic, form, records, found, database_id, _, crc = HEADER.unpack(block)
        if zlib.crc32(block[:CRC_AT]) != crc or magic != MAGIC:
            raise _damaged(path, 0, "the header fails its checksum")
        if form > FORMAT:
            raise FormatTooNew(f"{path} has format {form}; this version reads up to {FORMAT}")
        if found != first or records < 1:
            raise _damaged(path, 0, f"the header is that of {records} commits from {found} on")
        if database_id != self._database_id:
            raise _damaged(path, 0, f"the file belongs to the database {database_id.hex()}")
        return int(records)

    def _check_files(self, first: int) -> None:
        """Check that every record from *first* up to the last has its place in a file."""
        segments = self._segments
        for before, after in itertools.pairwise(segments):
            if after.first != before.last + 1 and after.first <= self._last:
                raise self._missing(before.last + 1)
        if self._last == 0:
            return
        if not segments or segments[0].first > self._last:
            raise self._missing(self._last)
        if segments[0].first > first:
            # Only the caller knows that this commit was not trimmed.
            raise self._missing(first)
        for segment in segments:
            if segment.first > self._last:
                break
            end = segment.offset(min(segment.last, self._last) + 1)
            if segment.file.size() < end:
                size = segment.file.size()
                raise _damaged(segment.path, size, f"the file ends before offset {end}")
        if segments[-1].last < self._last:
            raise self._missing(segments[-1].last + 1)

    def _missing(self, commit: int) -> DamagedFile:
        path = join(self._directory, f"{commit:0{DIGITS}d}{SUFFIX}")
        return _damaged(path, 0, f"the file with commit {commit} is missing")

    # Beginning and end.

    @property
    def first_commit(self) -> CommitNumber:
        """The oldest commit in the log; one above the last if the log is empty."""
        segments = self._segments
        return CommitNumber(min(segments[0].first, self._last + 1) if segments else self._last + 1)

    @property
    def last_commit(self) -> CommitNumber:
        """The newest commit that was appended."""
        return CommitNumber(self._last)

    @property
    def directory(self) -> str:
        """The directory of the files."""
        return self._directory

    def newest_stored(self) -> int:
        """The newest commit that the files have, at or beyond the end of the log.

        What is beyond is left from an unfinished checkpoint, or is of a later moment.
        """
        newest = self._last
        for segment in self._segments:
            commit = max(self._last + 1, segment.first)
            while commit <= segment.last:
                data = segment.file.read_at(segment.offset(commit), RECORD_SIZE)
                if len(data) < RECORD_SIZE or not _is_record_of(data, commit):
                    break
                newest = max(newest, commit)
                commit += 1
        return newest

    @property
    def size(self) -> int:
        """Valid bytes of all files."""
        segments = self._segments
        return RECORD_SIZE * (self._last + 1 - self.first_commit + len(segments))

    def parts(self) -> list[FilePart]:
        """The files of all records, for a copy. Not concurrent with `append` and `trim`."""
        counting = [segment for segment in self._segments if segment.first <= self._last]
        return [
            FilePart(
                segment.path,
                segment.offset(min(segment.last, self._last) + 1),
                segment is not counting[-1],
            )
            for segment in counting
        ]

    # Appending.

    def append(self, records: Sequence[CommitRecord]) -> None:
        """Add the commits that follow the last one. Not durable before `sync`.

        Raises:
            DiskFull: there is no room. Records up to `last_commit` were added; retry the rest.
        """
        if records:
            self.append_packed(pack_records(records))

    def append_packed(self, packed: bytes) -> None:
        """Like `append`, with records of a RecordPacker, at least one."""
        assert len(packed) % RECORD_SIZE == 0
        assert commit_in(packed, 0) == self._last + 1, "commits are dense"
        after = self._last + len(packed) // RECORD_SIZE
        assert commit_in(packed, len(packed) - RECORD_SIZE) == after, "commits are dense"
        if not self._is_cut:
            self._cut()
        at = 0
        while at < len(packed):
            segment = self._segment_to_append()
            end = at + RECORD_SIZE * (segment.last - self._last)
            part = packed[at:end]
            segment.file.write_at(segment.offset(self._last + 1), part)
            self._last += len(part) // RECORD_SIZE
            at += len(part)

    def sync(self) -> None:
        """Wait until all appended records are on the disk. Full segments already are."""
        if self._segments and self._is_cut:
            self._segments[-1].file.sync()

    def _segment_to_append(self) -> _Segment:
        if self._segments and self._segments[-1].last > self._last:
            return self._segments[-1]
        # Sync first: if the next segment exists after a power loss, this one must be complete.
        self.sync()
        first = self._last + 1
        path = join(self._directory, f"{first:0{DIGITS}d}{SUFFIX}")
        header = pack_header(first, self._records, self._database_id)
        if self._file_system.exists(path + _TEMPORARY):
            self._file_system.remove(path + _TEMPORARY)
        file = self._file_system.create(path + _TEMPORARY)
        try:
            file.write_at(0, header)
        except DiskFull:
            file.close()
            self._file_system.remove(path + _TEMPORARY)
            raise
        file.sync()
        self._file_system.rename(path + _TEMPORARY, path)
        self._file_system.sync_directory(self._directory)
        segment = _Segment(path, file, first, self._records)
        self._segments = [*self._segments, segment]
        return segment

    def _cut(self) -> None:
        """Remove everything beyond the last commit, the newest file first."""
        while self._segments and self._segments[-1].first > max(self._last, 0):
            segment = self._segments[-1]
            self._file_system.remove(segment.path)
            self._file_system.sync_directory(self._directory)
            self._segments = self._segments[:-1]
            self._removed.append(segment)
        if self._segments:
            segment = self._segments[-1]
            segment.file.truncate(segment.offset(self._last + 1))
            segment.file.sync()
        self._is_cut = True

    def trim(self, below: CommitNumber) -> int:
        """Remove the segments whose commits are all below *below*, but never the last one.

        Returns:
            how many were removed.
        """
        # Close them only now: when the last trim removed them, another thread may have read one.
        self._close_removed()
        removed = 0
        while len(self._segments) > 1 and self._segments[1].first <= min(below, self._last):
            segment = self._segments[0]
            self._segments = self._segments[1:]
            self._file_system.remove(segment.path)
            # Oldest first, each durably, so that a power loss in between leaves no gap.
            self._file_system.sync_directory(self._directory)
            self._removed.append(segment)
            removed += 1
        return removed

    # Reading.

    def read(self, commit: CommitNumber) -> CommitRecord:
        """The record of a commit.

        Raises:
            HistoryGone: the commit was trimmed.
            NoSuchCommit: the commit is above the last one.
            DamagedFile: the record is damaged.
        """
        return self.read_range(commit, 1)[0]

    def read_range(self, first: CommitNumber, count: int) -> list[CommitRecord]:
        """Up to *count* records from *first* on; fewer only where the log ends.

        Raises:
            HistoryGone, NoSuchCommit, DamagedFile: as for `read`.
        """
        segments, last = self._segments, self._last
        if first > last:
            raise NoSuchCommit(f"commit {first} is not in the commit log; its last is {last}")
        if not segments or first < segments[0].first:
            oldest = self.first_commit
            raise HistoryGone(
                f"commit {first} was trimmed from the commit log; the oldest is {oldest}",
                details={"oldest": oldest},
            )
        found: list[CommitRecord] = []
        end = min(first + count - 1, last)
        place = bisect.bisect_right(segments, int(first), key=lambda each: each.first) - 1
        at = int(first)
        while at <= end:
            segment = segments[place]
            upto = min(end, segment.last, at + _READ_RECORDS - 1)
            found += _read_records(segment, at, upto)
            at = upto + 1
            place += at > segment.last
        return found

    def at_time(self, time: int) -> CommitNumber:
        """The newest commit at or before *time*, in microseconds since 1970-01-01 UTC.

        If that is older than all commits in the log, it is the one before the first.
        """
        low, high = int(self.first_commit), self._last + 1
        while low < high:
            middle = (low + high) // 2
            try:
                record = self.read(CommitNumber(middle))
            except HistoryGone:
                # Another thread has trimmed it since we began.
                low = int(self.first_commit)
                continue
            if record.time <= time:
                low = middle + 1
            else:
                high = middle
        return CommitNumber(min(low, self._last + 1) - 1)

    def find_damage(self) -> Iterator[DamagedFile]:
        """Read all records; yield each damaged one, and each time that goes back."""
        time = 0
        for segment in self._segments:
            for first in range(segment.first, min(segment.last, self._last) + 1, _READ_RECORDS):
                upto = min(first + _READ_RECORDS - 1, segment.last, self._last)
                try:
                    records = _read_records(segment, first, upto)
                except DamagedFile:
                    records = []
                    for commit in range(first, upto + 1):
                        try:
                            records += _read_records(segment, commit, commit)
                        except DamagedFile as error:
                            yield error
                for record in records:
                    if record.time < time:
                        at = segment.offset(record.commit)
                        yield _damaged(segment.path, at, f"time {record.time} is before {time}")
                    time = record.time

    def close(self) -> None:
        """Close all files, without a sync. A second call does nothing."""
        for segment in self._segments:
            segment.file.close()
        self._close_removed()

    def _close_removed(self) -> None:
        for segment in self._removed:
            segment.file.close()
        self._removed.clear()


def _is_record_of(data: bytes, commit: int) -> bool:
    record = unpack_record(data, 0)
    return record is not None and record.commit == commit


def _read_records(segment: _Segment, first: int, last: int) -> list[CommitRecord]:
    """The records of a range that lies in one segment, checked."""
    offset = segment.offset(first)
    data = segment.file.read_at(offset, RECORD_SIZE * (last - first + 1))
    if len(data) < RECORD_SIZE * (last - first + 1):
        raise _damaged(segment.path, offset + len(data), f"the file ends before commit {last}")
    view = memoryview(data)
    crc32 = zlib.crc32
    found: list[CommitRecord] = []
    for number, fields in enumerate(RECORD.iter_unpack(data)):
        transaction, commit, time, user, first_position, event_count, crc = fields
        at = number * RECORD_SIZE
        if crc32(view[at : at + CRC_AT]) != crc:
            raise _damaged(segment.path, offset + at, f"commit {first + number} fails its checksum")
        if commit != first + number:
            raise _damaged(
                segment.path, offset + at, f"commit {commit} in place of {first + number}"
            )
        found.append(CommitRecord(commit, transaction, time, user, first_position, event_count))
    return found


def _damaged(path: str, offset: int, what: str) -> DamagedFile:
    return DamagedFile(
        f"{path} at offset {offset}: {what}", details={"file": path, "offset": offset}
    )
