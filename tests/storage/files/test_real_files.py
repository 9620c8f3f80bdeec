"""Tests that need the operating system's files: short writes, full disks, other processes."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headwater_protocol.errors import DirectoryInUse
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.real_files import RealFileSystem


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: whole(fd, bytes(data[:7]), at))
    file = RealFileSystem().create(str(tmp_path / "a"))
    file.write_at(3, b"a text that takes several writes")
    assert file.read_at(3, 100) == b"a text that takes several writes"
    file.close()


def test_a_short_read_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pread
    file = RealFileSystem().create(str(tmp_path / "a"))
    file.write_at(0, b"a text that takes several reads")
    monkeypatch.setattr(os, "pread", lambda fd, size, at: whole(fd, min(size, 7), at))
    assert file.read_at(0, 31) == b"a text that takes several reads"
    assert file.read_at(2, 100) == b"text that takes several reads"
    file.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_a_full_disk_is_distinguished_from_a_broken_one() -> None:
    file = RealFileSystem().open("/dev/full")
    with pytest.raises(DiskFull) as full:
        file.write_at(0, b"no room")
    assert full.value.errno == errno.ENOSPC
    assert full.value.path == "/dev/full"
    file.close()


def test_sync_falls_back_where_there_is_no_fdatasync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.setattr(os, "fsync", synced.append)
    file = RealFileSystem().create(str(tmp_path / "a"))
    file.sync()
    file.close()
    assert len(synced) == 1


def test_a_lock_holds_against_another_process_and_ends_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    program = (
        "import sys; from headwater_server.storage.files.real_files import RealFileSystem;"
        "lock = RealFileSystem().lock(sys.argv[1]); print('locked', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"locked\n"
        with pytest.raises(DirectoryInUse, match=str(owner.pid)) as refusal:
            RealFileSystem().lock(path)
        assert refusal.value.details["pid"] == owner.pid
        owner.kill()
    RealFileSystem().lock(path).close()
