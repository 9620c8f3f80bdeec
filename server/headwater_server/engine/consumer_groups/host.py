"""What a consumer group needs of the engine, and what comes of its turn."""

from dataclasses import dataclass, field
from typing import Protocol

from headwater_server.engine.consumer_groups.streams import Member
from headwater_server.engine.reads.reading import Reader


class Host(Protocol):
    """What a group needs of the engine."""

    @property
    def sequence(self) -> int:
        """The newest sequence number."""
        ...

    @property
    def durable_sequence(self) -> int:
        """The newest sequence number that is published."""
        ...

    def reader(self) -> Reader:
        """Reads of the newest published commit."""
        ...

    def write(self, writes: list[bytes | None]) -> int:
        """Commit key, value, …; the sequence number at which it is durable. ReadOnly: it cannot."""
        ...

    def event(self, position: int) -> bytes | None:
        """A stored event; None if it is not there any more."""
        ...

    def new_token(self) -> int:
        """A token that does not come up twice, also after a restart."""
        ...

    def wall_clock(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...


@dataclass(slots=True)
class Turn:
    """What came of a turn: what to send, and whether there is more to be done at once.

    Attributes:
        deliveries: by member: token, attempt, stored event.
        lost: tokens that are worth nothing any more, by the member that has them.
        caught_up: members that are to hear that everything is done, up to `position`.
    """

    deliveries: dict[Member, list[tuple[int, int, bytes]]] = field(default_factory=dict)
    lost: dict[Member, list[int]] = field(default_factory=dict)
    caught_up: list[Member] = field(default_factory=list)
    position: int = 0
    more: bool = False
