"""How commands end: one set of exit statuses, and never a traceback for the user."""

import importlib
import importlib.metadata
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from headwater.cli import GROUP, TRACEBACK, main
from headwater.cli.tables import show
from headwater_protocol import exit_codes
from headwater_protocol.errors import Conflict

SERVER_COMMANDS = {"serve", "check", "repair", "restore"}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command and subcommand, with its words."""
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            for word, sub in command.commands.items():
                yield f"{name} {word}", sub
        elif command is not None:
            yield name, command


def test_a_command_of_another_version_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("headwater.cli.user:no_such_command", "headwater.no_such_module:command"):
        point = importlib.metadata.EntryPoint("strange", value, GROUP)
        monkeypatch.setattr("headwater.cli._entry_points", lambda point=point: {"strange": point})
        helped = CliRunner().invoke(main, ["--help"])
        assert helped.exit_code == 0
        ended = CliRunner().invoke(main, ["strange", "--whatever"])
        assert ended.exit_code == exit_codes.FAILED
        assert "which is not installed" in ended.stderr


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (Conflict("somebody was first"), exit_codes.FAILED),
        (OSError(28, "No space left on device"), exit_codes.FAILED),
        (ZeroDivisionError("ours"), exit_codes.FAILED),
        (click.Abort(), exit_codes.FAILED),
        (click.UsageError("no such thing"), exit_codes.USAGE),
        (KeyboardInterrupt(), exit_codes.INTERRUPTED),
    ],
)
def test_an_error_is_a_line_on_standard_error_and_a_status(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int
) -> None:
    @click.command()
    def fails() -> None:
        raise raised

    monkeypatch.setattr(main, "get_command", lambda *_: fails)
    ended = CliRunner().invoke(main, ["fails"])
    assert ended.exit_code == status
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1]


def test_an_unexpected_error_shows_its_place_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(main, "get_command", lambda *_: fails)
    monkeypatch.setenv(TRACEBACK, "1")
    ended = CliRunner().invoke(main, ["fails"])
    assert isinstance(ended.exception, ZeroDivisionError)


def test_the_help_and_the_guide_list_every_status() -> None:
    helped = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    guide = (Path(__file__).parents[2] / "docs/guide/command-line.md").read_text()
    for status, meaning in exit_codes.MEANINGS.items():
        assert f"{status}: {meaning}" in helped
        assert f"| {status} | {meaning} |" in guide


def test_every_command_has_a_line_of_help_that_is_not_cut_off() -> None:
    for words, command in commands():
        first = command.get_short_help_str(limit=1000)
        assert first, words
        assert len(first) <= 90, words


def test_every_listing_has_json_and_every_destructive_command_has_yes() -> None:
    found = {
        words: {name for one in command.params for name in one.opts}
        for words, command in commands()
    }
    for words in (
        "streams", "group list", "group parked", "user list", "projection list",
        "projection parked", "read", "tail", "get", "stats",
    ):  # fmt: skip
        assert "--json" in found[words], words
    for words in (
        "stream truncate", "stream keep", "stream delete", "stream erase", "group delete",
        "group discard", "group update", "user remove", "projection skip", "projection remove",
        "repair",
    ):  # fmt: skip
        assert "--yes" in found[words], words


def test_a_listing_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    show(("name", "max_age"), [], as_json=False)
    assert capsys.readouterr().out == "NAME  MAX AGE\n"
    show(("name",), [], as_json=True)
    assert capsys.readouterr().out == ""


def test_a_listing_does_not_let_a_name_control_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(("name",), [{"name": "a\x1b[2Jb\nc"}], as_json=False)
    assert capsys.readouterr().out == "NAME\na\\x1b[2Jb\\nc\n"


def test_a_terminal_that_cannot_show_a_name_gets_its_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def names(as_json: bool) -> None:
        show(("name",), [{"name": "ŵ"}], as_json=as_json)

    for options, line in (((), rb"\u0175"), (("--json",), rb'{"name": "\u0175"}')):
        written = io.BytesIO()
        terminal = io.TextIOWrapper(written, encoding="latin-1")
        with monkeypatch.context() as patched:
            patched.setattr(main, "get_command", lambda *_: names)
            patched.setattr(sys, "stdout", terminal)
            main(["names", *options], standalone_mode=False)
            terminal.flush()
        assert written.getvalue().splitlines()[-1] == line


def test_commands_of_the_server_use_the_same_statuses() -> None:
    for name in SERVER_COMMANDS:
        module: Any = importlib.import_module(f"headwater_server.cli.{name}")
        source = Path(module.__file__).read_text()
        assert not re.search(r"sys\.exit\(\d", source), name
