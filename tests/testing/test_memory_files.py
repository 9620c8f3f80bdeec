"""The simulated disk: the contents after a crash, and the injected faults."""

import random

import pytest

from headwater_server.storage.errors import DiskFull
from headwater_server.testing.memory_disk import PAGE_SIZE, SECTOR_SIZE
from headwater_server.testing.memory_files import Call, Crash, MemoryFileSystem

CRASHES = 200


def disk_with_file(seed: int = 1) -> MemoryFileSystem:
    disk = MemoryFileSystem(seed)
    disk.make_directory("d")
    disk.sync_directory("")
    file = disk.create("d/a")
    file.write_at(0, b"old" * 1000)
    file.sync()
    disk.sync_directory("d")
    return disk


def test_synced_data_survives_every_crash() -> None:
    disk = disk_with_file()
    for _ in range(CRASHES):
        assert disk.crash().content("d/a") == b"old" * 1000


def test_an_unsynced_write_is_kept_dropped_or_torn_by_sector() -> None:
    disk = disk_with_file()
    disk.open("d/a").write_at(0, b"new" * 1000)
    found = {disk.crash().content("d/a") for _ in range(CRASHES)}
    assert b"new" * 1000 in found
    assert b"old" * 1000 in found
    assert len(found) > 10
    for content in found:
        for start in range(0, len(content), SECTOR_SIZE):
            sector = content[start : start + SECTOR_SIZE]
            whole = ((b"old" * 1000)[start:], (b"new" * 1000)[start:])
            assert sector in [text[:SECTOR_SIZE] for text in whole]


def test_an_unsynced_write_can_be_torn_by_page_as_well() -> None:
    disk = MemoryFileSystem(1)
    disk.create("a").write_at(0, b"old" * (2 * PAGE_SIZE))
    disk.open("a").sync()
    disk.sync_directory("")
    disk.open("a").write_at(0, b"new" * (2 * PAGE_SIZE))
    torn_in_a_page = set()
    for _ in range(CRASHES):
        content = disk.crash().content("a")
        pages = [content[at : at + PAGE_SIZE] for at in range(0, len(content), PAGE_SIZE)]
        mixed = [b"old" in page and b"new" in page for page in pages]
        if b"old" in content and b"new" in content:
            torn_in_a_page.add(any(mixed))
    assert torn_in_a_page == {True, False}


def test_overwritten_bytes_are_durable_and_do_not_change_the_size() -> None:
    disk = disk_with_file()
    disk.overwrite("d/a", 2998, b"newer")
    assert disk.content("d/a")[-4:] == b"done"
    assert disk.crash().content("d/a") == disk.content("d/a")
    assert len(disk.content("d/a")) == 3000


def test_a_later_unsynced_write_can_survive_an_earlier_one() -> None:
    disk = disk_with_file()
    file = disk.open("d/a")
    file.write_at(0, b"first")
    file.write_at(2000, b"second")
    found = {
        (content[:5] == b"first", content[2000:2006] == b"second")
        for content in (disk.crash().content("d/a") for _ in range(CRASHES))
    }
    assert len(found) == 4


def test_a_file_that_grew_without_a_sync_can_have_any_length_between() -> None:
    disk = disk_with_file()
    disk.open("d/a").write_at(3000, b"more" * 1000)
    lengths = {len(disk.crash().content("d/a")) for _ in range(CRASHES)}
    assert {3000, 7000} < lengths


def test_directory_entries_are_lost_until_the_directory_is_synced() -> None:
    disk = disk_with_file()
    disk.create("d/b").sync()
    disk.rename("d/b", "d/c")
    disk.remove("d/a")
    found = {tuple(disk.crash().list("d")) for _ in range(CRASHES)}
    assert found == {("a",), ("a", "b"), ("a", "c"), ("b",), ("c",), ()}
    disk.sync_directory("d")
    assert {tuple(disk.crash().list("d")) for _ in range(CRASHES)} == {("c",)}


