"""Consumer groups in a dump.

A group's line is behind the events up to the group's position. So when it is loaded into an empty
database, there is nothing yet beyond that position: the events before it can be handed out once, to
park those that were parked and to acknowledge the others, without touching a later one.
"""

from collections.abc import Iterator
from typing import Any, Final

import click

from headwater.blocking.database import BlockingDatabase
from headwater.cli.dumps.removed import newest_position
from headwater.transport.stepping import step

_SETTINGS: Final = ("lease_ms", "attempts_max", "retry_ms", "parked_stream")


def _ask(db: BlockingDatabase, name: str, *arguments: Any) -> Any:
    """Send a request as the protocol has it: a dump keeps what it does not know."""
    return step(db._core._channel.read(name, *arguments))  # noqa: SLF001


class Groups:
    """The lines of the groups, in order of position.

    Attributes:
        count: the number of groups.
    """

    def __init__(self, db: BlockingDatabase, newest: int, *, wanted: bool) -> None:
        """*newest*: the position of the last event in the dump. Unless *wanted*, there are none."""
        found = db.groups.list() if wanted else []
        lines = [_group_line(db, summary.name, newest) for summary in found]
        self.count = len(lines)
        self._lines = sorted(lines, key=lambda line: line["position"], reverse=True)

    def before(self, position: int | None) -> Iterator[dict[str, Any]]:
        """The groups that go before the event at a position. None: all that are left."""
        while self._lines and (position is None or self._lines[-1]["position"] < position):
            yield self._lines.pop()


def _group_line(db: BlockingDatabase, name: str, newest: int) -> dict[str, Any]:
    figures = _ask(db, "group_info", name)
    parked = [(one.position, one.reason) for one in db.groups.parked(name)]
    return {
        "group": name,
        # It may have gone on since the commit of the dump.
        "position": min(figures["position"], newest),
        "filter": figures["filter"],
        "settings": {setting: figures[setting] for setting in _SETTINGS},
        "parked": [list(one) for one in parked if one[0] <= newest],
    }


def restore_group(db: BlockingDatabase, line: dict[str, Any]) -> None:
    """Make a group as it was. A group of this name that exists already is left alone."""
    name, position, reasons = line["group"], line["position"], dict(line["parked"])
    if name in [summary.name for summary in db.groups.list()]:
        now = db.groups.info(name)
        if (now.position, now.parked) != (position, len(reasons)):
            click.echo(
                f"group {name}: left as it is, at position {now.position} with {now.parked} parked "
                f"events; in the dump it is at {position} with {len(reasons)}",
                err=True,
            )
        return
    if newest_position(db) != position:
        # The positions are those of another database, so those of the group mean nothing here.
        click.echo(f"group {name}: not made, because the database had other events", err=True)
        return
    begin = min(position, min(reasons, default=position + 1) - 1)
    _ask(db, "group_create", name, line["filter"], begin, line["settings"])
    if begin == position:
        return
    with db.join(name, until_caught_up=True) as members:
        for delivery in members:
            reason = reasons.get(delivery.event.position)
            if reason is None:
                delivery.ack()
            else:
                delivery.park(reason)
