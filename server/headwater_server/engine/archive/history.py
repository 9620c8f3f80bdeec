r"""The history of a database in its archive: which entries of which timeline lead to a commit.

    timeline 1    1 ---- 2 ---- 3 ---- 4 ---- 5 ---- 6
                                 \
    timeline 2                    4'---- 5'---- 6'          restored to commit 3

    the history of timeline 2:   1  2  3  4' 5' 6'

The first piece of a timeline says which commit was the newest before it, and that commit's
transaction. The parent of the timeline is the one that has this commit with this transaction.
Commits of two timelines can have the same number, but not the same transaction.

A timeline that begins with the first entry has no parent. Neither has one that begins after a gap;
then only a backup leads to it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from headwater_protocol.errors import DamagedFile, InvalidArgument
from headwater_server.engine.archive.spans import NO_ID
from headwater_server.engine.format.planned import COMMIT
from headwater_server.engine.format.records import RecordHead, head_of
from headwater_server.storage.archive.directory import ArchiveDirectory, gaps
from headwater_server.storage.archive.piece import (
    PieceHeader,
    PieceName,
    read_header,
    read_piece,
)
from headwater_server.storage.wal.interface import WalIndex, records_by_entry


class Found(NamedTuple):
    """A commit in the archive: the entry that completes its record, and its head."""

    entry: int
    head: RecordHead


@dataclass(slots=True)
class Timeline:
    """The pieces of one timeline, whose headers are read when they are needed."""

    archive: ArchiveDirectory
    number: int
    pieces: list[PieceName]
    _headers: dict[PieceName, PieceHeader] = field(default_factory=dict)

    @staticmethod
    def of(archive: ArchiveDirectory, number: int) -> "Timeline":
        """A timeline of an archive.

        Raises:
            DamagedFile: a piece is missing between two others.
        """
        pieces = archive.pieces(number)
        for gap in gaps(archive.directory_of(number), pieces):
            raise gap
        return Timeline(archive, number, pieces)

    def header(self, piece: PieceName) -> PieceHeader:
        """The header of a piece."""
        found = self._headers.get(piece)
        if found is None:
            path = self.archive.path_of(self.number, piece)
            found = read_header(
                self.archive.file_system, path, database_id=self.archive.database_id
            )
            if found.timeline != self.number:
                raise DamagedFile(
                    f"{path}: it belongs to timeline {found.timeline}",
                    details={"file": path, "offset": 0},
                )
            self._headers[piece] = found
        return found

    @property
    def first(self) -> PieceHeader:
        """The header of the first piece."""
        return self.header(self.pieces[0])

    @property
    def last(self) -> PieceHeader:
        """The header of the last piece."""
        return self.header(self.pieces[-1])

    def place_of(self, commit: int) -> int:
        """The number of the piece with a commit; that of the first piece if it is just before."""
        return min(
            bisect_left(self.pieces, commit, key=lambda each: self.header(each).span.last),
            len(self.pieces) - 1,
        )

    def has(self, commit: int) -> bool:
        """Whether it has a commit, or begins just after it."""
        return self.first.span.before <= commit <= self.last.span.last

    def commits(self, piece: PieceName) -> Iterator[Found]:
        """The commits in a piece."""
        path = self.archive.path_of(self.number, piece)
        _, _, entries = read_piece(
            self.archive.file_system, path, database_id=self.archive.database_id
        )
        for index, completed in records_by_entry(entries):
            for head in map(head_of, completed):
                if head.kind == COMMIT:
                    yield Found(index, head)

    def find(self, commit: int) -> Found | None:
        """A commit that is in it; None if it begins after it, or ends before it."""
        if not self.first.span.before < commit <= self.last.span.last:
            return None
        for found in self.commits(self.pieces[self.place_of(commit)]):
            if found.head.commit == commit:
                return found
        return None

    def id_of(self, commit: int) -> bytes | None:
        """The transaction of a commit that it has, or that is just before it; None if unknown."""
        span = self.first.span
        if commit == span.before:
            return None if span.before_id == NO_ID else span.before_id
        found = self.find(commit)
        return None if found is None else found.head.transaction

    def newest_at(self, time: int) -> Found | None:
        """The newest commit at or before a time in microseconds; None if there is none."""
        place = bisect_right(self.pieces, time, key=lambda each: self.header(each).span.first_time)
        while place:
            place -= 1
            newest: Found | None = None
            for found in self.commits(self.pieces[place]):
                if found.head.time <= time:
                    newest = found
            if newest is not None:
                return newest
        return None


class Stretch(NamedTuple):
    """A part of a history: the entries of a timeline up to an index.

    Attributes:
        upto: the last entry; None for all of the timeline.
        commit: where to stop within the last entry; None: behind it.
    """

    timeline: Timeline
    upto: int | None
    commit: int | None


def find_parent(archive: ArchiveDirectory, first: PieceHeader) -> Timeline | None:
    """The timeline that leads up to the first piece of another; None if there is none."""
    commit, transaction = first.span.before, first.span.before_id
    for number in reversed(archive.timelines()):
        if number >= first.timeline or not archive.pieces(number):
            continue
        timeline = Timeline.of(archive, number)
        if commit == 0 and timeline.first.first == 1:
            return timeline
        if transaction != NO_ID and timeline.has(commit):
            if timeline.id_of(commit) == transaction:
                return timeline
    return None


class History:
    """One history of the database: the pieces of a timeline, and of those that lead up to it."""

    def __init__(self, archive: ArchiveDirectory, timeline: int | None = None) -> None:
        """Take the history of *timeline*, by default the newest one.

        Raises:
            InvalidArgument: there is no such timeline, or nothing was archived yet.
            DamagedFile: it is damaged, or pieces are missing.
        """
        numbers = [each for each in archive.timelines() if archive.pieces(each)]
        if not numbers:
            raise InvalidArgument(f"{archive.path}: nothing was archived yet")
        number = numbers[-1] if timeline is None else timeline
        if number not in numbers:
            raise InvalidArgument(
                f"{archive.path} has no timeline {number}; it has {', '.join(map(str, numbers))}"
            )
        self.archive = archive
        at = Timeline.of(archive, number)
        self.stretches = [Stretch(at, None, None)]
        while at.first.first > 1:
            parent = find_parent(archive, at.first)
            if parent is None:
                break
            upto = at.first.first - 1
            # A database that was restored to the end of the archive goes on behind its last entry.
            commit = at.first.span.before if upto < parent.last.last else None
            self.stretches.insert(0, Stretch(parent, upto, commit))
            at = parent

    @property
    def number(self) -> int:
        """The number of the timeline."""
        return self.stretches[-1].timeline.number

    @property
    def first_commit(self) -> int:
        """The oldest commit in it; a backup must be of this one, of the one before, or later."""
        return self.stretches[0].timeline.first.span.before + 1

    @property
    def is_complete(self) -> bool:
        """Whether it begins with the first entry, so that it needs no backup."""
        return self.stretches[0].timeline.first.first == 1

    @property
    def last_commit(self) -> int:
        """The newest commit."""
        return self.stretches[-1].timeline.last.span.last

    @property
    def last_time(self) -> int:
        """The time of the newest record."""
        return self.stretches[-1].timeline.last.span.last_time

    def stretch_of(self, commit: int) -> int | None:
        """The number of the stretch with a commit, or that begins just after it; else None."""
        if not self.first_commit - 1 <= commit <= self.last_commit:
            return None
        for place in range(len(self.stretches) - 1, -1, -1):
            if place == 0 or commit > self.stretches[place].timeline.first.span.before:
                return place
        return None

    def id_of(self, commit: int) -> bytes | None:
        """The transaction of a commit in this history; None if it is not in it."""
        place = self.stretch_of(commit)
        return None if place is None else self.stretches[place].timeline.id_of(commit)

    def commit_at(self, time: int) -> int | None:
        """The newest commit at a time in microseconds; None if all are later."""
        for place in range(len(self.stretches) - 1, -1, -1):
            stretch = self.stretches[place]
            found = stretch.timeline.newest_at(time)
            if found is not None:
                if stretch.commit is not None:
                    return min(found.head.commit, stretch.commit)
                return found.head.commit
        return 0 if self.is_complete else None

    def index_of(self, commit: int | None) -> int:
        """The entry that completes a commit; that before the first piece if the commit is earlier.

        None: the last entry.
        """
        if commit is None:
            return self.stretches[-1].timeline.last.last
        place = self.stretch_of(commit)
        assert place is not None
        timeline = self.stretches[place].timeline
        found = timeline.find(commit)
        return timeline.first.first - 1 if found is None else found.entry

    def newest_epoch(self) -> int:
        """The newest epoch of all timelines of the archive."""
        newest = 0
        for number in self.archive.timelines():
            if self.archive.pieces(number):
                newest = max(newest, Timeline.of(self.archive, number).last.epoch)
        return newest

    def records(self, after: int, upto: int | None) -> Iterator[tuple[WalIndex, list[bytes]]]:
        """The records behind commit *after*, and maybe earlier ones, as the log would give them.

        The last one is commit *upto*; None: all. Every piece is verified before its records are
        given.

        Raises:
            DamagedFile: a piece is damaged or missing.
        """
        begin = self.stretch_of(after)
        end = len(self.stretches) - 1 if upto is None else self.stretch_of(upto)
        assert begin is not None
        assert end is not None
        for place in range(begin, end + 1):
            timeline, last, commit = self.stretches[place]
            if place == end and upto is not None:
                commit = upto
            yield from _records(timeline, after if place == begin else None, last, commit)


def _records(
    timeline: Timeline, after: int | None, last: int | None, commit: int | None
) -> Iterator[tuple[WalIndex, list[bytes]]]:
    archive = timeline.archive
    start = 0 if after is None else timeline.place_of(after)
    before: PieceHeader | None = None
    for piece in timeline.pieces[start:]:
        path = archive.path_of(timeline.number, piece)
        header, _, entries = read_piece(archive.file_system, path, database_id=archive.database_id)
        if before is not None and (before.last + 1, before.hash) != (
            header.first,
            header.hash_before,
        ):
            raise DamagedFile(
                f"{path}: it does not continue the piece before it",
                details={"file": path, "offset": 0},
            )
        before = header
        for index, completed in records_by_entry(entries):
            if last is not None and index > last:
                return
            kept, is_end = (completed, False) if commit is None else _upto(completed, commit)
            if kept:
                yield index, kept
            if is_end:
                return


def _upto(records: list[bytes], commit: int) -> tuple[list[bytes], bool]:
    """The records up to a commit, and whether it or a later one is among them."""
    for count, head in enumerate(map(head_of, records), start=1):
        if head.kind == COMMIT and head.commit >= commit:
            return records[: count if head.commit == commit else count - 1], True
    return records, False
