"""A loaded dump has the positions of the original, because projections store positions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headwater
from headwater import Event
from headwater.blocking.handlers import BlockingProjectionTransaction
from headwater.cli.dumps.removed import newest_position
from headwater.cli.server_process import ServerProcess
from headwater.transport.stepping import step
from headwater_protocol.keys import encode_key
from tests.cli.test_commands import call


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as server:
        yield server


def hide_some(db: headwater.BlockingDatabase) -> None:
    """Append events, and hide those at positions 1, 2, 4, 5, 8 and 9."""
    db.append("kept-1", [Event("E", n) for n in range(3)])
    db.append("gone-1", [Event("E"), Event("E")])
    db.append("whole-1", [Event("E", 1), Event("E", 2)])
    db.append("late-1", [Event("E"), Event("E")])
    db.truncate("kept-1", before=3)
    db.truncate("late-1", before=3)
    db.delete_stream("gone-1")


def count_events(db: headwater.BlockingDatabase) -> None:
    @db.projection("count")
    def count(tx: BlockingProjectionTransaction, event: headwater.RecordedEvent) -> None:
        tx.model.add(event.stream, 1)


def seen(db: headwater.BlockingDatabase) -> list[tuple[int, str, int, Any]]:
    return [(e.position, e.stream, e.version, e.data) for e in db.read_all()]


def copy(source: str, target: str, path: Path) -> None:
    assert call("dump", "--url", source, "-o", str(path)).exit_code == 0
    result = call("load", "--url", target, str(path))
    assert result.exit_code == 0, result.output


def test_a_projection_continues_at_its_position_in_a_loaded_database(
    empty: ServerProcess, tmp_path: Path
) -> None:
    # Hidden events used to take no position in the copy, and later events took theirs. So a
    # projection skipped events at positions that it had passed, or handled events twice.
    path = tmp_path / "dump.jsonl"
    (tmp_path / "other").mkdir()
    with (
        headwater.connect_blocking(empty.url) as db,
        ServerProcess(tmp_path / "other") as other,
    ):
        hide_some(db)
        count_events(db)
        with db.run_projections():
            db.wait_for("count", newest_position(db))
        model = dict(db.model("count").scan())
        after = db.append("whole-1", Event("E", 3))
        db.append("last-1", Event("E"))
        db.delete_stream("last-1")
        copy(empty.url, other.url, path)
        copy(empty.url, other.url, path)
        with headwater.connect_blocking(other.url) as loaded:
            assert seen(loaded) == seen(db)
            assert newest_position(loaded) == newest_position(db)
            assert [s.stream for s in loaded.streams()] == [s.stream for s in db.streams()]
            count_events(loaded)
            with loaded.run_projections():
                loaded.wait_for("count", after.last_position or 0)
            assert dict(loaded.model("count").scan()) == {
                **model,
                ("whole-1",): model["whole-1",] + 1,
            }


def test_a_loaded_stream_begins_at_the_same_version_and_is_truncated_like_the_original(
    empty: ServerProcess, tmp_path: Path
) -> None:
    path = tmp_path / "dump.jsonl"
    (tmp_path / "other").mkdir()
    total = headwater.Repository(0, lambda state, event: state + event.data, name="total")
    with headwater.connect_blocking(empty.url) as db, ServerProcess(tmp_path / "other") as other:
        for stream in ("anew-1", "both-1", "cut-1"):
            db.append(stream, [Event("E", n) for n in range(3)])
        for stream in ("anew-1", "both-1"):
            db.delete_stream(stream)
            db.append(stream, [Event("E", n) for n in range(4)])
        db.truncate("both-1", before=6)
        db.truncate("cut-1", before=3)
        # Twice: a load can be run again.
        for _ in range(2):
            copy(empty.url, other.url, path)
        with headwater.connect_blocking(other.url) as loaded:
            assert seen(loaded) == seen(db)
            found = {s.stream: (s.begins, s.first, s.version) for s in loaded.streams()}
            assert found == {"anew-1": (4, 4, 7), "both-1": (4, 6, 7), "cut-1": (1, 3, 3)}
            assert total.on(loaded).load("anew-1") == (6, 7)
            for stream in ("both-1", "cut-1"):
                with pytest.raises(headwater.StreamTruncated):
                    total.on(loaded).load(stream)


def test_an_old_dump_without_positions_keeps_versions(empty: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    (tmp_path / "other").mkdir()
    with headwater.connect_blocking(empty.url) as db, ServerProcess(tmp_path / "other") as other:
        hide_some(db)
        assert call("dump", "--url", empty.url, "-o", str(path)).exit_code == 0
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line.pop("position", None)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert call("load", "--url", other.url, str(path)).exit_code == 0
        with headwater.connect_blocking(other.url) as loaded:
            assert [row[1:] for row in seen(loaded)] == [row[1:] for row in seen(db)]
            versions = [(s.stream, s.version, s.first) for s in db.streams()]
            assert [(s.stream, s.version, s.first) for s in loaded.streams()] == versions


def test_a_load_into_a_database_that_has_more_keeps_versions(
    empty: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with headwater.connect_blocking(empty.url) as db, ServerProcess(tmp_path / "other") as other:
        hide_some(db)
        with headwater.connect_blocking(other.url) as loaded:
            loaded.append("there-1", [Event("E") for _ in range(20)])
            copy(empty.url, other.url, tmp_path / "dump.jsonl")
            rows = [row[1:] for row in seen(loaded) if row[1] != "there-1"]
            assert rows == [row[1:] for row in seen(db)]


def test_keys_that_are_not_tuples_are_dumped_and_loaded_unchanged(
    empty: ServerProcess, tmp_path: Path
) -> None:
    # A client in another language may encode keys in any way. One such key used to fail the dump
    # of the whole database.
    keys = [b"raw \xff", encode_key(("a", 1)), encode_key("b") + b"\0", b"\x00" * 9]
    (tmp_path / "other").mkdir()
    with headwater.connect_blocking(empty.url) as db, ServerProcess(tmp_path / "other") as other:
        batch = db.batch()
        for number, key in enumerate(keys):
            batch.put("stands for another", number)
            batch._writes[-1][1] = key
        db.execute(batch)
        copy(empty.url, other.url, tmp_path / "dump.jsonl")

        def stored(database: headwater.BlockingDatabase) -> Any:
            return step(database._core._channel.read("scan", None, b"", None, 9, False))[1]

        with headwater.connect_blocking(other.url) as loaded:
            assert stored(loaded) == stored(db)
            assert sorted(stored(db)[::2]) == sorted(keys)
