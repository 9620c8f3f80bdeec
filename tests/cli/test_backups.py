"""`headwater backup list` and `headwater backup prune`, on the backups of a real server."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str]:
    ended = CliRunner().invoke(main, arguments, input=stdin)
    return ended.exit_code, ended.output


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The directories of three backups and of an archive."""
    backups, archive = tmp_path / "backups", tmp_path / "archive"
    backups.mkdir()
    archive.mkdir()
    options = ["--backup-dir", str(backups), "--archive-interval", "0.1"]
    with (
        ServerProcess(tmp_path, options) as server,
        headwater.connect_blocking(server.url) as db,
    ):
        for number in range(5):
            db.put("k", number)
        assert db.backup("first").commit == 5
    with ServerProcess(tmp_path, [*options, "--archive", str(archive)]) as server:
        for name in ("second", "third"):
            with headwater.connect_blocking(server.url) as db:
                for number in range(5):
                    db.append("a-1", headwater.Event("Noted", number))
            assert run("backup", name, "--url", server.url)[0] == 0
    return backups, archive


def test_backups_are_listed_newest_first(places: tuple[Path, Path]) -> None:
    backups, _ = places
    status, said = run("backup", "list", str(backups), "--json")
    assert status == 0, said
    rows = [json.loads(line) for line in said.splitlines()]
    assert [(row["name"], row["commit"], row["position"]) for row in rows] == [
        ("third", 15, 10),
        ("second", 10, 5),
        ("first", 5, 0),
    ]
    assert all(row["made"] and row["size"] and row["problem"] is None for row in rows)
    status, said = run("backup", "list", str(backups))
    assert said.splitlines()[0].split() == [
        *("NAME", "MADE", "COMMIT", "POSITION", "SIZE", "COPIED", "PROBLEM")
    ]


def test_pruning_shows_asks_and_removes_and_the_archive_leads_on_from_what_is_left(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    backups, archive = places
    arguments = ("backup", "prune", str(backups), "--keep-last", "1", "--archive", str(archive))
    status, said = run(*arguments, "--dry-run")
    assert status == 0, said
    assert "keep    third" in said
    assert "remove  second" in said
    status, _ = run(*arguments, stdin="n\n")
    assert status == 1
    assert len([*backups.iterdir()]) == 3
    status, said = run(*arguments, "--yes", "--cut-archive")
    assert status == 0, said
    assert [path.name for path in backups.iterdir()] == ["third"]
    data = tmp_path / "again/data"
    data.parent.mkdir()
    status, said = run(
        "restore", str(backups / "third"), "--archive", str(archive), "--data", str(data)
    )
    assert status == 0, said
    with ServerProcess(data.parent) as again, headwater.connect_blocking(again.url) as db:
        assert [event.data for event in db.read("a-1")] == [*range(5), *range(5)]


def test_pruning_without_a_policy_or_with_nothing_to_keep_is_refused(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    backups, _ = places
    cases = (
        (("--yes",), 1, "say how many"),
        (("--keep-last", "1", "--cut-archive", "--yes"), 2, "--cut-archive needs --archive"),
        (("--keep-last", "1", "--archive", str(tmp_path), "--yes"), 1, "there is no archive"),
    )
    for arguments, expected, why in cases:
        status, said = run("backup", "prune", str(backups), *arguments)
        assert status == expected
        assert why in said
        assert len([*backups.iterdir()]) == 3


def test_the_archive_of_a_database_with_history_needs_a_backup_and_says_so(
    tmp_path: Path,
) -> None:
    backups, archive = tmp_path / "backups", tmp_path / "archive"
    backups.mkdir()
    archive.mkdir()
    options = ["--backup-dir", str(backups), "--checkpoint-commits", "5"]
    with (
        ServerProcess(tmp_path, options) as server,
        headwater.connect_blocking(server.url) as db,
    ):
        for number in range(20):
            db.put(("k", number), "x" * 1_000_000)
        db.backup("first")
    # The log has begun a second segment, and a clean stop has removed the first one.
    with (
        ServerProcess(tmp_path, [*options, "--archive", str(archive)]) as server,
        headwater.connect_blocking(server.url) as db,
    ):
        for number in range(5):
            db.append("a-1", headwater.Event("Noted", number))
    assert "make a backup now" in (tmp_path / "server.log").read_text()
    new = tmp_path / "new"
    status, said = run("restore", "--archive", str(archive), "--data", str(new))
    assert status == 1
    assert "; give a backup of commit" in said
    status, said = run(
        "restore", str(backups / "first"), "--archive", str(archive), "--to-commit", "23",
        "--data", str(new),
    )  # fmt: skip
    assert status == 0, said
    assert "commit 23, position 3" in said
