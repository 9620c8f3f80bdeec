"""Unpacks the stored data directories to the disk, or into an in-memory file system."""

import json
import lzma
import random
import tarfile
from pathlib import Path
from typing import Any, Final

from headwater_server.storage.files.directory import PARTS
from headwater_server.storage.store.interface import Family, WriteBatch
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.formats.make import EXPECTED, HERE

FIXTURES: Final = sorted(HERE.glob("*/*.tar.xz"))


def name_of(fixture: Path) -> str:
    """The format and the name of a fixture, as in "3-killed"."""
    return f"{fixture.parent.name}-{fixture.name.partition('.')[0]}"


def unpack(fixture: Path, target: Path) -> Path:
    """Unpack the data directory of a fixture; return its path."""
    with tarfile.open(fixture) as archive:
        # Python 3.11.3 and older have no filters, which protect against hostile archives. These
        # archives are our own.
        options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(target, **options)  # type: ignore[arg-type]
    return target / "data"


def expected_of(fixture: Path) -> dict[str, Any]:
    """The results of reads by the version that made the fixture."""
    with lzma.open(fixture.parent / EXPECTED, "rt") as file:
        found: dict[str, Any] = json.load(file)[fixture.name.partition(".")[0]]
    return found


def load_files(data: Path, *, seed: int = 0) -> MemoryFileSystem:
    """The files of a data directory except the state store, all durable."""
    files = MemoryFileSystem(random.Random(seed))
    for part in PARTS:
        files.make_directory(f"data/{part}")
        files.sync_directory("data")
        if part != "state":
            for path in sorted((data / part).iterdir()):
                files.put(f"data/{part}/{path.name}", path.read_bytes())
    files.sync_directory(".")
    files.put("data/FORMAT", (data / "FORMAT").read_bytes())
    return files


def load_store(data: Path) -> MemoryStore:
    """The state store of a data directory, completely durable."""
    store = MemoryStore()
    rocks = RocksStore.open(str(data / "state"), read_only=True)
    try:
        batch = WriteBatch()
        for family in Family:
            for key, value in rocks.scan(family, b""):
                batch.put(family, key, value)
        store.write(batch)
        store.flush()
    finally:
        rocks.close()
    return store
