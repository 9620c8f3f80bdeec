"""Backups: a data directory of its own, made while the server runs.

    checkpoint   everything that was committed is in the files
    stage        links to the files, beside them            quick; no checkpoint meanwhile
    write        from the links to the place of backups     anywhere, however long it takes

    data/backup.tmp/        names for the files as they were at the checkpoint
    backups/.monday.tmp/    what is being made
    backups/monday/         whole, durable, and a data directory that a server can be started on

A backup is of one commit: the one that the checkpoint before it applied. The files have all of
it, so the write-ahead log of a backup is a new one, empty, which goes on where the checkpoint
was. No byte of the log is copied, and there is no torn tail to judge.

Staging is quick because nothing is copied: a file of the event log, the commit log or the state
store either never changes again, or is only appended to, and then how much of it counts is noted.
What is removed or written anew meanwhile keeps the name that staging gave it. So checkpoints go
on while the bytes are copied, for hours if need be.

Files that never change again are linked into the backup too, if it is on the same disk. The
others are copied. Everything is durable before the backup gets its name; whatever happens before
leaves a directory that begins with a dot, which the next backup of that name removes.
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
"""The directory in the data directory that holds on to the files of a backup."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class BeginLog(Protocol):
    """Makes the write-ahead log of a copy; the log knows how."""

    def __call__(
        self, file_system: FileSystem, directory: str, *, database_id: bytes, after: WalIndex
    ) -> None:
        """Make an empty log, durably, in which the entry behind *after* is the first."""
        ...


class Backup(NamedTuple):
    """A backup that was made.

    Attributes:
        commit: the newest commit in it.
        position: of the newest event in it.
        size: bytes of its files, those that it shares with the database among them.
    """

    commit: int
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class Staged:
    """The files of one commit, with names that stay.

    Attributes:
        file_system: on which they are.
        data: the data directory.
        files: the part of the directory that each belongs to, and what counts of it.
        log_index: the entry of the write-ahead log up to which the files have everything.
    """

    file_system: FileSystem
    data: str
    database_id: bytes
    commit: int
    position: int
    log_index: WalIndex
    files: tuple[tuple[str, FilePart], ...]


def check_name(name: str) -> None:
    """Raise InvalidArgument unless *name* can be that of a backup: one part of a path."""
    if len(name) > BACKUP_NAME_SIZE_MAX or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"backup: the name {name!r}; a name is of up to {BACKUP_NAME_SIZE_MAX} letters, "
            "digits, '.', '_' and '-', and does not begin with a '.'"
        )


def stage(file_system: FileSystem, data: str, files: StoredState, database_id: bytes) -> Staged:
    """Hold on to the files as they are; blocks. Nobody may write to them meanwhile.

    Raises:
        BackupFailed: the disk took no links; nothing is left of them.
        DamagedFile: the state store could not read its own files.
    """
    directory = join(data, STAGE)
    try:
        unstage(file_system, data)
        # By itself: only the last of several directories is made for nobody else to read.
        file_system.make_directory(directory)
        held = [
            (part, _held(file_system, join(directory, part), each))
            for part, parts in (
                ("events", files.event_log.parts()),
                ("commits", files.commit_log.parts()),
            )
            for each in parts
        ]
        # What was written since the last flush is no part of a checkpoint, and does no harm.
        files.store.flush()
        state = join(directory, "state")
        files.store.checkpoint_to(state)
        if file_system.exists(state):
            for name in file_system.list(state):
                path = join(state, name)
                held.append(("state", FilePart(path, size_of(file_system, path), True)))
    except OSError as error:
        _quietly_remove(file_system, directory)
        raise BackupFailed(f"backup: the files could not be held on to: {error}") from error
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
    """Let go of the files that are held for a backup, also for one that a crash ended."""
    remove_tree(file_system, join(data, STAGE))


def write_backup(
    staged: Staged,
    directory: str,
    name: str,
    *,
    begin_log: BeginLog,
    look: Callable[[], None] = go_on,
) -> Backup:
    """Make the backup *name* in *directory* of what was staged, and let go of that; blocks.

    Args:
        begin_log: makes the write-ahead log of the backup.
        look: called now and then; it raises a HeadwaterError if the backup is to be given up.

    Raises:
        BackupFailed: there is no such directory, there is a backup of this name, or the disk
            took no more. Nothing is left of it.
    """
    check_name(name)
    file_system = staged.file_system
    path = join(directory, name)
    unfinished = join(directory, f".{name}.tmp")
    try:
        if not file_system.exists(directory):
            raise BackupFailed(
                f"backup: the directory {directory} is missing; make it, or mount what belongs "
                "there"
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
    """Make all of a backup, durably, under any name; returns its size in bytes."""
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
    # As in a new data directory: FORMAT says that all else is there.
    form = join(staged.data, FORMAT_NAME)
    copy_file(file_system, form, join(path, FORMAT_NAME), size_of(file_system, form))
    file_system.sync_directory(path)
    others = [join(path, FORMAT_NAME)]
    others += [join(join(path, "wal"), each) for each in file_system.list(join(path, "wal"))]
    return sum(file.size for _, file in staged.files) + sum(
        size_of(file_system, each) for each in others
    )


def _quietly_remove(file_system: FileSystem, path: str) -> None:
    """Remove what is not wanted any more; if the disk refuses, the next backup tries again."""
    try:
        remove_tree(file_system, path)
    except OSError:
        pass
