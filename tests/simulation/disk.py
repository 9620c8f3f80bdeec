"""The disk of a simulated machine: slow at the seed's will, and it fails as the plan says.

It is the storage tests' file system in memory, which knows what a power loss leaves, and a
state store in memory beside it. Here both get what a machine adds to them: calls take time, in
which the rest of the server goes on; every call is traced; a power loss can come at any call of
either; and the ways in which a disk fails short of that.

    fate of a sync that fails    what the disk has     what programs still read
    "dirty"                      unchanged             all of it; a later sync may work
    "lost"                       a part                all of it, from the cache
    "evicted"                    a part                after the restart: what the disk has
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

SyncFate = Literal["dirty", "lost", "evicted"]

_SYNCS: Final = frozenset({"sync", "sync_directory", "store flush"})
STATE: Final = "data/state"
"""The path of the state store, whichever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long the disk takes, in seconds.

    Attributes:
        sync_s: for a sync, on average.
        call_s: for another call that is not answered at once.
        slow_share: the share of such calls.
    """

    sync_s: float = 0.001
    call_s: float = 0.0005
    slow_share: float = 0.05


class SimulatedDisk(MemoryFileSystem):
    """The files. *trace* hears of every call, *power_lost* of the moment at which it happens.

    Attributes:
        sync_fate: how syncs of paths with `faults.sync_error_in` in them fail.
        read_errors: the share of reads of files and of the state store that fail with EIO.
        store_read_errors: the same of the state store alone.
        failures: calls that failed by a fault.
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
        self.sync_fate: SyncFate = "dirty"
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
        """The state store is about to read, and may fail at it."""
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
            if self.sync_fate == "dirty" or path == STATE:
                raise OSError(errno.EIO, "sync failed", path)

    def room(self, wanted: int) -> int:
        room = super().room(wanted)
        if room < wanted:
            self.failures += 1
        return room

    # What becomes of it when the machine stops.

    def after_power_loss(self) -> "SimulatedDisk":
        """The disk as found after a power loss."""
        return self._found(super().crash())

    def after_exit(self) -> "SimulatedDisk":
        """The disk as the next process finds it: the operating system has gone on."""
        twin = self._found(super().copy())
        twin.random = self.random
        if self.sync_fate == "evicted":
            _evict(twin._root)
        return twin

    def _found(self, files: MemoryFileSystem) -> "SimulatedDisk":
        found = SimulatedDisk(files.random, self.latency, self.trace, self.power_lost)
        found._root = files._root
        found.used = files.used
        return found


def _evict(directory: DirectoryNode) -> None:
    """Drop clean pages from the cache; what a failed sync lost is then lost to readers too."""
    for node in directory.live.values():
        if isinstance(node, DirectoryNode):
            _evict(node)
        elif not node.pending:
            node.live = bytearray(node.durable)


class SimulatedStore(MemoryStore):
    """The state store: its writes and flushes are calls to the disk, and its reads may fail."""

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
        """The store as it is opened again: any of the batches that were not flushed are gone."""
        found = SimulatedStore(disk, self._source)
        found._durable = self._after_crash(self._source)
        found._live = found._durable.copy()
        return found

    def twin(self) -> MemoryStore:
        """Another one with the same content."""
        twin = MemoryStore()
        twin._live = self._live.copy()
        twin._durable = twin._live.copy()
        return twin


def sealed_files(disk: SimulatedDisk) -> list[tuple[str, int]]:
    """Files of which nothing may change unnoticed, and their sizes.

    Of the write-ahead log, all segments but the last: damage to the newest group cannot be told
    from a write that a crash has torn.
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
