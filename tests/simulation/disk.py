"""The disk of a simulated machine: its delays come from the seed, its failures from the plan.

It consists of the in-memory file system of the storage tests, which models a power loss, and an
in-memory state store. This module adds what a machine adds: calls take time, while the rest of the
server runs; every call is traced; power can be lost at any call; and disk errors.

    a failed sync    data on disk     data that programs read
    "dirty"          unchanged        all of it; a later sync may succeed
    "lost"           a part           all of it, from the cache
    "evicted"        a part           after a restart: only the data on disk
"""

import errno
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from headwater_server.storage.store.interface import Family, Page, WriteBatch
from headwater_server.testing.memory_disk import DirectoryNode, FileNode
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.simulation.blocking import in_blocking_call, pause

SyncFault = Literal["dirty", "lost", "evicted"]

_SYNCS: Final = frozenset({"sync", "sync_directory", "store flush"})
STATE: Final = "data/state"
"""The path of the state store of either kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Delays of the disk, in seconds.

    Attributes:
        sync_s: average time of a sync.
        call_s: average time of another call that is slow.
        slow_share: the share of slow calls.
    """

    sync_s: float = 0.001
    call_s: float = 0.0005
    slow_share: float = 0.05


class SimulatedDisk(MemoryFileSystem):
    """The files. *trace* is called at every call, *power_lost* when the power is lost.

    Attributes:
        sync_fault: how syncs of paths that contain `faults.sync_error_in` fail.
        read_errors: the share of reads of files and of the state store that fail with EIO.
        store_read_errors: the same for the state store only.
        failures: calls that failed because of a fault.
    """

    def __init__(
        self,
        source: random.Random,
        latency: Latency,
        trace: Callable[..., None],
        power_lost: Callable[[], None],
    ) -> None:
        super().__init__(source)
        self.latency = latency
        self.trace = trace
        self.power_lost = power_lost
        self.sync_fault: SyncFault = "dirty"
        self.read_errors = 0.0
        self.store_read_errors = 0.0
        self.failures = 0

    def enter(self, operation: str, path: str, size: int = 0) -> bool:
        self._take_time(operation)
        crash = super().enter(operation, path, size)
        self.trace("disk", operation, path, size)
        if operation in _SYNCS:
            self._fail_sync(path)
        if operation == "read" and self.read_errors and self.random.random() < self.read_errors:
            self.failures += 1
            raise OSError(errno.EIO, "read failed", path)
        return crash

    def read_store(self) -> None:
        """Called before a read of the state store, which may fail."""
        share = max(self.read_errors, self.store_read_errors)
        if share and self.random.random() < share:
            self.failures += 1
            self.trace("disk", "store read failed", STATE)
            raise OSError(errno.EIO, "read failed", STATE)

    def leave(self, crash: bool) -> None:
        if crash:
            self.crashed = True
            self.power_lost()
        super().leave(crash)

    def _take_time(self, operation: str) -> None:
        latency = self.latency
        if operation in _SYNCS:
            if not in_blocking_call():
                self.trace("sync in the event loop", operation)
            pause(self.random.expovariate(1 / latency.sync_s))
        elif self.random.random() < latency.slow_share:
            pause(self.random.expovariate(1 / latency.call_s))

    def _fail_sync(self, path: str) -> None:
        failing = self.faults.sync_error_in
        if failing is not None and failing in path:
            self.failures += 1
            if self.sync_fault == "dirty" or path == STATE:
                raise OSError(errno.EIO, "sync failed", path)

    def room(self, wanted: int) -> int:
        room = super().room(wanted)
        if room < wanted:
            self.failures += 1
        return room

    # The disk after the machine stops.

    def after_power_loss(self) -> "SimulatedDisk":
        """The disk after a power loss."""
        return self._found(super().crash())

    def after_exit(self) -> "SimulatedDisk":
        """The disk for the next process, while the operating system kept running."""
        twin = self._found(super().copy())
        twin.random = self.random
        if self.sync_fault == "evicted":
            _evict(twin._root)
        return twin

    def _found(self, files: MemoryFileSystem) -> "SimulatedDisk":
        found = SimulatedDisk(files.random, self.latency, self.trace, self.power_lost)
        found._root = files._root
        found.used = files.used
        return found


def _evict(directory: DirectoryNode) -> None:
    """Drop clean pages from the cache, so readers see what a failed sync has lost."""
    for node in directory.live.values():
        if isinstance(node, DirectoryNode):
            _evict(node)
        elif not node.pending:
            node.live = bytearray(node.durable)


class SimulatedStore(MemoryStore):
    """The state store: its writes and flushes are disk calls, and its reads may fail."""

    def __init__(self, disk: SimulatedDisk, source: random.Random) -> None:
        super().__init__(source)
        self._disk = disk

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._disk.read_store()
        return super().get(family, key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        self._disk.read_store()
        return super().get_many(family, keys)

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self._disk.read_store()
        return super().scan(family, start, end, reverse=reverse)

    def page(
        self,
        family: Family,
        start: bytes,
        end: bytes | None,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> Page:
        self._disk.read_store()
        return super().page(
            family, start, end, count_max=count_max, size_max=size_max, reverse=reverse
        )

    def write(self, batch: WriteBatch) -> None:
        crash = self._disk.enter("store write", STATE, len(batch))
        super().write(batch)
        self._disk.leave(crash)

    def flush(self) -> None:
        crash = self._disk.enter("store flush", STATE)
        self._disk.leave(crash)
        self.full = self._disk.room(1) == 0
        super().flush()

    def found(self, disk: SimulatedDisk) -> "SimulatedStore":
        """The store after a crash: any number of unflushed batches are lost."""
        found = SimulatedStore(disk, self._source)
        found._durable = self._after_crash(self._source)
        found._live = found._durable.copy()
        return found

    def twin(self) -> MemoryStore:
        """A copy of the store."""
        twin = MemoryStore()
        twin._live = self._live.copy()
        twin._durable = twin._live.copy()
        return twin


def sealed_files(disk: SimulatedDisk) -> list[tuple[str, int]]:
    """Files in which every change must be detected, with their sizes.

    They include all segments of the write-ahead log except the last: damage of the newest group
    looks like a torn write.
    """
    found: list[tuple[str, int]] = []
    data = disk._root.live.get("data")
    if not isinstance(data, DirectoryNode):
        return found
    for part in ("wal", "events", "commits"):
        directory = data.live.get(part)
        if not isinstance(directory, DirectoryNode):
            continue
        names = sorted(name for name in directory.live if not name.endswith(".tmp"))
        for name in names[:-1] if part == "wal" else names:
            node = directory.live[name]
            if isinstance(node, FileNode) and node.live:
                found.append((f"data/{part}/{name}", len(node.live)))
    return found
