"""`headwater check` and `headwater repair` on a directory that a real server left."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from headwater.cli.server_process import ServerProcess
from headwater_server.cli.main import main
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.settings import EngineSettings
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore
from tests.engine.database import open_test_log
from tests.wire import Wire


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The data directory of a server that was killed: its log is full, its files are empty."""
    with ServerProcess(tmp_path) as server:
        with Wire(server.address) as client:
            for n in range(20):
                writes = [["put", b"%d" % n, b"v" * 100]]
                client.ask("execute", b"\xff" * 6 + os.urandom(10), [], [], writes)
        server.kill()
    return server.data


def run(*arguments: str, answer: str = "") -> tuple[int, str]:
    ended = CliRunner().invoke(main, arguments, input=answer)
    return ended.exit_code, ended.output


def flip_a_byte_of_the_log(data: Path) -> Path:
    segment = sorted((data / "wal").iterdir())[0]
    content = bytearray(segment.read_bytes())
    content[content.index(b"v" * 50)] ^= 1
    segment.write_bytes(content)
    return segment


def test_a_sound_directory_passes_the_check(left: Path) -> None:
    status, said = run("check", str(left))
    assert status == 0
    assert "and 20 commits more in the write-ahead log: all is well" in said
    status, said = run("check", "--json", str(left))
    assert status == 0
    found = json.loads(said)
    assert found["sound"]
    assert (found["commits"], found["logged_commits"], found["damaged"]) == (0, 20, [])


def test_what_is_damaged_is_listed_for_programs(left: Path) -> None:
    segment = flip_a_byte_of_the_log(left)
    status, said = run("check", "--json", str(left))
    assert status == 1
    found = json.loads(said)
    assert not found["sound"]
    (damaged,) = found["damaged"]
    assert damaged["file"] == str(segment)
    assert damaged["kind"] == "write-ahead log"
    assert damaged["what"]
    assert damaged["repair"]


def test_damage_is_reported_with_file_and_offset_and_nothing_is_changed(left: Path) -> None:
    segment = flip_a_byte_of_the_log(left)
    before = segment.read_bytes()
    status, said = run("check", str(left))
    assert status == 1
    assert said.count(f"{segment} at offset ") == 1
    assert "headwater repair" in said
    assert segment.read_bytes() == before


def every_file(path: Path) -> dict[Path, tuple[int, int, bytes]]:
    """All files and directories below a path, with the times of their last changes."""
    return {
        each: (each.stat().st_mtime_ns, each.stat().st_ctime_ns, content(each))
        for each in (path, *sorted(path.rglob("*")))
    }


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("has_lock", [True, False])
def test_what_only_looks_at_a_directory_writes_nothing_into_it(left: Path, has_lock: bool) -> None:
    # Each wrote its pid to LOCK, and RocksDB its files, so a backup on a disk that was mounted
    # read-only could not be checked or restored.
    if not has_lock:
        (left / "LOCK").unlink()
    before = every_file(left)
    assert run("check", str(left))[0] == 0
    assert every_file(left) == before
    home = left.parent / "restored"
    home.mkdir()
    restored = str(home / "data")
    assert run("restore", str(left), "--data", restored)[0] == 0
    assert run("restore", str(left), "--data", restored + "-again", "--no-check")[0] == 0
    assert every_file(left) == before
    flip_a_byte_of_the_log(left)
    before = every_file(left)
    assert run("repair", str(left), "--dry-run")[0] == 1
    assert run("repair", str(left), answer="n\n")[0] == 1
    assert every_file(left) == before
    with ServerProcess(home) as server, Wire(server.address) as client:
        assert client.ask("get", None, b"3") == b"v" * 100


def test_a_server_refuses_damage_and_starts_after_the_repair(left: Path) -> None:
    flip_a_byte_of_the_log(left)
    status, said = run("serve", "--data", str(left), "--listen", "127.0.0.1:0")
    assert status == 1
    assert "offset" in said
    status, said = run("repair", str(left), "--dry-run")
    assert status == 1
    status, said = run("repair", str(left), answer="n\n")
    assert status == 1
    status, said = run("repair", str(left), "--yes")
    assert status == 0, said
    assert "all is well" in said
    with ServerProcess(left.parent) as server, Wire(server.address) as client:
        assert client.ask("ping")[0] < 20


def test_repairing_a_sound_directory_does_nothing(left: Path) -> None:
    status, said = run("repair", str(left))
    assert status == 0
    assert "all is well" in said


def test_the_directory_of_a_running_server_is_refused(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        for command in ("check", "repair"):
            status, said = run(command, str(server.data))
            assert status == 1
            assert len(said.splitlines()) == 1


def test_a_directory_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    status, said = run("check", str(tmp_path))
    assert status == 1
    assert "is not a data directory" in said
    status, said = run("check", str(tmp_path / "missing"))
    assert status == 2


def test_a_damaged_state_store_is_repaired(left: Path) -> None:
    with ServerProcess(left.parent):
        # Started and stopped, its commits are in the files.
        pass
    largest = max((left / "state").glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    # Data blocks come first in such a file.
    content[64] ^= 1
    largest.write_bytes(content)
    status, said = run("check", str(left))
    assert status == 1
    assert "state" in said
    status, said = run("repair", str(left), "--yes")
    assert status == 0, said
    with ServerProcess(left.parent) as server, Wire(server.address) as client:
        assert client.ask("ping")[0] == 20


def test_commits_dated_in_the_future_have_their_own_exit_status_and_can_be_repaired(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    wrong = time.time_ns() // 1000 + 10 * 365 * 24 * 3600 * 1_000_000
    settings = EngineSettings(transaction_retention_us=3_600_000_000)
    engine = open_engine(
        RealFileSystem(),
        str(data),
        open_store=RocksStore.open,
        open_log=open_test_log,
        settings=settings,
        clock=lambda: wrong,
        source=random.Random(1),
    )
    writes: list[list[Any]] = [["put", b"k", b"v"], ["append", "a", 0, [[None, "T", b"", b""]]]]
    engine.execute(b"\xff" * 16, user=0, conditions=[], reads=None, writes=writes)
    group = engine.take_group()
    assert group is not None
    engine.make_durable(group)
    engine.close()
    status, said = run("check", str(data))
    assert status == 3, said
    assert "warning: " in said
    assert "1 commits are dated in the future, the first of them commit 1: 20" in said
    assert f"headwater repair {data}" in said
    status, said = run("repair", str(data), "--dry-run")
    assert status == 3, said
    status, said = run("repair", str(data), "--yes")
    assert status == 0, said
    assert "changed the time of 1 commits and 1 events to that of this repair" in said
    status, said = run("check", str(data))
    assert status == 0, said
    with ServerProcess(tmp_path) as server, Wire(server.address) as client:
        assert client.ask("ping")[0] == 1
