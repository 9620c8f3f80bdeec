"""`headwater projection diff` and `headwater verify-projections` against a real server."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli.handlers.checks import verify_projections
from headwater.cli.projection import projection
from headwater.cli.server_process import ServerProcess

APPLICATION = """
import itertools

chance = itertools.count()


def count(tx, event):
    tx.model.add((event.stream,), event.data["n"])
    tx.model.put(("last", event.stream), event.version)
    if event.data["n"] == 5:
        tx.model.delete((event.stream,))


async def waiting(tx, event):
    count(tx, event)


def other(tx, event):
    count(tx, event)
    tx.model.add(("all",), 1)


def reading(tx, event):
    # As `count`, but with reads of what it wrote itself.
    held = tx.model.get((event.stream,), 0)
    tx.model.put((event.stream,), held + event.data["n"])
    assert dict(tx.model.scan())[(event.stream,)] == held + event.data["n"]
    tx.model.put(("last", event.stream), event.version)
    if event.data["n"] == 5:
        tx.model.delete_range((event.stream,))


def failing(tx, event):
    tx.model.put(("never",), 1)
    if event.stream.endswith("-2"):
        raise ValueError("no")
    tx.model.delete(("never",))
    count(tx, event)


def define_blocking(db):
    db.projection("NAME", category="NAME")(count)


def define(db):
    db.projection("NAME", category="NAME")(waiting)


def define_random(db):
    @db.projection("NAME", category="NAME")
    def random(tx, event):
        count(tx, event)
        tx.model.put(("chance",), next(chance))


def define_other(db):
    db.projection("NAME", category="NAME", version=2)(other)
"""


@pytest.fixture
def name(real_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A projection that has handled eight events of two streams."""
    name = "q" + uuid.uuid4().hex
    (tmp_path / f"{name}.py").write_text(APPLICATION.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with headwater.connect_blocking(real_server.url) as db:
        __import__(name).define_blocking(db)
        for n in range(8):
            db.append(f"{name}-{n % 2 + 1}", headwater.Event("Counted", {"n": n}))
        with db.run_projections():
            db.wait_for(name, db.read_all(reverse=True, limit=1).__next__().position)
    return name


def diff(server: ServerProcess, name: str, handler: str, *more: str) -> Result:
    code = ("--code", f"{name}:{handler}")
    return CliRunner().invoke(projection, ["diff", name, *code, "--url", server.url, *more])


def verify(server: ServerProcess, name: str, define: str, *more: str) -> Result:
    app = ("--app", f"{name}:{define}")
    return CliRunner().invoke(verify_projections, [*app, "--url", server.url, *more])


@pytest.mark.parametrize("handler", ["count", "waiting", "reading"])
def test_code_that_does_the_same_makes_an_equal_model(
    real_server: ServerProcess, name: str, handler: str
) -> None:
    found = diff(real_server, name, handler)
    assert found.exit_code == 0, found.output
    assert "8 events" in found.output
    assert "the models are equal" in found.output


def test_other_code_is_told_by_the_keys_that_differ(real_server: ServerProcess, name: str) -> None:
    found = diff(real_server, name, "other")
    assert found.exit_code == 1
    assert "('all',): stored absent, this code 8" in found.output
    assert "1 keys differ" in found.output


def test_the_models_are_compared_as_of_a_commit(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        newest = db.ping().commit
        db.append(f"{name}-9", headwater.Event("Counted", {"n": 1}))
    found = diff(real_server, name, "count", "--as-of", str(newest))
    assert found.exit_code == 0, found.output
    assert f"at commit {newest}: 8 events" in found.output


def test_an_event_that_fails_leaves_nothing_and_holds_its_stream(
    real_server: ServerProcess, name: str
) -> None:
    found = diff(real_server, name, "failing")
    assert found.exit_code == 1
    assert found.output.count("failed at position") == 1
    assert "ValueError: no" in found.output
    assert "never" not in found.output.replace("never ran", "")
    assert f"('last', '{name}-2'): stored 4, this code absent" in found.output


def test_nothing_is_written(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        before = db.ping().commit
        diff(real_server, name, "other")
        verify(real_server, name, "define")
        assert db.ping().commit == before


@pytest.mark.parametrize("how", [("define",), ("define_blocking", "--blocking")])
def test_a_deterministic_handler_is_verified(
    real_server: ServerProcess, name: str, how: tuple[str, ...]
) -> None:
    found = verify(real_server, name, *how)
    assert found.exit_code == 0, found.output
    assert found.output == f"{name}: equal, 8 events\n"


def test_a_handler_that_depends_on_chance_is_found(real_server: ServerProcess, name: str) -> None:
    found = verify(real_server, name, "define_random", "--blocking")
    assert found.exit_code == 1
    assert "('chance',): first run" in found.output
    assert "not deterministic: two runs differ in 1 keys" in found.output


def test_a_model_of_other_code_is_found(real_server: ServerProcess, name: str) -> None:
    found = verify(real_server, name, "define_other", "--blocking", name)
    assert found.exit_code == 1
    assert "(version 1; the code has 2) differs in 1 keys" in found.output


def test_mistakes_are_explained(real_server: ServerProcess, name: str) -> None:
    def refused(*arguments: Any) -> str:
        return str(CliRunner().invoke(projection, ["diff", *arguments]).exception)

    url = ("--url", real_server.url)
    assert "had not run" in refused("nobody", "--code", f"{name}:count", *url)
    missing = CliRunner().invoke(projection, ["diff", name, "--code", f"{name}:nothing", *url])
    assert missing.exit_code == 2
