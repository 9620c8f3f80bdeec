"""`headwater group` against a real server."""

import uuid

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return "g" + uuid.uuid4().hex


def call(server: ServerProcess, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["group", *arguments, "--url", server.url])


def test_a_group_is_created_shown_listed_and_deleted(real_server: ServerProcess, name: str) -> None:
    made = call(
        real_server,
        *("create", name, "--category", name, "--type", "A", "--type", "B"),
        *("--attempts", "3", "--lease", "5", "--parked-stream", "continue"),
    )
    assert made.output == f"group {name} created; it begins after position 0\n"
    shown = call(real_server, "info", name).output
    assert f'"category": "{name}"' in shown
    assert "attempts       3\n" in shown
    assert "lease          5 s\n" in shown
    assert "parked stream  continue\n" in shown
    assert f"{name}\t0\t0\n" in call(real_server, "list").output
    assert call(real_server, "delete", name).output == f"group {name} deleted\n"
    assert name not in call(real_server, "list").output


def test_a_group_can_start_with_new_events(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        newest = db.append(name, headwater.Event("Happened")).last_position
    refused = call(real_server, "create", name, "--now", "--after", "1")
    assert refused.exit_code == 2
    assert "either --after or --now" in refused.output
    made = call(real_server, "create", name, "--now")
    assert made.output == f"group {name} created; it begins after position {newest}\n"


def test_parked_events_are_listed_replayed_and_discarded(
    real_server: ServerProcess, name: str
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        for n in range(3):
            db.append(f"{name}-{n}", headwater.Event("Happened", n))
        db.groups.create(name, category=name)
        with db.join(name, until_caught_up=True) as group:
            for delivery in group:
                delivery.park("no\nroute")
    lines = call(real_server, "parked", name).output.splitlines()
    assert len(lines) == 3
    position, attempts, _, what, reason = lines[0].split("\t")
    assert (attempts, what, reason) == ("1", f"{name}-0@1 Happened", "no route")
    assert call(real_server, "replay", name, position).output == "1 replayed\n"
    assert call(real_server, "discard", name, "--all").output == "2 discarded\n"
    assert call(real_server, "parked", name).output == ""


def test_an_error_is_reported_in_one_line(real_server: ServerProcess, name: str) -> None:
    for arguments in (("info", name), ("delete", name), ("parked", name), ("replay", name, "1")):
        failed = call(real_server, *arguments)
        assert failed.exit_code == 1
        assert failed.output == f"Error: there is no group '{name}'\n"
    call(real_server, "create", name)
    assert "there is a group" in call(real_server, "create", name).output
    assert "event 7 is not parked" in call(real_server, "discard", name, "7").output
    neither = call(real_server, "replay", name)
    assert neither.exit_code == 2
    assert "give either positions or --all" in neither.output
