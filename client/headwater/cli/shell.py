"""`headwater shell`: a Python prompt with a connected database.

    >>> db.put(("balance", "ann"), 10)
    >>> list(db.scan(("balance",)))

It is plain Python, so what works at the prompt can be copied into a program. It shows the value
of each expression, and the first items of an iterator.
"""

import atexit
import code
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

import headwater
from headwater.cli.connection_options import Connector, connection_options

SHOWN_MAX: Final = 20
"""The most items of an iterator that are shown."""


HISTORY_LINES_MAX: Final = 10_000
"""The most lines of earlier sessions that are kept."""


@click.command()
@connection_options
@click.option("-c", "--command", help="Run this statement and exit.")
def shell(connector: Connector, command: str | None) -> None:
    """Work with a server at a Python prompt.

    `db` is the database that headwater.connect_blocking returns, and all names of headwater are
    defined: db.get(key), db.put(key, value), db.append(stream, [Event(type, data)]). If standard
    input is not a terminal, its lines are run.

    What is typed is kept for later sessions in headwater/shell-history, in the directory of
    XDG_STATE_HOME (~/.local/state). Exit status 1: with -c or without a terminal, a statement
    failed.
    """
    with connector.connect() as db:
        names: dict[str, Any] = {name: getattr(headwater, name) for name in headwater.__all__}
        console = _Console({**names, "headwater": headwater, "db": db})
        previous_hook = sys.displayhook
        sys.displayhook = _display
        try:
            if command is not None:
                if console.push(command) and console.push(""):
                    raise click.UsageError(f"incomplete statement: {command!r}")
            elif sys.stdin.isatty():
                _complete_names(console.locals)
                _keep_history()
                pong = db.ping()
                console.interact(
                    f"Headwater at {db.address}, commit {pong.commit}; the database is `db`. "
                    "Press Ctrl-D to exit.",
                    exitmsg="",
                )
            else:
                for line in itertools.chain(sys.stdin, [""]):
                    console.push(line.rstrip("\n"))
        finally:
            sys.displayhook = previous_hook
        if console.failed and (command is not None or not sys.stdin.isatty()):
            raise SystemExit(1)


class _Console(code.InteractiveConsole):
    """Runs statements, and remembers whether one failed, for the exit status.

    Attributes:
        failed: whether a statement raised an exception or had a syntax error.
    """

    failed = False

    def showsyntaxerror(self, *arguments: Any, **options: Any) -> None:
        self.failed = True
        super().showsyntaxerror(*arguments, **options)

    def showtraceback(self) -> None:
        self.failed = True
        error = sys.exc_info()[1]
        if isinstance(error, headwater.HeadwaterError):
            # One line. A traceback through the client would not help the user.
            self.write(f"{type(error).__name__}: {error}\n")
        else:
            super().showtraceback()


def _display(value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Iterator):
        click.echo(repr(value))
        return
    for item in itertools.islice(value, SHOWN_MAX):
        click.echo(repr(item))
    if next(value, None) is not None:
        click.echo(f"… and more; only the first {SHOWN_MAX} are shown")


def _complete_names(names: Any) -> None:
    try:
        import readline
        import rlcompleter
    except ImportError:
        # Not every Python has these modules. Then there is no completion.
        return
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")


def history_file() -> Path:
    """The file of lines typed in earlier sessions, where the XDG base directories put it."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "headwater" / "shell-history"


def _keep_history() -> None:
    """Read the lines of earlier sessions, and add those of this one at its end."""
    try:
        import readline
    except ImportError:
        # As above.
        return
    path = history_file()
    try:
        # Lines may hold data and passwords, so only this user may read them.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except (OSError, RuntimeError) as error:
        click.echo(f"without history: {path}: {error}", err=True)
        return
    before = readline.get_current_history_length()

    def save() -> None:
        new = readline.get_current_history_length() - before
        readline.set_history_length(HISTORY_LINES_MAX)
        try:
            # Append: another session may have added lines meanwhile.
            readline.append_history_file(new, path)
        except OSError as error:
            click.echo(f"the history was not saved: {path}: {error}", err=True)

    atexit.register(save)
