"""The data directory: made atomically, owned by one process, and never taken from others."""

import contextlib
import json
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from headwater_protocol.errors import (
    DamagedFile,
    DirectoryInUse,
    FormatTooNew,
    InvalidArgument,
)
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.testing.memory_files import Crash, MemoryFileSystem

NOW = 1_700_000_000_123_456


def open_directory(
    disk: FileSystem, path: str = "srv/data", *, seed: int = 1, create: bool = True
) -> DataDirectory:
    return DataDirectory.open(disk, path, source=random.Random(seed), now=NOW, create=create)


def test_a_directory_is_made_and_found_again() -> None:
    disk = MemoryFileSystem(1)
    made = open_directory(disk)
    assert len(made.database_id) == 16
    assert (made.created, made.format) == (NOW, 4)
    for part in (made.wal, made.commits, made.events, made.state):
        assert disk.list(part) == []
    made.close()
    made.close()
    found = open_directory(disk, seed=2, create=False)
    assert (found.database_id, found.created) == (made.database_id, made.created)
    found.close()


def test_two_directories_have_two_ids() -> None:
    disk = MemoryFileSystem(1)
    one, two = open_directory(disk, "a", seed=1), open_directory(disk, "b", seed=2)
    assert one.database_id != two.database_id


def test_a_crash_while_a_directory_is_made_leaves_it_complete_or_to_be_made_again() -> None:
    whole = MemoryFileSystem(0)
    open_directory(whole).close()
    calls = whole.calls
    assert calls > 10
    for call in range(1, calls + 1):
        for seed in range(4):
            disk = MemoryFileSystem(1000 * call + seed)
            disk.faults.crash_at = call
            with contextlib.suppress(Crash):
                open_directory(disk)
            found = disk.crash()
            opened = open_directory(found, seed=5)
            opened.close()
            again = open_directory(found.crash(), create=False)
            assert again.database_id == opened.database_id, f"call {call}, seed {seed}"
            assert again.created == NOW


def test_an_opened_directory_survives_any_crash() -> None:
    for seed in range(20):
        disk = MemoryFileSystem(seed)
        made = open_directory(disk)
        found = open_directory(disk.crash(), create=False)
        assert found.database_id == made.database_id


def test_the_next_open_makes_durable_what_a_killed_process_left_in_the_cache() -> None:
    # Found by simulation (seeds 218 and 253 of the first 300): a process was killed after it made a
    # directory or renamed FORMAT, and before the sync. The next process found and used them, and a
    # power loss removed everything.
    whole = MemoryFileSystem(0)
    open_directory(whole).close()
    for call in range(1, whole.calls + 1):
        for seed in range(8):
            disk = MemoryFileSystem(1000 * call + seed)
            disk.faults.error_at = call
            with contextlib.suppress(OSError):
                open_directory(disk, seed=seed)
            survivor = disk.copy()
            made = open_directory(survivor, seed=seed + 100)
            found = open_directory(survivor.crash(), seed=seed + 200, create=False)
            assert found.database_id == made.database_id, f"killed at call {call}, seed {seed}"


def test_a_second_owner_is_refused_with_the_pid_of_the_first() -> None:
    disk = MemoryFileSystem(1)
    owner = open_directory(disk)
    with pytest.raises(DirectoryInUse) as caught:
        open_directory(disk)
    assert caught.value.details["pid"] > 0
    owner.close()
    open_directory(disk).close()


