"""BACKUP: the file in each backup that describes it and has the digests of its files.

    {"commit": 812, "copied": 5120, "crc32": …, "database_id": …, "files": {…}, "log_index": 9000,
     "made": 1764547200000000, "position": 700, "size": 73400320, "transaction": …}

`files` has the size of each file, and the SHA-256 of those that were copied from another disk. The
next backup compares the files of the database with these digests, and links files that the last
backup already has. So it reads all files of the database, but writes only new ones.

A server that runs on a backup changes its files. It also makes LOCK, so a backup with LOCK is never
linked from.
"""

import uuid
from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol.errors import DamagedFile
from headwater_protocol.limits import MIB
from headwater_server.storage.files.directory import FORMAT_NAME, LOCK_NAME
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.files.sealed_fields import read_fields, write_fields

RECORD_NAME: Final = "BACKUP"

RECORD_SIZE_MAX: Final = 256 * MIB
"""The largest BACKUP that we read. A database of ten terabytes needs a tenth of this."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The size of a file, and its SHA-256 in hexadecimal; None if it was not read."""

    size: int
    digest: str | None


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """The description of a backup.

    Attributes:
        database_id: 16 bytes.
        commit, position: the newest commit and event in it.
        transaction: the transaction id of the newest commit, in hexadecimal; "" if unknown.
        made: the time of the backup, in microseconds since 1970-01-01 UTC; 0 if unknown.
        size: bytes of its files.
        copied: bytes of those files that were written for this backup.
        files: by path in the backup.
    """

    database_id: bytes
    commit: int
    position: int
    transaction: str
    made: int
    size: int
    copied: int
    files: dict[str, FileRecord]


def write_record(file_system: FileSystem, path: str, record: BackupRecord) -> None:
    """Write BACKUP into the unfinished backup at *path*."""
    fields: dict[str, Any] = {
        "commit": record.commit,
        "copied": record.copied,
        "database_id": str(uuid.UUID(bytes=record.database_id)),
        "files": {name: [each.size, each.digest] for name, each in record.files.items()},
        "made": record.made,
        "position": record.position,
        "size": record.size,
        "transaction": record.transaction,
    }
    write_fields(file_system, path, RECORD_NAME, fields)


def read_record(file_system: FileSystem, path: str) -> BackupRecord | None:
    """The description of the backup at *path*; None if a version without BACKUP files made it.

    Raises:
        DamagedFile: BACKUP is damaged.
    """
    if not file_system.exists(join(path, RECORD_NAME)):
        return None
    fields = read_fields(file_system, path, RECORD_NAME, size_max=RECORD_SIZE_MAX)
    try:
        return BackupRecord(
            uuid.UUID(fields["database_id"]).bytes,
            fields["commit"],
            fields["position"],
            fields["transaction"],
            fields["made"],
            fields["size"],
            fields["copied"],
            {name: FileRecord(size, digest) for name, (size, digest) in fields["files"].items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        file = join(path, RECORD_NAME)
        raise DamagedFile(
            f"{file}: it is not what was written: {error!r}", details={"file": file, "offset": 0}
        ) from error


def newest_to_link_from(
    file_system: FileSystem, directory: str, database_id: bytes
) -> tuple[str, BackupRecord] | None:
    """The newest backup in *directory* whose files may be linked into another one.

    It is a complete backup of the same database, its BACKUP is sound, and no server has run on it.
    """
    found: list[tuple[int, int, str, BackupRecord]] = []
    for name in file_system.list(directory):
        path = join(directory, name)
        if name.startswith(".") or not file_system.exists(join(path, FORMAT_NAME)):
            continue
        if file_system.exists(join(path, LOCK_NAME)):
            continue
        try:
            record = read_record(file_system, path)
        except DamagedFile:
            continue
        if record is not None and record.database_id == database_id:
            found.append((record.made, record.commit, path, record))
    if not found:
        return None
    _, _, path, newest = max(found, key=lambda each: each[:3])
    return path, newest
