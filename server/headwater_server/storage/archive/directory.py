"""The directory of an archive: whose it is, who writes to it, and which pieces it has.

    archive/
      LOCK       locked by the process that writes; holds its pid
      ARCHIVE    {"crc32": …, "created": …, "database_id": …, "format": 1}
      OWNER      {"crc32": …, "owner": …, "pid": …}
      timeline-0001/   pieces of the log, see piece.py
      timeline-0002/

A timeline is one history of the database. Its pieces follow each other without a gap. A database
that was restored to an earlier moment goes on differently, so its log is another timeline.

An archive belongs to one database. A lock keeps a second server of the same machine away. A network
file system may not know locks of other machines, so a writer also puts a random number into OWNER
when it begins, and looks whether the number is still there before each piece: the writer that began
last wins, and the other one stops.

Readers take no lock. Pieces never change; small ones are replaced by a whole one with the same
entries, so a reader that misses a piece lists the directory again.
"""

import itertools
import os
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from headwater_protocol.errors import DamagedFile, FormatTooNew, InvalidArgument
from headwater_server.storage.archive.piece import FORMAT, TEMPORARY, PieceName
from headwater_server.storage.files.file_system import FileSystem, Lock, join
from headwater_server.storage.files.sealed_fields import read_fields, write_fields

ARCHIVE_NAME: Final = "ARCHIVE"
OWNER_NAME: Final = "OWNER"
LOCK_NAME: Final = "LOCK"

