"""Backups: complete data directories, made while the server runs.

    checkpoint   write all commits to the files
    stage        link the files into backup.tmp            fast; no checkpoint meanwhile
    write        copy from there to the backup directory   any thread, however long it takes

    data/backup.tmp/        links to the files as of the checkpoint
    backups/.monday.tmp/    an unfinished backup
    backups/monday/         complete, durable, and a data directory on which a server can start

A backup has the state of one commit, the last one of the checkpoint before it. The files contain
all of it. So the backup gets a new, empty write-ahead log that continues after the checkpoint. No
byte of the log is copied, and there is no torn tail to examine.

Staging is fast because nothing is copied. A file of the event log, the commit log or the state
store either never changes again or is only appended to, and then staging records its size. If the
server removes or replaces a file later, its link remains. So checkpoints can continue while the
bytes are copied, for hours if necessary.

Files that never change again are also linked into the backup if it is on the same disk; the others
are copied. Everything is durable before the backup gets its name. An earlier failure leaves a
directory whose name begins with a dot; the next backup of the same name removes it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from headwater_protocol.errors import BackupFailed, HeadwaterError, InvalidArgument
from headwater_protocol.limits import BACKUP_NAME_SIZE_MAX
from headwater_server.engine.state.stored_state import StoredState, read_applied
from headwater_server.storage.files.copying import (
    FilePart,
    copy_file,
    go_on,
    link_or_copy,
    remove_tree,
    size_of,
)
from headwater_server.storage.files.directory import FORMAT_NAME, PARTS
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.wal.interface import WalIndex

STAGE: Final = "backup.tmp"
"""The subdirectory of the data directory with links to the files of a backup."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class BeginLog(Protocol):
    """Creates the write-ahead log of a copy; implemented by the log."""

    def __call__(
        self, file_system: FileSystem, directory: str, *, database_id: bytes, after: WalIndex
    ) -> None:
        """Create an empty, durable log whose first entry will be the one after *after*."""
        ...


class Backup(NamedTuple):
    """A backup that was made.

    Attributes:
        commit: the newest commit in it.
        position: the position of the newest event in it.
        size: bytes of its files, including those that it shares with the database.
    """

    commit: int
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class Staged:
    """Links to the files of one commit.

    Attributes:
        file_system: the file system that they are on.
        data: the data directory.
        files: each file's part of the data directory, and how much of the file to copy.
        log_index: the files contain the write-ahead log up to this entry.
    """

    file_system: FileSystem
    data: str
    database_id: bytes
    commit: int
    position: int
    log_index: WalIndex
    files: tuple[tuple[str, FilePart], ...]


def check_name(name: str) -> None:
    """Raise InvalidArgument unless *name* can name a backup: it must be one part of a path."""
    if len(name) > BACKUP_NAME_SIZE_MAX or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"backup: the name {name!r}; a name is of up to {BACKUP_NAME_SIZE_MAX} letters, "
            "digits, '.', '_' and '-', and does not begin with a '.'"
        )


def stage(file_system: FileSystem, data: str, files: StoredState, database_id: bytes) -> Staged:
    """Link the current files; blocks. Nothing may write to them meanwhile.

    Raises:
        BackupFailed: the links could not be made; none is left.
        DamagedFile: the state store could not read its own files.
    """
    directory = join(data, STAGE)
    try:
        unstage(file_system, data)
        # Create it separately: only the last of several new directories is private to us.
        file_system.make_directory(directory)
        held = [
            (part, _held(file_system, join(directory, part), each))
            for part, parts in (
                ("events", files.event_log.parts()),
                ("commits", files.commit_log.parts()),
            )
            for each in parts
        ]
        # This may also flush writes after the last checkpoint, which does no harm.
        files.store.flush()
        state = join(directory, "state")
        files.store.checkpoint_to(state)
        if file_system.exists(state):
            for name in file_system.list(state):
                path = join(state, name)
                held.append(("state", FilePart(path, size_of(file_system, path), True)))
    except OSError as error:
        _quietly_remove(file_system, directory)
        raise BackupFailed(f"backup: the files could not be linked: {error}") from error
    except HeadwaterError:
        _quietly_remove(file_system, directory)
        raise
    applied = read_applied(files.store)
    return Staged(
        file_system,
        data,
        database_id,
        applied.commit,
        applied.position,
        WalIndex(applied.log_index),
        tuple(held),
    )


