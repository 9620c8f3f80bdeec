"""Keeps the times of events: the server's clock is held at each time while its events are written.

The times of commits never decrease. So this is possible as long as the database has no newer
commit, as an empty one has none. Otherwise the events get the time of the load, and the user is
told.
"""

from datetime import datetime

import click

from headwater.blocking.database import BlockingDatabase
from headwater.errors import InvalidArgument, PermissionDenied
from headwater.records import microseconds_of
from headwater.transport.stepping import step


class HeldTimes:
    """The server's clock during a load.

    Attributes:
        are_kept: whether events still get the times that they had.
    """

    def __init__(self, db: BlockingDatabase, first_time: str | None) -> None:
        """*first_time*: that of the first event, to which keys before it are dated too."""
        self._db = db
        self._time = 0
        self._why = "the dump has no time of its first event"
        self.are_kept = first_time is not None
        self.new_times = 0
        if first_time is not None:
            self.hold(microseconds_of(datetime.fromisoformat(first_time), "first_time"))

    def hold(self, time: int) -> None:
        """Hold the clock at a time in microseconds, if that is possible.

        It is asked for again before each part: a new connection does not hold the clock.
        """
        # A dump of several databases may go back. Its later times then count.
        self._time = max(self._time, time)
        if not self.are_kept:
            return
        try:
            step(self._db._core._channel.read("hold_clock", self._time))  # noqa: SLF001
        except (InvalidArgument, PermissionDenied) as error:
            self.are_kept = False
            self._why = error.message

    def release(self) -> None:
        """Let the clock go on, and tell whether events got new times."""
        if self.are_kept:
            step(self._db._core._channel.read("hold_clock", None))  # noqa: SLF001
        if self.new_times:
            click.echo(
                f"warning: {self.new_times:,} events have the time of this load, and not the time "
                f"that they had ({self._why}). An empty database keeps the times",
                err=True,
            )
