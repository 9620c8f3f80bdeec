"""Looking into a database: an event by its id, histories, commits.

The same calls on the database and on the past: `db.find_event(…)`,
`db.at(commit=7).find_event(…)`.
"""

from abc import ABC, abstractmethod
from typing import Any
from uuid import UUID

from headwater.codecs.codec import Codec
from headwater.codecs.events import recorded_event
from headwater.errors import InvalidArgument
from headwater.records import RecordedEvent


class History(ABC):
    """What happened, when, and by whom."""

    _codec: Codec

    @abstractmethod
    async def _look(self, name: str, *arguments: Any) -> Any:
        """Send a request whose last argument is the commit to look at."""

    async def find_event(self, event: UUID) -> RecordedEvent | None:
        """The event with this id, in any stream. None: there is none, or it is hidden.

        Ids are unique in a stream only. If several streams have events with the id, it is the one
        that was appended last. An erased event is found too, without its data.

        Args:
            event: its id, as in `RecordedEvent.id`.

        Raises:
            NoSuchEvent: there is none, but events of a version of Headwater without an index of ids
                were not searched. details["indexed_after"] is the position of the last of them.
            PermissionDenied: the user may not read all streams, and may not read this event, or
                there is none.
        """
        _, row = await self._look("find_event", id_bytes(event, "find_event"))
        return None if row is None else recorded_event(row, self._codec)


def id_bytes(event: UUID, place: str) -> bytes:
    """The bytes of an event's id.

    Raises:
        InvalidArgument: it is no UUID.
    """
    if not isinstance(event, UUID):
        raise InvalidArgument(f"{place}: expected the UUID of an event, got {event!r:.60}")
    return event.bytes
