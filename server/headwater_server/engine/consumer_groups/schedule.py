"""The queues in which the streams of a consumer group wait while no member has their next event.

    settling --its record is durable--> ready, or quarantined --a member takes it--> leased
        ^                                 ^
        '-- written <-- changed           '--its pause is over-- retrying

A stream is in one of these queues at most (`waits`), or leased (`lease`), or idle, or held.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

from headwater_server.engine.consumer_groups.streams import StreamProgress
from headwater_server.engine.settings import SECOND_US

RETRY_US_MAX: Final = 60 * SECOND_US
"""The longest pause between attempts to which the server doubles a group's own."""


class GroupSchedule:
    """The streams that wait for something.

    Attributes:
        ready: streams whose next event can be delivered.
        quarantined: likewise, but the member that last had that event died or fell silent.
    """

    def __init__(self, wall_clock: Callable[[], int], *, hold: bool) -> None:
        self.ready: deque[StreamProgress] = deque()
        self.quarantined: deque[StreamProgress] = deque()
        self._wall_clock = wall_clock
        self._hold = hold
        self._retries: list[tuple[int, int, StreamProgress]] = []
        self._retries_total = 0
        self._settling: deque[tuple[int, StreamProgress]] = deque()
        self._changed: list[StreamProgress] = []

    def place(self, stream: StreamProgress, now: int | None = None) -> None:
        """Put a stream into the right queue, if it has something to deliver and is in none.

        Without *now*, its pause is only checked at delivery.
        """
        if stream.waits or stream.lease is not None or not stream.has_more:
            return
        if stream.is_held(hold=self._hold):
            return
        head = stream.head()
        if head is not None and head[1].retry_at and now is not None:
            due = head[1].due(now, self._wall_clock())
            if due > now:
                stream.waits = True
                self._retries_total += 1
                heapq.heappush(self._retries, (due, self._retries_total, stream))
                return
        self.make_ready(stream)

    def make_ready(self, stream: StreamProgress, *, first: bool = False) -> None:
        """Queue a stream whose next event can be delivered."""
        stream.waits = True
        queue = self.quarantined if stream.quarantined else self.ready
        if first:
            queue.appendleft(stream)
        else:
            queue.append(stream)

    def release(self, durable_sequence: int, now: int) -> None:
        """Release the streams whose sync is done or whose pause is over."""
        while self._settling and self._settling[0][0] <= durable_sequence:
            _, stream = self._settling.popleft()
            stream.waits = False
            self.place(stream, now)
        while self._retries and self._retries[0][0] <= now:
            _, _, stream = heapq.heappop(self._retries)
            stream.waits = False
            self.place(stream, now)

    def await_sync(self, stream: StreamProgress, sequence: int) -> None:
        """Let a stream wait until a sequence number is durable."""
        stream.waits = True
        self._settling.append((sequence, stream))

    def await_write(self, stream: StreamProgress) -> None:
        """Let a stream wait until its change is written and durable."""
        stream.waits = True
        self._changed.append(stream)

    def written(self, sequence: int) -> None:
        """The changes are in a record; let their streams wait until *sequence* is durable."""
        for stream in self._changed:
            self._settling.append((sequence, stream))
        self._changed.clear()

    @property
    def unwritten(self) -> bool:
        """Whether streams wait until they are written."""
        return bool(self._changed)

    @property
    def unsettled(self) -> bool:
        """Whether any stream waits for a write or a sync."""
        return bool(self._settling or self._changed)

    @property
    def busy(self) -> bool:
        """Whether any stream is in any of these queues."""
        return bool(
            self.ready or self.quarantined or self._retries or self._settling or self._changed
        )

    @property
    def retrying(self) -> int:
        """Streams that wait for the end of a pause."""
        return len(self._retries)

    @property
    def next_retry(self) -> int | None:
        """When the first pause ends."""
        return self._retries[0][0] if self._retries else None
