"""Restoring: copies a backup, or any data directory without a server, to a new data directory.

    1  lock both: no server may run on the backup, and nobody else may create the target. The lock
       of the backup writes nothing, so that it may be on a disk that is mounted read-only
    2  copy and sync every file, and sync the directories
    3  copy FORMAT last: it marks the target as complete

Everything is copied and nothing linked, so the target shares no data with the backup. On failure,
the target is left as it was, missing or empty.
"""

from collections.abc import Callable
from contextlib import ExitStack

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.check.findings import Progress
from headwater_server.engine.format.index_keys import Applied
from headwater_server.engine.state.stored_state import read_applied
from headwater_server.storage.files.copying import (
    FilePart,
    copy_file,
    list_if_directory,
    remove_tree,
    size_of,
)
from headwater_server.storage.files.directory import FORMAT_NAME, LOCK_NAME, PARTS, DataDirectory
from headwater_server.storage.files.file_system import FileSystem, join, parent
from headwater_server.storage.store.interface import StateStore

_NOT_OF_ANYBODY = "lost+found"


def restore(
    file_system: FileSystem,
    backup: str,
    target: str,
    *,
    open_store: Callable[[str], StateStore],
    on_progress: Progress = lambda _done, _total: None,
) -> Applied:
    """Copy a backup to the data directory *target*, which must be missing or empty.

    Args:
        open_store: opens a state store for reading.
        on_progress: called with the bytes that are done, and their total.

    Returns:
        The last commit and position of the backup.

    Raises:
        InvalidArgument: there is no backup, or the target cannot be created.
        DirectoryInUse: a server runs on the backup.
        FormatTooNew: a newer version made the backup.
        DamagedFile: a part of the backup is missing.
        DiskFull, OSError: nothing is left of the target.
    """
    check_target(file_system, target)
    with ExitStack() as opened:
        source = DataDirectory.look_at(file_system, backup)
        opened.callback(source.close)
        was_there = file_system.exists(target)
        try:
            file_system.make_directory(target)
            lock = file_system.lock(join(target, LOCK_NAME))
            opened.callback(lock.close)
            _copy(file_system, backup, target, on_progress)
        except OSError:
            clear_target(file_system, target, was_there=was_there)
            raise
    store = open_store(join(target, "state"))
    try:
        return read_applied(store)
    finally:
        store.close()


def check_target(file_system: FileSystem, target: str) -> None:
    """Raise InvalidArgument unless *target* is missing or empty and its parent exists."""
    above = parent(target)
    if not file_system.exists(above):
        raise InvalidArgument(f"{target}: {above} is missing", details={"path": target})
    names = list_if_directory(file_system, target) if file_system.exists(target) else []
    if names is None:
        raise InvalidArgument(f"{target} is not a directory", details={"path": target})
    foreign = [name for name in names if name != _NOT_OF_ANYBODY]
    if foreign:
        raise InvalidArgument(
            f"{target} is not empty: it holds {foreign[0]!r}; restore to a new directory",
            details={"path": target},
        )


def clear_target(file_system: FileSystem, target: str, *, was_there: bool) -> None:
    """Remove what a failed restore has made of *target*."""
    for name in file_system.list(target) if file_system.exists(target) else ():
        if name != _NOT_OF_ANYBODY:
            remove_tree(file_system, join(target, name))
    if not was_there:
        remove_tree(file_system, target)


def _copy(file_system: FileSystem, backup: str, target: str, on_progress: Progress) -> None:
    copy_parts(file_system, backup, target, PARTS, on_progress)
    file_system.sync_directory(target)
    form, temporary = join(backup, FORMAT_NAME), join(target, FORMAT_NAME + ".tmp")
    copy_file(file_system, form, temporary, size_of(file_system, form))
    file_system.rename(temporary, join(target, FORMAT_NAME))
    file_system.sync_directory(target)
    file_system.sync_directory(parent(target))


def copy_parts(
    file_system: FileSystem,
    backup: str,
    target: str,
    names: tuple[str, ...],
    on_progress: Progress,
) -> None:
    """Copy some of the parts of a data directory durably, except their names in *target*."""
    parts: list[tuple[FilePart, str]] = []
    directories: list[str] = []
    for part in names:
        _list(file_system, join(backup, part), join(target, part), parts, directories)
    total = sum(file.size for file, _ in parts)
    done = 0
    for directory in directories:
        file_system.make_directory(directory)
    for file, new in parts:
        copy_file(file_system, file.path, new, file.size)
        done += file.size
        on_progress(done, total)
    for directory in directories:
        file_system.sync_directory(directory)


def _list(
    file_system: FileSystem,
    path: str,
    new: str,
    parts: list[tuple[FilePart, str]],
    directories: list[str],
) -> None:
    """List the files and directories to copy, with their targets."""
    directories.append(new)
    for name in file_system.list(path):
        each = join(path, name)
        if list_if_directory(file_system, each) is None:
            file = FilePart(each, size_of(file_system, each), True)
            parts.append((file, join(new, name)))
        else:
            _list(file_system, each, join(new, name), parts, directories)
