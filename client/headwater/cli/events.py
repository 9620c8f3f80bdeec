"""`headwater read` shows events; `headwater tail` shows the newest ones, and new ones as they come.

Data and metadata are shown as JSON with tags, as in a dump, so both work whatever the codec of the
application is.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

import click

from headwater.cli.connection_options import Connector, connection_options
from headwater.cli.dumps.removed import newest_position
from headwater.cli.dumps.tagged_json import value_to_json
from headwater.cli.tables import Listing, Row, json_line, json_option, show
from headwater.codecs.codec import RawCodec
from headwater.feeds.items import EventBatch
from headwater.records import RecordedEvent

F = TypeVar("F", bound=Callable[..., Any])

READ_DEFAULT: Final = 100
"""Events that `read` shows at most, unless it is told another number."""

TAIL_DEFAULT: Final = 10
"""Past events that `tail` begins with."""

_COLUMNS: Final = ("position", "stream", "version", "time", "type", "data")


def _filter_options(command: F) -> F:
    for option in (
        click.option("--tag", "tags", multiple=True, help="Only with this tag; may be repeated."),
        click.option("--type", "types", multiple=True, help="Only this type; may be repeated."),
        click.option("--prefix", help="Only events of streams whose names begin with this."),
        click.option("--category", help="Only events of streams of this category."),
        click.argument("stream", required=False),
    ):
        command = option(command)
    return command


def _filter(stream: str | None, given: dict[str, Any]) -> dict[str, Any]:
    lists = {name: list(given.pop(name)) or None for name in ("types", "tags")}
    if stream is not None and (given["category"] or given["prefix"]):
        raise click.UsageError("give either STREAM or --category or --prefix")
    return {"stream": stream, **given, **lists}


@click.command()
@connection_options
@json_option
@_filter_options
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    help="Only events after this position. With --reverse: before it.",
)
@click.option("--reverse", is_flag=True, help="The newest events first.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=READ_DEFAULT,
    help="The maximum number of events.",
)
@click.option("--commit", type=click.IntRange(min=0), help="As of this commit.  [default: newest]")
def read(
    connector: Connector,
    stream: str | None,
    *,
    after: int,
    reverse: bool,
    limit: int,
    commit: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show the events of STREAM, or of all streams, in the order of their positions."""
    wanted = _filter(stream, given)
    with connector.connect(codec=RawCodec()) as db:
        source = db if commit is None else db.at(commit=commit)
        events = source.read_all(**wanted, after=after, reverse=reverse, limit=limit)
        show(_COLUMNS, _rows(events, as_json), as_json=as_json)


@click.command()
@connection_options
@json_option
@_filter_options
@click.option("--after", type=click.IntRange(min=0), help="Begin after this position.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=0),
    default=TAIL_DEFAULT,
    help="Past events to begin with.",
)
@click.option("--limit", type=click.IntRange(min=1), help="End after this number of events.")
def tail(
    connector: Connector,
    stream: str | None,
    *,
    after: int | None,
    count: int,
    limit: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show the newest events of STREAM, or of all streams, and then new ones as they come.

    It follows until Ctrl-C, or until --limit events were shown.
    """
    wanted = _filter(stream, given)
    listing = Listing(_COLUMNS, as_json=as_json)
    left = limit
    with connector.connect(codec=RawCodec()) as db:
        if after is None:
            newest = list(db.read_all(**wanted, reverse=True, limit=count)) if count else []
            after = newest[-1].position - 1 if newest else newest_position(db)
        with db.subscribe(after=after, **wanted) as feed:
            for item in feed:
                if isinstance(item, EventBatch):
                    shown = list(islice(item, left))
                    listing.add(_rows(shown, as_json))
                    left = None if left is None else left - len(shown)
                if left == 0:
                    return


def _rows(events: Iterable[RecordedEvent], as_json: bool) -> Iterable[Row]:
    return map(_json_row if as_json else _row, events)


def _row(event: RecordedEvent) -> Row:
    return {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "time": f"{event.time:%Y-%m-%dT%H:%M:%S.%fZ}",
        "type": event.type,
        "data": "(erased)" if event.erased else json_line(value_to_json(event.data)),
    }


def _json_row(event: RecordedEvent) -> Row:
    return {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "commit": event.commit,
        "time": event.time.isoformat(),
        "id": str(event.id),
        "type": event.type,
        "data": None if event.erased else value_to_json(event.data),
        "metadata": None if event.metadata is None else value_to_json(event.metadata),
        "tags": list(event.tags),
        "erased": event.erased,
    }