def test_a_new_directory_and_its_files_are_lost_until_its_parent_is_synced() -> None:
    disk = disk_with_file()
    disk.make_directory("d/e")
    disk.create("d/e/f")
    disk.sync_directory("d/e")
    assert {disk.crash().exists("d/e/f") for _ in range(CRASHES)} == {True, False}
    disk.sync_directory("d")
    assert {disk.crash().exists("d/e/f") for _ in range(CRASHES)} == {True}


def test_the_same_seed_gives_the_same_crashes() -> None:
    def outcomes(seed: int) -> list[bytes]:
        disk = disk_with_file(seed)
        disk.open("d/a").write_at(0, b"new" * 1000)
        return [disk.crash().content("d/a") for _ in range(20)]

    assert outcomes(7) == outcomes(7)
    assert outcomes(7) != outcomes(8)


def test_a_call_with_a_crash_may_have_happened_and_later_calls_fail() -> None:
    written: set[bool] = set()
    for seed in range(CRASHES):
        disk = disk_with_file(seed)
        file = disk.open("d/a")
        disk.faults.crash_at = disk.calls + 1
        with pytest.raises(Crash):
            file.write_at(0, b"x")
        with pytest.raises(Crash):
            file.sync()
        with pytest.raises(Crash):
            disk.list("d")
        written.add(disk.crash().content("d/a")[:1] == b"x")
    assert written == {True, False}


def test_an_error_is_injected_at_one_call_or_at_all_calls_from_one_on() -> None:
    disk = disk_with_file()
    disk.faults.error_at = disk.calls + 1
    with pytest.raises(OSError, match="disk error"):
        disk.list("d")
    assert disk.list("d") == ["a"]
    disk.faults.error_from = disk.calls + 1
    disk.faults.error = lambda call: DiskFull(call.path, call.size)
    for _ in range(3):
        with pytest.raises(DiskFull):
            disk.list("d")


def test_a_failed_sync_loses_pages_that_a_later_sync_does_not_bring_back() -> None:
    lost = 0
    for seed in range(CRASHES):
        disk = disk_with_file(seed)
        file = disk.open("d/a")
        file.write_at(0, b"x")
        disk.faults.sync_error_in = "a"
        with pytest.raises(OSError, match="sync failed"):
            file.sync()
        disk.faults.sync_error_in = None
        file.sync()
        assert file.read_at(0, 1) == b"x"
        lost += disk.crash().content("d/a")[:1] != b"x"
    assert 0 < lost < CRASHES


def test_a_full_disk_accepts_the_bytes_that_fit_and_a_removal_frees_space() -> None:
    disk = disk_with_file()
    disk.faults.capacity = 3010
    file = disk.open("d/a")
    file.write_at(0, b"in place")
    with pytest.raises(DiskFull):
        file.write_at(3000, bytes(20))
    assert file.size() == 3010
    assert disk.free_bytes("d") == 0
    disk.remove("d/a")
    assert disk.free_bytes("d") == 3010


def test_a_flipped_bit_is_read_before_and_after_a_crash() -> None:
    disk = disk_with_file()
    disk.flip_bit("d/a", 10, 3)
    assert disk.content("d/a")[10] == (b"old" * 1000)[10] ^ 8
    assert disk.crash().content("d/a") == disk.content("d/a")


def test_a_copy_is_independent() -> None:
    disk = disk_with_file()
    disk.open("d/a").write_at(0, b"pending")
    twin = disk.copy()
    twin.open("d/a").write_at(0, b"changed")
    disk.open("d/a").sync()
    assert disk.crash().content("d/a")[:7] == b"pending"
    assert disk.content("d/a")[:7] == b"pending"
    assert {twin.crash().content("d/a")[:7] for _ in range(CRASHES)} > {b"changed", b"oldoldo"}


def test_calls_are_counted_and_can_be_watched() -> None:
    disk = MemoryFileSystem(random.Random(1))
    seen: list[Call] = []
    disk.faults.before = seen.append
    disk.create("a").write_at(0, b"abc")
    assert seen == [Call(1, "create", "a", 0), Call(2, "write", "a", 3)]
    assert disk.calls == 2


def test_a_lock_does_not_survive_a_crash() -> None:
    disk = MemoryFileSystem(1)
    disk.lock("LOCK")
    disk.crash().lock("LOCK").close()
    assert "LOCK" in disk.list("")
