"""The descriptor cache: many open files share a few descriptors.

The event log has two files for each segment, and may have thousands of segments that are seldom
read. A process may have a few thousand descriptors, and connections need them. So the least
recently used file gives up its descriptor, and gets a new one at its next use.

    open      a descriptor, and a place in the order of use
    closed    neither; the next call opens it again by its path

A file keeps its descriptor while it has unsynced writes, so that a failed sync is reported to the
writer, and once its path no longer names it.
"""

import threading
from typing import Final

from headwater_server.storage.files.file_system import File, FileSystem, Lock

OPEN_FILES_MAX: Final = 128
"""Files of one log that have a descriptor, not counting those that must keep theirs."""


class CachedFile:
    """A file whose descriptor may come and go. Any thread may use it."""

    def __init__(self, files: "DescriptorCache", path: str, file: File, *, writable: bool) -> None:
        self._files = files
        self._path = path
        self._writable = writable
        self._closed = False
        self.beneath: File | None = file
        self.dirty = False
        self.unlinked = False

    @property
    def path(self) -> str:
        return self._path

    def read_at(self, offset: int, size: int) -> bytes:
        with self._files.using:
            return self._files.opened(self).read_at(offset, size)

    def write_at(self, offset: int, data: bytes) -> None:
        self._dirty_descriptor().write_at(offset, data)

    def sync(self) -> None:
        # Sync the descriptor that wrote: the kernel reports a failed write to that one.
        with self._files.using:
            self.dirty = True
            file = self._files.opened(self)
        file.sync()
        # After a failed sync the file stays dirty, and keeps its descriptor.
        self.dirty = False

    def size(self) -> int:
        with self._files.using:
            return self._files.opened(self).size()

    def truncate(self, size: int) -> None:
        self._dirty_descriptor().truncate(size)

    def _dirty_descriptor(self) -> File:
        """Mark the file as dirty and return its descriptor.

        A dirty file keeps its descriptor until the next sync, so the caller can use it unlocked.
        """
        with self._files.using:
            self.dirty = True
            return self._files.opened(self)

    def close(self) -> None:
        with self._files.using:
            self._closed = True
            self._files.forget(self)

    def open_again(self, file_system: FileSystem) -> File:
        """Open a new descriptor; the file must have none."""
        assert not self._closed, f"{self._path} was closed"
        assert self.beneath is None
        self.beneath = file_system.open(self._path, writable=self._writable)
        return self.beneath

    def renamed(self, path: str) -> None:
        """The file has a new path from now on."""
        self._path = path


class DescriptorCache:
    """A file system that keeps only some of its open files' descriptors open.

    Attributes:
        using: held while a descriptor is looked up and used.
        descriptors: files with a descriptor, the most recently used one at the end.
    """

    def __init__(self, file_system: FileSystem, open_files_max: int = OPEN_FILES_MAX) -> None:
        assert open_files_max > 0
        self.using = threading.RLock()
        self.descriptors: dict[CachedFile, None] = {}
        self._file_system = file_system
        self._open_files_max = open_files_max
        self._named: dict[str, list[CachedFile]] = {}

    # Called by CachedFile, which holds the lock.

    def opened(self, file: CachedFile) -> File:
        """The descriptor of a file, which becomes the most recently used one."""
        beneath = file.beneath
        if beneath is None:
            beneath = file.open_again(self._file_system)
        else:
            self.descriptors.pop(file, None)
        self.descriptors[file] = None
        if len(self.descriptors) > self._open_files_max:
            self._close_others(file)
        return beneath

    def forget(self, file: CachedFile) -> None:
        """Remove a file that was closed."""
        self.descriptors.pop(file, None)
        named = self._named.get(file.path, [])
        if file in named:
            named.remove(file)
            if not named:
                del self._named[file.path]
        if file.beneath is not None:
            file.beneath.close()
            file.beneath = None

    def _close_others(self, used: CachedFile) -> None:
        surplus = len(self.descriptors) - self._open_files_max
        for file in list(self.descriptors):
            if surplus == 0:
                return
            if not (file.dirty or file.unlinked or file is used):
                assert file.beneath is not None
                file.beneath.close()
                file.beneath = None
                del self.descriptors[file]
                surplus -= 1

    def _add(self, path: str, beneath: File, *, writable: bool) -> File:
        file = CachedFile(self, path, beneath, writable=writable)
        with self.using:
            self._named.setdefault(path, []).append(file)
            self.opened(file)
        return file

    def _keep_descriptors(self, path: str) -> None:
        """Mark the files of this name as unlinked: only their descriptors reach them now."""
        for file in self._named.pop(path, []):
            self.opened(file)
            file.unlinked = True

    # The file system.

    def open(self, path: str, *, writable: bool = True) -> File:
        beneath = self._file_system.open(path, writable=writable)
        return self._add(path, beneath, writable=writable)

    def create(self, path: str) -> File:
        return self._add(path, self._file_system.create(path), writable=True)

    def exists(self, path: str) -> bool:
        return self._file_system.exists(path)

    def list(self, directory: str) -> list[str]:
        return self._file_system.list(directory)

    def make_directory(self, path: str) -> None:
        self._file_system.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        with self.using:
            self._keep_descriptors(new)
            self._file_system.rename(old, new)
            renamed = self._named.pop(old, [])
            for file in renamed:
                file.renamed(new)
            if renamed:
                self._named[new] = renamed

    def hard_link(self, path: str, new: str) -> None:
        self._file_system.hard_link(path, new)

    def remove(self, path: str) -> None:
        with self.using:
            self._keep_descriptors(path)
            self._file_system.remove(path)

    def sync_directory(self, path: str) -> None:
        self._file_system.sync_directory(path)

    def free_bytes(self, path: str) -> int:
        return self._file_system.free_bytes(path)

    def lock(self, path: str, *, shared: bool = False) -> Lock:
        return self._file_system.lock(path, shared=shared)
