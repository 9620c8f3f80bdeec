"""Deliveries that wait until their attempt is on the disk.

    leased --its attempt is in a record--> written --the record is durable--> sent

A delivery counts when it is handed out. If it were sent before its attempt is durable, an event
that takes down the server together with its consumer would be tried again and again, each time as
the first attempt. All deliveries of a turn are in one record.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from headwater_server.engine.consumer_groups.streams import Lease

UNWRITTEN = -1
"""The sequence number of a delivery whose attempt is in no record yet."""


@dataclass(slots=True)
class _Waiting:
    lease: Lease
    attempt: int
    stored: bytes
    sequence: int = UNWRITTEN


class Sending:
    """Deliveries in the order in which they were leased.

    Attributes:
        size: bytes of the events that wait.
    """

    def __init__(self) -> None:
        self.size = 0
        self._waiting: deque[_Waiting] = deque()
        self._unwritten: list[_Waiting] = []

    @property
    def waits(self) -> bool:
        """Whether any delivery waits."""
        return bool(self._waiting)

    def add(self, lease: Lease, attempt: int, stored: bytes) -> None:
        """Let a delivery wait."""
        waiting = _Waiting(lease, attempt, stored)
        self._waiting.append(waiting)
        self._unwritten.append(waiting)
        self.size += len(stored)

    def written(self, sequence: int) -> None:
        """The attempts are in a record, which is durable once *sequence* is."""
        for waiting in self._unwritten:
            waiting.sequence = sequence
        self._unwritten.clear()

    def durable(self, durable_sequence: int) -> Iterator[tuple[Lease, int, bytes]]:
        """Take out the deliveries whose attempts are durable."""
        waiting = self._waiting
        while waiting and UNWRITTEN < waiting[0].sequence <= durable_sequence:
            first = waiting.popleft()
            self.size -= len(first.stored)
            yield first.lease, first.attempt, first.stored
