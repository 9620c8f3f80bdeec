"""Small files of named fields with a checksum: FORMAT, ARCHIVE, OWNER, BACKUP.

    {"crc32": 2774160913, "database_id": "…", "format": 1}

The text is JSON with sorted names. `crc32` is that of the same text without it. So a change of any
byte is noticed, and people can read the file.
"""

import json
import zlib
from typing import Any, Final

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.files.file_system import FileSystem, join

_TEMPORARY: Final = ".tmp"


def encoded(fields: dict[str, Any]) -> bytes:
    """The text of the fields, with the checksum and a line feed."""
    crc = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    return json.dumps({**fields, "crc32": crc}, sort_keys=True).encode() + b"\n"


def write_fields(
    file_system: FileSystem, directory: str, name: str, fields: dict[str, Any]
) -> None:
    """Write a file, or replace it in one rename. It is durable on return.

    Raises:
        DiskFull, OSError: an older file is unchanged.
    """
    temporary = join(directory, name + _TEMPORARY)
    if file_system.exists(temporary):
        file_system.remove(temporary)
    file = file_system.create(temporary)
    try:
        file.write_at(0, encoded(fields))
        file.sync()
    finally:
        file.close()
    file_system.rename(temporary, join(directory, name))
    file_system.sync_directory(directory)


def read_fields(
    file_system: FileSystem, directory: str, name: str, *, size_max: int
) -> dict[str, Any]:
    """The fields of a file of at most *size_max* bytes.

    Raises:
        DamagedFile: it is not what was written.
        OSError: it is missing, or the disk failed.
    """
    path = join(directory, name)
    file = file_system.open(path, writable=False)
    try:
        data = file.read_at(0, size_max + 1)
    finally:
        file.close()
    try:
        fields: dict[str, Any] = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError("no map")
        plain = {key: fields[key] for key in fields if key != "crc32"}
    except ValueError as error:
        raise _broken(path, f"it is not what was written: {error}") from error
    if data != encoded(plain):
        raise _broken(path, "it fails its checksum")
    return plain


def _broken(path: str, what: str) -> DamagedFile:
    return DamagedFile(f"{path}: {what}", details={"file": path, "offset": 0})
