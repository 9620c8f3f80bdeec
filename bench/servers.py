"""The compared servers, all durable, with directories on the same disk.

Servers that are not installed are skipped, and the report lists them.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import psutil

from headwater.cli.server_process import ServerProcess

START_S_MAX: Final = 30.0
"""Seconds within which a rival must accept connections."""


class Server(Protocol):
    """A server under measurement."""

    name: str
    settings: str
    port: int

    @property
    def pid(self) -> int:
        """The pid of its main process."""
        ...

    def start(self) -> None:
        """Start it on an empty directory and wait until it accepts connections."""
        ...

    def stop(self) -> None:
        """Stop it."""
        ...


def free_port() -> int:
    """A free TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Headwater:
    """Headwater itself."""

    name = "headwater"
    settings = "defaults: every commit is synced before it is answered"

    def __init__(
        self,
        directory: Path,
        options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True)
        self.process = ServerProcess(directory, options)
        self._environment = environment or {}
        self.port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        self.port = int(self.process.address.rpartition(":")[2])

    def stop(self) -> None:
        self.process.stop()


class _Rival:
    """A server to compare with, as a child process with its own port."""

    name = ""
    settings = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def _run(self, command: Sequence[str], user: str | None = None) -> None:
        with (self.directory / "server.log").open("ab") as log:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                # Like Headwater in its own session, so that the kernel schedules it as its own
                # group.
                start_new_session=True,
            )
        until = time.monotonic() + START_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if self._child.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        if self._child is not None:
            self._child.terminate()
            self._child.wait()


class Redis(_Rival):
    """Redis, with an fsync of the append-only file before each answer."""

    name = "redis"
    settings = "appendonly yes, appendfsync always, save ''"

    def start(self) -> None:
        self.directory.mkdir(parents=True)
        self._run(
            [
                *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.directory), "--save", "", "--appendonly", "yes"),
                *("--appendfsync", "always", "--daemonize", "no"),
            ]
        )


def postgres_programs() -> Path | None:
    """The directory of initdb and postgres, which Debian does not put on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    where = shutil.which("initdb")
    return found[-1].parent if found else Path(where).parent if where else None


class Postgres(_Rival):
    """PostgreSQL, durable, with a larger cache than by default."""

    name = "postgresql"
    settings = "fsync on, synchronous_commit on, shared_buffers 256MB, max_wal_size 4GB; prepared"

    def start(self) -> None:
        programs = postgres_programs()
        assert programs is not None
        self.directory.mkdir(parents=True)
        # PostgreSQL refuses to run as root, so then it runs as the user of its package.
        user = "postgres" if os.geteuid() == 0 else None
        data = self.directory / "data"
        data.mkdir()
        if user is not None:
            shutil.chown(self.directory, user)
            shutil.chown(data, user)
            # Only its owner can enter a temporary directory.
            self.directory.parent.chmod(0o755)
        subprocess.run(
            [str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres"],
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.directory,
        )
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(data),
            "fsync": "on",
            "synchronous_commit": "on",
            "shared_buffers": "256MB",
            "max_wal_size": "4GB",
            "max_connections": "200",
        }
        self._run(
            [
                *(str(programs / "postgres"), "-D", str(data)),
                *(word for item in options.items() for word in ("-c", "=".join(item))),
            ],
            user=user,
        )

    def run_sql(self, text: str) -> None:
        """Run statements with psql."""
        programs = postgres_programs()
        assert programs is not None
        until = time.monotonic() + START_S_MAX
        command = [
            *(str(programs / "psql"), "-h", "127.0.0.1", "-p", str(self.port)),
            *("-U", "postgres", "-q", "-v", "ON_ERROR_STOP=1"),
        ]
        while True:
            ran = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
            if not ran.returncode:
                return
            # It accepts connections before it accepts users.
            if "starting up" not in ran.stderr or time.monotonic() > until:
                raise RuntimeError(ran.stderr)
            time.sleep(0.1)


class Etcd(_Rival):
    """One node of etcd, used through its JSON gateway."""

    name = "etcd"
    settings = "one node, defaults: every proposal is synced; asked through its JSON gateway"

    def start(self) -> None:
        self.directory.mkdir(parents=True)
        url, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{free_port()}"
        self._run(
            [
                *("etcd", "--data-dir", str(self.directory / "data")),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ]
        )
        # The node accepts connections before it has elected itself as the leader.
        time.sleep(2)


class UmaDB(_Rival):
    """UmaDB, from the package with its server and its client."""

    name = "umadb"
    settings = "defaults: every append is synced"

    def start(self) -> None:
        self.directory.mkdir(parents=True)
        program = umadb_program()
        assert program is not None
        self._run([program, "--listen", f"127.0.0.1:{self.port}", "--db-path", str(self.directory)])


def umadb_program() -> str | None:
    """The server program of the package, next to our interpreter."""
    beside = Path(sys.executable).with_name("umadb")
    return str(beside) if beside.exists() else shutil.which("umadb")


def missing() -> dict[str, str]:
    """The rivals that are not installed, with the way to install them."""
    absent: dict[str, str] = {}
    if shutil.which("redis-server") is None:
        absent["redis"] = "Debian package redis-server"
    if postgres_programs() is None:
        absent["postgresql"] = "Debian package postgresql"
    if shutil.which("etcd") is None:
        absent["etcd"] = "Debian package etcd-server"
    if umadb_program() is None:
        absent["umadb"] = "pip install umadb"
    return absent


_VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)?")


def version_of(name: str) -> str:
    """The version that a rival reports."""
    programs = postgres_programs()
    commands = {
        "redis": ["redis-server", "--version"],
        "postgresql": [str(programs / "postgres") if programs else "postgres", "--version"],
        "etcd": ["etcd", "--version"],
        "umadb": [umadb_program() or "umadb", "--version"],
    }
    ran = subprocess.run(commands[name], capture_output=True, text=True, check=False)
    found = _VERSION.search(ran.stdout + ran.stderr)
    return found[0] if found else "unknown"


def cpu_seconds(pid: int) -> float:
    """Processor time of a server, including its running and ended children."""
    main = psutil.Process(pid)
    total = 0.0
    for process in (main, *main.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4] if process is main else process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def private_mib(pid: int) -> float:
    """Private memory of a server, over all its processes."""
    main = psutil.Process(pid)
    size = 0
    for process in (main, *main.children(recursive=True)):
        try:
            size += process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    return size / (1024 * 1024)
