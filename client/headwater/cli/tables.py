"""Listings: a head line and aligned columns for people, JSON lines for programs.

Rows are printed as they arrive, so a listing of a million streams needs no memory. The first rows
decide the widths of the columns.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import click
from rich.cells import cell_len

F = TypeVar("F", bound=Callable[..., Any])

ROWS_MEASURED_MAX: Final = 200
"""The rows that decide the widths of the columns. Later ones may be wider, and then stick out."""

Row = dict[str, Any]


def json_option(command: F) -> F:
    """Add --json to a command, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="As JSON lines, for programs.")(
        command
    )


def yes_option(command: F) -> F:
    """Add --yes to a command that asks before it acts, as `yes`."""
    return click.option("--yes", is_flag=True, help="Do it without asking.")(command)


def ask(question: str, *, yes: bool) -> None:
    """Ask for confirmation, unless --yes was given. If it is declined, the command ends.

    A command asks after it has checked its arguments, and before it changes anything.
    """
    if not yes:
        click.confirm(question, abort=True, err=True)


def show(columns: Sequence[str], rows: Iterable[Row], *, as_json: bool) -> None:
    """Print rows that have these columns. Without rows there is still a head, but no JSON line."""
    Listing(columns, as_json=as_json).add(rows)


class Listing:
    """Rows that are printed as they are added, below one head."""

    def __init__(self, columns: Sequence[str], *, as_json: bool) -> None:
        self._columns = columns
        self._as_json = as_json
        self._widths: list[int] | None = None

    def add(self, rows: Iterable[Row]) -> None:
        """Print more rows. The first ones decide the widths."""
        if self._as_json:
            for row in rows:
                click.echo(json_line(row))
            return
        texts = ([_shown(row[name]) for name in self._columns] for row in rows)
        if self._widths is None:
            measured = list(islice(texts, ROWS_MEASURED_MAX))
            head = [name.replace("_", " ").upper() for name in self._columns]
            columns = zip(head, *measured, strict=True)
            self._widths = [max(map(cell_len, column)) for column in columns]
            for line in (head, *measured):
                click.echo(_aligned(line, self._widths))
        for line in texts:
            click.echo(_aligned(line, self._widths))


def json_line(value: Any) -> str:
    """A value as one line of JSON, in what the terminal or pipe can take."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return json.dumps(value, ensure_ascii=encoding != "utf8", default=str)


def _aligned(texts: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        text + " " * (width - cell_len(text)) for text, width in zip(texts, widths, strict=True)
    )
    return "  ".join(padded).rstrip()


def _shown(value: Any) -> str:
    """A value on one line, without characters that a terminal would obey."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
