"""`headwater projection`: the projections of a database, their parked streams, and rebuilding.

Retrying, skipping and rebuilding call the application's handlers. So these commands are told where
the application defines its projections.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.handlers.application import Application, handler_options
from headwater.cli.handlers.checks import diff
from headwater.cli.tables import Row, ask, json_line, json_option, show, yes_option
from headwater.errors import InvalidArgument
from headwater.projections.state import ParkedStream

_COLUMNS: Final = (
    "name", "version", "build", "position", "lag_events", "lag_seconds", "parked",
    "next_build", "next_position",
)  # fmt: skip

_PARKED: Final = ("stream", "position", "version", "type", "attempts", "held", "since", "reason")


@click.group()
def projection() -> None:
    """Show projections, release their parked streams, rebuild and remove them."""


projection.add_command(diff)


@projection.command("list")
@connection_options
@json_option
def list_(connector: Connector, as_json: bool) -> None:
    """List the projections with their positions, lag and parked streams."""
    with connector.connect() as db:
        show(_COLUMNS, _statuses(db), as_json=as_json)


def _statuses(db: BlockingDatabase) -> Iterator[Row]:
    for name in db.projections.names():
        try:
            yield asdict(db.projection_status(name))
        except InvalidArgument:
            # Its removal is under way, or was interrupted.
            yield {**dict.fromkeys(_COLUMNS), "name": name}


@projection.command()
@connection_options
@json_option
@click.argument("name")
def status(connector: Connector, name: str, as_json: bool) -> None:
    """Show the position, the lag and the builds of a projection."""
    with connector.connect() as db:
        found = asdict(db.projection_status(name))
    if as_json:
        click.echo(json_line(found))
        return
    for label, value in found.items():
        click.echo(f"{label.replace('_', ' '):<14} {'' if value is None else value}".rstrip())


@projection.command()
@connection_options
@json_option
@click.argument("name")
def parked(connector: Connector, name: str, as_json: bool) -> None:
    """List the parked streams of a projection, with the event that failed and the reason."""
    with connector.connect() as db:
        show(_PARKED, map(_parked_row, db.projections.parked(name)), as_json=as_json)


def _parked_row(one: ParkedStream) -> Row:
    return {
        **{name: getattr(one, name) for name in _PARKED},
        "since": f"{one.time:%Y-%m-%dT%H:%M:%SZ}",
        "reason": " ".join(one.reason.split()),
    }


@projection.command()
@connection_options
@handler_options
@click.argument("name")
@click.argument("stream", required=False)
def retry(
    connector: Connector,
    name: str,
    stream: str | None,
    *,
    app_place: str,
    codec_place: str | None,
    blocking: bool,
) -> None:
    """Handle parked streams again, from the event that failed. Without STREAM: all of them.

    Exit status 1: a stream failed again and stays parked.
    """
    app = Application(connector, app_place, codec_place, blocking)
    _tell(
        app.call(
            lambda db: db.projections.retry(name, stream),
            lambda db: db.projections.retry(name, stream),
        )
    )


@projection.command()
@connection_options
@handler_options
@yes_option
@click.argument("name")
@click.argument("stream")
def skip(
    connector: Connector,
    name: str,
    stream: str,
    *,
    app_place: str,
    codec_place: str | None,
    blocking: bool,
    yes: bool,
) -> None:
    """Leave out the event of a parked stream that failed, and handle the later ones.

    Exit status 1: a later event failed, and the stream stays parked.
    """
    app = Application(connector, app_place, codec_place, blocking)
    ask(f"Leave out the failed event of {stream} in projection {name}?", yes=yes)
    _tell(
        app.call(
            lambda db: db.projections.skip(name, stream),
            lambda db: db.projections.skip(name, stream),
        )
    )


@projection.command()
@connection_options
@handler_options
@click.option(
    "--even-if-parked", is_flag=True, help="Switch even if events failed that did not fail before."
)
@click.argument("name")
def rebuild(
    connector: Connector,
    name: str,
    *,
    app_place: str,
    codec_place: str | None,
    blocking: bool,
    even_if_parked: bool,
) -> None:
    """Build the model again beside the one that readers see, and then replace that one.

    An interrupted rebuild continues where it stopped when it is run again.
    """
    app = Application(connector, app_place, codec_place, blocking)
    app.call(
        lambda db: db.projections.rebuild(name, even_if_parked=even_if_parked),
        lambda db: db.projections.rebuild(name, even_if_parked=even_if_parked),
    )
    click.echo(f"projection {name} rebuilt")


@projection.command()
@connection_options
@yes_option
@click.argument("name")
def remove(connector: Connector, name: str, yes: bool) -> None:
    """Remove a projection and its model. It must not be running."""
    with connector.connect() as db:
        ask(f"Remove projection {name} with its model?", yes=yes)
        db.projections.remove(name)
    click.echo(f"projection {name} removed")


def _tell(still_parked: list[ParkedStream]) -> None:
    for one in still_parked:
        reason = " ".join(one.reason.split())
        click.echo(f"{one.stream} is parked at version {one.version}: {reason}")
    if still_parked:
        raise click.ClickException(f"{len(still_parked)} streams stay parked")
    click.echo("no stream that was chosen is parked now")
