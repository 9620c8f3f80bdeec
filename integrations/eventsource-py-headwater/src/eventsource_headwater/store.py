"""The event store.

The versions of a stream are Headwater's, and so are the positions. An event's id is unique over all
streams: the append writes a key for each id, on the condition that there is none.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

from eventsource.domain import StreamId
from eventsource.domain.event import DomainEvent
from eventsource.domain.event_registry import EventRegistry, default_registry
from eventsource.domain.exceptions import DuplicateEventError, OptimisticLockError
from eventsource.ports import (
    AppendResult,
    CategoryReadOptions,
    EventEnvelope,
    ExpectedVersion,
    FeedReadOptions,
    Position,
    ReadDirection,
    StreamReadOptions,
)

import headwater

_KINDS: Final = {
    "any": headwater.ANY,
    "no_stream": headwater.NO_STREAM,
    "stream_exists": headwater.STREAM_EXISTS,
}


class HeadwaterEventStore:
    """Events of eventsource-py: append, streams, categories, the feed, and look-up by id.

    Args:
        database: an open database of this event loop.
        space: the beginning of all names.
        registry: the classes of events by their types. The default is the library's.
    """

    max_append_batch: int | None = None

    def __init__(
        self,
        database: headwater.Database,
        space: str = "eventsource",
        *,
        registry: EventRegistry | None = None,
    ) -> None:
        self._db = database
        self._space = space
        # A category of Headwater ends at the first "-".
        self._prefix = space.replace("%", "%25").replace("-", "%2D").replace(".", "%2E") + "."
        self._registry = default_registry if registry is None else registry
        self.store_id = f"headwater/{space}"

    async def append(
        self, stream: StreamId, events: Sequence[DomainEvent], expected: ExpectedVersion
    ) -> AppendResult:
        """Append events to a stream, all or none.

        Raises:
            OptimisticLockError: the stream is not at the expected version.
            DuplicateEventError: an event with one of these ids is stored, in any stream.
            ValueError: there are no events.
        """
        if not events:
            raise ValueError("cannot append an empty batch of events")
        if len({event.event_id for event in events}) < len(events):
            raise DuplicateEventError("an event id occurs twice in the batch")
        name = self._stream(stream)
        expect = _KINDS.get(expected.kind, expected.version)
        assert expect is not None
        batch = self._db.batch()
        for event in events:
            batch.require_absent(self._id(event.event_id))
            batch.put(self._id(event.event_id), None)
        batch.append(name, [_stored(event) for event in events], expect=expect)
        try:
            done = (await self._db.execute(batch)).committed
        except headwater.WrongVersion as error:
            raise OptimisticLockError(
                stream.aggregate_id, expect, await self.get_stream_version(stream)
            ) from error
        except (headwater.ConditionFailed, headwater.DuplicateEvent) as error:
            raise DuplicateEventError(str(error)) from error
        assert done.first_position is not None
        return AppendResult(stream, done.versions[name], self._position(done.first_position))

    async def read_stream(
        self, stream: StreamId, options: StreamReadOptions | None = None
    ) -> AsyncIterator[EventEnvelope]:
        wanted = options or StreamReadOptions()
        if wanted.limit == 0:
            return
        low, high = wanted.from_version or 1, wanted.to_version
        reverse = wanted.direction == ReadDirection.BACKWARD
        after = (0 if high is None else high + 1) if reverse else low - 1
        events = self._db.read(
            self._stream(stream), after=after, reverse=reverse, limit=wanted.limit
        )
        async for event in events:
            if event.version < low or (high is not None and event.version > high):
                break
            yield self._envelope(event)

    async def get_stream_version(self, stream: StreamId) -> int:
        async for event in self._db.read(self._stream(stream), reverse=True, limit=1):
            return event.version
        return 0

    async def event_exists(self, event_id: UUID) -> bool:
        return await self._db.get(self._id(event_id), default=False) is None

    async def read_all(
        self, from_position: Position | None = None, options: FeedReadOptions | None = None
    ) -> AsyncIterator[EventEnvelope]:
        """The events after a position, in the order in which they were committed.

        Raises:
            PositionForeignError: the position is of another store.
        """
        wanted = options or FeedReadOptions()
        if wanted.limit == 0:
            return
        after = 0
        if from_position is not None:
            # Raises if it is of another store.
            _ = from_position < self._position(0)
            after = int(from_position.key[0])
        events = self._db.read_all(
            after=after, prefix=self._prefix, tags=_tags(wanted.tenant_id), limit=wanted.limit
        )
        async for event in events:
            yield self._envelope(event)

    async def current_position(self) -> Position | None:
        async for event in self._db.read_all(prefix=self._prefix, reverse=True, limit=1):
            return self._position(event.position)
        return None

    async def read_category(
        self, category: str, options: CategoryReadOptions | None = None
    ) -> AsyncIterator[EventEnvelope]:
        wanted = options or CategoryReadOptions()
        if wanted.limit == 0:
            return
        events = self._db.read_all(
            category=self._category(category),
            since=wanted.from_timestamp,
            tags=_tags(wanted.tenant_id),
            limit=wanted.limit,
        )
        async for event in events:
            yield self._envelope(event)

    def _category(self, category: str) -> str:
        return self._prefix + category.replace("%", "%25").replace("-", "%2D")

    def _stream(self, stream: StreamId) -> str:
        return f"{self._category(stream.category)}-{stream.aggregate_id}"

    def _stream_id(self, name: str) -> StreamId:
        category, _, identity = name[len(self._prefix) :].partition("-")
        return StreamId(UUID(identity), category.replace("%2D", "-").replace("%25", "%"))

    def _id(self, event_id: UUID) -> tuple[str, str, UUID]:
        return self._space, "id", event_id

    def _position(self, position: int) -> Position:
        return Position(self.store_id, (position,))

    def _envelope(self, event: headwater.RecordedEvent) -> EventEnvelope:
        return EventEnvelope(
            event=self._registry.get(event.type).from_dict(event.data),
            stream_id=self._stream_id(event.stream),
            stream_version=event.version,
            position=self._position(event.position),
            stored_at=event.time,
        )


def _stored(event: DomainEvent) -> headwater.Event:
    return headwater.Event(
        event.event_type, event.to_dict(), id=event.event_id, tags=_tags(event.tenant_id) or ()
    )


def _tags(tenant_id: UUID | None) -> list[str] | None:
    return None if tenant_id is None else [f"tenant:{tenant_id}"]
