"""Consoles over a server with the data of the airline, for all tests of this folder."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.console import airline

ROOT = Path(__file__).parents[2]
OPTIONS = ("--aggregate", "account=tests.console.airline:accounts")
APP = ("--app", "tests.console.airline:define")


@dataclass(frozen=True)
class Running:
    """A console process, and the server behind it."""

    url: str
    server: ServerProcess

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=30)


@contextmanager
def console_process(*arguments: str, timeout: float = 10) -> Iterator[str]:
    """A console at a port of its own; yields its address once it listens."""
    program = "from headwater.console.command import console; console()"
    paths = [str(ROOT / each) for each in ("protocol", "client", "server", "")]
    child = subprocess.Popen(
        [sys.executable, "-c", program, "--listen", "127.0.0.1:0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        found = re.search(r"http://\S+(?=/\s)", line)
        assert found, f"the console said {line!r}"
        yield found[0]
    finally:
        child.terminate()
        child.wait(timeout)
        child.stdout.close()


@contextmanager
def airline_running(directory: Path) -> Iterator[Running]:
    """A console that everybody may use, over the data of the airline."""
    with ServerProcess(directory) as server:
        with headwater.connect_blocking(server.url) as db:
            airline.fill(db)
        with console_process("--url", server.url, *OPTIONS, *APP) as url:
            yield Running(url, server)


@pytest.fixture(scope="module")
def airline_console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A console for one module: tests of others retry what is parked in it."""
    with airline_running(tmp_path_factory.mktemp("airline")) as running:
        yield running


@pytest.fixture
def pages(airline_console: Running) -> Iterator[httpx.Client]:
    """An HTTP client of that console."""
    with airline_console.client() as client:
        yield client


@pytest.fixture(scope="session")
def guarded_console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A console at which people log in: root may do everything, bob little, eve nothing."""
    with ServerProcess(Path(tmp_path_factory.mktemp("guarded"))) as server:
        with headwater.connect_blocking(server.url) as db:
            db.put(("balance", "ann"), 10)
            db.put(("payroll", "ann"), 77_777)
            db.append("account-ann", headwater.Event("Opened", {"amount": 10}))
            db.append("salary-ann", headwater.Event("Paid", {"amount": 77_777}))
            db.groups.create("mailer")
            db.add_user("root", "root's password")
        with headwater.connect_blocking(server.url, user="root", password="root's password") as db:
            db.add_user("bob", "bob's password")
            db.rights.grant("bob", "read:category:account", "read:keys:balance")
            db.add_user("eve", "eve's password")
            db.rights.grant("eve", "read:keys:nothing")
        with console_process("--url", server.url) as url:
            yield Running(url, server)
