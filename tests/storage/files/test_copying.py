"""Copies of files: hard links where possible, else durable copies of every byte."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.copying import (
    CHUNK_SIZE,
    FilePart,
    copy_file,
    link_or_copy,
    remove_tree,
    size_of,
)
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.testing.memory_files import Call, MemoryFileSystem

SIZE = 2 * CHUNK_SIZE + 17


@pytest.fixture
def disk() -> MemoryFileSystem:
    made = MemoryFileSystem(1)
    made.make_directory("b")
    made.sync_directory("")
    made.put("a", bytes(range(251)) * (SIZE // 251 + 1))
    return made


def test_the_valid_bytes_are_copied_durably(disk: MemoryFileSystem) -> None:
    looks: list[int] = []
    copy_file(disk, "a", "b/a", SIZE, look=lambda: looks.append(1))
    assert len(looks) == 3
    assert disk.content("b/a") == disk.content("a")[:SIZE]
    disk.sync_directory("b")
    assert disk.crash().content("b/a") == disk.content("a")[:SIZE]


def test_a_file_shorter_than_its_valid_bytes_is_an_error(disk: MemoryFileSystem) -> None:
    disk.put("short", b"abc")
    with pytest.raises(OSError, match="ends before byte 4"):
        copy_file(disk, "short", "b/a", 4)


def refusing(number: int) -> Callable[[Call], None]:
    def refuse(call: Call) -> None:
        if call.operation == "hard_link":
            raise OSError(number, "no", call.path)

    return refuse


def test_files_are_copied_where_hard_links_are_impossible(disk: MemoryFileSystem) -> None:
    part = FilePart("a", SIZE, True)
    link_or_copy(disk, part, "b/linked")
    assert len(disk.content("b/linked")) == len(disk.content("a"))
    for number in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
        disk.faults.before = refusing(number)
        link_or_copy(disk, part, f"b/{number}")
        assert disk.content(f"b/{number}") == disk.content("a")[:SIZE]


def test_a_disk_failure_at_a_link_is_reported(disk: MemoryFileSystem) -> None:
    disk.faults.before = refusing(errno.EIO)
    with pytest.raises(OSError, match="no"):
        link_or_copy(disk, FilePart("a", SIZE, True), "b/a")
    assert disk.list("b") == []


def test_a_full_disk_is_reported_as_full(disk: MemoryFileSystem) -> None:
    disk.faults.capacity = disk.used + CHUNK_SIZE
    with pytest.raises(DiskFull):
        copy_file(disk, "a", "b/a", SIZE)


def test_a_tree_is_removed_with_its_contents(disk: MemoryFileSystem) -> None:
    disk.make_directory("b/c/d")
    for path in ("b/1", "b/c/2", "b/c/d/3"):
        disk.create(path).close()
    remove_tree(disk, "b")
    remove_tree(disk, "b")
    assert disk.list("") == ["a"]
    assert size_of(disk, "a") > SIZE
    remove_tree(disk, "a")
    assert disk.list("") == []


def test_removing_a_tree_does_not_follow_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "tree/inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/kept").write_text("kept")
    for link in ("tree/link", "tree/inner/link", "link"):
        (tmp_path / link).symlink_to(tmp_path / "other")
    for name in ("tree", "link"):
        remove_tree(RealFileSystem(), str(tmp_path / name))
    assert [path.name for path in tmp_path.rglob("*")] == ["other", "kept"]
