"""Subscriptions: events from a position through history into what is still to come.

    server --events--> link --deliver--> queue --async for--> consumer
           <-credit--                          <- a batch was dealt with

The server pushes no more events than it was granted, and credit is granted as the consumer goes
on, so a slow consumer fills a queue of `window` events and no more. When the link is lost, the
subscription goes on after the last event that it received: nothing is missed, nothing twice.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from headwater.codecs.codec import Codec
from headwater.errors import ConnectionLost, HeadwaterError, InvalidArgument
from headwater.records import (
    CaughtUp,
    EventBatch,
    FellBehind,
    RecordedEvent,
    from_stored,
    microseconds_of,
    recorded_event,
)
from headwater.transport.channel import PAUSE_FIRST, PAUSE_MAX, Channel, Pauses
from headwater.transport.connection import Link, Reply
from headwater_protocol.limits import CREDIT_MAX
from headwater_protocol.numbers import Position

if TYPE_CHECKING:
    from headwater.feeds.key_feed import Changes

WINDOW_DEFAULT: Final = 4096
"""Events that a server may push ahead of the consumer: a few pages, some megabytes."""

Item: TypeAlias = "EventBatch | CaughtUp | FellBehind | Changes"


class Subscription(AsyncIterator[Item]):
    """Made by `db.subscribe()`; use it with `async with` and `async for`.

    It ends only with an error: ConnectionLost if no server could be found for `retry_timeout`
    seconds, or what the server ended it with.

    Attributes:
        position: of the last item that was handed out: where a later subscription would go on.
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
        if not 1 <= window <= CREDIT_MAX:
            raise InvalidArgument(f"subscribe: window: {window}; allowed are 1 to {CREDIT_MAX}")
        self.position = Position(after)
        self._since = None if since is None else microseconds_of(since, "subscribe: since")
        self._channel = channel
        self._codec = codec
        self._filter = wanted
        self._window = window
        self._received = after
        self._link: Link | None = None
        self._identity = 0
        self._queue: deque[list[Any]] = deque()
        self._arrival: Reply | None = None
        self._ended: HeadwaterError | None = None
        self._owed = 0
        self._last_size = 0

    async def __aenter__(self) -> "Subscription":
        if self._since is not None:
            before = await self._channel.read("position_before", max(0, self._since))
            self.position = self._received = Position(max(before, self._received))
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        if self._channel.runtime.shares_links:
            link.unsubscribe(self._identity)
        else:
            link.close()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Item:
        if self._arrival is not None:
            raise InvalidArgument("a subscription is for one task; another waits on this one")
        self._grant()
        while not self._queue:
            if self._ended is not None and not self._ended.retryable:
                raise self._ended
            if self._link is None:
                raise InvalidArgument("a subscription is used with `async with`")
            if self._ended is not None or self._link.closed:
                await self._reopen()
                continue
            self._arrival = self._link.new_reply()
            try:
                await self._link.wait(self._arrival)
            finally:
                self._arrival = None
        item = self._item(self._queue.popleft())
        self.position = item.position
        return item

    def events(self) -> "Events":
        """Iterate over single events; what is no event is left out."""
        return Events(self)

    # What the link calls.

    def deliver(self, payload: list[Any]) -> None:
        """A push came."""
        match payload:
            case ["events", [*_, [int(position), *_]]]:
                self._received = position
                self._queue.append(payload)
            case ["caught_up" | "fell_behind", int(position), *_]:
                self._received = max(self._received, position)
                self._queue.append(payload)
            case ["ended", error, *_]:
                self._ended = HeadwaterError.from_payload(error)
            case _:
                # A newer server may have more to say than we understand.
                return
        self._notice()

    def lose(self) -> None:
        """The link is closed."""
        self._notice()

    def _notice(self) -> None:
        if self._arrival is not None and not self._arrival.done and self._link is not None:
            self._link.wake(self._arrival)

    # Opening, and opening again.

    async def _open(self) -> None:
        link = await self._channel.own_link()
        # Before it is asked for: the first pushes may come with the answer, and be delivered
        # before we go on here. An end among them must not be forgotten.
        self._ended = None
        self._owed = self._last_size = 0
        try:
            self._identity = await self._subscribe(link)
        except BaseException:
            if not self._channel.runtime.shares_links:
                link.close()
            raise
        link.wait_for_ever()
        self._link = link

    async def _subscribe(self, link: Link) -> int:
        return await link.subscribe(self, self._received, self._filter, self._window)

    async def _reopen(self) -> None:
        runtime = self._channel.runtime
        deadline = runtime.now() + self._channel.options.retry_timeout
        pauses = Pauses(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                await self._open()
                return
            except HeadwaterError as error:
                pause = pauses.next()
                if not error.retryable or runtime.now() + pause >= deadline:
                    raise
            await runtime.sleep(pause)

    # What the consumer gets.

    def _item(self, payload: list[Any]) -> Item:
        if payload[0] == "events":
            codec = self._codec
            self._last_size = len(payload[1])
            events = [recorded_event(row, codec) for row in payload[1]]
            return EventBatch(from_stored(events, codec))
        kind = CaughtUp if payload[0] == "caught_up" else FellBehind
        return kind(Position(payload[1]))

    def _grant(self) -> None:
        """The last batch was dealt with: let the server send as many more, now and then."""
        self._owed += self._last_size
        self._last_size = 0
        # Half of the window at a time: the server never waits for us, and hears of us seldom.
        if self._owed * 2 < self._window or self._link is None or self._link.closed:
            return
        try:
            self._link.post([("credit", self._identity, self._owed)])
        except ConnectionLost:
            return  # It is noticed where the next item is waited for.
        self._owed = 0


class Events(AsyncIterator[RecordedEvent]):
    """Single events of a subscription."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._batch: Iterator[RecordedEvent] = iter(())

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> RecordedEvent:
        while True:
            for event in self._batch:
                return event
            item = await self._subscription.__anext__()
            if isinstance(item, EventBatch):
                self._batch = iter(item)
