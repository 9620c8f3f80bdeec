"""`headwater connections`: listing and closing connections of a running server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.cli.stats import connections


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as running:
        yield running


def test_connections_are_listed_and_one_is_closed(server: ServerProcess) -> None:
    runner = CliRunner()
    with headwater.connect_blocking(server.url) as db:
        own = db.connections.whoami()
        listed = runner.invoke(connections, ["--url", server.url, "--json"])
        assert listed.exit_code == 0, listed.output
        rows = [json.loads(line) for line in listed.stdout.splitlines()]
        assert rows[0]["id"] == own.id
        assert rows[0]["address"] == own.address
        assert len(rows) == 2, "the command has a connection, too"
        table = runner.invoke(connections, ["--url", server.url])
        assert table.stdout.split()[:4] == ["ID", "ADDRESS", "USER", "CLIENT"]
        closed = runner.invoke(connections, ["close", str(own.id), "--url", server.url])
        assert closed.exit_code == 0, closed.output
        assert closed.stdout == f"connection {own.id} closed\n"
        again = runner.invoke(connections, ["close", str(own.id), "--url", server.url])
        assert again.exit_code != 0
        assert isinstance(again.exception, headwater.InvalidArgument)
        assert f"no connection {own.id}" in str(again.exception)
