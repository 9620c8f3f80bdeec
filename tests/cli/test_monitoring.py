"""`serve --http` and `--slow-request`, as a process: pages by HTTP, and lines in the log."""

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from headwater.cli.server_process import ServerProcess
from tests.cli.test_serve import new_id, run, wire

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with a log in JSON, which is killed at the end if it still runs."""
    started: list[ServerProcess] = []

    def start_one(*options: str) -> ServerProcess:
        server = ServerProcess(tmp_path, ("--log-format", "json", *options))
        started.append(server)
        server.start()
        return server

    yield start_one
    for server in started:
        if server._child is not None:
            server.kill()


def events(server: ServerProcess) -> list[dict[str, Any]]:
    """The lines of the server's log."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def pages_of(server: ServerProcess) -> str:
    """The address of the pages, from the log."""
    (told,) = [event for event in events(server) if event["event"] == "pages of monitoring"]
    return str(told["addresses"][0])


def fetch(address: str, page: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{page}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_pages_are_served_beside_the_clients_and_end_with_the_server(start: Start) -> None:
    server = start("--http", "127.0.0.1:0")
    address = pages_of(server)
    assert fetch(address, "/healthz")[0] == 200
    assert fetch(address, "/readyz") == (200, '{\n  "ready": true,\n  "reasons": []\n}\n')
    assert fetch(address, "/")[0] == 404
    with wire(server) as client:
        for n in range(20):
            client.ask("execute", new_id(), [], [], [["put", b"k", b"%d" % n]])
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse_text(fetch(address, "/metrics")[1])
        for sample in family.samples
    }
    assert values["headwater_commits_total",] == 20
    assert values["headwater_operation_duration_seconds_count", "execute"] == 20
    assert values["headwater_operation_duration_seconds_sum", "execute"] > 0
    fsyncs = [
        values["headwater_wal_fsync_duration_seconds_count", where]
        for where in ("event_loop", "thread")
    ]
    assert sum(fsyncs) >= 20
    assert values["headwater_wal_size_bytes",] > 0
    assert values["headwater_disk_free_bytes",] > 0
    assert values["process_resident_memory_bytes",] > 0
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=30):
        # A connection without a request does not hold up the end.
        server.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=30)


def test_an_occupied_address_of_the_pages_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        address = f"127.0.0.1:{occupied.getsockname()[1]}"
        ended = run("serve", "--data", str(tmp_path / "d"), "--listen", "127.0.0.1:0",
                    "--http", address)  # fmt: skip
    assert ended.returncode == 1
    assert address in ended.stderr
    assert "in use" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_error_of_the_start_is_one_line_with_and_without_pages(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    (data / "FORMAT").write_text("nonsense")
    told = {
        run("serve", "--data", str(data), "--listen", "127.0.0.1:0", *options).stderr.splitlines()[
            -1
        ]
        for options in ((), ("--http", "127.0.0.1:0"))
    }
    assert len(told) == 1
    assert re.match("Error: ", told.pop())


def test_slow_requests_are_logged_without_their_data(start: Start) -> None:
    server = start("--slow-request", "0")
    with wire(server) as client:
        client.ask("execute", new_id(), [], [], [["put", b"k", b"secret"]])
        client.ask("get", None, b"k")
    server.stop()
    slow = [event for event in events(server) if event["event"] == "slow request"]
    told = {event["operation"]: event for event in slow}
    assert told["execute"]["asked"] == "1 put"
    assert told["get"]["asked"] == "b'k'"
    assert told["execute"]["ms"] >= told["execute"]["waited_ms"] > 0
    assert told["execute"]["session"].startswith("127.0.0.1:")
    assert "secret" not in server.log.read_text()


def test_systemd_is_told_that_the_server_is_ready_alive_and_stopping(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        server = start()
        states = [told.recv(100) for _ in range(3)]
        assert states == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        server.stop()
        told.setblocking(False)
        while True:
            try:
                states.append(told.recv(100))
            except BlockingIOError:
                break
    assert b"STOPPING=1" in states
    assert set(states) == {b"READY=1", b"WATCHDOG=1", b"STOPPING=1"}


def test_a_server_that_cannot_tell_systemd_serves_all_the_same(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    server = start()
    with wire(server) as client:
        assert client.ask("get", None, b"k") is None
    server.stop()
    told = [event for event in events(server) if event["event"] == "systemd was not told"]
    assert [event["state"] for event in told] == ["READY=1", "STOPPING=1"]
