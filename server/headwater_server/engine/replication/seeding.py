"""Seeding: makes the data directory of a follower from the files of its leader.

    leader    checkpoint, then link the files of one commit      backup.py: stage
    follower  COPY.seed       what is copied
              events.seed/ …  the files so far; in wal.seed/ the log after them, up to where they
                              say that it was durable
              FORMAT.seed     the seed is complete and durable
              events/ … FORMAT   the parts of the seed in place of older ones

A follower that already has data serves it until the seed is complete. A crash before that leaves a
seed that goes on if the leader still has its links. After a crash behind that, `install` at the
next start puts the seed into place. Both may be repeated any number of times.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from headwater_protocol.errors import ProtocolError
from headwater_server.engine.backup import Staged
from headwater_server.storage.files.copying import remove_tree
from headwater_server.storage.files.directory import FORMAT_NAME, PARTS
from headwater_server.storage.files.file_system import File, FileSystem, join
from headwater_server.storage.wal.interface import Epoch, LogEnd, WalIndex

SUFFIX: Final = ".seed"
COPY_NAME: Final = "COPY" + SUFFIX
_COPIED: Final = ("events", "commits", "state")
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_COPY_SIZE_MAX: Final = 16 * 1024 * 1024
"""Bytes of COPY that are read: as large as the answer that it was made from may be."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a follower copies.

    Attributes:
        copy: identifies the links of the leader.
        form: the contents of FORMAT.
        database_id: 16 bytes.
        commit, position: the newest in the files.
        end: the entries after this index go on where the files end.
        log_index: the files say that the log was durable up to this entry.
        files: part of the data directory, name and size of each file.
    """

    copy: bytes
    form: bytes
    database_id: bytes
    commit: int
    position: int
    end: LogEnd
    log_index: WalIndex
    files: tuple[tuple[str, str, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, _, size in self.files)

    def as_wire(self) -> list[Any]:
        """The plan in the form of the protocol."""
        return [
            self.copy,
            self.form,
            self.database_id,
            self.commit,
            self.position,
            self.end.index,
            self.end.epoch,
            self.end.hash,
            self.log_index,
            [list(file) for file in self.files],
        ]

    @staticmethod
    def from_wire(wire: Any) -> "CopyPlan":
        """The plan of an answer.

        Raises:
            ProtocolError: it is not of its form, or names a file outside of the directory.
        """
        match wire:
            case [
                bytes(copy),
                bytes(form),
                bytes(database_id),
                int(commit),
                int(position),
                int(after),
                int(epoch),
                bytes(last_hash),
                int(log_index),
                list(files),
            ]:
                pass
            case _:
                raise ProtocolError("the answer to copy_begin is not of its form")
        for file in files:
            match file:
                case [str(part), str(name), int(size)] if (
                    part in _COPIED and _NAME.fullmatch(name) and size >= 0
                ):
                    pass
                case _:
                    raise ProtocolError(f"copy_begin names a file that cannot be copied: {file!r}")
        end = LogEnd(WalIndex(after), Epoch(epoch), last_hash)
        return CopyPlan(
            copy,
            form,
            database_id,
            commit,
            position,
            end,
            WalIndex(log_index),
            tuple((part, name, size) for part, name, size in files),
        )


def plan_of(staged: Staged, copy: bytes, form: bytes, end: LogEnd) -> CopyPlan:
    """The plan for files that were staged. The log after *end* goes on where they end."""
    return CopyPlan(
        copy,
        form,
        staged.database_id,
        staged.commit,
        staged.position,
        end,
        staged.log_index,
        tuple((part, file.path.rpartition("/")[2], file.size) for part, file in staged.files),
    )


class Seed:
    """The unfinished data directory of a follower.

    Attributes:
        plan: what is copied.
        wal: the directory of its log.
    """

    def __init__(self, file_system: FileSystem, data: str, plan: CopyPlan) -> None:
        self.plan = plan
        self._file_system = file_system
        self._data = data
        self.wal = join(data, "wal" + SUFFIX)
        self._open: tuple[int, File] | None = None

    @staticmethod
    def begin(file_system: FileSystem, data: str, plan: CopyPlan) -> "Seed":
        """Begin to copy, without what an earlier attempt has left."""
        for name in (COPY_NAME, FORMAT_NAME + SUFFIX):
            if file_system.exists(join(data, name)):
                file_system.remove(join(data, name))
        for part in PARTS:
            remove_tree(file_system, join(data, part + SUFFIX))
            file_system.make_directory(join(data, part + SUFFIX))
        seed = Seed(file_system, data, plan)
        seed._write_whole(COPY_NAME, msgpack.packb(plan.as_wire()))
        file_system.sync_directory(data)
        return seed

    @staticmethod
    def unfinished(file_system: FileSystem, data: str) -> "Seed | None":
        """The seed that an earlier attempt has left, or None."""
        path = join(data, COPY_NAME)
        if not file_system.exists(path):
            return None
        file = file_system.open(path, writable=False)
        try:
            packed = file.read_at(0, _COPY_SIZE_MAX)
        finally:
            file.close()
        try:
            return Seed(file_system, data, CopyPlan.from_wire(msgpack.unpackb(packed)))
        except (ValueError, ProtocolError):
            # It was cut off by a crash.
            return None

    def missing(self, size_max: int) -> Iterator[tuple[int, int, int]]:
        """What is still to be copied: the number of a file, an offset, and a size."""
        for number, (part, name, size) in enumerate(self.plan.files):
            path = self._path_of(part, name)
            done = self._size_of(path)
            if not size and done < 0:
                yield number, 0, 0
            for offset in range(max(done, 0), size, size_max):
                yield number, offset, min(size_max, size - offset)

    def _size_of(self, path: str) -> int:
        if not self._file_system.exists(path):
            return -1
        file = self._file_system.open(path, writable=False)
        try:
            return file.size()
        finally:
            file.close()

    def write(self, number: int, offset: int, data: bytes) -> None:
        """Write a part of a file, in the order of `missing`."""
        if self._open is None or self._open[0] != number:
            self._close()
            part, name, _ = self.plan.files[number]
            path = self._path_of(part, name)
            exists = self._file_system.exists(path)
            file = self._file_system.open(path) if exists else self._file_system.create(path)
            self._open = number, file
        if data:
            self._open[1].write_at(offset, data)

    def _close(self) -> None:
        """Make the open file durable, and close it."""
        if self._open is not None:
            _, file = self._open
            self._open = None
            file.sync()
            file.close()

    def abandon(self) -> None:
        """Close what is open; a later attempt goes on."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def complete(self) -> None:
        """All files and the log are there: make the seed durable, and ready to be installed."""
        self._close()
        # A crash of an earlier attempt may have left files that were never synced.
        for part, name, _ in self.plan.files:
            file = self._file_system.open(self._path_of(part, name))
            file.sync()
            file.close()
        for part in PARTS:
            self._file_system.sync_directory(join(self._data, part + SUFFIX))
        self._file_system.remove(join(self._data, COPY_NAME))
        self._file_system.sync_directory(self._data)
        # FORMAT comes last: it marks the seed as complete.
        temporary = FORMAT_NAME + SUFFIX + ".tmp"
        self._write_whole(temporary, self.plan.form)
        name = FORMAT_NAME + SUFFIX
        self._file_system.rename(join(self._data, temporary), join(self._data, name))
        self._file_system.sync_directory(self._data)

    def _path_of(self, part: str, name: str) -> str:
        return join(join(self._data, part + SUFFIX), name)

    def _write_whole(self, name: str, data: bytes) -> None:
        path = join(self._data, name)
        if self._file_system.exists(path):
            self._file_system.remove(path)
        file = self._file_system.create(path)
        try:
            file.write_at(0, data)
            file.sync()
        finally:
            file.close()


def install(file_system: FileSystem, data: str) -> bool:
    """Put a complete seed into place; return whether there was one. No engine is open."""
    form = join(data, FORMAT_NAME + SUFFIX)
    if not file_system.exists(form):
        return False
    for part in PARTS:
        new = join(data, part + SUFFIX)
        if file_system.exists(new):
            remove_tree(file_system, join(data, part))
            file_system.rename(new, join(data, part))
    file_system.sync_directory(data)
    # FORMAT comes last again: as long as the seed has one, its parts are put into place.
    file_system.rename(form, join(data, FORMAT_NAME))
    file_system.sync_directory(data)
    return True
