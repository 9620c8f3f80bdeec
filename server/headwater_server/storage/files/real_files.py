"""The operating system's files.

It uses `fdatasync` where available. That skips the file's timestamps, which we never read, and so
saves a journal commit on a preallocated file. On macOS, neither fdatasync nor fsync flushes the
drive's cache, but F_FULLFSYNC does.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Final

from headwater_protocol.errors import DirectoryInUse
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import File, Lock

_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_PID_SIZE_MAX: Final = 20
"""Bytes read from a lock file: enough for the decimal digits of any process id."""

# An exhausted quota counts as a full disk: waiting may help, a restart does not.
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def _raising_disk_full(path: str, size: int) -> Iterator[None]:
    """Turn "no space left" into DiskFull and leave every other error as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM and not isinstance(error, DiskFull):
            raise DiskFull(path, size) from error
        raise


def _sync_descriptor(descriptor: int, *, data_only: bool) -> None:
    if _FULL_SYNC is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
        except OSError as error:
            # Network file systems on macOS lack F_FULLFSYNC. Other errors come from the disk.
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
    if data_only and hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


class RealFile:
    """A file descriptor. Python itself repeats calls that a signal interrupts."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def path(self) -> str:
        return self._path

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        # Linux returns at most 2 GiB in one call, and some file systems less: only an empty read
        # means the end of the file.
        parts = [data]
        have = len(data)
        while have < size:
            data = os.pread(self._descriptor, size - have, offset + have)
            if not data:
                break
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def write_at(self, offset: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._descriptor, data, offset)
            # A short write is not an error: the next one writes the rest or raises.
            while written < len(data):
                rest = memoryview(data)[written:]
                written += os.pwrite(self._descriptor, rest, offset + written)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise DiskFull(self._path, len(data)) from error
            raise

    def sync(self) -> None:
        # With delayed allocation, a sync can find the disk full. This is a failed sync like any
        # other: it must not become a DiskFull, which callers retry.
        _sync_descriptor(self._descriptor, data_only=True)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        with _raising_disk_full(self._path, size):
            os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class RealLock:
    """A file locked by flock: the kernel releases it when the process ends."""

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self._descriptor = -1
        if shared and not os.path.exists(path):
            # Nobody has locked it, and a lock would have to make it.
            return
        access = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
        self._descriptor = os.open(path, access | os.O_CLOEXEC, _FILE_MODE)
        try:
            self._take(path, shared=shared)
        except BaseException:
            self.close()
            raise

    def _take(self, path: str, *, shared: bool) -> None:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, _PID_SIZE_MAX, 0).strip()
            pid = int(owner) if owner.isdigit() else 0
            raise DirectoryInUse(
                f"{path} is locked by process {pid or 'unknown'}",
                details={"path": path, "pid": pid},
            ) from error
        if shared:
            return
        # The pid is for people and for the message above; flock does the locking.
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class RealFileSystem:
    """The file system of this machine."""

    def open(self, path: str, *, writable: bool = True) -> File:
        access = os.O_RDWR if writable else os.O_RDONLY
        return RealFile(path, os.open(path, access | os.O_CLOEXEC))

    def create(self, path: str) -> File:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with _raising_disk_full(path, 0):
            return RealFile(path, os.open(path, flags, _FILE_MODE))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def list(self, directory: str) -> list[str]:
        return sorted(os.listdir(directory))

    def make_directory(self, path: str) -> None:
        with _raising_disk_full(path, 0):
            os.makedirs(path, _DIRECTORY_MODE, exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        assert os.path.dirname(old) == os.path.dirname(new), "one directory to sync, not two"
        with _raising_disk_full(new, 0):
            os.rename(old, new)

    def hard_link(self, path: str, new: str) -> None:
        with _raising_disk_full(new, 0):
            os.link(path, new, follow_symlinks=False)

    def remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        else:
            os.unlink(path)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync_descriptor(descriptor, data_only=False)
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def lock(self, path: str, *, shared: bool = False) -> Lock:
        return RealLock(path, shared=shared)
