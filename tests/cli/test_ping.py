import json
from pathlib import Path

from click.testing import CliRunner

from headwater.cli import main
from headwater.cli.server_process import ServerProcess


def test_ping_works_on_a_server_that_needs_a_user(tmp_path: Path) -> None:
    def run(*arguments: str, entered: str = "") -> tuple[int, str]:
        result = CliRunner().invoke(main, [*arguments, "--url", server.url], input=entered)
        return result.exit_code, result.output

    with ServerProcess(tmp_path) as server:
        (line,) = run("ping", "--json")[1].splitlines()
        row = json.loads(line)
        assert (row["address"], row["commit"]) == (server.address, 0)
        assert row["ms"] > 0
        assert run("user", "add", "ann", "--password-stdin", entered="secret\n")[0] == 0
        unknown = dict.fromkeys(row) | {"address": server.address}
        assert json.loads(run("ping", "--json")[1]) == unknown
        assert run("ping") == (0, f"{server.address}: up, and requires a user\n")
        assert run("ping", "--user", "ann", "--password", "secret")[0] == 0
        assert run("ping", "--user", "ann", "--password", "wrong")[0] == 1
        assert run("stats")[0] == 1
    assert run("ping", "--timeout", "0.5")[0] == 1
