"""Applications on SQLite and PostgreSQL are imported, and go on here."""

import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

import psycopg
import pytest
from click.testing import CliRunner, Result
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.utils import Environment
from eventsourcing_headwater import HeadwaterFactory
from eventsourcing_headwater.importing import command, time_of

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.imports import position_of


class Account(Aggregate):
    INITIAL_VERSION = 1

    @event("Opened")
    def __init__(self, name: str) -> None:
        self.name = name
        self.balance = 0

    @staticmethod
    def create_id(name: str) -> UUID:
        return uuid5(NAMESPACE_URL, name)

    @event("Deposited")
    def deposit(self, amount: int) -> None:
        self.balance += amount


class FromZero(Account):
    INITIAL_VERSION = 0


class Bank(Application[UUID]):
    is_snapshotting_enabled = True


def fill(settings: dict[str, str]) -> None:
    bank = Bank(env=settings)
    accounts: list[Account] = [Account("ann"), FromZero("bob"), Account("zoe")]
    for account in accounts:
        bank.save(account)
    for number in range(1, 11):
        for account in accounts:
            account.deposit(number)
            bank.save(account)
    bank.take_snapshot(accounts[0].id)
    bank.close()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    initdb, postgres = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed")
    directory = tmp_path_factory.mktemp("postgresql")
    user = None
    if os.geteuid() == 0:
        # It does not run as root.
        user = "postgres"
        shutil.chown(directory, user)
        for parent in (directory, *directory.parents[:3]):
            parent.chmod(0o755)
    data = directory / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = [initdb, "-D", data, "-A", "trust", "-U", "postgres"]
    subprocess.run(made, user=user, check=True, cwd=directory, **quiet)  # type: ignore[call-overload]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={data}"]
    started = [postgres, "-D", data, *(word for each in options for word in ("-c", each))]
    with subprocess.Popen(started, user=user, cwd=directory, **quiet) as process:  # type: ignore[call-overload]
        try:
            _wait(port)
            yield port
        finally:
            process.terminate()


def _wait(port: int) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An application's data there, as the command takes it."""
    if request.param == "sqlite":
        file = str(tmp_path / "bank.db")
        fill({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": file})
        return file
    port = request.getfixturevalue("postgresql")
    settings = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": str(port),
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": "none",
    }
    fill(settings)
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


def call(server: ServerProcess, *arguments: str) -> Result:
    result = CliRunner().invoke(command, [*arguments, "--url", server.url])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_an_application_goes_on_here(new_server: ServerProcess, place: str) -> None:
    done = call(new_server, place, "--application", "Bank")
    assert "33 events of import 'eventsourcing Bank', 33 of them new, all equal" in done.stderr
    assert "1 snapshots" in done.stderr
    before = datetime.now(UTC)
    with headwater.connect_blocking(new_server.url, codec=headwater.RawCodec()) as db:
        # The times are those of the states.
        events = [*db.read_all()]
        assert [each.time for each in events] == sorted(
            time_of(each.data) or before for each in events
        )
        assert position_of(db, "eventsourcing Bank", 33) == 33

    settings = {"PERSISTENCE_MODULE": "eventsourcing_headwater", "HEADWATER_URL": new_server.url}
    bank = Bank(env=settings)
    for name in ("ann", "bob", "zoe"):
        account: Account = bank.repository.get(Account.create_id(name))
        assert (account.name, account.balance) == (name, 55)
        account.deposit(1)
        bank.save(account)
        again: Account = bank.repository.get(account.id)
        assert again.balance == 56
    assert len(bank.recorder.select_notifications(1, limit=99)) == 36
    assert len([*bank.snapshots.get(Account.create_id("ann"))] if bank.snapshots else []) == 1
    bank.close()


def test_repeating_finds_nothing_new(new_server: ServerProcess, tmp_path: Path) -> None:
    file = str(tmp_path / "bank.db")
    fill({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": file})
    call(new_server, file, "--application", "Bank")
    assert ", 0 of them new" in call(new_server, file, "--application", "Bank").stderr


def test_tracking_follows_the_upstream_application(
    new_server: ServerProcess, tmp_path: Path
) -> None:
    file, other = str(tmp_path / "bank.db"), str(tmp_path / "reports.db")
    fill({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": file})
    fill({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": other})
    with sqlite3.connect(other) as tables:
        tables.execute("CREATE TABLE tracking (application_name TEXT, notification_id INTEGER)")
        tables.execute("INSERT INTO tracking VALUES ('Bank', 20)")
    tables.close()
    with headwater.connect_blocking(new_server.url) as db:
        db.append("before", headwater.Event("Before"))
    call(new_server, file, "--application", "Bank", "--times", "now")
    done = call(new_server, other, "--application", "Reports", "--times", "now")
    assert "warning" not in done.stderr
    settings = {"PERSISTENCE_MODULE": "eventsourcing_headwater", "HEADWATER_URL": new_server.url}
    factory = HeadwaterFactory(Environment("Reports", settings))
    recorder = factory.tracking_recorder()
    assert recorder.max_tracking_id("Bank") == 21
    recorder.insert_tracking(Tracking("Bank", 22))
    factory.close()


def test_an_upstream_application_that_is_missing_is_named(
    new_server: ServerProcess, tmp_path: Path
) -> None:
    file = str(tmp_path / "reports.db")
    fill({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": file})
    with sqlite3.connect(file) as tables:
        tables.execute("CREATE TABLE tracking (application_name TEXT, notification_id INTEGER)")
        tables.execute("INSERT INTO tracking VALUES ('Bank', 20)")
    tables.close()
    done = call(new_server, file, "--application", "Reports")
    assert "what was processed of Bank is not copied" in done.stderr


@pytest.mark.parametrize("state", [b"", b"{", b"{}", b"[1]", b'{"timestamp": 1}', b"\xff"])
def test_a_state_without_a_time_has_none(state: bytes) -> None:
    assert time_of(state) is None


def test_a_table_or_a_file_that_is_missing_is_named(
    new_server: ServerProcess, tmp_path: Path
) -> None:
    file = tmp_path / "empty.db"
    for expected in ("there is no file", "there is no table 'stored_events'"):
        result = CliRunner().invoke(
            command, [str(file), "--application", "Bank", "--url", new_server.url]
        )
        assert expected in str(result.exception)
        file.touch()
