"""Copies of files, for backups and restores.

A file that never changes again needs no copy: a hard link gives it one more name, at no cost. Where
hard links are impossible, for example between two disks, it is copied.
"""

import errno
import hashlib
from collections.abc import Callable
from typing import Final, NamedTuple

from headwater_protocol.limits import MIB
from headwater_server.storage.files.file_system import FileSystem, join

CHUNK_SIZE: Final = MIB
"""Bytes copied at a time, between two checks for an abort."""

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
    """The valid beginning of a file.

    Attributes:
        path: of the file.
        size: valid bytes.
        is_sealed: the file never changes again.
    """

    path: str
    size: int
    is_sealed: bool


def go_on() -> None:
    """The check of a copy that cannot be aborted."""


def copy_file(
    file_system: FileSystem,
    path: str,
    new: str,
    size: int,
    *,
    look: Callable[[], None] = go_on,
) -> str:
    """Copy the first *size* bytes of a file to a new one, and sync it.

    Args:
        look: called before each chunk; it raises to abort the copy.

    Returns:
        the SHA-256 of the bytes, in hexadecimal.

    Raises:
        DiskFull: there is no room.
        OSError: the file has fewer bytes, or the disk failed.
    """
    target = file_system.create(new)
    try:
        digest = _read(file_system, path, size, look, target.write_at)
        target.sync()
    finally:
        target.close()
    return digest


def digest_of(
    file_system: FileSystem, path: str, size: int, *, look: Callable[[], None] = go_on
) -> str:
    """The SHA-256 of the first *size* bytes of a file, in hexadecimal. Raises as `copy_file`."""
    return _read(file_system, path, size, look, lambda _at, _data: None)


def _read(
    file_system: FileSystem,
    path: str,
    size: int,
    look: Callable[[], None],
    take: Callable[[int, bytes], None],
) -> str:
    """Read a file in chunks; return the digest of what was read."""
    digest = hashlib.sha256(usedforsecurity=False)
    source = file_system.open(path, writable=False)
    try:
        for at in range(0, size, CHUNK_SIZE):
            look()
            wanted = min(CHUNK_SIZE, size - at)
            data = source.read_at(at, wanted)
            if len(data) < wanted:
                raise OSError(errno.EIO, f"the file ends before byte {size}", path)
            digest.update(data)
            take(at, data)
    finally:
        source.close()
    return digest.hexdigest()


def link(file_system: FileSystem, path: str, new: str) -> bool:
    """Give a file one more name; False if that is impossible here.

    Raises:
        DiskFull, OSError: it failed for another reason.
    """
    try:
        file_system.hard_link(path, new)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def link_or_copy(
    file_system: FileSystem,
    part: FilePart,
    new: str,
    *,
    look: Callable[[], None] = go_on,
) -> None:
    """Give a sealed file one more name; if that is impossible, copy its valid bytes.

    Raises:
        DiskFull, OSError: as for `copy_file`.
    """
    if not link(file_system, part.path, new):
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
    """Remove a file, or a directory with its contents. No error if it does not exist."""
    if not file_system.exists(path):
        return
    try:
        # Try this first, before listing: the contents of a symbolic link's target are not ours.
        file_system.remove(path)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    for name in file_system.list(path):
        remove_tree(file_system, join(path, name))
    file_system.remove(path)
