"""Tests of the store on disk only: a killed process, damage, a full disk, a second owner."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headwater_protocol.errors import DamagedFile, DirectoryInUse
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import Family, StateStore, WriteBatch
from headwater_server.storage.store.rocks_store import RocksSettings, RocksStore, explain

SMALL = RocksSettings(cache_size=256 * 1024, write_buffer_size=64 * 1024, file_size=64 * 1024)


def write_numbers(store: StateStore, first: int, last: int) -> None:
    """Write batches over several families; each batch contains its number."""
    for number in range(first, last + 1):
        batch = WriteBatch()
        batch.put(Family.LATEST, b"%08d" % number, random.Random(number).randbytes(100))
        batch.put(Family.HISTORY, b"%08d" % number, b"")
        batch.put(Family.INDEX, b"count", b"%d" % number)
        store.write(batch)


def check_numbers(store: StateStore) -> int:
    """The number of batches in the store; they must be the first ones, and complete."""
    count = int(store.get(Family.INDEX, b"count") or 0)
    numbers = [b"%08d" % number for number in range(1, count + 1)]
    assert [key for key, _ in store.scan(Family.LATEST, b"")] == numbers
    assert [key for key, _ in store.scan(Family.HISTORY, b"")] == numbers
    return count


CHILD = """
import sys
from tests.storage.store.test_rocks_store import SMALL, write_numbers
from headwater_server.storage.store.rocks_store import RocksStore
store = RocksStore.open(sys.argv[1], SMALL)
number = int(sys.argv[2])
while True:
    write_numbers(store, number + 1, number + 100)
    number += 100
    if number % 700 == 0:
        store.flush()
        print(number, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_store_has_whole_batches_up_to_a_point_after_the_flush(
    tmp_path: Path, seed: int
) -> None:
    print("seed", seed)
    source = random.Random(seed)
    path = str(tmp_path / "state")
    count = 0
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, path, str(count)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            flushed = count
            for _ in range(source.randrange(1, 8)):
                flushed = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            for line in child.stdout:
                flushed = int(line)
        store = RocksStore.open(path, SMALL)
        count = check_numbers(store)
        assert count >= flushed
        store.close()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The files of a store with three thousand batches, closed."""
    store = RocksStore.open(str(tmp_path / "state"))
    write_numbers(store, 1, 3000)
    store.flush()
    store.close()
    return tmp_path / "state"


def table_of(path: Path) -> Path:
    (table,) = path.glob("*.sst")
    return table


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_damaged_block_is_reported_with_its_place_and_never_mistaken_for_the_end(
    written: Path,
) -> None:
    table = table_of(written)
    flip(table, table.stat().st_size // 3)
    store = RocksStore.open(str(written))
    found: list[bytes] = []
    with pytest.raises(DamagedFile) as caught:
        found.extend(key for key, _ in store.scan(Family.LATEST, b""))
    assert 0 < len(found) < 3000
    assert caught.value.details["file"] == str(table)
    assert 0 < caught.value.details["offset"] < table.stat().st_size
    backwards: list[bytes] = []
    with pytest.raises(DamagedFile):
        backwards.extend(key for key, _ in store.scan(Family.LATEST, b"", reverse=True))
    lost = set(range(1, 3001)) - {int(key) for key in found + backwards}
    assert 1 <= len(lost) < 100
    with pytest.raises(DamagedFile):
        store.get(Family.LATEST, b"%08d" % min(lost))
    with pytest.raises(DamagedFile):
        store.get_many(Family.LATEST, [b"%08d" % 1, b"%08d" % min(lost)])
    with pytest.raises(DamagedFile):
        list(store.scan(Family.LATEST, b"%08d" % min(lost)))
    for start in (b"", found[0], b"%08d" % min(lost)):
        for reverse in (False, True):
            with pytest.raises(DamagedFile):
                store.page(Family.LATEST, start, None, count_max=9**9, size_max=9**9,
                           reverse=reverse)  # fmt: skip
    with pytest.raises(DamagedFile):
        store.verify()
    # Data in other blocks can still be read.
    page = store.page(Family.LATEST, b"", None, count_max=len(found), size_max=9**9)
    assert page.keys == found
    assert store.get(Family.LATEST, b"%08d" % 1) is not None
    store.close()


def test_no_flipped_bit_of_a_table_gives_wrong_data(written: Path) -> None:
    table = table_of(written)
    sound = table.read_bytes()
    truth = RocksStore.open(str(written))
    content = list(truth.scan(Family.LATEST, b""))
    truth.close()
    source = random.Random(5)
    told = 0
    for _ in range(40):
        flip(table, source.randrange(len(sound)))
        try:
            store = RocksStore.open(str(written))
            try:
                keys = [key for key, _ in content]
                assert store.get_many(Family.LATEST, keys) == [value for _, value in content]
                assert list(store.scan(Family.LATEST, b"")) == content
                page = store.page(Family.LATEST, b"", None, count_max=9**9, size_max=9**9)
                assert list(zip(page.keys, page.values, strict=True)) == content
                store.verify()
            finally:
                store.close()
        except DamagedFile:
            told += 1
        table.write_bytes(sound)
    # The other flips hit bytes that nobody reads: names of options, the end of a name.
    assert told >= 30


def remove_table(path: Path) -> None:
    table_of(path).unlink()


def shorten_table(path: Path) -> None:
    os.truncate(table_of(path), 1000)


def remove_current(path: Path) -> None:
    (path / "CURRENT").unlink()


def overwrite_current(path: Path) -> None:
    (path / "CURRENT").write_text("nonsense")


def remove_manifest(path: Path) -> None:
    for manifest in path.glob("MANIFEST-*"):
        manifest.unlink()


@pytest.mark.parametrize(
    "break_it", [remove_table, shorten_table, remove_current, overwrite_current, remove_manifest]
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_with_missing_or_broken_files_is_not_opened(
    written: Path, break_it: Callable[[Path], None], read_only: bool
) -> None:
    break_it(written)
    with pytest.raises(DamagedFile) as caught:
        RocksStore.open(str(written), read_only=read_only)
    assert caught.value.details["file"].startswith(str(written))


def test_the_config_file_of_rocksdict_is_not_needed(written: Path) -> None:
    (written / "rocksdict-config.json").write_text("nonsense")
    for options in written.glob("OPTIONS-*"):
        options.unlink()
    store = RocksStore.open(str(written))
    assert check_numbers(store) == 3000
    store.close()


def test_the_given_cache_is_used_after_reopening_too(written: Path) -> None:
    """rocksdict used its own cache of 8 MB, unless the column family was named."""
    store = RocksStore.open(str(written), RocksSettings(cache_size=1024 * 1024))
    for _ in range(2):
        assert check_numbers(store) == 3000
        assert 100_000 < store.sizes()["cache_bytes"] < 1_500_000
        store.reopen()
    store.close()


def test_an_interrupted_creation_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "state"
    RocksStore.open(str(path)).close()
    for name in ("CURRENT", "OPTIONS-*", "*.log"):
        for file in path.glob(name):
            file.unlink()
    store = RocksStore.open(str(path))
    write_numbers(store, 1, 1)
    assert check_numbers(store) == 1
    store.close()


def test_an_open_store_is_in_use(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    store = RocksStore.open(path)
    with pytest.raises(DirectoryInUse):
        RocksStore.open(path)
    store.close()
    store.close()
    RocksStore.open(path).close()


def test_a_read_only_store_shows_flushed_data_while_its_owner_is_open(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    owner = RocksStore.open(path)
    write_numbers(owner, 1, 10)
    owner.flush()
    write_numbers(owner, 11, 20)
    reader = RocksStore.open(path, read_only=True)
    assert check_numbers(reader) == 10
    assert reader.verify() == 21
    reader.close()
    assert check_numbers(owner) == 20
    owner.close()


def test_a_read_only_store_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="CURRENT is missing"):
        RocksStore.open(str(tmp_path / "state"), read_only=True)


def test_writes_that_rocksdb_refuses_are_retried(tmp_path: Path) -> None:
    settings = RocksSettings(write_buffer_size=64 * 1024, write_buffers_max=2, file_size=64 * 1024)
    store = RocksStore.open(str(tmp_path / "state"), settings)
    write_numbers(store, 1, 8000)
    assert check_numbers(store) == 8000
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB; skips where this process may not mount one."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    path = tmp_path / "disk"
    path.mkdir()
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)],
        check=False,
        capture_output=True,
    )
    if not made or not umount or made.returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield path
    subprocess.run([umount, str(path)], check=True)


def fill(path: Path) -> None:
    """Use all the free space."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_a_full_disk_stops_writes_until_there_is_room_and_it_is_reopened(small_disk: Path) -> None:
    store = RocksStore.open(str(small_disk / "state"), SMALL)
    write_numbers(store, 1, 1000)
    store.flush()
    ballast = small_disk / "ballast"
    fill(ballast)
    with pytest.raises(DiskFull):
        write_numbers(store, 1001, 100_000)
    with pytest.raises(DiskFull):
        store.flush()
    assert store.get(Family.LATEST, b"%08d" % 1) is not None
    ballast.unlink()
    with pytest.raises(DiskFull):
        write_numbers(store, 1001, 1001)
    store.reopen()
    count = check_numbers(store)
    assert count >= 1000
    write_numbers(store, count + 1, count + 10)
    store.flush()
    assert check_numbers(store) == count + 10
    store.close()


def test_a_store_that_cannot_be_reopened_on_a_full_disk_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that was full to its last byte ended all reads: the store was closed to be opened
    # again, and that needs room.
    store = RocksStore.open(str(tmp_path / "state"), SMALL)
    write_numbers(store, 1, 1000)
    store.flush()
    right = RocksStore._open

    def without_room(self: RocksStore) -> object:
        if not self._read_only:
            raise DiskFull("state", 0)
        return right(self)

    monkeypatch.setattr(RocksStore, "_open", without_room)
    for _ in range(2):
        with pytest.raises(DiskFull):
            store.reopen()
        assert check_numbers(store) == 1000
        assert store.page(Family.LATEST, b"", None, count_max=9, size_max=99).more
        with pytest.raises(DiskFull):
            write_numbers(store, 1001, 1001)
        with pytest.raises(DiskFull):
            store.flush()
    monkeypatch.undo()
    store.reopen()
    write_numbers(store, 1001, 1010)
    store.flush()
    assert check_numbers(store) == 1010
    store.close()


def test_reads_go_on_while_a_disk_is_full_to_its_last_byte(small_disk: Path) -> None:
    store = RocksStore.open(str(small_disk / "state"), SMALL)
    write_numbers(store, 1, 1000)
    store.flush()
    ballast = small_disk / "ballast"
    fill(ballast)
    with pytest.raises(DiskFull):
        write_numbers(store, 1001, 100_000)
    for _ in range(3):
        with contextlib.suppress(DiskFull):
            store.reopen()
        assert check_numbers(store) >= 1000
    ballast.unlink()
    store.reopen()
    count = check_numbers(store)
    write_numbers(store, count + 1, count + 10)
    store.flush()
    assert check_numbers(store) == count + 10
    store.close()


def test_messages_of_rocksdb_are_explained() -> None:
    block = explain(
        "Corruption: block checksum mismatch: stored(context removed) = 1, computed = 2, type = 4"
        "  in /d a/000008.sst offset 199787 size 4071",
        "/d a",
    )
    assert isinstance(block, DamagedFile)
    assert block.details == {"file": "/d a/000008.sst", "offset": 199787}
    missing = explain(
        "Corruption: Corruption: IO error: No such file or directory: While open a file for "
        "random read: /d/000008.sst: No such file or directory  The file /d/MANIFEST-000005 may "
        "be corrupted.",
        "/d",
    )
    assert isinstance(missing, DamagedFile)
    assert missing.details == {"file": "/d/000008.sst"}
    bare = explain("Corruption: something new", "/d")
    assert isinstance(bare, DamagedFile)
    assert bare.details == {"file": "/d"}
    full = explain("IO error: No space left on device: While appending to file: /d/1.sst", "/d")
    assert isinstance(full, DiskFull)
    disk = explain("IO error: Input/output error: While pread: /d/1.sst", "/d")
    assert isinstance(disk, OSError)
    assert not isinstance(disk, DiskFull)


def test_a_checkpoint_shares_its_files_and_needs_a_free_path(
    tmp_path: Path,
) -> None:
    store = RocksStore.open(str(tmp_path / "state"))
    batch = WriteBatch()
    batch.put(Family.LATEST, b"key", b"value")
    store.write(batch)
    store.flush()
    store.checkpoint_to(str(tmp_path / "checkpoint"))
    shared = list((tmp_path / "checkpoint").glob("*.sst"))
    assert shared
    assert all(path.stat().st_nlink == 2 for path in shared)
    with pytest.raises(OSError, match="exists"):
        store.checkpoint_to(str(tmp_path / "checkpoint"))
    with pytest.raises(DamagedFile, match="No such file"):
        store.checkpoint_to(str(tmp_path / "missing/checkpoint"))
    # The failure does not affect the store itself.
    store.write(batch)
    store.flush()
    store.reopen()
    assert store.get(Family.LATEST, b"key") == b"value"
    store.close()
