"""The descriptor cache: few descriptors for many files, and needed ones stay open."""

import os
import random
import threading
from pathlib import Path

import pytest

from headwater_protocol.numbers import Position
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.descriptor_cache import OPEN_FILES_MAX, DescriptorCache
from headwater_server.storage.files.file_system import File
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.testing.memory_files import MemoryFileSystem


def open_descriptors(directory: Path) -> int:
    """Number of descriptors of this process for files of a directory."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith(str(directory))
        except OSError:
            pass
    return count


def written(files: DescriptorCache, directory: Path, count: int) -> list[File]:
    made = [files.create(str(directory / f"{number}")) for number in range(count)]
    for number, file in enumerate(made):
        file.write_at(0, b"%d" % number)
        file.sync()
    return made


def test_many_files_are_read_with_few_descriptors(tmp_path: Path) -> None:
    files = DescriptorCache(RealFileSystem(), open_files_max=3)
    made = written(files, tmp_path, 20)
    assert open_descriptors(tmp_path) == 3
    source = random.Random(1)
    for _ in range(200):
        number = source.randrange(20)
        assert made[number].read_at(0, 9) == b"%d" % number
        assert open_descriptors(tmp_path) == 3
    for file in made:
        file.close()
        file.close()
    assert open_descriptors(tmp_path) == 0


def test_a_file_keeps_its_descriptor_from_a_write_to_the_sync(tmp_path: Path) -> None:
    files = DescriptorCache(RealFileSystem(), open_files_max=2)
    made = written(files, tmp_path, 5)
    for file in made:
        file.write_at(0, b"x")
    assert open_descriptors(tmp_path) == 5
    made[0].truncate(0)
    for file in made:
        file.sync()
    made[4].size()
    assert open_descriptors(tmp_path) == 2
    assert made[0].read_at(0, 5) == b""


def test_a_file_whose_sync_failed_keeps_its_descriptor() -> None:
    disk = MemoryFileSystem(1)
    files = DescriptorCache(disk, open_files_max=1)
    disk.make_directory("d")
    bad = files.create("d/bad")
    bad.write_at(0, b"x")
    disk.faults.sync_error_in = "bad"
    with pytest.raises(OSError, match="sync failed"):
        bad.sync()
    disk.faults.sync_error_in = None
    files.create("d/other").size()
    assert [file.path for file in files.descriptors] == ["d/bad", "d/other"]


def test_an_unlinked_file_can_still_be_read(tmp_path: Path) -> None:
    files = DescriptorCache(RealFileSystem(), open_files_max=1)
    old, removed, new, *rest = written(files, tmp_path, 5)
    files.rename(new.path, old.path)
    files.remove(removed.path)
    for file in rest:
        file.size()
    assert [file.read_at(0, 9) for file in (old, removed, new)] == [b"0", b"1", b"2"]
    again = files.open(str(tmp_path / "0"))
    rest[0].size()
    assert again.read_at(0, 9) == b"2"
    for file in (old, removed, new, again, *rest):
        file.close()
    assert open_descriptors(tmp_path) == 0


def test_threads_read_while_descriptors_come_and_go(tmp_path: Path) -> None:
    files = DescriptorCache(RealFileSystem(), open_files_max=2)
    made = written(files, tmp_path, 8)
    wrong: list[bytes] = []

    def read(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(500):
            number = source.randrange(8)
            data = made[number].read_at(0, 9)
            if data != b"%d" % number:
                wrong.append(data)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_event_log_of_many_segments_uses_few_descriptors(tmp_path: Path) -> None:
    """Each segment used to hold two descriptors as long as the server ran."""
    events = [b"%d" % position * 40 for position in range(1, 401)]
    log = EventLog.open(RealFileSystem(), str(tmp_path), Position(0), segment_size=4400)
    for event in events:
        log.append([event])
    log.sync()
    log.close()
    log = EventLog.open(RealFileSystem(), str(tmp_path), Position(400), segment_size=4400)
    assert len(log.segments) > OPEN_FILES_MAX // 2
    assert log.read_many(range(1, 401, 7)) == events[::7]
    assert open_descriptors(tmp_path) <= OPEN_FILES_MAX
    log.close()
    assert open_descriptors(tmp_path) == 0
