"""Copies of files, for backups and for what is made of them.

A file that never changes again needs no copy: a hard link is one more name for it, and costs
nothing. Where there can be none, between two disks say, it is copied.
"""

import errno
from collections.abc import Callable
from typing import Final, NamedTuple

from headwater_protocol.limits import MIB
from headwater_server.storage.files.file_system import FileSystem, join

CHUNK_SIZE: Final = MIB
"""Bytes that are copied at a time, between two looks whether to go on."""

_NO_LINKS: Final = (
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)


class FilePart(NamedTuple):
    """The beginning of a file: as much of it as counts.

    Attributes:
        path: the file.
        size: bytes that count.
        is_sealed: it never changes again.
    """

    path: str
    size: int
    is_sealed: bool


def go_on() -> None:
    """Stands for a copy that nobody wants to stop."""


def copy_file(
    file_system: FileSystem,
    path: str,
    new: str,
    size: int,
    *,
    look: Callable[[], None] = go_on,
) -> None:
    """Copy the first *size* bytes of a file to a new one, and sync that.

    Args:
        look: called before each piece; it raises if the copy is not wanted any more.

    Raises:
        DiskFull: there is no room; a part may be there.
        OSError: the disk failed, or the file ends before.
    """
    source = file_system.open(path, writable=False)
    try:
        target = file_system.create(new)
        try:
            for at in range(0, size, CHUNK_SIZE):
                look()
                wanted = min(CHUNK_SIZE, size - at)
                data = source.read_at(at, wanted)
                if len(data) < wanted:
                    raise OSError(errno.EIO, f"the file ends before byte {size}", path)
                target.write_at(at, data)
            target.sync()
        finally:
            target.close()
    finally:
        source.close()


def link_or_copy(
    file_system: FileSystem,
    part: FilePart,
    new: str,
    *,
    look: Callable[[], None] = go_on,
) -> None:
    """Give a sealed file one more name; where that cannot be, copy what counts of it.

    Raises:
        DiskFull, OSError: as for `copy_file`.
    """
    try:
        file_system.hard_link(part.path, new)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copy_file(file_system, part.path, new, part.size, look=look)


def size_of(file_system: FileSystem, path: str) -> int:
    """Bytes of a file."""
    file = file_system.open(path, writable=False)
    try:
        return file.size()
    finally:
        file.close()


def list_if_directory(file_system: FileSystem, path: str) -> list[str] | None:
    """The names in a directory; None if it is a file."""
    try:
        return file_system.list(path)
    except NotADirectoryError:
        return None


def remove_tree(file_system: FileSystem, path: str) -> None:
    """Remove a file, or a directory with all that is in it. No error if there is nothing."""
    if not file_system.exists(path):
        return
    try:
        # First, and not after a look at what is in it: what is in the directory that a symbolic
        # link leads to is not ours.
        file_system.remove(path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    for name in file_system.list(path):
        remove_tree(file_system, join(path, name))
    file_system.remove(path)
