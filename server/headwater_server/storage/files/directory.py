"""The data directory: whose it is, what it is, and what lies where in it.

    data/
      LOCK       locked by the process that owns the directory; holds its pid
      FORMAT     {"crc32": ..., "created": ..., "database_id": ..., "features": [], "format": 4}
      wal/  commits/  events/  state/

A directory is made in this order, so that FORMAT says that all of it is there:

    1. LOCK              from here on nobody else is at it
    2. the directories, and a sync of the directory above them
    3. FORMAT, under a temporary name; synced; renamed; and a sync of the directory

A crash in between leaves no FORMAT and nothing in the directories: the next open begins again.
If only the process died, what it did is there, and may yet be lost with the power: so the last
sync is done at each open, and those of the levels above at each that finds no FORMAT.
Without FORMAT, but with anything else in it, a directory is not ours to write to.

A directory of an older format is opened as it is. Whoever is about to write what the older version
cannot read calls `upgrade` before, which replaces FORMAT in one rename.
"""

import json
import random
import uuid
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from headwater_protocol.errors import DamagedFile, FormatTooNew, InvalidArgument
from headwater_server.storage.files.file_system import (
    FileSystem,
    Lock,
    join,
    parent,
)

FORMAT: Final = 4
"""What this version writes."""

OLDEST_FORMAT: Final = 3
"""The oldest that this version reads, and every later version will. 1 and 2 were those of the
months before a release."""

FEATURES: Final[frozenset[str]] = frozenset()
"""What of the reserved parts of the format this version knows. A version that uses one of them adds
its name to FORMAT first, so that a version that does not know it refuses the directory."""

LOCK_NAME: Final = "LOCK"
FORMAT_NAME: Final = "FORMAT"
_TEMPORARY: Final = ".tmp"
PARTS: Final = ("wal", "commits", "events", "state")
"""The directories in it."""

