"""A file system in memory that can lose power, fill up, fail and rot, reproducibly from a seed.

memory_disk.py holds its contents, and decides what survives a power loss: an unsynced change is
kept, dropped or, if it is a write, torn.

Every call goes through `enter`, which counts it and injects the planned faults. So a test can lose
power at each call in turn, in a loop over `faults.crash_at`:

    for call in range(1, calls_of_the_whole_run + 1):
        disk = MemoryFileSystem(seed)
        disk.faults.crash_at = call
        with contextlib.suppress(Crash):
            workload(disk)
        check(disk.crash())
"""

import errno
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from headwater_protocol.errors import DirectoryInUse
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import File, Lock
from headwater_server.testing.memory_disk import (
    Change,
    DirectoryNode,
    FileNode,
    Link,
    Node,
    total_size,
)

_ROOM_WITHOUT_CAPACITY: Final = 2**40
_PID: Final = 1
_LAST_CALLS_MAX: Final = 64
"""Calls to remember: enough to see in a failing test what led to the fault."""


class Crash(Exception):
    """The power failed. Every later call to the same file system raises this again."""


class Call(NamedTuple):
    """One call to the file system: its number, counted from 1, its operation, path and size."""

    number: int
    operation: str
    path: str
    size: int


@dataclass(slots=True)
class Faults:
    """The faults to inject. Calls are numbered from 1; None means never."""

    crash_at: int | None = None
    """The power fails during this call, which may take effect wholly, partly or not at all."""
    error_at: int | None = None
    """This call fails with `error` and does nothing; later ones work."""
    error_from: int | None = None
    """This call and every later one fail."""
    error: Callable[[Call], OSError] = lambda call: OSError(errno.EIO, "disk error", call.path)
    sync_error_in: str | None = None
    """Syncs of paths that contain this text fail ("" for all), and lose some changes."""
    capacity: int | None = None
    """Bound on the bytes of all files; a write beyond it stops there and raises DiskFull."""
    before: Callable[[Call], None] | None = None
    """Called before each call with its description; may raise."""


