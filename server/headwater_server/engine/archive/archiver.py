"""The archiver: copies the log to the archive, piece by piece.

    log       1 ........ 812 813 .. 829 830 ... 1207 1208 ..
    archive   [ whole      ] [ part   ] [ part     ]
              '----- archived up to entry 1207 -----'

It is called every few seconds, and writes all entries that are durable in the log and not in the
archive yet. They become a part, or a whole piece if there are many. When the parts have the size of
a whole piece, or are many, they are read back, verified, and merged into one.

When it begins, it looks for the timeline that this log continues: the log must have the last entry
of that timeline, with the same hash. If there is none, it begins a new timeline: for a new archive,
for a database that was restored or repaired, and after a gap.

It keeps nothing open between two calls except the lock, and after any failure it begins again with
what the archive holds. So an archive that was away, or full, is caught up with when it is back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from headwater_protocol.errors import DamagedFile, HeadwaterError
from headwater_server.engine.archive.history import find_parent
from headwater_server.engine.archive.spans import NO_ID, first_commit, just_before, span_of
from headwater_server.storage.archive.directory import ArchiveDirectory, ArchiveLost
from headwater_server.storage.archive.piece import (
    PIECE_SIZE,
    PieceHeader,
    PieceName,
    Span,
    ends_inside_record,
    header_of,
    read_header,
    read_piece,
    unpacked,
    write_piece,
)
from headwater_server.storage.errors import Truncated
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import LogCursor, LogReader, WalEntry, WalIndex

PARTS_MAX: Final = 720
"""Parts that are merged into one piece, however small they are: those of an hour, with one every
five seconds. It bounds the number of files, and what is written twice."""


class Newest(Protocol):
    """What the archiver asks about the database; from any thread."""

    @property
    def published(self) -> int:
        """The newest commit that readers see."""
        ...

    def commit_id(self, commit: int) -> bytes:
        """The transaction of a commit that is in the files; NO_ID if it is not known any more."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A timeline that the archiver has begun.

    Attributes:
        timeline: its number.
        first: its first entry.
        commit: the newest commit before it.
        needs_backup: the archive does not lead up to that commit, so only a backup of it, or of a
            later one, can be restored to a commit of this timeline.
    """

    timeline: int
    first: int
    commit: int
    needs_backup: bool


@dataclass(slots=True)
class _Place:
    """Where the archive ends: what the next piece must continue."""

    directory: ArchiveDirectory
    timeline: int
    cursor: LogCursor
    index: int
    hash: bytes | None
    span: Span | None
    parts: list[PieceName]
    parts_size: int


class Archiver:
    """Copies a log to an archive. All methods block; call them from one thread at a time.

    Attributes:
        path: of the archive.
        archived: the last entry in the archive, 0 before the first look at it.
        commit: the newest commit in the archive.
        pieces: how many pieces were written.
        begun: called with each timeline that is begun.
    """

    def __init__(
        self,
        file_system: FileSystem,
        path: str,
        *,
        log: LogReader,
        newest: Newest,
        database_id: bytes,
        created: int,
        owner: bytes,
        piece_size: int = PIECE_SIZE,
        parts_max: int = PARTS_MAX,
        begun: Callable[[Begun], None] = lambda _: None,
    ) -> None:
        """*owner* is 16 random bytes that no other writer has."""
        self.path = path
        self.archived = WalIndex(0)
        self.commit = 0
        self.pieces = 0
        self.begun = begun
        self._file_system = file_system
        self._log = log
        self._newest = newest
        self._database_id = database_id
        self._created = created
        self._owner = owner
        self._piece_size = piece_size
        self._parts_max = parts_max
        self._place: _Place | None = None
        self._was_open = False
        self._lost: str | None = None

    def connect(self) -> None:
        """Open the archive and find out where it ends, if that is not known.

        Raises:
            InvalidArgument: it is the archive of another database.
            DirectoryInUse, ArchiveLost: another server writes to it.
            DamagedFile: it is damaged where it ends.
            OSError: it is away.
        """
        if self._lost is not None:
            raise ArchiveLost(self._lost)
        if self._place is not None:
            return
        directory = ArchiveDirectory.open(
            self._file_system,
            self.path,
            database_id=self._database_id,
            created=self._created,
            owner=self._owner,
            again=self._was_open,
        )
        try:
            self._place = self._continued(directory) or self._new_timeline(directory)
        except BaseException:
            directory.close()
            raise
        self._was_open = True
        self.archived = WalIndex(self._place.index)
        if self._place.span is not None:
            self.commit = self._place.span.last

    def archive(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Copy everything that is durable in the log; *go_on* is asked between two pieces.

        Raises:
            As connect; also DamagedFile if the log is damaged, DiskFull if the archive is full.
        """
        try:
            self.connect()
            while go_on() and self._copy():
                pass
            self._merge_if_due()
        except ArchiveLost as error:
            self._lost = str(error)
            self._disconnect()
            raise
        except (OSError, HeadwaterError):
            self._disconnect()
            raise

    def close(self) -> None:
        """Release the archive. Nothing is written."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._place is not None:
            self._place.directory.close()
            self._place = None

    # Where the archive ends.

    def _continued(self, directory: ArchiveDirectory) -> _Place | None:
        """The end of the timeline that this log continues; None if it continues none."""
        log = self._log
        for timeline in reversed(directory.timelines()):
            directory.tidy(timeline)
            pieces = directory.pieces(timeline)
            if not pieces:
                continue
            path = directory.path_of(timeline, pieces[-1])
            header = read_header(self._file_system, path, database_id=self._database_id)
            if header.last > log.last_index:
                continue
            try:
                end = log.end_at(WalIndex(header.last))
            except Truncated:
                continue
            if end.hash != header.hash:
                continue
            parts: list[PieceName] = []
            while pieces and not pieces[-1].whole:
                parts.insert(0, pieces.pop())
            return _Place(
                directory,
                timeline,
                log.cursor(WalIndex(header.last)),
                header.last,
                header.hash,
                header.span,
                parts,
                sum(self._size_of(directory, timeline, part) for part in parts),
            )
        return None

    def _size_of(self, directory: ArchiveDirectory, timeline: int, piece: PieceName) -> int:
        path = directory.path_of(timeline, piece)
        return read_header(self._file_system, path, database_id=self._database_id).size

    def _new_timeline(self, directory: ArchiveDirectory) -> _Place:
        """The beginning of a timeline; its directory is made with its first piece."""
        index = self._log.first_index - 1
        timeline = max(directory.timelines(), default=0) + 1
        cursor = self._log.cursor(WalIndex(index))
        return _Place(directory, timeline, cursor, index, None, None, [], 0)

    # Pieces.

    def _copy(self) -> bool:
        """Write one piece; False if hardly anything is left to write."""
        place = self._place
        assert place is not None
        # Ask before the entries are taken: if these have no commit, it is the one before them.
        published = self._newest.published
        try:
            packed = self._take(place)
        except Truncated as error:
            self._begin_after_gap(place, error)
            return True
        if not packed:
            return False
        try:
            entries = unpacked(packed, place.index, place.hash)
        except ValueError as error:
            raise DamagedFile(f"the write-ahead log: {error}") from error
        before = place.span or self._before(entries, published)
        header = header_of(
            packed,
            entries,
            span_of(entries, before),
            database_id=self._database_id,
            timeline=place.timeline,
        )
        # Another writer may have begun while this one was at work.
        place.directory.check_owner()
        if place.span is None:
            place.directory.make_timeline(place.timeline)
        whole = header.size >= self._piece_size
        name = write_piece(
            self._file_system,
            place.directory.directory_of(place.timeline),
            header,
            packed,
            whole=whole,
        )
        if place.span is None:
            leads_here = header.first == 1 or find_parent(place.directory, header) is not None
            self.begun(Begun(place.timeline, header.first, before.last, not leads_here))
        place.index, place.hash, place.span = header.last, header.hash, header.span
        self.archived, self.commit = WalIndex(header.last), header.span.last
        self.pieces += 1
        if whole and place.parts:
            self._merge(place)
        elif not whole:
            place.parts.append(name)
            place.parts_size += header.size
        # What came meanwhile waits for the next call: a piece for each group would be too small.
        return whole

    def _take(self, place: _Place) -> list[bytes]:
        """The next entries, up to the end of a record."""
        packed = place.cursor.take(self._piece_size)
        while packed and ends_inside_record(packed[-1]):
            more = place.cursor.take(1)
            if not more:
                # A writer died inside the record. The next claim will end it.
                place.cursor = self._log.cursor(WalIndex(place.index))
                return []
            packed += more
        return packed

    def _before(self, entries: Sequence[WalEntry], published: int) -> Span:
        """What is known of the commits before the first piece of a timeline."""
        found = first_commit(entries)
        commit = published if found is None else found.commit - 1
        transaction = self._newest.commit_id(commit) if commit else NO_ID
        return Span(commit, transaction, commit, transaction, 0, 0)

    def _begin_after_gap(self, place: _Place, error: Truncated) -> None:
        """The log was trimmed before it was archived: go on with what is left of it."""
        self._place = self._new_timeline(place.directory)
        assert self._place.index + 1 >= error.first_index

    # Merging.

    def _merge_if_due(self) -> None:
        place = self._place
        assert place is not None
        if place.parts_size >= self._piece_size or len(place.parts) >= self._parts_max:
            self._merge(place)

    def _merge(self, place: _Place) -> None:
        """Replace the parts by a whole piece with the same entries."""
        directory, timeline = place.directory, place.timeline
        packed: list[bytes] = []
        entries: list[WalEntry] = []
        first: PieceHeader | None = None
        for part in place.parts:
            path = directory.path_of(timeline, part)
            header, more, unpacked_more = read_piece(
                self._file_system, path, database_id=self._database_id
            )
            packed += more
            entries += unpacked_more
            first = first or header
        assert first is not None
        # Not put together from theirs: a part without records has the time of the one before it.
        span = span_of(entries, just_before(first.span))
        merged = header_of(packed, entries, span, database_id=self._database_id, timeline=timeline)
        directory.check_owner()
        write_piece(self._file_system, directory.directory_of(timeline), merged, packed, whole=True)
        parts, place.parts, place.parts_size = place.parts, [], 0
        for part in parts:
            directory.remove(timeline, part)
