"""Parked events that can no longer be read: they count as done, and hold their streams no longer.

An event is hidden when it is truncated, pushed out by a rule of retention, or its stream is
deleted. A rule does not know which groups have parked what it hides. So a group looks: at the
parked event of a stream when the stream gets a new event, and at all parked events in turn, some
each second.
"""

from typing import Final

from headwater_server.engine.consumer_groups.host import Host
from headwater_server.engine.consumer_groups.progress import GroupProgress
from headwater_server.engine.consumer_groups.schedule import GroupSchedule
from headwater_server.engine.consumer_groups.streams import StreamProgress
from headwater_server.engine.settings import SECOND_US

LOOK_AFTER_US: Final = SECOND_US
"""Time between two looks at parked events in turn."""

LOOKED_AT_MAX: Final = 100
"""Parked events that one look is at. It reads each of them."""


class HiddenEvents:
    """Finds the hidden events among the parked ones of a group."""

    def __init__(self, host: Host, progress: GroupProgress, schedule: GroupSchedule) -> None:
        self._host = host
        self._progress = progress
        self._schedule = schedule
        self._looked_at = 0
        self._after = 0

    def release(self, stream: StreamProgress) -> None:
        """Forget the parked events that hold a stream and are hidden."""
        while stream.is_held(hold=self._progress.hold) and self._host.hides:
            if self._host.event(stream.parked[0]) is not None:
                return
            self._progress.forget_hidden(stream, stream.parked[0])

    def look(self, now: int) -> None:
        """Look at the next parked events if it is time, and forget those that are hidden."""
        due = self.next_time
        if due is None or now < due:
            return
        self._looked_at = now
        number = self._progress.definition.number
        entries = self._host.parked_entries(number, self._after, LOOKED_AT_MAX)
        for position, entry in entries:
            stream = self._progress.stream(entry.stream)
            if position in stream.parked and self._host.event(position) is None:
                self._progress.forget_hidden(stream, position)
                self._schedule.place(stream, now)
        self._after = entries[-1][0] if len(entries) == LOOKED_AT_MAX else 0

    @property
    def next_time(self) -> int | None:
        """When to look next; None: there is nothing to look at."""
        if not self._progress.parked_count or not self._host.hides:
            return None
        return self._looked_at + LOOK_AFTER_US
