"""The catalogue: the backups in a directory, without a change to any of them."""

from collections.abc import Callable
from dataclasses import dataclass

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.backup_record import read_record
from headwater_server.engine.state.stored_state import oldest_needed, read_applied
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.files.directory import FORMAT_NAME, DataDirectory
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.store.interface import StateStore

OpenStore = Callable[[str], StateStore]
"""Opens a state store for reading only."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup in a directory.

    Attributes:
        name: of the backup.
        path: of its directory.
        database_id: 16 bytes; empty if that cannot be read.
        commit, position: the newest commit and event in it.
        transaction: that of the newest commit, in hexadecimal; "" if it is not known.
        made: when, in microseconds since 1970-01-01 UTC; the time of the newest commit if an
            earlier version made it.
        size, copied: bytes of its files, and those written for it; None if it does not say.
        problem: why it cannot be read, or is in use; None if it is as it should be.
    """

    name: str
    path: str
    database_id: bytes
    commit: int
    position: int
    transaction: str
    made: int
    size: int | None
    copied: int | None
    problem: str | None = None


def list_backups(file_system: FileSystem, directory: str, open_store: OpenStore) -> list[Listed]:
    """The backups in *directory*, the newest first. Unfinished ones are not among them.

    Raises:
        OSError: the directory cannot be read.
    """
    found: list[Listed] = []
    for name in file_system.list(directory):
        path = join(directory, name)
        if not name.startswith(".") and file_system.exists(join(path, FORMAT_NAME)):
            found.append(_look_at(file_system, name, path, open_store))
    return sorted(found, key=lambda each: (each.made, each.commit, each.name), reverse=True)


def _look_at(file_system: FileSystem, name: str, path: str, open_store: OpenStore) -> Listed:
    try:
        directory = DataDirectory.look_at(file_system, path)
    except (HeadwaterError, OSError) as error:
        return Listed(name, path, b"", 0, 0, "", 0, None, None, str(error))
    try:
        record = read_record(file_system, path)
        if record is None:
            return _without_record(file_system, name, directory, open_store)
        return Listed(
            name,
            path,
            directory.database_id,
            record.commit,
            record.position,
            record.transaction,
            record.made,
            record.size,
            record.copied,
        )
    except (HeadwaterError, OSError) as error:
        return Listed(name, path, directory.database_id, 0, 0, "", 0, None, None, str(error))
    finally:
        directory.close()


def _without_record(
    file_system: FileSystem, name: str, directory: DataDirectory, open_store: OpenStore
) -> Listed:
    """A backup of an earlier version: read what the files say."""
    store = open_store(directory.state)
    try:
        applied = read_applied(store)
        oldest = oldest_needed(store)
    finally:
        store.close()
    transaction, time = b"", directory.created
    if applied.commit:
        commit_log = CommitLog.open(
            file_system,
            directory.commits,
            CommitNumber(applied.commit),
            first=oldest,
            database_id=directory.database_id,
            writable=False,
        )
        try:
            if applied.commit >= commit_log.first_commit:
                record = commit_log.read(CommitNumber(applied.commit))
                transaction, time = record.transaction, record.time
        finally:
            commit_log.close()
    return Listed(
        name,
        directory.path,
        directory.database_id,
        applied.commit,
        applied.position,
        transaction.hex(),
        time,
        None,
        None,
    )