def _held(file_system: FileSystem, directory: str, part: FilePart) -> FilePart:
    file_system.make_directory(directory)
    path = join(directory, part.path.rpartition("/")[2])
    link_or_copy(file_system, part, path)
    return part._replace(path=path)


def unstage(file_system: FileSystem, data: str) -> None:
    """Remove the links of a backup, also those that a crash has left."""
    remove_tree(file_system, join(data, STAGE))


def write_backup(
    staged: Staged,
    directory: str,
    name: str,
    *,
    begin_log: BeginLog,
    look: Callable[[], None] = go_on,
) -> Backup:
    """Make the backup *name* in *directory* from staged files, and remove the links; blocks.

    Args:
        begin_log: creates the write-ahead log of the backup.
        look: called from time to time; it raises a HeadwaterError to abort the backup.

    Raises:
        BackupFailed: the directory is missing, the name is taken, or the disk failed or is full.
            Nothing of the backup is left.
    """
    check_name(name)
    file_system = staged.file_system
    path = join(directory, name)
    unfinished = join(directory, f".{name}.tmp")
    try:
        if not file_system.exists(directory):
            raise BackupFailed(
                f"backup: the directory {directory} is missing; create it, or mount the disk that "
                "belongs there"
            )
        _refuse_taken(file_system, path)
        try:
            remove_tree(file_system, unfinished)
            size = _write_files(staged, unfinished, begin_log, look)
            _refuse_taken(file_system, path)
        except (OSError, HeadwaterError):
            _quietly_remove(file_system, unfinished)
            raise
        file_system.rename(unfinished, path)
        try:
            file_system.sync_directory(directory)
        except OSError:
            _quietly_remove(file_system, path)
            raise
    except OSError as error:
        raise BackupFailed(f"backup: {path} could not be made: {error}") from error
    finally:
        _quietly_remove(file_system, join(staged.data, STAGE))
    return Backup(staged.commit, staged.position, size)


def _refuse_taken(file_system: FileSystem, path: str) -> None:
    if file_system.exists(path):
        raise BackupFailed(f"backup: there is {path} already; remove it, or take another name")


def _write_files(staged: Staged, path: str, begin_log: BeginLog, look: Callable[[], None]) -> int:
    """Write all files of a backup, durably, to *path*; return their size in bytes."""
    file_system = staged.file_system
    file_system.make_directory(path)
    for part in PARTS:
        file_system.make_directory(join(path, part))
    for part, file in staged.files:
        look()
        new = join(join(path, part), file.path.rpartition("/")[2])
        if file.is_sealed:
            link_or_copy(file_system, file, new, look=look)
        else:
            copy_file(file_system, file.path, new, file.size, look=look)
    begin_log(
        file_system, join(path, "wal"), database_id=staged.database_id, after=staged.log_index
    )
    for part in PARTS:
        file_system.sync_directory(join(path, part))
    # FORMAT comes last, as in a new data directory: it marks the directory as complete.
    form = join(staged.data, FORMAT_NAME)
    copy_file(file_system, form, join(path, FORMAT_NAME), size_of(file_system, form))
    file_system.sync_directory(path)
    others = [join(path, FORMAT_NAME)]
    others += [join(join(path, "wal"), each) for each in file_system.list(join(path, "wal"))]
    return sum(file.size for _, file in staged.files) + sum(
        size_of(file_system, each) for each in others
    )


def _quietly_remove(file_system: FileSystem, path: str) -> None:
    """Remove a directory; if the disk refuses, the next backup tries again."""
    try:
        remove_tree(file_system, path)
    except OSError:
        pass