class MemoryFile:
    """An open file of a MemoryFileSystem."""

    def __init__(
        self, disk: "MemoryFileSystem", path: str, node: FileNode, *, writable: bool
    ) -> None:
        self._disk = disk
        self._path = path
        self._node = node
        self._writable = writable
        self._open = True

    @property
    def path(self) -> str:
        return self._path

    def _enter(self, operation: str, size: int = 0, *, writes: bool = False) -> bool:
        if not self._open or (writes and not self._writable):
            raise OSError(errno.EBADF, f"{operation} on a file not open for it", self._path)
        return self._disk.enter(operation, self._path, size)

    def read_at(self, offset: int, size: int) -> bytes:
        crash = self._enter("read", size)
        self._disk.leave(crash)
        return bytes(self._node.live[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        if not self._open or not self._writable:
            raise OSError(errno.EBADF, "write on a file not open for it", self._path)
        crash = self._disk.enter("write", self._path, len(data))
        grown = max(0, offset + len(data) - len(self._node.live))
        allowed = grown if self._disk.faults.capacity is None else self._disk.room(grown)
        fits = max(0, len(data) - (grown - allowed))
        if fits:
            self._disk.used += max(0, offset + fits - len(self._node.live))
            self._node.change(Change(offset, bytes(data[:fits])))
        if crash:
            self._disk.leave(crash)
        if allowed < grown:
            raise DiskFull(self._path, len(data))

    def sync(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, "sync on a file that is not open", self._path)
        crash = self._disk.enter("sync", self._path)
        if crash:
            self._disk.leave(crash)
        failing = self._disk.faults.sync_error_in
        if failing is not None and failing in self._path:
            self._node.lose_some(self._disk.random)
            raise OSError(errno.EIO, "sync failed", self._path)
        self._node.sync()

    def size(self) -> int:
        crash = self._enter("size")
        self._disk.leave(crash)
        return len(self._node.live)

    def truncate(self, size: int) -> None:
        crash = self._enter("truncate", size, writes=True)
        grown = size - len(self._node.live)
        if grown > 0 and self._disk.room(grown) < grown:
            raise DiskFull(self._path, size)
        self._disk.used += grown
        self._node.change(Change(size, None))
        self._disk.leave(crash)

    def close(self) -> None:
        # Not counted, and it never fails: closing changes nothing on the disk.
        self._open = False


class MemoryLock:
    """A lock of a MemoryFileSystem."""

    def __init__(self, disk: "MemoryFileSystem", path: str) -> None:
        self._disk = disk
        self._path = path

    def close(self) -> None:
        self._disk.locked.discard(self._path)


class MemoryFileSystem:
    """Files in memory. *seed* decides what survives a crash.

    Attributes:
        faults: the faults to inject; change them at any time.
        calls: number of calls so far.
        last_calls: the last few of them, to print when a test fails.
        crashed: whether the power has failed.
        used: bytes of all files.
        locked: paths that are locked.
    """

    def __init__(self, seed: int | random.Random = 0) -> None:
        self.random = seed if isinstance(seed, random.Random) else random.Random(seed)
        self.faults = Faults()
        self.calls = 0
        self.crashed = False
        self.last_calls: deque[Call] = deque(maxlen=_LAST_CALLS_MAX)
        self._root = DirectoryNode()
        self.used = 0
        self.locked: set[str] = set()

    # For tests.

    def crash(self) -> "MemoryFileSystem":
        """The file system as it would be after a power loss now. This one does not change.

        The new one has no faults and no locks, and its call count starts at 0. Its random source
        is seeded from this one's, so two calls give two outcomes.
        """
        found = MemoryFileSystem(self.random.getrandbits(64))
        found._root = self._root.after_power_loss(self.random)
        found.used = total_size(found._root)
        return found

    def copy(self) -> "MemoryFileSystem":
        """A copy with the same live and durable bytes, pending changes and random state."""
        source = random.Random()
        source.setstate(self.random.getstate())
        twin = MemoryFileSystem(source)
        twin._root = self._root.copy({})
        twin.used = self.used
        return twin

    def flip_bit(self, path: str, offset: int, bit: int = 0) -> None:
        """Rot: flip one bit of the live and the durable bytes."""
        node = self._file(path)
        for content in (node.live, node.durable):
            if offset < len(content):
                content[offset] ^= 1 << bit

    def overwrite(self, path: str, offset: int, data: bytes) -> None:
        """Replace live and durable bytes, for example as a misdirected write does."""
        node = self._file(path)
        for content in (node.live, node.durable):
            size = min(len(data), max(0, len(content) - offset))
            content[offset : offset + size] = data[:size]

    def content(self, path: str) -> bytes:
        """All live bytes of a file. Not counted as a call."""
        return bytes(self._file(path).live)

    def put(self, path: str, content: bytes) -> None:
        """Make or replace a file durably. Not counted as a call."""
        directory, name = self._place(path)
        node = FileNode(content)
        directory.live[name] = directory.durable[name] = node
        self.used = total_size(self._root)

    # The interface FileSystem.

    def open(self, path: str, *, writable: bool = True) -> File:
        crash = self.enter("open", path)
        self.leave(crash)
        return MemoryFile(self, path, self._file(path), writable=writable)

    def create(self, path: str) -> File:
        crash = self.enter("create", path)
        directory, name = self._place(path)
        if name in directory.live:
            raise FileExistsError(errno.EEXIST, "it is there already", path)
        node = FileNode()
        directory.change(Link(node, None, name))
        self.leave(crash)
        return MemoryFile(self, path, node, writable=True)

    def exists(self, path: str) -> bool:
        crash = self.enter("exists", path)
        self.leave(crash)
        return self._find(path) is not None

    def list(self, directory: str) -> list[str]:
        crash = self.enter("list", directory)
        self.leave(crash)
        return sorted(self._directory(directory).live)

    def make_directory(self, path: str) -> None:
        crash = self.enter("make_directory", path)
        at = self._root
        for name in _parts(path):
            node = at.live.get(name)
            if node is None:
                node = DirectoryNode()
                at.change(Link(node, None, name))
            if not isinstance(node, DirectoryNode):
                raise FileExistsError(errno.EEXIST, "a file has this name", path)
            at = node
        self.leave(crash)

    def rename(self, old: str, new: str) -> None:
        assert _parts(old)[:-1] == _parts(new)[:-1], "a rename must stay in its directory"
        crash = self.enter("rename", new)
        directory, old_name = self._place(old)
        new_name = _parts(new)[-1]
        node = directory.live.get(old_name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        replaced = directory.live.get(new_name)
        if isinstance(replaced, FileNode) and replaced is not node:
            self.used -= len(replaced.live)
        directory.change(Link(node, old_name, new_name))
        self.leave(crash)

    def hard_link(self, path: str, new: str) -> None:
        crash = self.enter("hard_link", new)
        node = self._file(path)
        directory, name = self._place(new)
        if name in directory.live:
            raise FileExistsError(errno.EEXIST, "it is there already", new)
        directory.change(Link(node, None, name))
        # Each name counts as a file, so a test that fills the disk does so a little earlier.
        self.used += len(node.live)
        self.leave(crash)

    def remove(self, path: str) -> None:
        crash = self.enter("remove", path)
        directory, name = self._place(path)
        node = directory.live.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        if isinstance(node, DirectoryNode):
            if node.live:
                raise OSError(errno.ENOTEMPTY, "the directory is not empty", path)
        else:
            self.used -= len(node.live)
        directory.change(Link(node, name, None))
        self.leave(crash)

    def sync_directory(self, path: str) -> None:
        crash = self.enter("sync_directory", path)
        self.leave(crash)
        failing = self.faults.sync_error_in
        if failing is not None and failing in path:
            raise OSError(errno.EIO, "sync failed", path)
        self._directory(path).sync()

    def free_bytes(self, path: str) -> int:
        crash = self.enter("free_bytes", path)
        self.leave(crash)
        return self.room(_ROOM_WITHOUT_CAPACITY)

    def lock(self, path: str, *, shared: bool = False) -> Lock:
        crash = self.enter("lock", path)
        key = "/".join(_parts(path))
        # A shared lock excludes nobody here, because tests open one reader at a time.
        if key in self.locked:
            raise DirectoryInUse(
                f"{path} is locked by process {_PID}", details={"path": path, "pid": _PID}
            )
        if shared:
            self.leave(crash)
            return MemoryLock(self, "")
        directory, name = self._place(path)
        if name not in directory.live:
            directory.change(Link(FileNode(f"{_PID}\n".encode()), None, name))
        self.leave(crash)
        self.locked.add(key)
        return MemoryLock(self, key)

    # Counting calls and injecting faults.

    def enter(self, operation: str, path: str, size: int = 0) -> bool:
        """Count the call and inject faults; return True if the power fails during this call."""
        if self.crashed:
            raise Crash(f"{operation} of {path} after the power failed")
        self.calls += 1
        call = Call(self.calls, operation, path, size)
        self.last_calls.append(call)
        faults = self.faults
        if faults.before is not None:
            faults.before(call)
        if faults.error_at == self.calls:
            raise faults.error(call)
        if faults.error_from is not None and self.calls >= faults.error_from:
            raise faults.error(call)
        return faults.crash_at == self.calls

    def leave(self, crash: bool) -> None:
        """End a call. If the power fails now, its change is pending and may survive or not."""
        if crash:
            self.crashed = True
            raise Crash(f"power failed at call {self.last_calls[-1]}")

    def room(self, wanted: int) -> int:
        """How many of *wanted* bytes still fit on the disk."""
        if self.faults.capacity is None:
            return wanted
        return max(0, min(wanted, self.faults.capacity - self.used))

    def _find(self, path: str) -> Node | None:
        node: Node | None = self._root
        for name in _parts(path):
            if not isinstance(node, DirectoryNode):
                return None
            node = node.live.get(name)
        return node

    def _file(self, path: str) -> FileNode:
        match self._find(path):
            case FileNode() as node:
                return node
            case None:
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            case _:
                raise IsADirectoryError(errno.EISDIR, "it is a directory", path)

    def _directory(self, path: str) -> DirectoryNode:
        match self._find(path):
            case DirectoryNode() as node:
                return node
            case None:
                raise FileNotFoundError(errno.ENOENT, "no such directory", path)
            case _:
                raise NotADirectoryError(errno.ENOTDIR, "it is a file", path)

    def _place(self, path: str) -> tuple[DirectoryNode, str]:
        """The directory that holds *path*, and its name there."""
        parts = _parts(path)
        return self._directory("/".join(parts[:-1])), parts[-1]


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
