"""`headwater user`, `role` and `audit` against a running server, and on a data directory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess

ADMIN = {"HEADWATER_USER": "ann", "HEADWATER_PASSWORD": "pencil"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        call(running, "user", "add", "ann", "--password-stdin", input="pencil\n")
        call(running, "user", "add", "bob", "--password-stdin", input="crayon\n")
        yield running


def call(server: ServerProcess, *arguments: str, **options: Any) -> str:
    result = CliRunner(env=ADMIN).invoke(main, [*arguments, "--url", server.url], **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(server: ServerProcess, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in call(server, *arguments, "--json").splitlines()]


def test_rights_are_given_shown_and_taken(server: ServerProcess) -> None:
    call(server, "role", "set", "clerk", "read:category:order", "append:category:order")
    call(server, "user", "grant", "bob", "read:keys:prices", "--role", "clerk")
    assert rows(server, "user", "list") == [{"user": "ann"}, {"user": "bob"}]
    assert rows(server, "user", "show", "bob") == [
        {"kind": "role", "name": "clerk"},
        {"kind": "grant", "name": "read:keys:prices"},
    ]
    assert rows(server, "user", "show") == [{"kind": "everything", "name": ""}]
    granted = [{"grant": "append:category:order"}, {"grant": "read:category:order"}]
    assert rows(server, "role", "show", "clerk") == granted
    assert [row["role"] for row in rows(server, "role", "list")] == [
        *("admin", "clerk", "reader", "writer"),
    ]
    call(server, "user", "limit", "bob", "--request-time", "2.5")
    assert rows(server, "user", "show", "bob")[-1] == {"kind": "request time", "name": "2.5 s"}
    call(server, "user", "limit", "bob")
    call(server, "user", "revoke", "bob", "--role", "clerk")
    assert rows(server, "user", "show", "bob") == [{"kind": "grant", "name": "read:keys:prices"}]
    events = [row["event"] for row in rows(server, "audit", "--limit", "100")]
    for event in ("user set", "role set", "rights granted", "rights revoked", "logged in"):
        assert event in events


def test_rights_are_given_and_shown_in_the_directory_of_a_stopped_server(
    server: ServerProcess,
) -> None:
    server.stop()
    data = ("--data", str(server.data))
    runner = CliRunner()
    runner.invoke(main, ["user", "grant", "bob", "read:streams", *data], catch_exceptions=False)
    shown = runner.invoke(main, ["user", "show", "bob", "--json", *data], catch_exceptions=False)
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        {"kind": "grant", "name": "read:streams"}
    ]
    unknown = runner.invoke(main, ["user", "show", "eve", *data])
    assert "there is no user 'eve'" in unknown.output


def test_a_changed_password_ends_open_connections_if_it_is_asked_to(server: ServerProcess) -> None:
    with headwater.connect_blocking(server.url, user="bob", password="crayon") as bob:
        bob.put("k", 1)
        call(server, "user", "passwd", "bob", "--password-stdin", input="chalk\n")
        assert bob.get("k") == 1
        ended = call(
            server,
            *("user", "passwd", "bob", "--password-stdin", "--end-connections"),
            input="brush\n",
        )
        assert ended.splitlines() == ["1 connections of bob closed", "password of bob changed"]
        with pytest.raises(headwater.AuthenticationFailed):
            bob.get("k")
    with headwater.connect_blocking(server.url, user="bob", password="brush") as again:
        assert again.get("k") == 1
        assert call(server, "connections", "close-user", "bob").startswith("1 connections")
        assert call(server, "connections", "close-user", "eve").startswith("0 connections")
