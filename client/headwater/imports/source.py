"""What an import reads: events in the order in which they were stored."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from headwater.codecs.codec import Codec


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """An event of another store.

    Attributes:
        position: where it is in the order of the source: a number that grows, with gaps allowed.
        stream, type, data, metadata, tags: as they are stored here.
        id: its id. A source makes one from the position if an event has none, the same each time.
        time: when it was stored there, or None if the source does not say.
        version: its version in the stream here, or None if the source has no versions.
    """

    position: int
    stream: str
    type: str
    data: Any
    id: UUID
    metadata: Any = None
    tags: tuple[str, ...] = ()
    time: datetime | None = None
    version: int | None = None


class Source(Protocol):
    """A store that events can be read from.

    Attributes:
        codec: of data and metadata; None for the database's own.
    """

    codec: Codec | None

    def count(self) -> int | None:
        """The number of events, for the display of progress. None if it is not known."""
        ...

    def events(self, after: int = 0) -> Iterator[SourceEvent]:
        """The events behind a position, in order.

        Raises:
            InvalidArgument: what is stored there is no event; the message says where.
        """
        ...


def utc(time: datetime) -> datetime:
    """A time with a zone: UTC, if it has none."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
