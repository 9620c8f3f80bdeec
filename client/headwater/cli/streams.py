"""`headwater streams` lists streams. `headwater stream` sets retention, and deletes and erases."""

from collections.abc import Iterator
from typing import Final

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import Row, ask, json_option, show, yes_option
from headwater.errors import NoSuchEvent
from headwater.reads.listing import StreamInfo

ERASED_AT_ONCE_MAX: Final = 10_000
"""The most events that one commit may erase."""


_COLUMNS: Final = ("stream", "version", "first", "begins", "max_count", "max_age")


@click.command()
@connection_options
@click.option("--prefix", default="", help="Only streams whose names begin with this.")
@click.option("--categories", is_flag=True, help="List categories with their numbers of events.")
@json_option
def streams(connector: Connector, prefix: str, categories: bool, as_json: bool) -> None:
    """List the streams, or the categories, in order of name.

    `version` is that of the newest event, `first` that of the oldest one that can be read. A stream
    `begins` after the version at which it was last deleted. `max_age` is in seconds.
    """
    with connector.connect() as db:
        if categories:
            show(("category", "events"), _categories(db, prefix), as_json=as_json)
        else:
            show(_COLUMNS, _streams(db, prefix), as_json=as_json)


def _categories(db: BlockingDatabase, prefix: str) -> Iterator[Row]:
    for each in db.categories():
        if each.category.startswith(prefix):
            yield {"category": each.category, "events": each.events}


def _streams(db: BlockingDatabase, prefix: str) -> Iterator[Row]:
    for each in db.streams(prefix=prefix):
        yield {
            "stream": each.stream,
            "version": each.version,
            "first": each.first,
            "begins": each.begins,
            "max_count": each.max_count,
            "max_age": None if each.max_age is None else each.max_age.total_seconds(),
        }


@click.group()
def stream() -> None:
    """Set the retention of a stream, delete it, or erase the data of events."""


@stream.command()
@connection_options
@click.argument("name")
@click.option("--before", type=int, required=True, help="The first version that stays.")
@yes_option
def truncate(connector: Connector, name: str, before: int, yes: bool) -> None:
    """Hide the events of a stream below a version, permanently."""
    with connector.connect() as db:
        _version(db, name)
        ask(f"Hide the events of {name} below version {before} permanently?", yes=yes)
        db.truncate(name, before=before)
    click.echo(f"{name}: events below version {before} are hidden", err=True)


@stream.command()
@connection_options
@click.argument("name")
@click.option("--max-count", type=int, help="The number of events to keep.")
@click.option("--max-age", type=float, help="Seconds for which each event is kept.")
@yes_option
def keep(
    connector: Connector, name: str, max_count: int | None, max_age: float | None, yes: bool
) -> None:
    """Keep only the newest events of a stream. Without options, keep all from now on.

    Events that a limit hides stay hidden when the limit is removed.
    """
    with connector.connect() as db:
        found = _found(db, name)
        if found is not None and (max_count, max_age) != (None, None):
            ask(f"Hide the events of {name} beyond these limits permanently?", yes=yes)
        db.set_retention(name, max_count=max_count, max_age=max_age)
    there = "" if found is not None else "; the stream has no events yet"
    click.echo(f"{name}: retention set{there}", err=True)


@stream.command()
@connection_options
@click.argument("name")
@yes_option
def delete(connector: Connector, name: str, yes: bool) -> None:
    """Delete a stream: hide all its events. Later events continue its versions."""
    with connector.connect() as db:
        version = _version(db, name)
        ask(f"Hide all events of {name}, up to version {version}, permanently?", yes=yes)
        db.delete_stream(name)
    click.echo(f"{name}: deleted", err=True)


@stream.command()
@connection_options
@click.argument("name")
@click.argument("versions", nargs=-1, required=True)
@yes_option
def erase(connector: Connector, name: str, versions: tuple[str, ...], yes: bool) -> None:
    """Erase the data and metadata of events permanently.

    VERSIONS are numbers, or ranges such as 3-7.
    """
    parts = [_numbers(part) for part in versions]
    with connector.connect() as db:
        version, last = _version(db, name), max(part[-1] for part in parts)
        # Check before erasing anything, because erasing cannot be undone.
        if last > version:
            raise NoSuchEvent(f"stream {name!r} has no version {last}; it is at version {version}")
        ask(f"Erase the data of {sum(map(len, parts))} events of {name} permanently?", yes=yes)
        for part in parts:
            for start in range(0, len(part), ERASED_AT_ONCE_MAX):
                db.erase(name, versions=part[start : start + ERASED_AT_ONCE_MAX])
    click.echo(f"{name}: {sum(map(len, parts))} events are erased", err=True)


def _found(db: BlockingDatabase, name: str) -> StreamInfo | None:
    # Of all names with this prefix, the name itself comes first.
    found = next(db.streams(prefix=name), None)
    return found if found is not None and found.stream == name else None


def _version(db: BlockingDatabase, name: str) -> int:
    found = _found(db, name)
    if found is None:
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