# A file system of its own has this from the start, and a data directory may be one.
_NOT_OF_ANYBODY: Final = "lost+found"
_FORMAT_SIZE_MAX: Final = 4096
"""Bytes of FORMAT that are read: more than any version writes."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class DataDirectory:
    """A data directory that this process owns, until `close`.

    Attributes:
        path: where it is.
        database_id: 16 bytes, given at random when it was made.
        created: when that was, in microseconds since 1970-01-01 UTC.
        format: the number of the format of its files; FORMAT, or older until `upgrade`.
    """

    path: str
    database_id: bytes
    created: int
    format: int
    _lock: Lock

    @staticmethod
    def open(
        file_system: FileSystem,
        path: str,
        *,
        source: random.Random,
        now: int,
        create: bool = True,
    ) -> "DataDirectory":
        """Take possession of the directory at *path*; make it if it is missing or empty.

        Args:
            source: of the database id.
            now: microseconds since 1970-01-01 UTC.
            create: whether it may be made.

        Raises:
            DirectoryInUse: another process owns it; details["pid"] says which.
            FormatTooNew: a newer version made it.
            InvalidArgument: it is not one, and not empty either; or it is missing, and
                may not be made.
            DamagedFile: FORMAT is missing or broken, or a part is missing.
            DiskFull: there is no room to make it.
        """
        if not file_system.exists(join(path, FORMAT_NAME)):
            _refuse_others(file_system, path, create=create)
            file_system.make_directory(path)
            _sync_above(file_system, path)
        lock = file_system.lock(join(path, LOCK_NAME))
        try:
            # Asked again: until we had the lock, another process may have been making it.
            if not file_system.exists(join(path, FORMAT_NAME)):
                _make(file_system, path, uuid.UUID(int=source.getrandbits(128), version=4), now)
            opened = _read(file_system, path, lock)
            # FORMAT may have its name in the cache only, if its maker died before this sync.
            file_system.sync_directory(path)
            return opened
        except BaseException:
            lock.close()
            raise

    @property
    def wal(self) -> str:
        """The directory of the write-ahead log."""
        return join(self.path, "wal")

    @property
    def commits(self) -> str:
        """The directory of the commit log."""
        return join(self.path, "commits")

    @property
    def events(self) -> str:
        """The directory of the event log."""
        return join(self.path, "events")

    @property
    def state(self) -> str:
        """The directory of the state store."""
        return join(self.path, "state")

    def upgrade(self, file_system: FileSystem) -> None:
        """Say that the directory has the present format. A crash leaves the old FORMAT or the new.

        Raises:
            DiskFull: it is as it was.
        """
        created = (_EPOCH + timedelta(microseconds=self.created)).isoformat()
        _write_format(file_system, self.path, uuid.UUID(bytes=self.database_id), created)
        file_system.sync_directory(self.path)
        self.format = FORMAT

    def close(self) -> None:
        """Let the next one have it. Twice is allowed."""
        self._lock.close()


def _refuse_others(file_system: FileSystem, path: str, *, create: bool) -> None:
    """Raise unless *path* may become a data directory."""
    names = file_system.list(path) if file_system.exists(path) else []
    ours = {LOCK_NAME, FORMAT_NAME + _TEMPORARY, *PARTS, _NOT_OF_ANYBODY}
    foreign = [name for name in names if name not in ours]
    if foreign:
        raise InvalidArgument(
            f"{path} is not a data directory and not empty: it holds {foreign[0]!r}"
            + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""),
            details={"path": path},
        )
    for part in PARTS:
        if part in names and file_system.list(join(path, part)):
            file = join(path, FORMAT_NAME)
            if file_system.exists(file):
                # Another process has made it and begun to work since we looked.
                return
            raise DamagedFile(
                f"{file} is missing, but there is data in {part}/",
                details={"file": file, "offset": 0},
            )
    if not create:
        raise InvalidArgument(f"there is no data directory at {path}", details={"path": path})


def _make(file_system: FileSystem, path: str, identity: uuid.UUID, now: int) -> None:
    """Make what is missing of an empty data directory."""
    for part in PARTS:
        file_system.make_directory(join(path, part))
    file_system.sync_directory(path)
    created = (_EPOCH + timedelta(microseconds=now)).isoformat()
    _write_format(file_system, path, identity, created)


def _write_format(file_system: FileSystem, path: str, identity: uuid.UUID, created: str) -> None:
    """Put FORMAT there, in the place of an older one if there is one; the rename is not synced."""
    temporary = join(path, FORMAT_NAME + _TEMPORARY)
    if file_system.exists(temporary):
        file_system.remove(temporary)
    file = file_system.create(temporary)
    try:
        fields = {
            "created": created,
            "database_id": str(identity),
            "features": sorted(FEATURES),
            "format": FORMAT,
        }
        file.write_at(0, _encoded(fields))
        file.sync()
    finally:
        file.close()
    file_system.rename(temporary, join(path, FORMAT_NAME))


def _sync_above(file_system: FileSystem, path: str) -> None:
    """Make it certain that *path* is found after a power loss, whoever made it, and when.

    That it is there says nothing: a process that died may have made it, or a directory above
    it, and not come to the sync. So every level is synced into the one above it.
    """
    at = path.rstrip("/") or "/"
    levels = [at]
    while parent(at) not in (".", "/", at):
        at = parent(at)
        levels.append(at)
    for level in reversed(levels):
        try:
            file_system.sync_directory(parent(level))
        except PermissionError:
            # Not ours to make, so not ours to make durable.
            pass


def _read(file_system: FileSystem, path: str, lock: Lock) -> DataDirectory:
    """The directory as FORMAT describes it."""
    name = join(path, FORMAT_NAME)
    file = file_system.open(name, writable=False)
    try:
        data = file.read_at(0, _FORMAT_SIZE_MAX)
    finally:
        file.close()
    try:
        fields: dict[str, Any] = json.loads(data)
        found = int(fields["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(name, f"it is not what was written: {error}") from error
    # Before the checksum: a newer version may have another one.
    if found > FORMAT:
        raise FormatTooNew(
            f"{path} has format {found}; this version reads up to {FORMAT}",
            details={"path": path, "found": found, "known": FORMAT},
        )
    if data != _encoded({key: fields[key] for key in fields if key != "crc32"}):
        raise _broken(name, "it fails its checksum")
    if found < OLDEST_FORMAT:
        raise InvalidArgument(
            f"{path} has format {found}, and this version reads {OLDEST_FORMAT} to {FORMAT}: dump "
            "it with the version that made it, and load the dump into a new directory"
        )
    unknown = sorted(set(fields.get("features", ())) - FEATURES)
    if unknown:
        raise FormatTooNew(
            f"{path} uses {', '.join(unknown)}, which this version does not know: a newer one does",
            details={"path": path, "features": unknown},
        )
    for part in PARTS:
        if not file_system.exists(join(path, part)):
            raise _broken(join(path, part), "it is missing")
    created = (datetime.fromisoformat(fields["created"]) - _EPOCH) // timedelta(microseconds=1)
    return DataDirectory(path, uuid.UUID(fields["database_id"]).bytes, created, found, lock)


def _encoded(fields: dict[str, Any]) -> bytes:
    """FORMAT's text: a map with sorted names, and the CRC-32 of the same map without that."""
    crc = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    return json.dumps({**fields, "crc32": crc}, sort_keys=True).encode() + b"\n"


def _broken(path: str, what: str) -> DamagedFile:
    return DamagedFile(f"{path}: {what}", details={"file": path, "offset": 0})
