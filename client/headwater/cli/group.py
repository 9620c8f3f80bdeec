"""`headwater group`: administration of consumer groups."""

import json
from collections.abc import Callable
from typing import Any

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.groups.administration import ParkedEvent


@click.group()
def group() -> None:
    """Create, show and delete consumer groups, and manage their parked events."""


@group.command("list")
@connection_options
def list_(connector: Connector) -> None:
    """List the groups: name, position, consumers."""
    with connector.connect() as db:
        for summary in db.groups.list():
            click.echo(f"{summary.name}\t{summary.position}\t{summary.members}")


@group.command()
@connection_options
@click.argument("name")
def info(connector: Connector, name: str) -> None:
    """Show the settings and the state of a group."""
    with connector.connect() as db:
        found = db.groups.info(name)
    rows = {
        "filter": json.dumps(found.filter, ensure_ascii=False),
        "position": found.position,
        "newest": found.newest,
        "lag": found.lag,
        "members": found.members,
        "in flight": found.in_flight,
        "retrying": found.retrying,
        "parked": found.parked,
        "parked stream": found.parked_stream,
        "attempts": found.attempts or "any number",
        "lease": f"{found.lease:g} s",
        "retry delay": f"{found.retry_delay:g} s",
    }
    for label, value in rows.items():
        click.echo(f"{label:<14} {value}")


def _filter_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--stream", help="Only events of this stream."),
        click.option("--category", help="Only events of streams of this category."),
        click.option("--prefix", help="Only events of streams whose names begin with this."),
        click.option("--type", "types", multiple=True, help="Only this type; may be repeated."),
        click.option("--tag", "tags", multiple=True, help="Only with this tag; may be repeated."),
    ):
        command = option(command)
    return command


@group.command()
@connection_options
@_filter_options
@click.option(
    "--after", type=click.IntRange(min=0), help="Begin after this position.  [default: 0]"
)
@click.option("--now", is_flag=True, help="Deliver only new events.")
@click.option("--lease", type=float, help="Seconds a consumer may take per event.  [default: 30]")
@click.option(
    "--attempts",
    type=int,
    help="Deliveries after which an event is parked; 0: never.  [default: 10]",
)
@click.option("--retry-delay", type=float, help="Seconds until the second attempt.  [default: 1]")
@click.option(
    "--parked-stream",
    type=click.Choice(["hold", "continue"]),
    help="Whether a stream waits for its parked event.  [default: hold]",
)
@click.argument("name")
def create(
    connector: Connector,
    name: str,
    *,
    after: int | None,
    now: bool,
    types: tuple[str, ...],
    tags: tuple[str, ...],
    **rest: Any,
) -> None:
    """Create a group."""
    if now and after is not None:
        raise click.UsageError("give either --after or --now")
    begin = None if now else after or 0
    with connector.connect() as db:
        position = db.groups.create(
            name, after=begin, types=types or None, tags=tags or None, **rest
        )
    click.echo(f"group {name} created; it begins after position {position}")


@group.command()
@connection_options
@click.argument("name")
def delete(connector: Connector, name: str) -> None:
    """Delete a group and its parked events."""
    with connector.connect() as db:
        db.groups.delete(name)
    click.echo(f"group {name} deleted")


@group.command()
@connection_options
@click.option("--limit", type=click.IntRange(min=1), help="The maximum number of events.")
@click.argument("name")
def parked(connector: Connector, name: str, limit: int | None) -> None:
    """List the parked events: position, attempts, time, event, reason."""
    with connector.connect() as db:
        for one in db.groups.parked(name, limit=limit):
            click.echo(_parked_line(one))


def _parked_line(one: ParkedEvent) -> str:
    what = (
        "gone" if one.event is None else f"{one.event.stream}@{one.event.version} {one.event.type}"
    )
    reason = " ".join(one.reason.split())
    return f"{one.position}\t{one.attempts}\t{one.time:%Y-%m-%dT%H:%M:%SZ}\t{what}\t{reason}"


def _positions(all_: bool, positions: tuple[int, ...]) -> list[int] | None:
    if all_ == bool(positions):
        raise click.UsageError("give either positions or --all")
    return None if all_ else list(positions)


@group.command()
@connection_options
@click.option("--all", "all_", is_flag=True, help="All parked events.")
@click.argument("name")
@click.argument("positions", type=click.IntRange(min=1), nargs=-1)
def replay(connector: Connector, all_: bool, name: str, positions: tuple[int, ...]) -> None:
    """Deliver parked events again, in order."""
    chosen = _positions(all_, positions)
    with connector.connect() as db:
        count = db.groups.replay(name, chosen)
    click.echo(f"{count} replayed")


@group.command()
@connection_options
@click.option("--all", "all_", is_flag=True, help="All parked events.")
@click.argument("name")
@click.argument("positions", type=click.IntRange(min=1), nargs=-1)
def discard(connector: Connector, all_: bool, name: str, positions: tuple[int, ...]) -> None:
    """Discard parked events: they count as done."""
    chosen = _positions(all_, positions)
    with connector.connect() as db:
        count = db.groups.discard(name, chosen)
    click.echo(f"{count} discarded")
