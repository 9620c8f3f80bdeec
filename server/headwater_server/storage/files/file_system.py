"""The interface of the file system. Tests replace the real one with one that simulates crashes.

Both guarantee the following:

- After `File.sync` returns, every byte written to that file before is on the disk.
- After `FileSystem.sync_directory` returns, all earlier creates, links, renames and removes in that
  directory are on the disk. Before, a power loss may keep or undo each of them.
- A rename is atomic: after a power loss the file has the old name or the new one.
- Bytes that a write does not cover keep their value, even if the power fails during it.

Nothing else is guaranteed. After a power loss an unsynced write can be there, be missing, or be
there in some of its 512-byte sectors and not in others. Writes without a sync between them can
survive in any combination.

Paths are plain strings with "/". Every call blocks until it is done.
"""

from typing import Protocol


class File(Protocol):
    """An open file. Every call takes an offset; there is no shared position."""

    @property
    def path(self) -> str:
        """The path at which it was opened or created; a rename does not change it."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """The *size* bytes from *offset* on; fewer only at the end of the file."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of *data*; the file grows as needed, with zeros in a gap.

        Raises:
            DiskFull: there was no room. A part may have been written.
            OSError: the disk failed.
        """
        ...

    def sync(self) -> None:
        """Wait until everything written is on the disk, with the file size needed to read it."""
        ...

    def size(self) -> int:
        """Bytes of the file."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or extend it with zeros."""
        ...

    def close(self) -> None:
        """Close the file, without a sync. A second call does nothing."""
        ...


class Lock(Protocol):
    """A lock, held until it is closed or the process ends in any way."""

    def close(self) -> None:
        """Release the lock."""
        ...


class FileSystem(Protocol):
    """Directories and files by path."""

    def open(self, path: str, *, writable: bool = True) -> File:
        """Open an existing file for reading and, by default, writing."""
        ...

    def create(self, path: str) -> File:
        """Make an empty file for reading and writing; FileExistsError if the name is taken."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this name."""
        ...

    def list(self, directory: str) -> list[str]:
        """The names in a directory, sorted, without the directory's own path."""
        ...

    def make_directory(self, path: str) -> None:
        """Make a directory and those above it; no error if it exists."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file or directory a new name in the same directory, replacing a file there."""
        ...

    def hard_link(self, path: str, new: str) -> None:
        """Give a file one more name, in any directory: the same bytes under both.

        Raises:
            FileExistsError: the new name is taken.
            OSError: the paths are on two disks, or the disk has no hard links; copy instead.
        """
        ...

    def remove(self, path: str) -> None:
        """Remove a file, or an empty directory."""
        ...

    def sync_directory(self, path: str) -> None:
        """Wait until creates, renames and removes in this directory are on the disk."""
        ...

    def free_bytes(self, path: str) -> int:
        """Free bytes of the disk that holds *path*."""
        ...

    def lock(self, path: str, *, shared: bool = False) -> Lock:
        """Lock a file against every other process and this one; make it if it is missing.

        A *shared* lock changes nothing, so it works on a disk that is mounted read-only. It
        excludes the other kind, and not further shared ones. A missing file is not made.

        Raises:
            DirectoryInUse: it is locked; details["pid"] is the owner, 0 if that is unknown.
        """
        ...


def join(directory: str, name: str) -> str:
    """The path of *name* in *directory*."""
    return f"{directory.rstrip('/')}/{name}" if directory else name


def parent(path: str) -> str:
    """The directory that holds *path*: "." for a bare name, "/" for a path in the root."""
    directory, slash, _ = path.rstrip("/").rpartition("/")
    if directory:
        return directory
    return "/" if slash else "."


def make_durable_directory(file_system: FileSystem, path: str) -> None:
    """Make a directory and those above it durably.

    A directory is an entry of its parent, so each new level is synced into its parent, from the
    top down.
    """
    missing: list[str] = []
    at = path.rstrip("/") or "/"
    while not file_system.exists(at) and at not in (".", "/"):
        missing.append(at)
        at = parent(at)
    for level in reversed(missing):
        file_system.make_directory(level)
        file_system.sync_directory(parent(level))
