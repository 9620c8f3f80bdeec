"""The real server on a disk that fails with EIO: it ends with the exit status of a failed disk.

Units of systemd and other supervisors tell a failed disk from a wrong setting by that status.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

import headwater
from headwater_protocol.exit_codes import DISK_FAILED
from tests.torture.failpoints import FaultyServer

END_S_MAX: Final = 30.0
WRITES_MAX: Final = 5000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """The disk fails while this file exists."""
    return tmp_path / "failing"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    made = FaultyServer(tmp_path, ["--checkpoint-commits", "20"])
    yield made
    with suppress(AssertionError, ProcessLookupError):
        made.kill()


def status_of(server: FaultyServer) -> int:
    """The exit status of a server that ends by itself, or was told to end."""
    assert server._child is not None
    child, server._child = server._child, None
    return child.wait(END_S_MAX)


def write_until_it_ends(server: FaultyServer) -> None:
    with (
        suppress(headwater.HeadwaterError),
        headwater.connect_blocking(server.url, retry_timeout=0) as database,
    ):
        for number in range(WRITES_MAX):
            database.append("s", headwater.Event("A", number))


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("write", "/wal/"),
        ("sync", "/wal/"),
        ("write", "/events/"),
        ("sync", "/events/"),
        ("write", "/commits/"),
        ("sync", "/commits/"),
        ("store write", "/state"),
        ("store flush", "/state"),
    ],
)
def test_a_disk_that_fails_under_load_ends_the_server_with_status_74(
    server: FaultyServer, failing: Path, operation: str, path: str
) -> None:
    server.start_with(fail={"operation": operation, "path": path, "while": str(failing)})
    failing.touch()
    write_until_it_ends(server)
    assert status_of(server) == DISK_FAILED


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("sync", "/wal/"),
        ("sync", "/events/"),
        ("store write", "/state"),
        ("store flush", "/state"),
        ("store close", "/state"),
    ],
)
def test_a_disk_that_fails_while_the_server_stops_gives_status_74(
    server: FaultyServer, failing: Path, operation: str, path: str
) -> None:
    # The failure to close the state store was an error like a wrong setting, with status 1.
    server.start_with(fail={"operation": operation, "path": path, "while": str(failing)})
    with headwater.connect_blocking(server.url) as database:
        database.append("s", headwater.Event("A"))
    failing.touch()
    os.kill(server.pid, 15)
    assert status_of(server) == DISK_FAILED


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("read", "/wal/"),
        ("sync", "/wal/"),
        ("sync_directory", "/data"),
        ("store open", "/state"),
    ],
)
def test_a_disk_that_fails_while_the_server_starts_gives_status_74(
    server: FaultyServer, failing: Path, operation: str, path: str
) -> None:
    server.start_with()
    with headwater.connect_blocking(server.url) as database:
        database.append("s", headwater.Event("A"))
    server.kill()
    failing.touch()
    fail = {"operation": operation, "path": path, "while": str(failing)}
    ended = subprocess.run(
        [*FaultyServer.program, "serve", "--data", str(server.data), "--listen", server.address],
        env=os.environ | {"FAULTS": json.dumps({"fail": fail})},
        capture_output=True,
        timeout=END_S_MAX,
        check=False,
    )
    assert ended.returncode == DISK_FAILED, ended.stderr
