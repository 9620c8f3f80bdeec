"""Data directories of earlier versions can be opened, give the same reads, and accept writes."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import headwater
from headwater import BlockingDatabase, Event
from headwater.cli.server_process import ServerProcess
from headwater_server.cli.main import main
from headwater_server.storage.files.directory import FORMAT
from tests.formats.make import KEEP_ALL, PASSWORD, USER
from tests.formats.reading import everything, state_of
from tests.formats.unpacking import FIXTURES, expected_of, name_of, unpack


def connect(server: ServerProcess) -> BlockingDatabase:
    return headwater.connect_blocking(server.url, user=USER, password=PASSWORD)


def read_same(db: BlockingDatabase, expected: dict[str, Any]) -> dict[str, Any]:
    """Read the same as *expected* has, converted to JSON and back."""
    found = everything(
        db, commits=map(int, expected["past"]), transactions=list(expected["transactions"])
    )
    read: dict[str, Any] = json.loads(json.dumps(found))
    for identity, status in expected["transactions"].items():
        # Format 3 did not store the retention of ids. After a start with a longer retention, a
        # forgotten id had the status "open", and could have been committed again.
        if (read["transactions"][identity]["state"], status["state"]) == ("forgotten", "open"):
            read["transactions"][identity] = status
    return read


def check(data: Path) -> str:
    ended = CliRunner().invoke(main, ["check", str(data)])
    assert ended.exit_code == 0, ended.output
    return ended.output


def contents(data: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in sorted(data.rglob("*"))
        if path.is_file() and path.name != "LOCK"
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fixture", FIXTURES, ids=name_of)
def test_an_old_directory_gives_the_same_reads_and_accepts_writes(
    fixture: Path, tmp_path: Path
) -> None:
    data = unpack(fixture, tmp_path)
    expected = expected_of(fixture)
    with ServerProcess(tmp_path, KEEP_ALL) as server:
        with connect(server) as db:
            assert read_same(db, expected) == expected
            db.put(("account", 1), "new")
            newest = db.append("account-1", Event("Opened", {"by": "new"}))
        # Read the new data from the log here, and from the files below.
        server.kill()
        server.start()
        with connect(server) as db:
            assert db.get(("account", 1)) == "new"
            (event,) = db.read("account-1", reverse=True, limit=1)
            assert (event.position, event.data) == (newest.first_position, {"by": "new"})
    check(data)
    with ServerProcess(tmp_path, KEEP_ALL) as server, connect(server) as db:
        assert db.ping().commit == expected["newest"] + 2
        commit, past = max(expected["past"].items(), key=lambda item: int(item[0]))
        assert json.loads(json.dumps(state_of(db.at(commit=int(commit))))) == past


@pytest.mark.parametrize("fixture", FIXTURES, ids=name_of)
def test_a_check_of_an_old_directory_finds_nothing_and_changes_nothing(
    fixture: Path, tmp_path: Path
) -> None:
    data = unpack(fixture, tmp_path)
    before = contents(data)
    assert "all is well" in check(data)
    assert contents(data) == before


def test_a_backup_of_an_older_format_is_restored_unchanged_and_upgraded_by_the_first_start(
    tmp_path: Path,
) -> None:
    (fixture,) = [each for each in FIXTURES if name_of(each) == "3-backup"]
    backup = unpack(fixture, tmp_path)
    target = tmp_path / "restored" / "data"
    target.parent.mkdir()
    ended = CliRunner().invoke(main, ["restore", str(backup), "--data", str(target)])
    assert ended.exit_code == 0, ended.output
    assert json.loads((target / "FORMAT").read_text())["format"] == 3
    assert f"it has format 3; the next start upgrades it to {FORMAT}" in check(target)
    expected = expected_of(fixture)
    with ServerProcess(target.parent, KEEP_ALL) as server, connect(server) as db:
        assert db.ping().commit == expected["newest"]
    assert json.loads((target / "FORMAT").read_text())["format"] == FORMAT
    assert "upgrading the data directory" in (target.parent / "server.log").read_text()


def test_every_format_has_its_directories() -> None:
    """Before FORMAT is raised, run `make fixture` with the last commit of the old format.

    Run it again with the new code. The directories of all formats are kept for ever.
    """
    formats = {int(path.parent.name) for path in FIXTURES}
    assert formats == set(range(3, FORMAT + 1))
    for number in formats:
        names = {path.name for path in FIXTURES if path.parent.name == str(number)}
        assert names == {f"{n}.tar.xz" for n in ("stopped", "killed", "interrupted", "backup")}
