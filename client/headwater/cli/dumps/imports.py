"""`headwater import`: events from JSON lines, message-db, and whatever adds a command.

A distribution adds one with an entry point in the group "headwater.imports": a click command, which
`import_command` makes of a function that opens a source.
"""

import csv
import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, Final

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.dump import progress_bars
from headwater.imports import (
    JsonLines,
    MessageDb,
    Source,
    import_events,
    position_of,
    positions,
    verify,
)
from headwater.imports.importing import Times

GROUP: Final = "headwater.imports"

Open = Callable[..., AbstractContextManager[Source]]


class Imports(click.Group):
    """The commands here, and those of other distributions."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_entry_points()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _entry_points():
            return own
        command = _entry_points()[cmd_name].load()
        assert isinstance(command, click.Command), f"{cmd_name} is no command"
        return command


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


@click.group("import", cls=Imports)
def import_() -> None:
    """Import events from elsewhere, with their times and ids.

    Each event is written exactly once. After an interruption, or when there are new events, run the
    same command again. At the end each event is compared with the source.

    Positions are new. `headwater import positions NAME` shows the table of old and new ones.
    """


def run_import(
    connector: Connector,
    source: Source,
    *,
    name: str,
    times: Times,
    verified: bool,
    after: Callable[[Any], object] | None = None,
) -> None:
    """Import a source, show the progress, compare, and say what was done.

    Args:
        connector, name, times, verified: from the options.
        source: open.
        after: called with the database when all events are there.
    """
    with connector.connect() as db, progress_bars() as progress:
        total = source.count()
        bar = progress.add_task("events", total=total)
        done = import_events(
            db,
            source,
            name=name,
            times=times,
            on_progress=lambda count: progress.update(bar, completed=count),
        )
        if after is not None:
            after(db)
        if verified:
            comparing = progress.add_task("comparing", total=total)
            verify(
                db,
                source,
                name=name,
                on_progress=lambda count: progress.update(comparing, completed=count),
            )
    click.echo(
        f"{done.events:,} events of import {name!r}, {done.written:,} of them new"
        + (", all equal to the source" if verified else ""),
        err=True,
    )
    if done.later:
        click.echo(
            f"warning: the times of the source went back; {done.later:,} events have the time of "
            "an earlier one",
            err=True,
        )


def import_command(command: str, opener: Open, *, default_name: str, text: str) -> click.Command:
    """A command that imports from the source that *opener* opens.

    Its own options are added to the result with `click.option` or `click.argument`; they are passed
    to *opener*.
    """

    @click.command(command, help=text)
    @connection_options
    @click.option(
        "--name", default=default_name, help="Of the import: what is repeated, and its table."
    )
    @click.option(
        "--times",
        type=click.Choice(["keep", "now"]),
        default="keep",
        help="Keep the times of the events, which needs a database without newer commits; or give "
        "them the time of now.",
    )
    @click.option("--verify/--no-verify", "verified", default=True, help="Compare all at the end.")
    def run(
        connector: Connector, *, name: str, times: Times, verified: bool, **options: Any
    ) -> None:
        with opener(**options) as source:
            run_import(connector, source, name=name, times=times, verified=verified)

    return run


_jsonl = import_command(
    "jsonl",
    lambda file: nullcontext(JsonLines(file)),
    default_name="jsonl",
    text="""Import events from FILE, one as JSON in each line.

    `stream` and `type` are required; `data`, `metadata`, `tags`, `id`, `time`, `version` and
    `position` may be there. The output of `headwater export` is taken, too.""",
)
import_.add_command(
    click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))(_jsonl)
)

_message_db = import_command(
    "message-db",
    MessageDb,
    default_name="message-db",
    text="""Import the messages of message-db from PostgreSQL.

    CONNINFO is a connection string, such as postgresql://user@host/message_store. Needs psycopg:
    pip install "headwater[postgresql]".""",
)
for _decorate in (
    click.argument("conninfo"),
    click.option("--schema", default="message_store", help="Where the table is."),
    click.option("--category", help="Only messages of this category."),
):
    _decorate(_message_db)
import_.add_command(_message_db)


@import_.command("positions")
@connection_options
@click.argument("name")
@click.option("--old", type=click.IntRange(min=0), help="Only where to go on behind this one.")
@click.option("--output", type=click.File("w"), default="-", help="A file of CSV.")
def show_positions(connector: Connector, name: str, old: int | None, output: IO[str]) -> None:
    """The old and new positions of an import, as CSV.

    With --old it is one number: who had processed the source up to that position continues behind
    it here. 0 means from the beginning.
    """
    with connector.connect() as db:
        if old is not None:
            click.echo(position_of(db, name, old) or 0)
            return
        rows = csv.writer(output, lineterminator="\n")
        rows.writerow(["old", "new"])
        rows.writerows(positions(db, name))
