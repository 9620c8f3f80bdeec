"""A program: the server with a disk whose faults come from the environment.

FAULTS is a JSON object:

    kill        {"operation", "path", "number", "when"}: the process kills itself by SIGKILL at the
                numbered call of the operation on a path that contains the text: before it, after
                it, or (for a write) when half of it is done
    slow        {"operation", "path", "seconds"}: the time that such calls take
    full_while  a path: while this file exists, the disk is full
    fail        {"operation", "path", "while"}: such calls fail with EIO while this file exists
    hello_ms    milliseconds for hello and authentication
    files       maximum number of descriptors of the process

Only the FileSystem and the state store of the engine are replaced.
"""

import errno
import json
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final
from weakref import WeakSet

os.environ["HEADWATER_PURE"] = "1"

from headwater_server.cli import options
from headwater_server.cli.main import main
from headwater_server.net import process
from headwater_server.net.settings import ServerSettings, SessionSettings
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import File
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.interface import WriteBatch
from headwater_server.storage.store.rocks_store import RocksSettings, RocksStore

FAULTS: Final[dict[str, Any]] = json.loads(os.environ.get("FAULTS", "{}"))

_calls: Final[Counter[str]] = Counter()


def die() -> None:
    """End the process like kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def called(operation: str, path: str) -> Iterator[bool]:
    """A context around each call; yields whether to do only half of it."""
    slow, kill, fail = FAULTS.get("slow"), FAULTS.get("kill"), FAULTS.get("fail")
    if fail and fail["operation"] == operation and fail["path"] in path:
        if os.path.exists(fail["while"]):
            raise OSError(errno.EIO, "Input/output error", path)
    if slow and slow["operation"] == operation and slow["path"] in path:
        time.sleep(slow["seconds"])  # this is how slow the disk is
    if not kill or kill["operation"] != operation or kill["path"] not in path:
        yield False
        return
    _calls[operation] += 1
    if _calls[operation] != kill["number"]:
        yield False
        return
    if kill["when"] == "before":
        die()
    yield kill["when"] == "half"
    die()


def check_room(path: str, size: int) -> None:
    """Raise DiskFull while the disk counts as full."""
    full = FAULTS.get("full_while")
    if full and os.path.exists(full):
        raise DiskFull(path, size)


class FaultyFile:
    """A file of the real file system."""

    def __init__(self, file: File) -> None:
        self._file = file
        # A renamed file counts under its new name: segments begin as "spare-1.tmp".
        self.path = file.path

    def read_at(self, offset: int, size: int) -> bytes:
        with called("read", self.path):
            return self._file.read_at(offset, size)

    def write_at(self, offset: int, data: bytes) -> None:
        if offset + len(data) > self._file.size():
            check_room(self.path, len(data))
        with called("write", self.path) as half:
            self._file.write_at(offset, data[: len(data) // 2] if half else data)

    def sync(self) -> None:
        with called("sync", self.path):
            self._file.sync()

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        with called("truncate", self.path):
            self._file.truncate(size)

    def close(self) -> None:
        self._file.close()


class FaultyFileSystem(RealFileSystem):
    """The real file system with the faults of the environment."""

    def __init__(self) -> None:
        super().__init__()
        self._created: WeakSet[FaultyFile] = WeakSet()

    def open(self, path: str, *, writable: bool = True) -> File:
        return FaultyFile(super().open(path, writable=writable))

    def create(self, path: str) -> File:
        check_room(path, 0)
        with called("create", path):
            file = FaultyFile(super().create(path))
        self._created.add(file)
        return file

    def rename(self, old: str, new: str) -> None:
        with called("rename", new):
            super().rename(old, new)
        for file in self._created:
            if file.path == old:
                file.path = new

    def remove(self, path: str) -> None:
        with called("remove", path):
            super().remove(path)

    def sync_directory(self, path: str) -> None:
        with called("sync_directory", path):
            super().sync_directory(path)

    def free_bytes(self, path: str) -> int:
        full = FAULTS.get("full_while")
        return 0 if full and os.path.exists(full) else super().free_bytes(path)


class FaultyStore(RocksStore):
    """RocksDB with the faults of the environment."""

    def write(self, batch: WriteBatch) -> None:
        with called("store write", self._path):
            super().write(batch)

    def flush(self) -> None:
        with called("store flush", self._path):
            super().flush()

    def close(self) -> None:
        super().close()
        with called("store close", self._path):
            pass


def open_faulty_store(path: str) -> FaultyStore:
    """The state store at *path*."""
    with called("store open", path):
        return FaultyStore(path, RocksSettings(), read_only=False)


def with_short_hello(**given: Any) -> ServerSettings:
    """The settings of the command line, with a short time for hello and authentication."""
    session = replace(given.pop("session", SessionSettings()), hello_ms_max=FAULTS["hello_ms"])
    return ServerSettings(**given, session=session)


def prepare() -> None:
    """Install the faulty file system, state store and settings."""
    vars(process)["RealFileSystem"] = FaultyFileSystem
    vars(process)["RocksStore"] = SimpleNamespace(open=open_faulty_store)
    if "hello_ms" in FAULTS:
        vars(options)["ServerSettings"] = with_short_hello
    if "files" in FAULTS:
        limit = FAULTS["files"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


if __name__ == "__main__":
    prepare()
    main()
