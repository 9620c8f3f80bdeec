"""The file system as storage sees it, so that a test can put a crashing one in its place.

What may be relied on, of the real one as of the simulated one:

- After `File.sync` returns, every byte written to that file before is on the disk.
- After `FileSystem.sync_directory` returns, every create, link, rename and remove done in that
  directory before is on the disk. Before it, each may be there after a power loss or not.
- A rename is whole: after a power loss the file has the old name or the new one.
- Bytes that a write did not cover stay as they were, even if the power fails meanwhile.

And what may not: an unsynced write can be there, missing, or there in some of its 512-byte
sectors and not in others; writes without a sync between them can be there in any combination.

Paths are plain strings with "/". Nothing here is asynchronous: each call blocks until it is done.
"""

from typing import Protocol


class File(Protocol):
    """An open file. Offsets are given with every call; there is no position to share."""

    @property
    def path(self) -> str:
        """The path by which it was opened or created; a rename does not change it."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """The *size* bytes from *offset* on; fewer only where the file ends before."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of *data*; the file grows as needed, with zeros in a gap.

        Raises:
            DiskFull: there was no room. A part may have been written.
            OSError: the disk failed.
        """
        ...

    def sync(self) -> None:
        """Wait until all that was written is on the disk, with the size that reading it needs."""
        ...

    def size(self) -> int:
        """Bytes of the file."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or extend it with zeros."""
        ...

    def close(self) -> None:
        """Give the file back to the operating system. It does not sync. Twice is allowed."""
        ...


class Lock(Protocol):
    """Held until it is closed or the process ends, however it ends."""

    def close(self) -> None:
        """Let the next one have it."""
        ...


class FileSystem(Protocol):
    """Directories and files by path."""

    def open(self, path: str, *, writable: bool = True) -> File:
        """Open a file that exists, to read and, unless told otherwise, to write."""
        ...

    def create(self, path: str) -> File:
        """Make an empty file to read and write; FileExistsError if the name is taken."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or a directory of this name."""
        ...

    def list(self, directory: str) -> list[str]:
        """The names in a directory, sorted, without the directory's own path."""
        ...

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it; no error if it is there."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory a new name in the same directory, replacing a file there."""
        ...

    def hard_link(self, path: str, new: str) -> None:
        """Give a file one more name, in any directory: the same bytes under both.

        Raises:
            FileExistsError: the new name is taken.
            OSError: these are two disks, or the disk has no such links; a copy will do.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        ...

    def sync_directory(self, path: str) -> None:
        """Wait until creates, renames and removes in this directory are on the disk."""
        ...

    def free_bytes(self, path: str) -> int:
        """Bytes that could still be written to the disk on which *path* lies."""
        ...

    def lock(self, path: str) -> Lock:
        """Lock a file, which is made if need be, against every other process and this one.

        Raises:
            DirectoryInUse: it is locked; details["pid"] is the owner, 0 if it cannot be told.
        """
        ...


def join(directory: str, name: str) -> str:
    """The path of *name* in *directory*."""
    return f"{directory.rstrip('/')}/{name}" if directory else name


def parent(path: str) -> str:
    """The directory that holds *path*: "." for a bare name, "/" for what is in the root."""
    directory, slash, _ = path.rstrip("/").rpartition("/")
    if directory:
        return directory
    return "/" if slash else "."


def make_durable_directory(file_system: FileSystem, path: str) -> None:
    """Make a directory and those above it, so that a power loss cannot take them away again.

    A directory is an entry of the one above it: each new level is synced into its parent,
    from the top down.
    """
    missing: list[str] = []
    at = path.rstrip("/") or "/"
    while not file_system.exists(at) and at not in (".", "/"):
        missing.append(at)
        at = parent(at)
    for level in reversed(missing):
        file_system.make_directory(level)
        file_system.sync_directory(parent(level))
