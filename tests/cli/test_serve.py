"""`headwater serve` as a process: its settings, its signals, its exit statuses."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import trustme
from click.testing import CliRunner

from headwater.cli.server_process import ServerProcess
from headwater_protocol.connection import ClientConnection
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_server.cli.main import main
from headwater_server.cli.options import parse_address, server_options, settings_from
from headwater_server.net.failures import CommitFailed
from headwater_server.net.settings import Address, ServerSettings
from tests.wire import Wire


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater_server", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


def wire(server: ServerProcess) -> Wire:
    return Wire(server.address)


class TlsWire(Wire):
    """A Wire over TLS."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        host, port = address.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout=30)
        self._socket = context.wrap_socket(plain, server_hostname="localhost")
        self._connection = ClientConnection()
        self._queued = []
        self._arrived = deque()
        self.ask("hello", PROTOCOL_VERSION, "tests")


Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server, which is killed at the end of the test if it still runs."""
    started: list[ServerProcess] = []

    def start_one(*options: str) -> ServerProcess:
        server = ServerProcess(tmp_path, options)
        started.append(server)
        server.start()
        return server

    yield start_one
    for server in started:
        if server._child is not None:
            server.kill()


def new_id() -> bytes:
    return b"\xff" * 6 + os.urandom(10)


def test_sigterm_ends_the_server_in_order_and_keeps_answered_commits(
    tmp_path: Path, start: Start
) -> None:
    server = start("--log-format", "json")
    with wire(server) as client:
        client.ask("execute", new_id(), [], [], [["put", b"k", b"v"]])
    server.stop()
    events = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "listening",
        "signal",
        "stopping",
        "checkpoint",
        "stopped",
    ]
    assert events[0]["addresses"] == [server.address]
    server.start()
    with wire(server) as client:
        assert client.ask("get", None, b"k") == b"v"
    server.stop()


def test_the_exit_status_after_sigint_is_zero(tmp_path: Path, start: Start) -> None:
    server = start()
    child = server._child
    assert child is not None
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 0
    server._child = None


def test_a_second_signal_ends_the_waiting_for_transactions(tmp_path: Path, start: Start) -> None:
    server = start("--shutdown-grace", "3600")
    child = server._child
    assert child is not None
    with wire(server) as client:
        client.ask("begin", new_id())
        child.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    server._child = None


def test_a_killed_server_comes_back_with_all_answered_commits(tmp_path: Path, start: Start) -> None:
    server = start()
    with wire(server) as client:
        for n in range(50):
            client.ask("execute", new_id(), [], [], [["put", b"%d" % n, b"v"]])
    server.kill()
    server.start()
    with wire(server) as client:
        assert client.ask("ping")[0] == 50
        assert len(client.ask("scan", None, b"", None)[1]) == 100
    server.stop()


def test_a_directory_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        ended = run("serve", "--data", str(server.data), "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: ")
    assert str(server.data) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = str(Address(*taken.getsockname()))
        ended = run("serve", "--data", str(tmp_path / "d"), "--listen", address)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"Error: {address}: the port is in use")
    assert len(ended.stderr.splitlines()) == 1


def test_an_address_that_other_machines_can_reach_needs_a_user(tmp_path: Path) -> None:
    data = str(tmp_path / "d")
    ended = run("serve", "--data", data, "--listen", "0.0.0.0:0")
    assert ended.returncode == 1
    assert f"headwater user add NAME --data {data}" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--data"),
        (["--data", "d", "--listen", "host:port"], "the port is a number"),
        (["--data", "d", "--listen", "::1"], "in brackets"),
        (["--data", "d", "--history-window", "-1"], "--history-window"),
        (["--data", "d", "--tls-key", "key.pem"], "--tls-cert"),
        (["--data", "d", "--tls-client-ca", "ca.pem"], "--tls-cert"),
        (["--data", "d", "--tls-client-crl", "crl.pem"], "--tls-client-ca"),
        (["--data", "d", "--tls-client-login", "name"], "certificate-or-password"),
        (["--data", "d", "--config", "missing.toml"], "missing.toml"),
        (["--data", "d", "--nonsense"], "--nonsense"),
    ],
)
def test_a_mistyped_argument_is_reported_with_exit_status_2(
    arguments: Sequence[str], said: str
) -> None:
    ended = CliRunner().invoke(main, ["serve", *arguments])
    assert ended.exit_code == 2
    assert said in ended.output


def test_a_file_in_place_of_the_directory_is_reported_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ended = run("serve", "--data", str(file), "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert str(file) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


def test_an_unreadable_certificate_is_reported_in_one_line(tmp_path: Path) -> None:
    ended = run("serve", "--data", str(tmp_path / "d"), "--tls-cert", str(tmp_path / "no.pem"))
    assert ended.returncode == 1
    assert "no.pem: No such file" in ended.stderr


def parsed(arguments: Sequence[str], **environment: str) -> ServerSettings:
    """The settings that a command line and an environment give, without serving."""
    found: list[ServerSettings] = []

    @click.command()
    @server_options
    def command(**values: Any) -> None:
        found.append(settings_from(values))

    ended = CliRunner().invoke(command, list(arguments), env=environment, standalone_mode=False)
    if ended.exception is not None:
        raise ended.exception
    return found[0]


def test_options_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    config = tmp_path / "headwater.toml"
    config.write_text('data = "from-file"\nlisten = [":1", "[::1]:2"]\nhistory-window = 5\n')
    flags = ["--config", str(config)]
    from_file = parsed(flags)
    assert from_file.data == "from-file"
    assert from_file.listen == (Address("", 1), Address("::1", 2))
    assert from_file.engine.history_window_us == 5_000_000
    from_environment = parsed(flags, HEADWATER_DATA="from-environment")
    assert from_environment.data == "from-environment"
    from_flag = parsed([*flags, "--data", "from-flag"], HEADWATER_DATA="from-environment")
    assert from_flag.data == "from-flag"


def test_without_options_the_settings_are_the_defaults() -> None:
    assert parsed(["--data", "d"]) == ServerSettings(data="d")


def test_a_file_may_be_shared_with_clients(tmp_path: Path) -> None:
    config = tmp_path / "headwater.toml"
    config.write_text('url = "headwater://db"\n[command]\ndata = "d"\n[dump]\noutput = "x"\n')
    assert parsed(["--config", str(config)]).data == "d"


@pytest.mark.parametrize("content", ["history_windov = 5", "[command]\nurl = 'x'", "command = 1"])
def test_a_setting_that_does_not_exist_is_named(tmp_path: Path, content: str) -> None:
    config = tmp_path / "headwater.toml"
    config.write_text(content)
    with pytest.raises(click.BadParameter, match=r"history_windov|url|command"):
        parsed(["--config", str(config), "--data", "d"])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", Address("localhost", 4323)),
        ("localhost:1", Address("localhost", 1)),
        (":1", Address("", 1)),
        ("*:1", Address("", 1)),
        ("[::1]:1", Address("::1", 1)),
        ("[::1]", Address("::1", 4323)),
    ],
)
def test_addresses_are_parsed(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_every_default_is_in_the_help() -> None:
    text = CliRunner().invoke(main, ["serve", "--help"]).output
    for default in ("127.0.0.1:4323", "3600", "10000", "console", "HEADWATER_DATA"):
        assert default in text


def test_tls_connections_reach_the_same_server(tmp_path: Path, start: Start) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    server = start("--tls-cert", str(chain))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with TlsWire(server.address, context) as client:
        client.ask("execute", new_id(), [], [], [["put", b"k", b"v" * 1_000_000]])
        assert client.ask("get", None, b"k") == b"v" * 1_000_000
        # A client without TLS is refused, and does not disturb others.
        with socket.create_connection(("127.0.0.1", int(server.address.split(":")[1]))) as plain:
            plain.sendall(b"\0\0\0\1\x90")
            plain.settimeout(10)
            while plain.recv(4096):
                pass
        client.ask("ping")
        server.stop()


def test_a_failed_disk_ends_the_server_with_its_own_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def failing(settings: ServerSettings) -> None:
        raise CommitFailed("the write-ahead log failed: Input/output error")

    # By its full name: in the package, the module's name refers to the command.
    monkeypatch.setattr(sys.modules["headwater_server.cli.serve"], "run_server", failing)
    ended = CliRunner().invoke(main, ["serve", "--data", "d"])
    assert ended.exit_code == 74
    assert "Input/output error" in ended.output


def issue(authority: trustme.CA, chain: Path) -> str:
    """Write a new certificate, and return its serial number."""
    certificate = authority.issue_cert("localhost")
    chain.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
    decoded = ssl._ssl._test_decode_cert(str(chain))  # type: ignore[attr-defined]
    serial: str = decoded["serialNumber"]
    return serial


def served_serial(address: str, authority: trustme.CA) -> str:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    host, port = address.rsplit(":", 1)
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        serial = dict(encrypted.getpeercert() or {})["serialNumber"]
    return str(serial)


def is_logged(server: ServerProcess, words: str, client: Wire) -> bool:
    """Whether the words come into the log. The server is asked again and again meanwhile."""
    for _ in range(20_000):
        if words in server.log.read_text():
            return True
        client.ask("ping")
    return False


def test_sighup_reads_a_renewed_certificate_and_open_connections_stay(
    tmp_path: Path, start: Start
) -> None:
    authority, chain = trustme.CA(), tmp_path / "chain.pem"
    first = issue(authority, chain)
    server = start("--tls-cert", str(chain))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    assert served_serial(server.address, authority) == first
    with TlsWire(server.address, context) as client:
        second = issue(authority, chain)
        os.kill(server.pid, signal.SIGHUP)
        assert is_logged(server, "the certificate was read again", client)
        assert served_serial(server.address, authority) == second
        # A file that cannot be used changes nothing.
        chain.write_text("no certificate")
        os.kill(server.pid, signal.SIGHUP)
        assert is_logged(server, "the old one stays", client)
        assert served_serial(server.address, authority) == second
        client.ask("ping")


def test_sighup_does_not_end_a_server_without_tls(start: Start) -> None:
    server = start()
    with wire(server) as client:
        os.kill(server.pid, signal.SIGHUP)
        assert is_logged(server, "SIGHUP", client)


def test_the_ready_file_is_gone_once_the_server_has_ended(tmp_path: Path, start: Start) -> None:
    server = start()
    assert (tmp_path / "ready").read_text() == f"{server.address}\n"
    server.stop()
    assert not (tmp_path / "ready").exists()


def test_a_directory_for_backups_that_is_missing_is_told_at_the_start(
    tmp_path: Path, start: Start
) -> None:
    server = start("--backup-dir", str(tmp_path / "missing"))
    assert "the directory for backups does not exist" in server.log.read_text()


def test_a_data_directory_that_is_not_utf_8_is_wrong_usage(tmp_path: Path) -> None:
    ran = run("serve", "--data", os.fsdecode(bytes(tmp_path) + b"/\xff"), "--listen", "127.0.0.1:0")
    assert ran.returncode == 2
    assert "is not UTF-8" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_one_address_in_the_file_of_settings_needs_no_list(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('listen = "127.0.0.1:1"\n')
    seen: list[ServerSettings] = []

    @click.command()
    @server_options
    def command(**values: Any) -> None:
        seen.append(settings_from(values))

    ran = CliRunner().invoke(command, ["--data", "d", "--config", str(file)])
    assert ran.exit_code == 0, ran.output
    assert seen[0].listen == (Address("127.0.0.1", 1),)
