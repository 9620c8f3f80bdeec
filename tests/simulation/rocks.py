"""The state store on RocksDB itself, as the server has it, in a directory of the real disk.

RocksDB has no seam for a simulated disk. What is simulated is the contract: after a crash, the
store holds what the last flush made durable, or all that was written; which of both is drawn.
After each flush the store makes a checkpoint of itself, in hard links, and a crash goes back to it.
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
    """A RocksStore whose writes and flushes are calls to the disk like others.

    *place* is a directory of its own, in which there may be what an earlier one left.
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
        """The store as it is opened again, with or without what was not flushed."""
        # To close it flushes what was written.
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
