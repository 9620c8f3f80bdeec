"""The modes of what the server writes, whatever the umask, and of what it finds."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess
from headwater_server.storage.files.private_files import make_private, private_files


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The most open umask there is."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> list[str]:
    """What other users of the machine may use in a directory, and the directory itself."""
    assert directory.is_dir()
    paths = [directory, *directory.rglob("*")]
    return [str(path) for path in paths if path.lstat().st_mode & 0o077]


def run(*arguments: str, **options: str) -> None:
    result = CliRunner().invoke(main, arguments, **options)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output


def test_only_the_owner_may_use_a_data_directory_and_its_backups(tmp_path: Path) -> None:
    backups, restored = tmp_path / "backups", tmp_path / "restored"
    backups.mkdir()
    options = ["--backup-dir", str(backups), "--checkpoint-commits", "50"]
    with ServerProcess(tmp_path, options) as server:
        with headwater.connect_blocking(server.url) as db:
            for number in range(120):
                db.put(("k", number), number)
            db.append("s-1", headwater.Event("Happened", None))
            db.backup("monday")
        assert len(list(server.data.rglob("*"))) > 10
        assert open_to_others(server.data) == []
        assert open_to_others(backups / "monday") == []
    assert open_to_others(server.data) == []
    run("restore", str(backups / "monday"), "--data", str(restored))
    assert open_to_others(restored) == []


def test_only_the_owner_may_use_a_directory_that_a_command_makes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run("user", "add", "ann", "--password-stdin", "--data", str(data), input="pencil\n")
    assert open_to_others(data) == []
    assert os.umask(0) == 0, "the command leaves the umask as it was"


def test_a_start_takes_from_others_what_they_could_use(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    # Made by an administrator, before the first start.
    server.data.mkdir(mode=0o777)
    with server, headwater.connect_blocking(server.url) as db:
        db.put("k", 1)
    assert open_to_others(server.data) == []
    for path in (server.data, *server.data.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    with server:
        assert open_to_others(server.data) == []


def test_a_unix_socket_keeps_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with ServerProcess(tmp_path, ["--unix", str(path)]):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    data = tmp_path / "data"
    data.mkdir()
    (data / "link").symlink_to(outside)
    (data / "dangling").symlink_to(tmp_path / "nothing")
    assert make_private(str(data)) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


def test_what_cannot_be_taken_from_others_is_told() -> None:
    # The kernel lets nobody change the modes of this directory.
    assert make_private("/proc/self/attr")[0] == "/proc/self/attr"


def test_a_file_without_a_mode_of_its_own_is_private(tmp_path: Path) -> None:
    with private_files():
        (tmp_path / "file").touch()
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
