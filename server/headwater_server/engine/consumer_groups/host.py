"""The interface between a consumer group and the engine: what it needs, and what a turn returns."""

from dataclasses import dataclass, field
from typing import Protocol

from headwater_server.engine.consumer_groups.records import ParkedEntry
from headwater_server.engine.consumer_groups.streams import Member
from headwater_server.engine.reads.reading import Reader


class Host(Protocol):
    """What a group needs from the engine."""

    @property
    def sequence(self) -> int:
        """The newest sequence number."""
        ...

    @property
    def durable_sequence(self) -> int:
        """The newest sequence number that is published."""
        ...

    def window(self, pending: int) -> int:
        """Positions that a group may read ahead that has *pending* ones."""
        ...

    def reader(self) -> Reader:
        """Reads of the newest published commit."""
        ...

    def write(self, writes: list[bytes | None]) -> int:
        """Commit key, value, …; return the sequence number at which it is durable.

        Raises:
            ReadOnly: nothing can be written now.
        """
        ...

    def event(self, position: int) -> bytes | None:
        """A stored event; None if it was removed."""
        ...

    @property
    def hides(self) -> bool:
        """Whether there may be events that can no longer be read."""
        ...

    def parked_entries(self, number: int, after: int, limit: int) -> list[tuple[int, ParkedEntry]]:
        """Parked events of a group after a position, in order, at most *limit*."""
        ...

    def new_token(self) -> int:
        """A token that is unique, even across restarts."""
        ...

    def wall_clock(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...


@dataclass(slots=True)
class Turn:
    """The result of a turn: what to send, and whether there is more to do immediately.

    Attributes:
        deliveries: token, attempt and stored event, by member.
        lost: tokens that are no longer valid, by the member that has them.
        caught_up: members to be told that everything up to `position` is done.
    """

    deliveries: dict[Member, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    lost: dict[Member, list[int]] = field(default_factory=dict)
    caught_up: list[Member] = field(default_factory=list)
    position: int = 0
    more: bool = False
