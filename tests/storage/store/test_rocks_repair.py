"""Repair of a damaged RocksDB store: sound data is kept, lost data is reported."""

import random
from pathlib import Path

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.store.interface import Family, WriteBatch
from headwater_server.storage.store.rocks_repair import repair_rocks
from headwater_server.storage.store.rocks_store import RocksStore

COUNT = 5000


def written(path: Path) -> dict[bytes, bytes]:
    """Make a store with keys in every family; return its contents by family and key."""
    source = random.Random(1)
    store = RocksStore.open(str(path))
    content: dict[bytes, bytes] = {}
    batch = WriteBatch()
    for number in range(COUNT):
        family = list(Family)[number % 5]
        key, value = b"key-%08d" % source.randrange(10**8), source.randbytes(60)
        batch.put(family, key, value)
        content[family + key] = value
    store.write(batch)
    store.flush()
    store.close()
    return content


def found(path: Path) -> dict[bytes, bytes]:
    store = RocksStore.open(str(path))
    content = {family + key: value for family in Family for key, value in store.scan(family, b"")}
    assert store.verify() == len(content)
    store.close()
    return content


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def files(path: Path, pattern: str = "*.sst") -> list[Path]:
    return sorted(path.glob(pattern))


def test_a_damaged_block_costs_the_keys_in_it_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "state"
    content = written(path)
    (file,) = files(path)
    flip(file, file.stat().st_size // 2)
    told = repair_rocks(str(path))
    left = found(path)
    assert left.items() <= content.items()
    assert 0 < len(content) - len(left) < 100
    assert "1 ranges" in told
    assert (tmp_path / "state.damaged-1").is_dir()


def test_many_damaged_blocks_are_skipped_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    content = written(path)
    (file,) = files(path)
    size = file.stat().st_size
    for offset in range(5000, size - 30_000, size // 6):
        flip(file, offset)
    repair_rocks(str(path))
    left = found(path)
    assert left.items() <= content.items()
    assert len(left) > len(content) - 600


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_a_store_that_lost_its_list_of_files_is_repaired(tmp_path: Path, pattern: str) -> None:
    path = tmp_path / "state"
    content = written(path)
    for file in files(path, pattern):
        file.unlink()
    with pytest.raises(DamagedFile):
        RocksStore.open(str(path)).close()
    repair_rocks(str(path))
    assert found(path) == content


def test_an_interrupted_repair_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "state"
    content = written(path)
    written(tmp_path / "state.new")
    repair_rocks(str(path))
    assert found(path) == content
    assert not (tmp_path / "state.new").exists()
