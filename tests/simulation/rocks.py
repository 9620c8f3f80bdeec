"""The server's state store on RocksDB, in a directory of the real disk.

RocksDB cannot run on the simulated disk, so the simulation is of its contract: after a crash, the
store has either what the last flush made durable, or everything that was written. The seed decides
which. After each flush a RocksDB checkpoint is made with hard links, and a crash returns to it.
"""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import Family, WriteBatch
from headwater_server.storage.store.rocks_store import RocksSettings, RocksStore
from headwater_server.testing.memory_store import MemoryStore
from tests.simulation.disk import STATE, SimulatedDisk

_SETTINGS = RocksSettings(cache_size=1024 * 1024, write_buffer_size=256 * 1024)


class SimulatedRocks(RocksStore):
    """A RocksStore whose writes and flushes count as disk calls.

    *place* is its own directory, which may have the files of an earlier store.
    """

    def __init__(self, disk: SimulatedDisk, source: random.Random, place: Path) -> None:
        self._disk = disk
        self._source = source
        self._place = place
        super().__init__(str(place / "live"), _SETTINGS, read_only=False)

    @property
    def _flushed(self) -> Path:
        return self._place / "flushed"

    def get(self, family: Family, key: bytes) -> bytes | None:
        self._disk.read_store()
        return super().get(family, key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        self._disk.read_store()
        return super().get_many(family, keys)

    def write(self, batch: WriteBatch) -> None:
        crash = self._disk.enter("store write", STATE, len(batch))
        super().write(batch)
        self._disk.leave(crash)

    def flush(self) -> None:
        crash = self._disk.enter("store flush", STATE)
        self._disk.leave(crash)
        if self._disk.room(1) == 0:
            self._failed = DiskFull(self._path, 0)
        super().flush()
        made = self._place / "made"
        self.checkpoint_to(str(made))
        if self._flushed.exists():
            shutil.rmtree(self._flushed)
        made.rename(self._flushed)

    def found(self, disk: SimulatedDisk) -> "SimulatedRocks":
        """The store after a crash, with or without unflushed data."""
        # Closing the store flushes it.
        self.close()
        if self._source.random() < 0.5:
            live = Path(self._path)
            shutil.rmtree(live)
            if self._flushed.exists():
                shutil.copytree(self._flushed, live)
        return SimulatedRocks(disk, self._source, self._place)

    def twin(self) -> MemoryStore:
        """Another store with the same content."""
        twin = MemoryStore()
        batch = WriteBatch()
        for family in Family:
            for key, value in self.scan(family, b""):
                batch.put(family, key, value)
        twin.write(batch)
        twin.flush()
        return twin
