"""`headwater projection` against a real server, with the handlers of an application."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess

APPLICATION = """
import os

def define(db):
    @db.projection("NAME", category="NAME", attempts=1)
    async def handle(tx, event):
        if event.data == "bad" and not os.path.exists("mended"):
            raise ValueError("cannot")
        tx.model.add("n", 1)

def define_blocking(db):
    @db.projection("NAME", category="NAME", attempts=1)
    def handle(tx, event):
        if event.data == "bad" and not os.path.exists("mended"):
            raise ValueError("cannot")
        tx.model.add("n", 1)
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A projection that no other test uses; its module is in the current directory."""
    name = "p" + uuid.uuid4().hex
    (tmp_path / f"{name}.py").write_text(APPLICATION.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def call(server: ServerProcess, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["projection", *arguments, "--url", server.url], **options)


def run(server: ServerProcess, name: str) -> None:
    """Park stream NAME-1, which has an event after the bad one, and handle NAME-2."""
    with headwater.connect_blocking(server.url) as db:
        __import__(name).define_blocking(db)
        for data in ("good", "bad", "good"):
            db.append(f"{name}-1", headwater.Event("Happened", data))
        last = db.append(f"{name}-2", headwater.Event("Happened", "good")).last_position
        assert last is not None
        with db.run_projections():
            db.wait_for(name, last)


def model(server: ServerProcess, name: str) -> int:
    with headwater.connect_blocking(server.url) as db:
        count: int = db.model(name).get("n")
        return count


def test_projections_and_their_parked_streams_are_listed(
    real_server: ServerProcess, name: str
) -> None:
    run(real_server, name)
    listed = call(real_server, "list").output.splitlines()
    assert listed[0].split()[:2] == ["NAME", "VERSION"]
    assert any(line.split()[0] == name for line in listed[1:])
    rows = [json.loads(line) for line in call(real_server, "list", "--json").output.splitlines()]
    assert [row["parked"] for row in rows if row["name"] == name] == [1]
    assert json.loads(call(real_server, "status", name, "--json").output)["parked"] == 1
    (parked,) = call(real_server, "parked", name, "--json").output.splitlines()
    found = json.loads(parked)
    assert (found["stream"], found["version"], found["held"]) == (f"{name}-1", 2, 1)
    assert "ValueError: cannot" in found["reason"]
    unknown = call(real_server, "status", f"{name}x")
    assert unknown.exit_code == 1
    assert "never ran" in unknown.stderr


@pytest.mark.parametrize("how", [("define",), ("define_blocking", "--blocking")])
def test_a_parked_stream_is_retried_with_the_handlers_of_the_application(
    real_server: ServerProcess, name: str, how: tuple[str, ...]
) -> None:
    run(real_server, name)
    app = ("--app", f"{name}:{how[0]}", *how[1:])
    failed = call(real_server, "retry", name, *app)
    assert failed.exit_code == 1
    assert f"{name}-1 is parked at version 2" in failed.output
    Path("mended").touch()
    assert call(real_server, "retry", name, f"{name}-1", *app).exit_code == 0
    assert model(real_server, name) == 4
    assert call(real_server, "parked", name, "--json").output == ""


def test_skip_asks_and_rebuild_replaces_the_model(real_server: ServerProcess, name: str) -> None:
    run(real_server, name)
    app = ("--app", f"{name}:define")
    assert call(real_server, "skip", name, f"{name}-1", *app, input="n\n").exit_code == 1
    assert model(real_server, name) == 2
    assert call(real_server, "skip", name, f"{name}-1", *app, "--yes").exit_code == 0
    assert model(real_server, name) == 3
    Path("mended").touch()
    rebuilt = call(real_server, "rebuild", name, *app)
    assert rebuilt.exit_code == 0, rebuilt.output
    assert json.loads(call(real_server, "status", name, "--json").output)["build"] == 2


def test_remove_asks_and_removes_the_model_too(real_server: ServerProcess, name: str) -> None:
    run(real_server, name)
    assert call(real_server, "remove", name, input="\n").exit_code == 1
    assert model(real_server, name) == 2
    assert call(real_server, "remove", name, "--yes").exit_code == 0
    assert call(real_server, "status", name).exit_code == 1


def test_a_missing_application_is_a_usage_error(real_server: ServerProcess) -> None:
    for app in ("nothing", "no_such_module:define", "json:no_such_function"):
        refused = call(real_server, "retry", "x", "--app", app)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 4
