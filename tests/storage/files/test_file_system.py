"""The guarantees of FileSystem, tested on the real file system and on the simulated one."""

import os
from pathlib import Path

import pytest

from headwater_protocol.errors import DirectoryInUse
from headwater_server.storage.files.descriptor_cache import DescriptorCache
from headwater_server.storage.files.file_system import (
    FileSystem,
    join,
    make_durable_directory,
    parent,
)
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.testing.memory_files import MemoryFileSystem


@pytest.fixture(params=["real", "memory", "descriptor cache"])
def disk(request: pytest.FixtureRequest) -> FileSystem:
    if request.param == "descriptor cache":
        return DescriptorCache(RealFileSystem(), open_files_max=1)
    return RealFileSystem() if request.param == "real" else MemoryFileSystem(1)


@pytest.fixture
def here(disk: FileSystem, tmp_path: Path) -> str:
    disk.make_directory(str(tmp_path))
    return str(tmp_path)


def test_written_bytes_are_read_back_and_gaps_are_zeros(disk: FileSystem, here: str) -> None:
    file = disk.create(join(here, "a"))
    file.write_at(5, b"hello")
    file.write_at(0, b"xy")
    assert file.size() == 10
    assert file.read_at(0, 10) == b"xy\0\0\0hello"
    file.sync()
    file.close()
    file.close()
    again = disk.open(join(here, "a"))
    assert again.read_at(5, 5) == b"hello"
    again.close()


def test_a_read_is_short_only_at_the_end_of_the_file(disk: FileSystem, here: str) -> None:
    file = disk.create(join(here, "a"))
    file.write_at(0, bytes(range(100)))
    assert file.read_at(90, 50) == bytes(range(90, 100))
    assert file.read_at(100, 1) == b""
    assert file.read_at(1000, 1) == b""
    file.close()


def test_truncate_cuts_and_extends_with_zeros(disk: FileSystem, here: str) -> None:
    file = disk.create(join(here, "a"))
    file.write_at(0, b"abcdef")
    file.truncate(3)
    file.truncate(5)
    assert file.read_at(0, 10) == b"abc\0\0"
    file.close()


def test_create_refuses_a_name_that_is_taken(disk: FileSystem, here: str) -> None:
    disk.create(join(here, "a")).close()
    with pytest.raises(FileExistsError):
        disk.create(join(here, "a"))


def test_open_and_list_and_remove_refuse_missing_paths(disk: FileSystem, here: str) -> None:
    with pytest.raises(FileNotFoundError):
        disk.open(join(here, "a"))
    with pytest.raises(FileNotFoundError):
        disk.list(join(here, "a"))
    with pytest.raises(FileNotFoundError):
        disk.remove(join(here, "a"))
    with pytest.raises(FileNotFoundError):
        disk.rename(join(here, "a"), join(here, "b"))


def test_names_are_listed_in_order_without_their_directory(disk: FileSystem, here: str) -> None:
    for name in ("b", "a", "c"):
        disk.create(join(here, name)).close()
    disk.make_directory(join(here, "aa"))
    assert disk.list(here) == ["a", "aa", "b", "c"]


def test_a_rename_replaces_and_keeps_an_open_file_usable(disk: FileSystem, here: str) -> None:
    old = disk.create(join(here, "old"))
    disk.create(join(here, "new")).close()
    old.write_at(0, b"kept")
    disk.rename(join(here, "old"), join(here, "new"))
    assert disk.list(here) == ["new"]
    old.write_at(4, b"!")
    old.close()
    new = disk.open(join(here, "new"))
    assert new.read_at(0, 10) == b"kept!"
    new.close()
    disk.sync_directory(here)


def test_remove_takes_files_and_empty_directories_only(disk: FileSystem, here: str) -> None:
    disk.make_directory(join(here, "x/y"))
    disk.make_directory(join(here, "x/y"))
    with pytest.raises(OSError, match="not empty"):
        disk.remove(join(here, "x"))
    disk.remove(join(here, "x/y"))
    disk.remove(join(here, "x"))
    assert not disk.exists(join(here, "x"))


def test_a_file_opened_for_reading_cannot_be_written(disk: FileSystem, here: str) -> None:
    disk.create(join(here, "a")).close()
    file = disk.open(join(here, "a"), writable=False)
    with pytest.raises(OSError, match="a"):
        file.write_at(0, b"no")
    file.close()


def test_a_shared_lock_writes_nothing_and_excludes_an_owner(disk: FileSystem, here: str) -> None:
    path = join(here, "LOCK")
    disk.lock(path, shared=True).close()
    assert not disk.exists(path)
    owner = disk.lock(path)
    with pytest.raises(DirectoryInUse):
        disk.lock(path, shared=True)
    owner.close()
    looking, another = disk.lock(path, shared=True), disk.lock(path, shared=True)
    another.close()
    looking.close()


def test_the_second_owner_of_a_lock_is_refused_even_in_this_process(
    disk: FileSystem, here: str
) -> None:
    lock = disk.lock(join(here, "LOCK"))
    with pytest.raises(DirectoryInUse) as refusal:
        disk.lock(join(here, "LOCK"))
    assert refusal.value.details["pid"] in (os.getpid(), 1)
    lock.close()
    disk.lock(join(here, "LOCK")).close()


def test_free_bytes_are_reported(disk: FileSystem, here: str) -> None:
    assert disk.free_bytes(here) > 0


def test_a_durable_directory_is_made_with_its_parents(disk: FileSystem, here: str) -> None:
    make_durable_directory(disk, join(here, "a/b/c"))
    make_durable_directory(disk, join(here, "a/b/c"))
    assert disk.exists(join(here, "a/b/c"))


def test_paths_are_joined_and_split() -> None:
    assert join("a/b", "c") == "a/b/c"
    assert join("/", "c") == "/c"
    assert join("", "c") == "c"
    assert parent("a/b/c") == "a/b"
    assert parent("/c") == "/"
    assert parent("c") == "."


def test_a_hard_link_outlives_the_first_name(disk: FileSystem, here: str) -> None:
    file = disk.create(join(here, "a"))
    file.write_at(0, b"hello")
    file.sync()
    disk.make_directory(join(here, "b"))
    disk.hard_link(join(here, "a"), join(here, "b/c"))
    file.write_at(0, b"j")
    file.close()
    disk.remove(join(here, "a"))
    disk.sync_directory(join(here, "b"))
    linked = disk.open(join(here, "b/c"), writable=False)
    assert linked.read_at(0, 9) == b"jello"
    linked.close()


def test_a_hard_link_takes_no_name_that_is_taken_and_needs_a_file(
    disk: FileSystem, here: str
) -> None:
    for name in ("a", "b"):
        disk.create(join(here, name)).close()
    with pytest.raises(FileExistsError):
        disk.hard_link(join(here, "a"), join(here, "b"))
    with pytest.raises(FileNotFoundError):
        disk.hard_link(join(here, "x"), join(here, "c"))
