"""`headwater group`: administration of consumer groups."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.tables import Row, ask, json_line, json_option, show, yes_option
from headwater.codecs.codec import RawCodec
from headwater.groups.administration import ParkedEvent

_PARKED: Final = ("position", "attempts", "time", "stream", "version", "type", "reason")


@click.group()
def group() -> None:
    """Create, change, show and delete consumer groups, and manage their parked events."""


@group.command("list")
@connection_options
@json_option
def list_(connector: Connector, as_json: bool) -> None:
    """List the groups: name, position, consumers."""
    with connector.connect() as db:
        rows = (
            {
                "name": each.name,
                "position": each.position,
                "members": each.members,
                "waiting": each.waiting,
            }
            for each in db.groups.list()
        )
        show(("name", "position", "members", "waiting"), rows, as_json=as_json)


@group.command()
@connection_options
@json_option
@click.argument("name")
def info(connector: Connector, name: str, as_json: bool) -> None:
    """Show the settings and the state of a group."""
    with connector.connect() as db:
        found = db.groups.info(name)
    if as_json:
        click.echo(json_line({**dataclasses.asdict(found), "lag": found.lag}))
        return
    rows = {
        "filter": json.dumps(found.filter, ensure_ascii=False),
        "position": found.position,
        "newest": found.newest,
        "lag": found.lag,
        "members": found.members,
        "in flight": found.in_flight,
        "retrying": found.retrying,
        "parked": found.parked,
        "waiting": found.waiting,
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


def _setting_options(*, defaults: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def told(what: str, default: str) -> str:
        return f"{what}  [default: {default}]" if defaults else what

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option(
                "--lease", type=float, help=told("Seconds a consumer may take per event.", "30")
            ),
            click.option(
                "--attempts",
                type=int,
                help=told("Deliveries after which an event is parked; 0: never.", "10"),
            ),
            click.option(
                "--retry-delay", type=float, help=told("Seconds until the second attempt.", "1")
            ),
            click.option(
                "--parked-stream",
                type=click.Choice(["hold", "continue"]),
                help=told("Whether a stream waits for its parked event.", "hold"),
            ),
        ):
            command = option(command)
        return command

    return add


@group.command()
@connection_options
@_filter_options
@click.option(
    "--after", type=click.IntRange(min=0), help="Begin after this position.  [default: 0]"
)
@click.option("--now", is_flag=True, help="Deliver only new events.")
@_setting_options(defaults=True)
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
@_filter_options
@click.option("--everything", is_flag=True, help="Remove the filter.")
@click.option("--after", type=click.IntRange(min=0), help="Start again after this position.")
@_setting_options(defaults=False)
@yes_option
@click.argument("name")
def update(
    connector: Connector,
    name: str,
    *,
    after: int | None,
    types: tuple[str, ...],
    tags: tuple[str, ...],
    yes: bool,
    **rest: Any,
) -> None:
    """Change the settings of a group. What is not given stays as it is.

    Consumers stay connected, and what they hold is delivered again. With --after the group starts
    again from there, so the command asks first.
    """
    given = {"types": types or None, "tags": tags or None, "after": after, **rest}
    if all(value is None or value is False for value in given.values()):
        raise click.UsageError("give at least one setting to change")
    with connector.connect() as db:
        if after is not None:
            position = db.groups.info(name).position
            ask(f"Move group {name} from position {position} to {after}?", yes=yes)
        db.groups.update(name, **given)
    click.echo(f"group {name} changed")


@group.command()
@connection_options
@yes_option
@click.argument("name")
def delete(connector: Connector, name: str, yes: bool) -> None:
    """Delete a group, its position and its parked events."""
    with connector.connect() as db:
        found = db.groups.info(name)
        ask(
            f"Delete group {name} at position {found.position} with {found.parked} parked events?",
            yes=yes,
        )
        db.groups.delete(name)
    click.echo(f"group {name} deleted")


@group.command()
@connection_options
@json_option
@click.option("--limit", type=click.IntRange(min=1), help="The maximum number of events.")
@click.argument("name")
def parked(connector: Connector, name: str, limit: int | None, as_json: bool) -> None:
    """List the parked events. An event without stream is gone: it was truncated or deleted."""
    # The codec of the application is not needed, since no data is shown.
    with connector.connect(codec=RawCodec()) as db:
        show(_PARKED, map(_parked_row, db.groups.parked(name, limit=limit)), as_json=as_json)


def _parked_row(one: ParkedEvent) -> Row:
    event = one.event
    return {
        "position": one.position,
        "attempts": one.attempts,
        "time": f"{one.time:%Y-%m-%dT%H:%M:%SZ}",
        "stream": None if event is None else event.stream,
        "version": None if event is None else event.version,
        "type": None if event is None else event.type,
        "reason": " ".join(one.reason.split()),
    }


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
@yes_option
@click.argument("name")
@click.argument("positions", type=click.IntRange(min=1), nargs=-1)
def discard(
    connector: Connector, all_: bool, name: str, positions: tuple[int, ...], yes: bool
) -> None:
    """Discard parked events: they count as done, and are never delivered again."""
    chosen = _positions(all_, positions)
    with connector.connect() as db:
        count = db.groups.info(name).parked if chosen is None else len(chosen)
        ask(f"Discard {count} parked events of group {name}?", yes=yes)
        count = db.groups.discard(name, chosen)
    click.echo(f"{count} discarded")
