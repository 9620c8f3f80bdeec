"""`headwater backup` and `headwater restore`, with real servers on real disks."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess
from tests.torture.failpoints import FaultyServer

ACCOUNTS = 5


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the server's backups."""
    return Path(tmp_path_factory.mktemp("backups"))


@pytest.fixture(scope="module")
def server(backups: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests: each test makes backups under its own names."""
    options = ["--backup-dir", str(backups), "--checkpoint-commits", "100"]
    with ServerProcess(Path(tmp_path_factory.mktemp("source")), options) as server:
        yield server


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(main, arguments)
    return ended.exit_code, ended.output


def transfer(tx: headwater.BlockingTransaction, number: int) -> None:
    """Move an amount from one account to another, and append an event."""
    payer, payee = number % ACCOUNTS, (number * 3 + 1) % ACCOUNTS
    tx.put(("balance", payer), tx.get(("balance", payer), default=0) - 1)
    tx.put(("balance", payee), tx.get(("balance", payee), default=0) + 1)
    tx.append(f"account-{payer}", headwater.Event("Moved", {"to": payee, "why": "x" * 200}))


def test_a_backup_under_load_is_restored_and_served(
    server: ServerProcess, backups: Path, tmp_path: Path
) -> None:
    acknowledged = [0, 0]
    enough, done = threading.Event(), threading.Event()

    def write(writer: int) -> None:
        with headwater.connect_blocking(server.url) as db:
            number = writer
            while not done.is_set():
                db.run(transfer, number)
                acknowledged[writer] = db.ping().commit
                number += 2
                if number > 300:
                    enough.set()

    writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for writer in writers:
        writer.start()
    assert enough.wait(40)
    before = max(acknowledged)
    status, said = run("backup", "monday", "--url", server.url)
    done.set()
    for writer in writers:
        writer.join()
    assert status == 0, said
    commit = int(said.split("commit ")[1].split(",")[0])
    assert before <= commit
    backup, data = backups / "monday", tmp_path / "again/data"
    data.parent.mkdir()
    status, said = run("restore", str(backup), "--data", str(data))
    assert status == 0, said
    assert "all is well" in said
    assert f"{data}: commit {commit}, position {commit}\n" in said
    with ServerProcess(data.parent) as again, headwater.connect_blocking(again.url) as db:
        assert db.ping().commit == commit
        assert sum(value for _, value in db.scan(("balance",))) == 0
        assert len([*db.read_all()]) == commit
        with headwater.connect_blocking(server.url) as source:
            past = source.at(commit=commit)
            assert [*past.scan()] == [*db.scan()]
        db.put("more", 1)
    # The backup is unchanged.
    status, said = run("check", str(backup))
    assert status == 0, said


def test_a_backup_is_for_its_owner_alone_and_can_be_served_where_it_is(
    server: ServerProcess, backups: Path, tmp_path: Path
) -> None:
    with headwater.connect_blocking(server.url) as db:
        committed = db.put("k", "v")
        assert db.backup("served").commit == committed.commit
    for path in (backups / "served", backups / "served/state"):
        assert path.stat().st_mode & 0o077 == 0
    os.symlink(backups / "served", tmp_path / "data")
    with (
        ServerProcess(tmp_path) as again,
        headwater.connect_blocking(again.url) as db,
    ):
        assert db.get("k") == "v"


def test_a_failed_backup_is_reported_in_one_line(
    server: ServerProcess, backups: Path, tmp_path: Path
) -> None:
    assert run("backup", "first", "--url", server.url)[0] == 0
    for name, why in (("first", "already"), ("../x", "does not begin with"), ("", "name")):
        status, said = run("backup", name, "--url", server.url)
        assert status == 1
        assert why in said
        assert len(said.splitlines()) == 1
    with ServerProcess(tmp_path) as without:
        status, said = run("backup", "monday", "--url", without.url)
        assert status == 1
        assert "--backup-dir" in said


def test_a_backup_is_told_to_programs(server: ServerProcess) -> None:
    status, said = run("backup", "made-by-a-program", "--json", "--url", server.url)
    assert status == 0, said
    made = json.loads(said)
    assert made.keys() == {"name", "commit", "position", "size"}
    assert made["name"] == "made-by-a-program"
    assert made["size"] > 0


def test_a_damaged_backup_is_restored_only_with_no_check(
    server: ServerProcess, backups: Path, tmp_path: Path
) -> None:
    with headwater.connect_blocking(server.url) as db:
        db.append("a-1", [headwater.Event("Noted", "y" * 1000) for _ in range(10)])
        made = db.backup("damaged")
    backup = backups / "damaged"
    events = next((backup / "events").glob("*.events"))
    content = bytearray(events.read_bytes())
    content[content.index(b"y" * 500)] ^= 1
    events.write_bytes(content)
    status, said = run("restore", str(backup), "--data", str(tmp_path / "new"))
    assert status == 1
    assert "Nothing was restored" in said
    assert not (tmp_path / "new").exists()
    status, said = run("restore", str(backup), "--data", str(tmp_path / "new"), "--no-check")
    assert status == 0, said
    assert f"commit {made.commit}, position {made.position}" in said


def test_a_used_target_and_a_directory_without_a_backup_are_refused(
    server: ServerProcess, backups: Path, tmp_path: Path
) -> None:
    with headwater.connect_blocking(server.url) as db:
        db.backup("wanted")
    backup = str(backups / "wanted")
    for source, target, why in (
        (backup, str(server.data), "not empty"),
        (backup, str(tmp_path / "missing/new"), "missing is missing"),
        (str(backups), str(tmp_path / "new"), "not a data directory"),
        (str(server.data), str(tmp_path / "new"), "locked by process"),
    ):
        status, said = run("restore", source, "--data", target)
        assert status == 1, said
        assert why in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_server_killed_during_a_backup_leaves_a_whole_one_or_none(
    tmp_path: Path,
) -> None:
    place = tmp_path / "places"
    place.mkdir()
    server = FaultyServer(tmp_path, ["--backup-dir", str(place)])
    kills = (
        {"operation": "create", "path": "/.one.tmp/", "number": 3, "when": "after"},
        {"operation": "rename", "path": "/one", "number": 1, "when": "before"},
        {"operation": "rename", "path": "/two", "number": 1, "when": "after"},
    )
    for number, kill in enumerate(kills, 1):
        server.start_with(kill=kill)
        with headwater.connect_blocking(server.url) as db:
            db.append("a-1", headwater.Event("Noted", number))
            with pytest.raises(headwater.ConnectionLost):
                db.backup("two" if number == 3 else "one")
        server.reap()
        left = {path.name for path in place.iterdir() if not path.name.startswith(".")}
        assert left == ({"two"} if number == 3 else set())
    # Left-over files do not disturb the next backup.
    with server, headwater.connect_blocking(server.url) as db:
        assert not (server.data / "backup.tmp").exists()
        assert [event.data for event in db.read("a-1")] == [1, 2, 3]
        db.backup("one")
    assert sorted(path.name for path in place.iterdir()) == ["one", "two"]
    for name in ("one", "two"):
        status, said = run("check", str(place / name))
        assert status == 0, said
        assert said.startswith("3 commits, 3 events")
