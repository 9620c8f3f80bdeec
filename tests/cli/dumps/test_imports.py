"""`headwater import`."""

import json
import uuid
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli.dumps.export import export
from headwater.cli.dumps.imports import import_
from headwater.cli.server_process import ServerProcess


def call(server: ServerProcess, *arguments: str, command: click.Command = import_) -> Result:
    return CliRunner().invoke(command, [*arguments, "--url", server.url])


def write(file: Path, count: int) -> str:
    lines = [
        {"stream": f"a-{n % 2}", "type": "T", "data": n, "time": f"2020-01-01T00:00:{n:02}Z"}
        for n in range(1, count + 1)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_lines_are_imported_compared_and_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "events.jsonl", 20)
    data = tmp_path / "data"
    data.mkdir()
    with ServerProcess(data) as server:
        done = call(server, "jsonl", file)
        assert done.exit_code == 0, done.output
        assert "20 events of import 'jsonl', 20 of them new, all equal" in done.stderr
        write(tmp_path / "events.jsonl", 22)
        again = call(server, "jsonl", file)
        assert "22 events of import 'jsonl', 2 of them new, all equal" in again.stderr
        with headwater.connect_blocking(server.url) as db:
            assert [event.time.second for event in db.read_all()] == [*range(1, 23)]
        table = call(server, "positions", "jsonl")
        assert table.stdout.splitlines()[:3] == ["old,new", "1,1", "2,2"]
        assert call(server, "positions", "jsonl", "--old", "21").stdout == "21\n"
        assert call(server, "positions", "jsonl", "--old", "0").stdout == "0\n"
        assert call(server, "positions", "none").exit_code != 0
        refused = call(server, "jsonl", file, "--name", "other")
        assert isinstance(refused.exception, headwater.InvalidArgument)


def test_what_was_exported_can_be_imported(real_server: ServerProcess, tmp_path: Path) -> None:
    name = "i" + uuid.uuid4().hex
    with headwater.connect_blocking(real_server.url) as db:
        event = headwater.Event("T", {"of": ["text", 1]}, {"by": "ann"}, tags=["x"])
        db.append(f"{name}-1", [event, headwater.Event("U", "text")])
    file = tmp_path / "export.jsonl"
    assert call(real_server, str(file), "--category", name, command=export).exit_code == 0
    data = tmp_path / "data"
    data.mkdir()
    with ServerProcess(data) as other:
        done = call(other, "jsonl", str(file))
        assert done.exit_code == 0, done.output
        with (
            headwater.connect_blocking(real_server.url) as db,
            headwater.connect_blocking(other.url) as copy,
        ):
            found, expected = [*copy.read_all()], [*db.read(f"{name}-1")]
            for one, two in zip(found, expected, strict=True):
                assert (one.id, one.type, one.data) == (two.id, two.type, two.data)
                assert (one.metadata, one.tags, one.time) == (two.metadata, two.tags, two.time)


def test_other_distributions_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "elsewhere"

        @staticmethod
        def load() -> click.Command:
            return click.Command("elsewhere", callback=lambda: click.echo("from elsewhere"))

    monkeypatch.setattr("headwater.cli.dumps.imports._entry_points", lambda: {"elsewhere": Point})
    shown = CliRunner().invoke(import_, ["--help"])
    assert all(word in shown.output for word in ("elsewhere", "jsonl", "message-db", "positions"))
    assert CliRunner().invoke(import_, ["elsewhere"]).output == "from elsewhere\n"
    assert CliRunner().invoke(import_, ["nothing"]).exit_code == 2
