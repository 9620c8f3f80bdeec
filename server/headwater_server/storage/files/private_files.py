"""Private files: only the user that the server runs as may read a data directory and its backups.

Our own files are created with mode 0600, and directories with 0700. RocksDB passes no mode, so the
mode of its files depends on the umask of the process. A directory that an administrator created, or
a file that was copied into it, can have any mode.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_UMASK: Final = 0o077
_OF_OTHERS: Final = 0o077
_SHOWN_MAX: Final = 3
"""Paths that a warning names. One is enough to see the cause."""


@contextmanager
def private_files() -> Iterator[None]:
    """Within this context, only the owner can read the files that the process creates."""
    before = os.umask(_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def make_private(directory: str) -> list[str]:
    """Remove the permissions of other users on a directory and everything in it.

    Returns:
        Some paths that others may still use, because they belong to another user or are on a disk
        that is mounted read-only. Links are not followed.
    """
    left: list[str] = []
    for folder, folders, files in os.walk(directory):
        for path in (folder, *(os.path.join(folder, name) for name in (*files, *folders))):
            if not _made_private(path) and len(left) < _SHOWN_MAX and path not in left:
                left.append(path)
    return left


def _made_private(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode) or not mode & _OF_OTHERS:
            return True
        os.chmod(path, stat.S_IMODE(mode) & ~_OF_OTHERS)
    except FileNotFoundError:
        # A log was trimmed meanwhile.
        return True
    except OSError:
        return False
    return True
