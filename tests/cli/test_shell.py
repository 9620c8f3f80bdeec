"""`headwater shell`: Python statements against a running server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from headwater.cli.server_process import ServerProcess
from headwater.cli.shell import SHOWN_MAX, shell


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("shell"))) as server:
        yield server


def run(server: ServerProcess, *arguments: str, entered: str = "") -> tuple[int, str]:
    ended = CliRunner().invoke(shell, [*arguments, "--url", server.url], input=entered)
    return ended.exit_code, ended.output


def test_a_command_runs_and_its_value_is_shown(server: ServerProcess) -> None:
    assert run(server, "-c", "db.put(('balance', 'ann'), 10)")[0] == 0
    assert run(server, "-c", "db.get(('balance', 'ann'))") == (0, "10\n")


def test_standard_input_runs_line_by_line(server: ServerProcess) -> None:
    loop = "for n in range(3):\n    _ = db.append('s-1', [Event('Noted', n)])\n\n"
    assert run(server, entered=loop + "len(list(db.read('s-1')))") == (0, "3\n")


def test_the_first_items_of_an_iterator_are_shown(server: ServerProcess) -> None:
    status, said = run(server, "-c", "iter(range(100))")
    assert status == 0
    assert said.splitlines()[:2] == ["0", "1"]
    assert len(said.splitlines()) == SHOWN_MAX + 1
    assert "more" in said.splitlines()[-1]


def test_an_error_is_one_line_and_exit_status_1(server: ServerProcess) -> None:
    status, said = run(server, "-c", "db.append('s-2', [Event('Noted')], expect=7)")
    assert status == 1
    assert said.startswith("WrongVersion: ")
    assert len(said.splitlines()) == 1


def test_an_incomplete_statement_is_a_usage_error(server: ServerProcess) -> None:
    assert run(server, "-c", "db.get(")[0] != 0


SESSION = """
import os, pty, sys
pid, terminal = pty.fork()
if not pid:
    os.execv(sys.executable, [sys.executable, "-m", "headwater", "shell", "--url", sys.argv[1]])
seen = b""
for wanted, typed in ((b">>> ", sys.argv[2].encode() + b"\\n"), (sys.argv[3].encode(), b"\\x04")):
    # At the prompt the terminal is ready for keys; before it, Ctrl-D could get lost.
    while wanted not in seen or not seen.endswith(b">>> "):
        seen += os.read(terminal, 1024)
    seen = b""
    os.write(terminal, typed)
try:
    while os.read(terminal, 1024):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_lines_are_there_again_in_the_next_session(server: ServerProcess, tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "dumb"}
    up = "\x10\x10"  # Twice Ctrl-P: the line before the last.
    sessions = (("'first' + '-'", "first-"), ("'second' + '-'", "second-"), (up, "first-"))
    for typed, shown in sessions:
        subprocess.run(
            [sys.executable, "-c", SESSION, server.url, typed, f"'{shown}'"],
            env=environment,
            timeout=50,
            check=True,
        )
    file = tmp_path / "headwater/shell-history"
    assert file.read_text().splitlines() == ["'first' + '-'", "'second' + '-'", "'first' + '-'"]
    assert file.stat().st_mode & 0o777 == 0o600
