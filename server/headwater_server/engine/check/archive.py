"""Verification of an archive: reads every byte, changes nothing.

1  ARCHIVE
2  each timeline       its pieces follow each other without a gap
3  each piece          header, digest, checksums, chain of hashes; commits in order, as the
                       header says
4  each timeline       whether it begins with the first entry, or which timeline leads up to it

A server may write to the archive meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from headwater_protocol.errors import DamagedFile, FormatTooNew
from headwater_server.engine.archive.history import Timeline, find_parent
from headwater_server.engine.archive.spans import just_before, span_of
from headwater_server.engine.check.findings import FINDINGS_MAX, Progress
from headwater_server.engine.format.planned import COMMIT
from headwater_server.engine.format.records import head_of
from headwater_server.storage.archive.directory import ArchiveDirectory, gaps
from headwater_server.storage.archive.piece import PieceHeader, PieceName, Span, read_piece
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import WalEntry, records_by_entry


@dataclass(frozen=True, slots=True)
class CheckedTimeline:
    """What a sound timeline holds.

    Attributes:
        number: of the timeline.
        first, last: its entries.
        span: its commits and times.
        parent: the timeline that leads up to it, None if there is none.
    """

    number: int
    first: int
    last: int
    span: Span
    parent: int | None


@dataclass(slots=True)
class ArchiveReport:
    """The results of a check.

    Attributes:
        timelines: those that could be read.
        findings: what is wrong, at most FINDINGS_MAX.
        pieces, size: how many pieces were read, and their bytes.
    """

    timelines: list[CheckedTimeline] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    pieces: int = 0
    size: int = 0

    def add(self, what: str) -> None:
        """Note something that is wrong."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(what)


def check_archive(
    file_system: FileSystem, path: str, *, on_progress: Progress = lambda _done, _total: None
) -> ArchiveReport:
    """Verify the archive at *path*.

    Args:
        on_progress: called with how many pieces are read, and how many there are.

    Raises:
        InvalidArgument: there is no archive.
        FormatTooNew: a newer version made it.
        OSError: the disk failed.
    """
    report = ArchiveReport()
    try:
        archive = ArchiveDirectory.look_at(file_system, path)
    except DamagedFile as error:
        report.add(error.message)
        return report
    pieces = {number: archive.pieces(number) for number in archive.timelines()}
    total = sum(map(len, pieces.values()))

    def count() -> None:
        report.pieces += 1
        on_progress(report.pieces, total)

    for number, listed in pieces.items():
        if listed:
            _check_timeline(archive, number, listed, report, count)
    return report


def _check_timeline(
    archive: ArchiveDirectory,
    number: int,
    pieces: list[PieceName],
    report: ArchiveReport,
    count: Callable[[], None],
) -> None:
    for gap in gaps(archive.directory_of(number), pieces):
        report.add(gap.message)
    first: PieceHeader | None = None
    before: PieceHeader | None = None
    for piece in pieces:
        count()
        try:
            header = _check_piece(archive, number, piece, before)
        except (DamagedFile, FormatTooNew) as error:
            report.add(error.message)
            before = None
            continue
        report.size += header.size
        first = first or header
        before = header
    if first is None or before is None:
        return
    span = Span(
        first.span.before,
        first.span.before_id,
        before.span.last,
        before.span.last_id,
        first.span.first_time,
        before.span.last_time,
    )
    parent: Timeline | None = None
    if first.first > 1:
        try:
            parent = find_parent(archive, first)
        except DamagedFile as error:
            report.add(error.message)
    report.timelines.append(
        CheckedTimeline(
            number, first.first, before.last, span, None if parent is None else parent.number
        )
    )


def _check_piece(
    archive: ArchiveDirectory, number: int, piece: PieceName, before: PieceHeader | None
) -> PieceHeader:
    """Verify one piece; *before* is the sound one before it, None if that is not known."""
    path = archive.path_of(number, piece)
    try:
        header, _, entries = read_piece(archive.file_system, path, database_id=archive.database_id)
    except FileNotFoundError:
        # It was merged since we looked. The entries are in another piece now.
        merged = [each for each in archive.pieces(number) if each.first <= piece.first <= each.last]
        if not merged or merged[0] == piece:
            raise
        path = archive.path_of(number, merged[0])
        header, _, entries = read_piece(archive.file_system, path, database_id=archive.database_id)
        before = None
    wrong = _wrong(header, entries, number, before)
    if wrong is not None:
        raise DamagedFile(f"{path}: {wrong}", details={"file": path, "offset": 0})
    return header


def _wrong(
    header: PieceHeader, entries: list[WalEntry], number: int, before: PieceHeader | None
) -> str | None:
    """What is wrong with a piece that has its digest; None if nothing is."""
    if header.timeline != number:
        return f"it belongs to timeline {header.timeline}"
    if before is not None and before.last + 1 == header.first:
        if header.hash_before != before.hash:
            return "it does not continue the piece before it"
        if (header.span.before, header.span.before_id) != (before.span.last, before.span.last_id):
            return f"it begins behind commit {header.span.before}, not {before.span.last}"
    commit, time = header.span.before, 0
    for _, completed in records_by_entry(entries):
        for head in map(head_of, completed):
            if head.kind == COMMIT:
                if head.commit != commit + 1:
                    return f"commit {head.commit} follows commit {commit}"
                commit = head.commit
            if head.time < time:
                return f"the record after commit {commit} goes back in time"
            time = head.time
    if span_of(entries, just_before(header.span)) != header.span:
        return "the commits in it are not those that the header says"
    return None
