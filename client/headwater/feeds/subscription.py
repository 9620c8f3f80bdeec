"""Subscriptions: the events after a position, first those of the past and then new ones.

    server --events--> feed --async for--> consumer
           <-credit--       <- a batch was processed

When the connection is lost, the subscription continues after the last event that it received. No
event is missed, and none is delivered twice.
"""

from collections import deque
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, Self

from headwater.codecs.codec import Codec
from headwater.codecs.events import event_views
from headwater.feeds.item_feed import ItemFeed
from headwater.feeds.items import EventBatch, EventItem
from headwater.records import RecordedEvent, microseconds_of
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection
from headwater_protocol.numbers import Position

WINDOW_DEFAULT: Final = 4096
"""Events that a server may push ahead of the consumer: a few pages, some megabytes."""


class Subscription(ItemFeed[EventItem]):
    """A subscription. Made by `db.subscribe()`; use it with `async with` and `async for`.

    It has no end. It raises ConnectionLost if no server could be reached for `retry_timeout`
    seconds, or the error with which the server ended it. An event that the codec cannot decode is
    delivered like any other, and its data raises Undecodable.

    Attributes:
        position: the position of the last item, or of the last single event, that it returned. A
            later subscription can continue after it.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        *,
        after: int,
        wanted: dict[str, Any],
        window: int,
        since: datetime | None = None,
    ) -> None:
        super().__init__(channel, after=after, window=window)
        self._since = None if since is None else microseconds_of(since, "subscribe: since")
        self._codec = codec
        self._view = event_views(codec)
        # Events of a batch that `events` has not returned yet.
        self._rest: deque[RecordedEvent] = deque()
        self._filter = wanted

    async def __aenter__(self) -> Self:
        if self._since is not None:
            before = await self._channel.read("position_before", max(0, self._since))
            self.position = self._received = Position(max(before, self._received))
        return await super().__aenter__()

    async def __anext__(self) -> EventItem:
        if not self._rest:
            return await super().__anext__()
        self._check_alone()
        batch = EventBatch(tuple(self._rest))
        self._rest.clear()
        self.position = batch.position
        return batch

    async def _take(self) -> list[Any]:
        """The next push, without events before `since`: that may be a time to come."""
        while True:
            payload = await super()._take()
            if self._since is None or payload[0] != "events":
                return payload
            rows = payload[1]
            wanted = [row for row in rows if row[4] >= self._since]
            self._grant(len(rows) - len(wanted))
            if wanted:
                # Times of events never decrease, so no later event can match.
                self._since = None
                return ["events", wanted]
            self.position = rows[-1][0]

    async def next_event(self) -> RecordedEvent:
        """The next single event. CaughtUp and FellBehind are skipped."""
        self._check_alone()
        while not self._rest:
            item = await self._next_item()
            if isinstance(item, EventBatch):
                # The position must not pass events that were not returned yet, also if this is
                # interrupted between any two lines.
                self._rest.extend(item)
            else:
                self.position = item.position
        event = self._rest.popleft()
        self.position = event.position
        return event

    def events(self) -> "Events":
        """Iterate over single events. CaughtUp and FellBehind are skipped."""
        return Events(self)

    async def _request(self, connection: Connection) -> int:
        return await connection.subscribe(self, self._received, self._filter, self._credit)

    def _accept(self, payload: list[Any]) -> bool:
        match payload:
            case ["events", [*_, [int(position), _, _, int(commit), *_]]]:
                self._received = position
                self._channel.note_seen(commit)
                self._queue.append(payload)
                return True
            case _:
                return super()._accept(payload)

    def _item(self, payload: list[Any]) -> EventItem:
        if payload[0] != "events":
            return self._news(payload)
        self._last_size = len(payload[1])
        return EventBatch(tuple(map(self._view, payload[1])))


class Events(AsyncIterator[RecordedEvent]):
    """Single events of a subscription, whose position moves from event to event."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> RecordedEvent:
        return await self._subscription.next_event()