_TIMELINE: Final = re.compile(r"timeline-(\d{4,9})")
_NOT_OF_ANYBODY: Final = "lost+found"
_FIELDS_SIZE_MAX: Final = 4096
"""Bytes of ARCHIVE and OWNER that we read: more than any version writes."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class ArchiveLost(Exception):
    """Another server has begun to write to this archive. This one must not write any more."""


@dataclass(slots=True)
class ArchiveDirectory:
    """An archive that was opened.

    Attributes:
        path: of the directory.
        database_id: 16 bytes: the database that it belongs to.
        created: when the database was made, in microseconds since 1970-01-01 UTC.
        lock, owner: of a writer.
    """

    file_system: FileSystem
    path: str
    database_id: bytes
    created: int
    lock: Lock | None = None
    owner: str = ""

    @staticmethod
    def look_at(file_system: FileSystem, path: str) -> "ArchiveDirectory":
        """Open an archive for reading. Nothing is written, and a server may write to it meanwhile.

        Raises:
            InvalidArgument: there is no archive.
            DamagedFile: ARCHIVE is not what was written.
            FormatTooNew: a newer version made it.
        """
        if not is_archive(file_system, path):
            raise InvalidArgument(f"there is no archive at {path}", details={"path": path})
        fields = read_fields(file_system, path, ARCHIVE_NAME, size_max=_FIELDS_SIZE_MAX)
        found = fields["format"]
        if found > FORMAT:
            raise FormatTooNew(
                f"{path} is an archive of format {found}; this version reads up to {FORMAT}",
                details={"path": path, "found": found, "known": FORMAT},
            )
        created = (datetime.fromisoformat(fields["created"]) - _EPOCH) // timedelta(microseconds=1)
        identity = uuid.UUID(fields["database_id"]).bytes
        return ArchiveDirectory(file_system, path, identity, created)

    @staticmethod
    def open(
        file_system: FileSystem,
        path: str,
        *,
        database_id: bytes,
        created: int,
        owner: bytes,
        again: bool = False,
    ) -> "ArchiveDirectory":
        """Lock an archive for writing, and make it if the directory is empty.

        Args:
            owner: 16 random bytes of this writer.
            again: this writer has written to the archive before.

        Raises:
            InvalidArgument: the archive is of another database, or the directory is not empty and
                not an archive.
            DirectoryInUse: another process writes to it.
            ArchiveLost: another writer has begun since, and this one comes *again*.
            DamagedFile, FormatTooNew: as `look_at`.
            OSError: the directory is missing, or its disk failed or is full.
        """
        names = file_system.list(path)
        ours = {LOCK_NAME, ARCHIVE_NAME, ARCHIVE_NAME + TEMPORARY, _NOT_OF_ANYBODY}
        if ARCHIVE_NAME not in names and (foreign := sorted(set(names) - ours)):
            raise InvalidArgument(
                f"{path} is not an archive and not empty: it holds {foreign[0]!r}",
                details={"path": path},
            )
        lock = file_system.lock(join(path, LOCK_NAME))
        try:
            if not is_archive(file_system, path):
                fields = {
                    "created": (_EPOCH + timedelta(microseconds=created)).isoformat(),
                    "database_id": str(uuid.UUID(bytes=database_id)),
                    "format": FORMAT,
                }
                write_fields(file_system, path, ARCHIVE_NAME, fields)
            opened = ArchiveDirectory.look_at(file_system, path)
            if opened.database_id != database_id:
                raise InvalidArgument(
                    f"{path} is the archive of the database {uuid.UUID(bytes=opened.database_id)}, "
                    f"and this is {uuid.UUID(bytes=database_id)}; give each database an archive of "
                    "its own",
                    details={"path": path},
                )
            opened.owner = owner.hex()
            if again and file_system.exists(join(path, OWNER_NAME)):
                opened.check_owner()
            write_fields(file_system, path, OWNER_NAME, {"owner": owner.hex(), "pid": os.getpid()})
        except BaseException:
            lock.close()
            raise
        opened.lock = lock
        return opened

    def check_owner(self) -> None:
        """Raise ArchiveLost if another writer has begun.

        Raises:
            OSError: the archive is away.
        """
        fields = read_fields(self.file_system, self.path, OWNER_NAME, size_max=_FIELDS_SIZE_MAX)
        if fields.get("owner") != self.owner:
            raise ArchiveLost(
                f"{self.path}: another server writes to this archive since; two servers on one "
                "archive would mix their histories"
            )

    def timelines(self) -> list[int]:
        """The numbers of the timelines, ascending."""
        found = (_TIMELINE.fullmatch(name) for name in self.file_system.list(self.path))
        return sorted(int(each[1]) for each in found if each is not None)

    def directory_of(self, timeline: int) -> str:
        """The directory of a timeline."""
        return join(self.path, f"timeline-{timeline:04d}")

    def make_timeline(self, timeline: int) -> None:
        """Make the directory of a timeline, durably."""
        self.file_system.make_directory(self.directory_of(timeline))
        self.file_system.sync_directory(self.path)

    def pieces(self, timeline: int) -> list[PieceName]:
        """The pieces of a timeline in order, without those that a whole one has replaced."""
        return _in_order(self._all(timeline))[0]

    def path_of(self, timeline: int, piece: PieceName) -> str:
        """The path of a piece."""
        return join(self.directory_of(timeline), str(piece))

    def tidy(self, timeline: int) -> None:
        """Remove what an interrupted writer left: temporary files and replaced pieces."""
        directory = self.directory_of(timeline)
        for name in self.file_system.list(directory):
            if name.endswith(TEMPORARY):
                self.file_system.remove(join(directory, name))
        for piece in _in_order(self._all(timeline))[1]:
            self.remove(timeline, piece)

    def remove(self, timeline: int, piece: PieceName) -> None:
        """Remove a piece. The removal is not synced: a piece that comes back does no harm."""
        self.file_system.remove(self.path_of(timeline, piece))

    def _all(self, timeline: int) -> list[PieceName]:
        names = map(PieceName.parse, self.file_system.list(self.directory_of(timeline)))
        return [piece for piece in names if piece is not None]

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def _in_order(pieces: list[PieceName]) -> tuple[list[PieceName], list[PieceName]]:
    """The pieces in order, and those whose entries are all in others."""
    needed: list[PieceName] = []
    replaced: list[PieceName] = []
    covered = 0
    for piece in sorted(pieces, key=lambda each: (each.first, -each.last, not each.whole)):
        if piece.last <= covered:
            replaced.append(piece)
        else:
            needed.append(piece)
            covered = piece.last
    return needed, replaced


def is_archive(file_system: FileSystem, path: str) -> bool:
    """Whether a directory is an archive."""
    return file_system.exists(join(path, ARCHIVE_NAME))


def gaps(path: str, pieces: list[PieceName]) -> list[DamagedFile]:
    """What is missing between the pieces of one timeline."""
    found: list[DamagedFile] = []
    for before, after in itertools.pairwise(pieces):
        if after.first != before.last + 1:
            what = f"{path}: entries {before.last + 1} to {after.first - 1} are missing"
            if after.first <= before.last:
                what = f"{path}: {before} and {after} overlap"
            found.append(DamagedFile(what, details={"file": join(path, str(after)), "offset": 0}))
    return found
