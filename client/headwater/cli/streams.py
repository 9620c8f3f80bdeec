"""`headwater streams` lists streams. `headwater stream` sets retention, and deletes and erases."""

import json
from collections.abc import Iterator
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.errors import NoSuchEvent

ERASED_AT_ONCE_MAX: Final = 10_000
"""The most events that one commit may erase."""


@click.command()
@connection_options
@click.option("--prefix", default="", help="Only streams whose names begin with this.")
@click.option("--categories", is_flag=True, help="List categories with their numbers of events.")
@click.option("--json", "as_json", is_flag=True, help="As JSON lines, for programs.")
def streams(connector: Connector, prefix: str, categories: bool, as_json: bool) -> None:
    """List the streams, or the categories, in order of name."""
    with connector.connect() as db:
        rows: Iterator[dict[str, Any]]
        if categories:
            found = (each for each in db.categories() if each.category.startswith(prefix))
            rows = ({"category": each.category, "events": each.events} for each in found)
        else:
            rows = (
                {
                    "stream": each.stream,
                    "version": each.version,
                    "first": each.first,
                    "begins": each.begins,
                    "max_count": each.max_count,
                    "max_age": None if each.max_age is None else each.max_age.total_seconds(),
                }
                for each in db.streams(prefix=prefix)
            )
        if as_json:
            for row in rows:
                click.echo(json.dumps(row, ensure_ascii=False))
            return
        table: Table | None = None
        for row in rows:
            if table is None:
                table = Table()
                for name, value in row.items():
                    table.add_column(
                        name.replace("_", " "),
                        justify="left" if isinstance(value, str) else "right",
                    )
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        if table is not None:
            Console().print(table)


@click.group()
def stream() -> None:
    """Set the retention of a stream, delete it, or erase the data of events."""


@stream.command()
@connection_options
@click.argument("name")
@click.option("--before", type=int, required=True, help="The first version that stays.")
def truncate(connector: Connector, name: str, before: int) -> None:
    """Hide the events of a stream below a version, permanently."""
    with connector.connect() as db:
        db.truncate(name, before=before)
    click.echo(f"{name}: events below version {before} are hidden", err=True)


@stream.command()
@connection_options
@click.argument("name")
@click.option("--max-count", type=int, help="The number of events to keep.")
@click.option("--max-age", type=float, help="Seconds for which each event is kept.")
def keep(connector: Connector, name: str, max_count: int | None, max_age: float | None) -> None:
    """Keep only the newest events of a stream. Without options, keep all from now on."""
    with connector.connect() as db:
        db.set_retention(name, max_count=max_count, max_age=max_age)
    click.echo(f"{name}: retention set", err=True)


@stream.command()
@connection_options
@click.argument("name")
@click.confirmation_option(prompt="Hide all events of the stream?")
def delete(connector: Connector, name: str) -> None:
    """Delete a stream: hide all its events. Later events continue its versions."""
    with connector.connect() as db:
        _version(db, name)
        db.delete_stream(name)
    click.echo(f"{name}: deleted", err=True)


@stream.command()
@connection_options
@click.argument("name")
@click.argument("versions", nargs=-1, required=True)
@click.confirmation_option(prompt="Erase the data of these events permanently?")
def erase(connector: Connector, name: str, versions: tuple[str, ...]) -> None:
    """Erase the data and metadata of events permanently.

    VERSIONS are numbers, or ranges such as 3-7.
    """
    parts = [_numbers(part) for part in versions]
    with connector.connect() as db:
        version, last = _version(db, name), max(part[-1] for part in parts)
        # Check before erasing anything, because erasing cannot be undone.
        if last > version:
            raise NoSuchEvent(f"stream {name!r} has no version {last}; it is at version {version}")
        for part in parts:
            for start in range(0, len(part), ERASED_AT_ONCE_MAX):
                db.erase(name, versions=part[start : start + ERASED_AT_ONCE_MAX])
    click.echo(f"{name}: {sum(map(len, parts))} events are erased", err=True)


def _version(db: BlockingDatabase, name: str) -> int:
    # Of all names with this prefix, the name itself comes first.
    found = next(db.streams(prefix=name), None)
    if found is None or found.stream != name:
        raise click.ClickException(f"there is no stream {name!r}")
    return found.version


def _numbers(part: str) -> range:
    first, dash, last = part.partition("-")
    try:
        numbers = range(int(first), int(last if dash else first) + 1)
    except ValueError as error:
        raise click.BadParameter(f"{part!r} is not a version or a range of versions") from error
    if not numbers:
        raise click.BadParameter(f"{part!r} is an empty range")
    return numbers
