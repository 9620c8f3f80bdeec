"""`headwater group` against a real server."""

import json
import uuid
from typing import Any

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return "g" + uuid.uuid4().hex


def call(server: ServerProcess, *arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(main, ["group", *arguments, "--url", server.url], **options)


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
    listed = [line.split() for line in call(real_server, "list").output.splitlines()]
    assert listed[0] == ["NAME", "POSITION", "MEMBERS", "WAITING"]
    assert [name, "0", "0", "0"] in listed
    rows = [json.loads(line) for line in call(real_server, "list", "--json").output.splitlines()]
    assert {"name": name, "position": 0, "members": 0, "waiting": 0} in rows
    assert json.loads(call(real_server, "info", name, "--json").output)["lease"] == 5.0
    assert call(real_server, "delete", name, "--yes").output == f"group {name} deleted\n"
    assert name not in call(real_server, "list").output


def test_what_is_given_of_a_group_is_changed_and_the_rest_stays(
    real_server: ServerProcess, name: str
) -> None:
    call(real_server, "create", name, "--category", name, "--attempts", "3", "--after", "0")
    assert call(real_server, "update", name, "--lease", "7").exit_code == 0
    changed = json.loads(call(real_server, "info", name, "--json").output)
    assert (changed["lease"], changed["attempts"]) == (7.0, 3)
    assert changed["filter"] == {"category": name}
    assert call(real_server, "update", name, "--everything").exit_code == 0
    assert json.loads(call(real_server, "info", name, "--json").output)["filter"] == {}
    nothing = call(real_server, "update", name)
    assert nothing.exit_code == 2
    assert "at least one setting" in nothing.output


def test_what_takes_something_away_from_a_group_asks_first(
    real_server: ServerProcess, name: str
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        db.append(f"{name}-1", headwater.Event("Happened"))
        db.groups.create(name, category=name)
        with db.join(name, until_caught_up=True) as group:
            for delivery in group:
                delivery.park("no route")
        position = db.groups.info(name).position
        for arguments in (
            ("discard", name, "--all"),
            ("update", name, "--after", "0"),
            ("delete", name),
        ):
            # Without a terminal nobody can answer, so nothing is done.
            for answer in ("n\n", ""):
                asked = call(real_server, *arguments, input=answer)
                assert asked.exit_code == 1
                assert "[y/N]" in asked.output
            info = db.groups.info(name)
            assert (info.position, info.parked) == (position, 1)
        assert call(real_server, "delete", name, input="y\n").exit_code == 0
        assert name not in [each.name for each in db.groups.list()]


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
    assert len(lines) == 4
    assert lines[0].split()[:3] == ["POSITION", "ATTEMPTS", "TIME"]
    position, attempts, _, stream, version, event_type, *reason = lines[1].split()
    assert (attempts, stream, version, event_type) == ("1", f"{name}-0", "1", "Happened")
    assert reason == ["no", "route"]
    assert call(real_server, "replay", name, position).output == "1 replayed\n"
    assert call(real_server, "discard", name, "--all", "--yes").output == "2 discarded\n"
    (head,) = call(real_server, "parked", name).output.splitlines()
    assert head.split() == lines[0].split()
    assert call(real_server, "parked", name, "--json").output == ""


def test_an_error_is_reported_in_one_line(real_server: ServerProcess, name: str) -> None:
    for arguments in (("info", name), ("delete", name), ("parked", name), ("replay", name, "1")):
        failed = call(real_server, *arguments)
        assert failed.exit_code == 1
        assert failed.stderr == f"Error: there is no group '{name}'\n"
    call(real_server, "create", name)
    assert "there is a group" in call(real_server, "create", name).output
    assert "event 7 is not parked" in call(real_server, "discard", name, "7", "--yes").output
    neither = call(real_server, "replay", name)
    assert neither.exit_code == 2
    assert "give either positions or --all" in neither.output