CHILD = """
import random, sys
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.real_files import RealFileSystem
DataDirectory.open(RealFileSystem(), sys.argv[1], source=random.Random(1), now=0)
print("open", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(DirectoryInUse, match=str(child.pid)) as caught:
            open_directory(RealFileSystem(), path)
        assert caught.value.details["pid"] == child.pid
        child.kill()
    open_directory(RealFileSystem(), path).close()


def test_a_newer_format_is_refused_with_both_numbers() -> None:
    disk = MemoryFileSystem(1)
    open_directory(disk).close()
    disk.put("srv/data/FORMAT", b'{"format": 7, "more": "than we know"}\n')
    with pytest.raises(FormatTooNew, match="has format 7; this version reads up to 4"):
        open_directory(disk)
    # The lock was released.
    assert not disk.locked


def rewrite_format(disk: MemoryFileSystem, **changed: Any) -> None:
    """Change fields of FORMAT; None removes one."""
    fields = json.loads(disk.content("srv/data/FORMAT")) | changed
    del fields["crc32"]
    fields = {name: value for name, value in fields.items() if value is not None}
    fields["crc32"] = zlib.crc32(json.dumps(fields, sort_keys=True).encode())
    disk.put("srv/data/FORMAT", json.dumps(fields, sort_keys=True).encode() + b"\n")


def test_a_feature_that_is_not_known_is_refused_by_its_name() -> None:
    disk = MemoryFileSystem(1)
    open_directory(disk).close()
    rewrite_format(disk, features=["databases", "expiry"])
    before = disk.content("srv/data/FORMAT")
    with pytest.raises(FormatTooNew, match="uses databases, which this version does not know"):
        open_directory(disk)
    assert disk.content("srv/data/FORMAT") == before
    assert not disk.locked


def old_directory(disk: MemoryFileSystem) -> bytes:
    """Make a directory of format 3; return its database id."""
    made = open_directory(disk)
    made.close()
    rewrite_format(disk, format=3, features=None)
    return made.database_id


def test_a_directory_of_format_3_is_opened_as_it_is() -> None:
    disk = MemoryFileSystem(1)
    identity = old_directory(disk)
    before = disk.content("srv/data/FORMAT")
    found = open_directory(disk)
    assert (found.format, found.database_id, found.created) == (3, identity, NOW)
    found.close()
    assert disk.content("srv/data/FORMAT") == before


def test_an_upgrade_changes_only_the_number_and_survives_a_crash() -> None:
    disk = MemoryFileSystem(1)
    identity = old_directory(disk)
    found = open_directory(disk)
    found.upgrade(disk)
    assert found.format == 4
    again = open_directory(disk.crash(), create=False)
    assert (again.format, again.database_id, again.created) == (4, identity, NOW)


def test_a_crash_in_an_upgrade_leaves_the_old_format_or_the_new() -> None:
    whole = MemoryFileSystem(0)
    old_directory(whole)
    opened = open_directory(whole)
    first = whole.calls + 1
    opened.upgrade(whole)
    assert whole.calls - first >= 4
    left = set()
    for call in range(first, whole.calls + 1):
        for seed in range(8):
            disk = MemoryFileSystem(1000 * call + seed)
            identity = old_directory(disk)
            opened = open_directory(disk)
            disk.faults.crash_at = call
            with contextlib.suppress(Crash):
                opened.upgrade(disk)
            survivor = disk.crash()
            found = open_directory(survivor, create=False)
            assert found.database_id == identity, f"call {call}, seed {seed}"
            left.add(found.format)
            found.upgrade(survivor)
            assert open_directory(survivor.crash(), create=False).format == 4
    assert left == {3, 4}


def test_a_directory_from_before_the_first_release_is_refused_and_not_changed() -> None:
    disk = MemoryFileSystem(1)
    open_directory(disk).close()
    rewrite_format(disk, format=1)
    before = disk.content("srv/data/FORMAT")
    with pytest.raises(InvalidArgument, match="has format 1, and this version reads 3 to 4"):
        open_directory(disk)
    assert disk.content("srv/data/FORMAT") == before
    assert not disk.locked


def test_every_flipped_bit_of_format_is_detected() -> None:
    disk = MemoryFileSystem(1)
    open_directory(disk).close()
    for offset in range(len(disk.content("srv/data/FORMAT"))):
        for bit in range(8):
            broken = disk.copy()
            broken.flip_bit("srv/data/FORMAT", offset, bit)
            with pytest.raises((DamagedFile, FormatTooNew)):
                open_directory(broken)


def test_a_directory_with_other_files_is_not_changed() -> None:
    disk = MemoryFileSystem(1)
    disk.make_directory("srv/data")
    disk.put("srv/data/thesis.txt", b"precious")
    disk.put("srv/data/thesis.bak", b"precious too")
    with pytest.raises(InvalidArgument, match=r"holds 'thesis\.bak' and 1 more"):
        open_directory(disk)
    assert disk.list("srv/data") == ["thesis.bak", "thesis.txt"]


def test_the_root_of_an_empty_file_system_may_become_one() -> None:
    disk = MemoryFileSystem(1)
    disk.make_directory("srv/data/lost+found")
    open_directory(disk).close()
    assert "lost+found" in disk.list("srv/data")


def test_data_without_format_is_not_written_to() -> None:
    disk = MemoryFileSystem(1)
    open_directory(disk).close()
    disk.put("srv/data/wal/00000000000000000001.wal", b"commits")
    disk.remove("srv/data/FORMAT")
    with pytest.raises(DamagedFile, match="FORMAT is missing, but there is data in wal/"):
        open_directory(disk)


def test_a_missing_part_is_reported() -> None:
    disk = MemoryFileSystem(1)
    open_directory(disk).close()
    disk.remove("srv/data/events")
    with pytest.raises(DamagedFile, match="srv/data/events: it is missing"):
        open_directory(disk)


def test_a_directory_that_may_not_be_made_is_not_made(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    with pytest.raises(InvalidArgument, match="there is no data directory at"):
        open_directory(RealFileSystem(), path, create=False)
    assert not os.path.exists(path)
