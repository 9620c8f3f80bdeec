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
are copied. On another disk, a file that the last backup has already is linked from there, so that
only what is new is written (backup_record.py).

Everything is durable before the backup gets its name. An earlier failure leaves a directory whose
name begins with a dot; the next backup of the same name removes it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from headwater_protocol.errors import BackupFailed, DamagedFile, HeadwaterError, InvalidArgument
from headwater_protocol.limits import BACKUP_NAME_SIZE_MAX
from headwater_server.engine.backup_record import (
    BackupRecord,
    FileRecord,
    newest_to_link_from,
    write_record,
)
from headwater_server.engine.state.stored_state import StoredState, read_applied
from headwater_server.storage.files.copying import (
    FilePart,
    copy_file,
    digest_of,
    go_on,
    link,
    link_or_copy,
    remove_tree,
    size_of,
)
from headwater_server.storage.files.directory import FORMAT_NAME, PARTS
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.wal.interface import WalIndex

STAGE: Final = "backup.tmp"
"""The subdirectory of the data directory with links to the files of a backup."""

STAGE_COPY: Final = "copy.tmp"
"""The same for the copy of a follower."""

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
        transaction: that of the commit; empty if it is not known any more.
    """

    file_system: FileSystem
    data: str
    database_id: bytes
    commit: int
    position: int
    log_index: WalIndex
    transaction: bytes
    files: tuple[tuple[str, FilePart], ...]


def check_name(name: str) -> None:
    """Raise InvalidArgument unless *name* can name a backup: it must be one part of a path."""
    if len(name) > BACKUP_NAME_SIZE_MAX or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"backup: the name {name!r}; a name is of up to {BACKUP_NAME_SIZE_MAX} letters, "
            "digits, '.', '_' and '-', and does not begin with a '.'"
        )


def stage(
    file_system: FileSystem,
    data: str,
    files: StoredState,
    database_id: bytes,
    *,
    name: str = STAGE,
) -> Staged:
    """Link the current files into the subdirectory *name*; blocks. Nothing may write to them now.

    Raises:
        BackupFailed: the links could not be made; none is left.
        DamagedFile: the state store could not read its own files.
    """
    directory = join(data, name)
    try:
        remove_tree(file_system, directory)
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
        applied = read_applied(files.store)
        transaction = _transaction(files, applied.commit)
    except OSError as error:
        _quietly_remove(file_system, directory)
        raise BackupFailed(f"backup: the files could not be linked: {error}") from error
    except HeadwaterError:
        _quietly_remove(file_system, directory)
        raise
    return Staged(
        file_system,
        data,
        database_id,
        applied.commit,
        applied.position,
        WalIndex(applied.log_index),
        transaction,
        tuple(held),
    )


def _transaction(files: StoredState, commit: int) -> bytes:
    """The transaction of a commit; empty if there is none, or if it is forgotten."""
    if not commit or commit < files.oldest_commit:
        return b""
    try:
        return files.commit_record(commit).transaction
    except DamagedFile:
        # `headwater check` of the backup will say so.
        return b""


def _held(file_system: FileSystem, directory: str, part: FilePart) -> FilePart:
    file_system.make_directory(directory)
    path = join(directory, part.path.rpartition("/")[2])
    link_or_copy(file_system, part, path)
    return part._replace(path=path)


def unstage(file_system: FileSystem, data: str) -> None:
    """Remove the links of backups and copies, also those that a crash has left."""
    for name in (STAGE, STAGE_COPY):
        remove_tree(file_system, join(data, name))


def write_backup(
    staged: Staged,
    directory: str,
    name: str,
    *,
    begin_log: BeginLog,
    now: int = 0,
    look: Callable[[], None] = go_on,
) -> Backup:
    """Make the backup *name* in *directory* from staged files, and remove the links; blocks.

    Args:
        begin_log: creates the write-ahead log of the backup.
        now: microseconds since 1970-01-01 UTC, for those who list backups.
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
            base = newest_to_link_from(file_system, directory, staged.database_id)
            size = _write_files(staged, unfinished, begin_log, look, base, now)
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


def _write_files(
    staged: Staged,
    path: str,
    begin_log: BeginLog,
    look: Callable[[], None],
    base: tuple[str, BackupRecord] | None,
    now: int,
) -> int:
    """Write all files of a backup, durably, to *path*; return their size in bytes."""
    file_system = staged.file_system
    file_system.make_directory(path)
    for part in PARTS:
        file_system.make_directory(join(path, part))
    files: dict[str, FileRecord] = {}
    copied = 0
    for part, file in staged.files:
        look()
        name = join(part, file.path.rpartition("/")[2])
        digest, written = _put(file_system, file, join(path, name), name, base, look)
        files[name] = FileRecord(file.size, digest)
        copied += written
    begin_log(
        file_system, join(path, "wal"), database_id=staged.database_id, after=staged.log_index
    )
    for name in file_system.list(join(path, "wal")):
        files[join("wal", name)] = FileRecord(
            size_of(file_system, join(join(path, "wal"), name)), None
        )
    for part in PARTS:
        file_system.sync_directory(join(path, part))
    # FORMAT comes last, as in a new data directory: it marks the directory as complete.
    form = join(staged.data, FORMAT_NAME)
    form_size = size_of(file_system, form)
    size = sum(each.size for each in files.values()) + form_size
    record = BackupRecord(
        staged.database_id,
        staged.commit,
        staged.position,
        staged.transaction.hex(),
        now,
        size,
        copied,
        files,
    )
    write_record(file_system, path, record)
    copy_file(file_system, form, join(path, FORMAT_NAME), form_size)
    file_system.sync_directory(path)
    return size


def _put(
    file_system: FileSystem,
    file: FilePart,
    new: str,
    name: str,
    base: tuple[str, BackupRecord] | None,
    look: Callable[[], None],
) -> tuple[str | None, int]:
    """Put a file into a backup; return its digest, if it was read, and the bytes written."""
    if file.is_sealed:
        if link(file_system, file.path, new):
            return None, 0
        before = None if base is None else base[1].files.get(name)
        if base is not None and before is not None and before.size == file.size:
            # Names are used again, and files of one name and size may differ: compare the bytes.
            digest = digest_of(file_system, file.path, file.size, look=look)
            if digest == before.digest and _link_from(file_system, join(base[0], name), new):
                return digest, 0
    return copy_file(file_system, file.path, new, file.size, look=look), file.size


def _link_from(file_system: FileSystem, path: str, new: str) -> bool:
    """Link a file of another backup; False if that is not possible, or it was removed."""
    try:
        return link(file_system, path, new)
    except FileNotFoundError:
        return False


def _quietly_remove(file_system: FileSystem, path: str) -> None:
    """Remove a directory; if the disk refuses, the next backup tries again."""
    try:
        remove_tree(file_system, path)
    except OSError:
        pass
