"""The data directory: its owner, its format, and its layout.

    data/
      LOCK       locked by the process that owns the directory; holds its pid
      FORMAT     {"crc32": ..., "created": ..., "database_id": ..., "features": [...], "format": 4}
      wal/  commits/  events/  state/

A directory is made in this order, so that a FORMAT means that it is complete:

    1. LOCK              from here on no other process uses it
    2. make the directories, and sync the directory above them
    3. write FORMAT under a temporary name; sync and rename it; sync the directory

A crash in between leaves no FORMAT and empty directories, and the next open starts over. If only
the process died, the steps that it finished are visible, but a power loss could still undo them. So
every open repeats the last sync, and an open that finds no FORMAT syncs the levels above, too. A
directory that holds anything else but no FORMAT is not ours, and we do not write to it.

A directory of an older format is opened without a change. Before the server writes anything that
the older version cannot read, it calls `upgrade`, which replaces FORMAT in one rename.
"""

import json
import random
import uuid
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
from headwater_server.storage.files.sealed_fields import encoded

FORMAT: Final = 4
"""The format that this version writes."""

OLDEST_FORMAT: Final = 3
"""The oldest format that this version reads; every later version will read it, too. Formats 1 and 2
existed only before the first release."""

FEATURES: Final[frozenset[str]] = frozenset({"expiry"})
"""The features of the format that this version uses. It first adds their names to FORMAT, so that a
version that does not know one of them refuses the directory."""

LOCK_NAME: Final = "LOCK"
FORMAT_NAME: Final = "FORMAT"
_TEMPORARY: Final = ".tmp"
PARTS: Final = ("wal", "commits", "events", "state")
"""The directories in it."""

# A new ext4 file system has this directory, and a data directory may be a mount point.
_NOT_OF_ANYBODY: Final = "lost+found"
_FORMAT_SIZE_MAX: Final = 4096
"""Bytes of FORMAT that we read: more than any version writes."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class DataDirectory:
    """A data directory that this process owns, until `close`.

    Attributes:
        path: of the directory.
        database_id: 16 random bytes, drawn when it was made.
        created: when it was made, in microseconds since 1970-01-01 UTC.
        format: the format of its files; FORMAT, or an older one until `upgrade`.
        features: the names of the features that its files may use.
    """

    path: str
    database_id: bytes
    created: int
    format: int
    features: frozenset[str]
    _lock: Lock

    @staticmethod
    def open(
        file_system: FileSystem,
        path: str,
        *,
        source: random.Random,
        now: int,
        create: bool = True,
        database_id: bytes | None = None,
    ) -> "DataDirectory":
        """Lock the directory at *path*; make it if it is missing or empty.

        Args:
            source: draws the database id.
            now: microseconds since 1970-01-01 UTC.
            create: whether it may be made.
            database_id: of a directory that is made, if other nodes have the database.

        Raises:
            DirectoryInUse: another process owns it; details["pid"] says which.
            FormatTooNew: a newer version made it.
            InvalidArgument: it is neither a data directory nor empty; or it is missing, and
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
            # Check again: another process may have made it before we got the lock.
            if not file_system.exists(join(path, FORMAT_NAME)):
                drawn = uuid.UUID(int=source.getrandbits(128), version=4)
                identity = drawn if database_id is None else uuid.UUID(bytes=database_id)
                _make(file_system, path, identity, now)
            opened = _read(file_system, path, lock)
            # If its maker died before this sync, the name FORMAT may be in the cache only.
            file_system.sync_directory(path)
            return opened
        except BaseException:
            lock.close()
            raise

    @staticmethod
    def look_at(file_system: FileSystem, path: str) -> "DataDirectory":
        """Lock the directory at *path* for reading. Nothing is written, so it may be read-only.

        Raises:
            DirectoryInUse, FormatTooNew, InvalidArgument, DamagedFile: as `open`.
        """
        if not file_system.exists(join(path, FORMAT_NAME)):
            _refuse_others(file_system, path, create=False)
        lock = file_system.lock(join(path, LOCK_NAME), shared=True)
        try:
            return _read(file_system, path, lock)
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

    @property
    def is_older(self) -> bool:
        """Whether an older version could still open it, so that `upgrade` is needed."""
        return self.format < FORMAT or self.features < FEATURES

    def upgrade(self, file_system: FileSystem) -> None:
        """Set the directory to the current format. A crash leaves the old or the new FORMAT.

        A restore calls this last: FORMAT marks the directory as complete.

        Raises:
            DiskFull: FORMAT is unchanged.
        """
        created = (_EPOCH + timedelta(microseconds=self.created)).isoformat()
        _write_format(file_system, self.path, uuid.UUID(bytes=self.database_id), created)
        file_system.sync_directory(self.path)
        self.format = FORMAT
        self.features = FEATURES

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
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
                # Another process has made it and started to use it since we looked.
                return
            raise DamagedFile(
                f"{file} is missing, but there is data in {part}/",
                details={"file": file, "offset": 0},
            )
    if not create:
        raise InvalidArgument(f"there is no data directory at {path}", details={"path": path})


def _make(file_system: FileSystem, path: str, identity: uuid.UUID, now: int) -> None:
    """Make the missing parts of an empty data directory."""
    for part in PARTS:
        file_system.make_directory(join(path, part))
    file_system.sync_directory(path)
    created = (_EPOCH + timedelta(microseconds=now)).isoformat()
    _write_format(file_system, path, identity, created)


def _write_format(file_system: FileSystem, path: str, identity: uuid.UUID, created: str) -> None:
    """Write FORMAT, replacing an older one if there is one; the rename is not synced."""
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
        file.write_at(0, encoded(fields))
        file.sync()
    finally:
        file.close()
    file_system.rename(temporary, join(path, FORMAT_NAME))


def _sync_above(file_system: FileSystem, path: str) -> None:
    """Make sure that *path* survives a power loss, no matter what created it or when.

    Its existence is no proof: a process may have made it, or a directory above it, and died before
    the sync. So we sync every level into the one above it.
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
            # Without access to the parent, we did not make this level and cannot sync it.
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
    # Check this before the checksum: a newer version may use another checksum.
    if found > FORMAT:
        raise FormatTooNew(
            f"{path} has format {found}; this version reads up to {FORMAT}",
            details={"path": path, "found": found, "known": FORMAT},
        )
    if data != encoded({key: fields[key] for key in fields if key != "crc32"}):
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
    identity = uuid.UUID(fields["database_id"]).bytes
    features = frozenset(fields.get("features", ()))
    return DataDirectory(path, identity, created, found, features, lock)


def _broken(path: str, what: str) -> DamagedFile:
    return DamagedFile(f"{path}: {what}", details={"file": path, "offset": 0})
