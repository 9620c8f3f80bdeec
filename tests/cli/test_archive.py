"""`headwater serve --archive`, and restores from it, with real servers on real disks."""

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerFailed, ServerProcess

OPTIONS = ["--archive-interval", "0.2", "--checkpoint-commits", "100"]
WAIT_S = 40.0


def run(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(main, arguments)
    return ended.exit_code, ended.output


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The directory of the archive."""
    path = tmp_path / "archive"
    path.mkdir()
    return path


@pytest.fixture
def server(tmp_path: Path, archive: Path) -> Iterator[ServerProcess]:
    (tmp_path / "backups").mkdir()
    options = ["--archive", str(archive), "--backup-dir", str(tmp_path / "backups"), *OPTIONS]
    (tmp_path / "source").mkdir()
    with ServerProcess(tmp_path / "source", options) as server:
        yield server


def wait_until(what: Callable[[], bool]) -> None:
    """Wait for a server that works at its own pace."""
    until = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)  # the archive is written by another process


def archived_commit(db: headwater.BlockingDatabase) -> int:
    commit: int = db.stats()["archive"]["commit"]
    return commit


def picture(db: headwater.BlockingDatabase) -> tuple[object, object]:
    return [*db.scan()], [(e.stream, e.version, e.data) for e in db.read_all()]


def tree(path: Path) -> dict[str, tuple[int, int]]:
    return {str(each): (each.stat().st_mtime_ns, each.stat().st_size) for each in path.rglob("*")}


def test_a_server_killed_under_load_is_restored_from_its_archive_to_any_commit_and_time(
    server: ServerProcess, archive: Path, tmp_path: Path
) -> None:
    pictures: dict[int, tuple[object, object]] = {}
    times: dict[int, headwater.Committed] = {}
    draw = random.Random(4)
    with headwater.connect_blocking(server.url) as db:
        for number in range(150):
            with db.transaction() as tx:
                tx.put(("k", draw.randrange(9)), number)
                tx.append(f"account-{number % 3}", headwater.Event("Moved", {"n": number}))
            assert tx.committed is not None
            times[tx.committed.commit] = tx.committed
            if number == 60:
                db.backup("monday")
            if number % 10 == 0:
                pictures[tx.committed.commit] = picture(db)
        wait_until(lambda: archived_commit(db) >= 150)
    # The disk of the database is lost.
    server.kill()
    shutil.rmtree(server.data)
    before = tree(archive)
    for number, commit in enumerate(draw.sample(sorted(pictures), 4)):
        by_time = number % 2
        moment = ["--to-commit", str(commit)]
        if by_time:
            moment = ["--to-time", times[commit].time.isoformat()]
        backup = [str(tmp_path / "backups/monday")] if commit > 61 and number < 2 else []
        target = tmp_path / f"new-{number}"
        target.mkdir()
        status, said = run(
            "restore",
            *backup,
            "--archive",
            str(archive),
            *moment,
            "--data",
            str(target / "data"),
        )
        assert status == 0, said
        assert f"commit {commit}, position {commit}" in said
        with ServerProcess(target) as again, headwater.connect_blocking(again.url) as db:
            assert db.ping().commit == commit
            assert picture(db) == pictures[commit]
    status, said = run("check", str(archive))
    assert (status, tree(archive)) == (0, before), said
    assert "timeline 1: commits 1 to 150" in said
    assert "from the first entry on" in said
    found = json.loads(run("check", "--json", str(archive))[1])
    (timeline,) = found["timelines"]
    assert (timeline["first_commit"], timeline["last_commit"]) == (1, 150)
    assert (found["sound"], found["damaged"]) == (True, [])


def test_kills_at_random_leave_an_archive_with_everything_that_stats_said_was_archived(
    server: ServerProcess, archive: Path, tmp_path: Path
) -> None:
    acknowledged: dict[int, int] = {}
    known = 0
    for round_ in range(4):
        stop = threading.Event()

        def write(stop: threading.Event = stop, round_: int = round_) -> None:
            with headwater.connect_blocking(server.url, retry_timeout=0.1) as db:
                number = round_ * 100_000
                while not stop.is_set():
                    try:
                        acknowledged[db.put(("n", number), number).commit] = number
                    except headwater.HeadwaterError:
                        return
                    number += 1

        writer = threading.Thread(target=write)
        writer.start()
        with headwater.connect_blocking(server.url) as db:
            least = archived_commit(db) + 100
            wait_until(lambda db=db, least=least: archived_commit(db) >= least)  # type: ignore[misc]
            known = archived_commit(db)
        server.kill()
        stop.set()
        writer.join()
        if round_ < 3:
            server.start()
    status, said = run("check", str(archive))
    assert status == 0, said
    target = tmp_path / "new"
    target.mkdir()
    status, said = run("restore", "--archive", str(archive), "--data", str(target / "data"))
    assert status == 0, said
    with ServerProcess(target) as again, headwater.connect_blocking(again.url) as db:
        commit = db.ping().commit
        assert commit >= known
        there = {key[1] for key, _ in db.scan(("n",))}
        assert {n for c, n in acknowledged.items() if c <= commit} <= there


def test_a_clean_stop_archives_everything(server: ServerProcess, archive: Path) -> None:
    with headwater.connect_blocking(server.url) as db:
        for number in range(20):
            db.put("k", number)
    server.stop()
    status, said = run("check", str(archive))
    assert status == 0, said
    assert "commits 1 to 20," in said


def test_a_foreign_archive_and_a_second_server_are_refused_at_the_start(
    server: ServerProcess, archive: Path, tmp_path: Path
) -> None:
    with headwater.connect_blocking(server.url) as db:
        db.put("k", 1)
        wait_until(lambda: archived_commit(db) >= 1)
    (tmp_path / "other").mkdir()
    other = ServerProcess(tmp_path / "other", ["--archive", str(archive)])
    with pytest.raises(ServerFailed, match="locked by process"):
        other.start()
    server.stop()
    with pytest.raises(ServerFailed, match="is the archive of the database"):
        other.start()
    before = tree(archive)
    server.start()
    assert {*before} <= {*tree(archive)}


def test_without_its_archive_a_server_starts_alarms_and_catches_up(
    tmp_path: Path, archive: Path
) -> None:
    archive.rmdir()
    with ServerProcess(tmp_path, ["--archive", str(archive), *OPTIONS]) as server:
        with headwater.connect_blocking(server.url) as db:
            db.put("k", 1)
            wait_until(lambda: db.stats()["archive"]["failure"] is not None)
            assert "the log is not archived" in server.log.read_text()
            archive.mkdir()
            wait_until(lambda: archived_commit(db) >= 1)
            figures = db.stats()["archive"]
            assert figures["failure"] is None
            assert figures["entries_behind"] <= 1
        assert "archived again" in server.log.read_text()


def test_what_cannot_be_restored_is_told_in_one_line_and_leaves_nothing(
    server: ServerProcess, archive: Path, tmp_path: Path
) -> None:
    with headwater.connect_blocking(server.url) as db:
        for number in range(10):
            db.put("k", number)
        wait_until(lambda: archived_commit(db) >= 10)
    new = str(tmp_path / "new")
    cases = (
        (["--archive", str(archive), "--to-commit", "11"], 1, "it ends with commit 10"),
        (["--archive", str(tmp_path / "backups")], 1, "there is no archive"),
        (["--archive", str(archive), "--timeline", "3"], 1, "no timeline 3"),
        (["--to-commit", "3"], 2, "give a BACKUP, or --archive"),
        (["--archive", str(archive), "--to-time", "noon"], 2, "write it as 2026-"),
        (["--archive", str(archive), "--to-time", "2026-01-01", "--to-commit", "3"], 2, "either"),
    )
    for arguments, expected, why in cases:
        status, said = run("restore", *arguments, "--data", new)
        assert status == expected, said
        assert why in said
        assert not os.path.exists(new)
    # A time before the first commit is the empty database.
    status, said = run(
        "restore", "--archive", str(archive), "--to-time", "2020-01-01", "--data", new
    )
    assert status == 0, said
    assert "commit 0, position 0" in said


def test_a_damaged_piece_is_named_by_check_and_refused_by_restore(
    server: ServerProcess, archive: Path, tmp_path: Path
) -> None:
    with headwater.connect_blocking(server.url) as db:
        for number in range(10):
            db.put("k", number)
        wait_until(lambda: archived_commit(db) >= 10)
    server.stop()
    piece = sorted((archive / "timeline-0001").iterdir())[0]
    content = bytearray(piece.read_bytes())
    content[-20] ^= 1
    piece.write_bytes(content)
    status, said = run("check", str(archive))
    assert status == 1
    assert str(piece) in said
    assert "An archive cannot be repaired" in said
    status, said = run("restore", "--archive", str(archive), "--data", str(tmp_path / "new"))
    assert status == 1
    assert str(piece) in said
    assert not (tmp_path / "new").exists()


def test_stats_tell_of_the_archive_only_if_there_is_one(
    server: ServerProcess, tmp_path: Path
) -> None:
    status, said = run("stats", "--json", "--url", server.url)
    assert status == 0
    assert json.loads(said)["archive"]["path"] == str(tmp_path / "archive")
    (tmp_path / "without").mkdir()
    with ServerProcess(tmp_path / "without") as without:
        _, said = run("stats", "--json", "--url", without.url)
    assert "archive" not in json.loads(said)
