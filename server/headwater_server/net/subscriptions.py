"""Subscriptions: from a position through history into live, without a gap or a duplicate.

              open, credit                     reached the newest event: caught_up
    stalled <--------------> behind (reads pages) ---------------------------> live
                                ^                                               |
                                '---- fell_behind: no credit, or output full ---'

Behind, a subscriber reads the log like any reader, a page at a time, in turn with the others;
how far it came is one number, so a slow subscriber costs no memory, however slow. Live, it
waits in an index by filter; each publish is read once, encoded once for every filter, and
handed to all of that filter's subscribers.

No event is lost between the two: `_step` reads up to the newest published event and registers
the subscriber as live without an await in between, and `published` runs in the same thread
right after the engine published. So what is published before the read is in the page, and what
comes after finds the subscriber registered. All live subscribers are at one position, the hub's.
"""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError, InternalError, InvalidArgument, TooMany
from headwater_protocol.frames import join_frame
from headwater_protocol.limits import BODY_SIZE_MAX, PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.engine import Engine
from headwater_server.engine.events import StoredEvent, category_of, decode_event
from headwater_server.engine.filters import EVERYTHING, EventFilter
from headwater_server.net.failures import Failures
from headwater_server.net.key_feeds import KeyFeeds

if TYPE_CHECKING:
    from headwater_server.net.session import Session

_log = structlog.get_logger(__name__)

STEPS_PER_TURN_MAX: Final = 4
"""Pages that are read for subscribers before the connections get their turn: each can take a
megabyte from the disk."""

_EVENTS_PUSH: Final = b"\x02\x92\xa6events"
"""What is between the request id and the events in a push: [id, PUSH, ["events", […]]]."""


_HEAD_SIZE_MAX: Final = 6
"""Bytes of an array header and a request id."""


class Subscription:
    """One subscriber: what it wants, how far it came, and how much it may be sent.

    Attributes:
        position: the last position that was looked at for it, while it is not live.
        credit: events that may be pushed before more is granted.
        head: the first bytes of the body of each of its pushes.
    """

    __slots__ = ("credit", "head", "live", "position", "queued", "request_id", "session", "wanted")

    def __init__(
        self, session: "Session", request_id: int, position: int, wanted: EventFilter, credit: int
    ) -> None:
        self.session = session
        self.request_id = request_id
        self.position = position
        self.wanted = wanted
        self.credit = credit
        self.head = b"\x93" + encode(request_id)
        self.live = False
        self.queued = False


class _LiveGroup:
    """The live subscribers of one filter."""

    __slots__ = ("subscribers", "wanted")

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.subscribers: dict[Subscription, None] = {}


class _LiveIndex:
    """Finds the filters that an event may fit, without asking each of thousands.

    A filter stands under names of which every event that fits it has at least one: its stream,
    its category, or for each criterion a tag, or else all of its types.
    """

    def __init__(self) -> None:
        self.groups: dict[EventFilter, _LiveGroup] = {}
        self._places: dict[str, dict[str, list[_LiveGroup]]] = {
            "stream": {},
            "category": {},
            "type": {},
            "tag": {},
        }
        self._others: list[_LiveGroup] = []

    def add(self, subscription: Subscription) -> None:
        group = self.groups.get(subscription.wanted)
        if group is None:
            group = self.groups[subscription.wanted] = _LiveGroup(subscription.wanted)
            names = _names_of(group.wanted)
            for kind, name in names:
                self._places[kind].setdefault(name, []).append(group)
            if not names:
                self._others.append(group)
        group.subscribers[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        group = self.groups[subscription.wanted]
        del group.subscribers[subscription]
        if group.subscribers:
            return
        del self.groups[group.wanted]
        names = _names_of(group.wanted)
        for kind, name in names:
            placed = self._places[kind][name]
            placed.remove(group)
            if not placed:
                del self._places[kind][name]
        if not names:
            self._others.remove(group)

    def batches(self, events: list[bytes]) -> list[tuple[_LiveGroup, list[bytes]]]:
        """For each filter that some of the events fit, those events."""
        everything = self.groups.get(EVERYTHING)
        found: dict[_LiveGroup, list[bytes]] = {}
        if everything is not None:
            found[everything] = events
        if len(self.groups) > len(found):
            for stored in events:
                event = decode_event(stored)
                for group in self._candidates(event):
                    if group is not everything and group.wanted.fits(event):
                        found.setdefault(group, []).append(stored)
        return list(found.items())

    def _candidates(self, event: StoredEvent) -> Iterable[_LiveGroup]:
        places = self._places
        found = [
            *places["stream"].get(event.stream, ()),
            *places["category"].get(category_of(event.stream), ()),
            *places["type"].get(event.type, ()),
            *self._others,
        ]
        tagged = places["tag"]
        if event.tags and tagged:
            for tag in event.tags:
                found += tagged.get(tag, ())
        # Under a type and a tag, or two tags, a filter may stand twice.
        return dict.fromkeys(found)


def _names_of(wanted: EventFilter) -> list[tuple[str, str]]:
    """Kinds and names under which a filter stands, each once; none if it has none."""
    if wanted.stream is not None:
        return [("stream", wanted.stream)]
    if wanted.category is not None:
        return [("category", wanted.category)]
    if wanted.types:
        return [("type", name) for name in wanted.types]
    names: dict[tuple[str, str], None] = {}
    for criterion in wanted.query:
        if criterion.tags:
            names["tag", criterion.tags[0]] = None
        else:
            names.update(dict.fromkeys(("type", name) for name in criterion.types))
    return list(names)


class Subscriptions:
    """All subscriptions of a server."""

    def __init__(self, engine: Engine, failures: Failures, *, per_session_max: int) -> None:
        self._engine = engine
        self._failures = failures
        self._per_session_max = per_session_max
        self._live = _LiveIndex()
        self._live_position = engine.published_position
        self._queue: deque[Subscription] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self.key_feeds = KeyFeeds(engine, failures, per_session_max=per_session_max)
        self.count = 0

    # What sessions ask for.

    def open(
        self, session: "Session", request_id: int, after: int, wanted: EventFilter, credit: int
    ) -> None:
        """Open a subscription to the events after a position.

        Raises:
            InvalidArgument: the position was not reached yet.
            TooMany: the session has too many.
        """
        newest = self._engine.published_position
        if after > newest:
            # It would miss what comes until then, and believe to have seen it.
            raise InvalidArgument(f"after: {after}; the newest position is {newest}")
        if len(session.subscriptions) >= self._per_session_max:
            raise TooMany(
                f"{len(session.subscriptions)} subscriptions on this connection; "
                f"allowed are {self._per_session_max}"
            )
        subscription = Subscription(session, request_id, after, wanted, credit)
        session.subscriptions[request_id] = subscription
        self.count += 1
        self._enqueue(subscription)

    def grant(self, subscription: Subscription, events: int) -> None:
        """Allow that many more events."""
        subscription.credit += events
        if not subscription.live:
            self._enqueue(subscription)

    def resume(self, session: "Session") -> None:
        """The session's client has taken its output: push again."""
        for subscription in session.subscriptions.values():
            if not subscription.live:
                self._enqueue(subscription)
        if session.key_feeds:
            self.key_feeds.resume(session)

    def close(self, subscription: Subscription) -> None:
        """Forget a subscription; nothing of it is pushed any more."""
        del subscription.session.subscriptions[subscription.request_id]
        self.count -= 1
        if subscription.live:
            subscription.live = False
            self._live.remove(subscription)

    def close_session(self, session: "Session") -> None:
        """Forget all subscriptions of a session."""
        for subscription in list(session.subscriptions.values()):
            self.close(subscription)
        self.key_feeds.close_session(session)

    def end(self, subscription: Subscription, error: HeadwaterError) -> None:
        """Tell the subscriber that nothing more will come, and why."""
        self.close(subscription)
        subscription.session.push(subscription, ["ended", error.as_payload()])

    # Live.

    def published(self) -> None:
        """Hand what the engine has just published to the live subscribers."""
        self.key_feeds.published()
        upto = self._engine.published_position
        while self._live_position < upto and self._live.groups:
            page = self._engine.events_page(self._live_position, EVERYTHING, PAGE_ITEMS_MAX)
            for group, events in self._live.batches(page.events):
                self._deliver(group, events)
            self._live_position = page.position
        self._live_position = upto

    def _deliver(self, group: _LiveGroup, events: list[bytes]) -> None:
        count = len(events)
        # Encoded once for all; each subscriber's own is its request id before it.
        shared = b"".join((_EVENTS_PUSH, array_header(count), *events))
        fits = len(shared) + _HEAD_SIZE_MAX <= BODY_SIZE_MAX
        for subscription in list(group.subscribers):
            session = subscription.session
            if subscription.credit < count or session.output_blocked or not fits:
                self._fall_behind(subscription)
            else:
                subscription.credit -= count
                session.send_shared(subscription.head, shared)

    def _fall_behind(self, subscription: Subscription) -> None:
        self._live.remove(subscription)
        subscription.live = False
        # The batch at hand was not sent: it is read from the log when there is room.
        subscription.position = self._live_position
        subscription.session.push(subscription, ["fell_behind", self._live_position])
        self._enqueue(subscription)

    # Behind.

    def _enqueue(self, subscription: Subscription) -> None:
        if not subscription.queued:
            subscription.queued = True
            self._queue.append(subscription)
            self._idle.unpark()

    async def run(self) -> None:
        """Push history to the subscribers that are behind, page by page, until cancelled."""
        while True:
            if not self._queue:
                await self._idle.park()
            for _ in range(min(STEPS_PER_TURN_MAX, len(self._queue))):
                subscription = self._queue.popleft()
                subscription.queued = False
                self._try_step(subscription)
            await trio.lowlevel.checkpoint()

    def _try_step(self, subscription: Subscription) -> None:
        session = subscription.session
        if session.subscriptions.get(subscription.request_id) is not subscription:
            return
        try:
            self._step(subscription)
        except HeadwaterError as error:
            self.end(subscription, error)
        except Exception as error:
            self.end(
                subscription,
                InternalError("the subscription failed in the server; its log says more"),
            )
            if not isinstance(error, OSError):
                self._failures.end_process(error, "a subscription")
                return
            _log.error("a subscription failed", session=str(session), exc_info=error)

    def _step(self, subscription: Subscription) -> None:
        """Push one page, or see that there is nothing more and go live."""
        if subscription.live or subscription.session.output_blocked:
            # `resume` brings it back once the output has been taken.
            return
        if subscription.position < self._engine.published_position:
            # Without credit it is still worth a look whether anything is left to be sent at all:
            # a subscriber that got the last event must hear that it has caught up.
            limit = min(subscription.credit, PAGE_ITEMS_MAX) or 1
            page = self._engine.events_page(subscription.position, subscription.wanted, limit)
            if page.events:
                if subscription.credit == 0:
                    # `grant` brings it back.
                    return
                frame = join_frame(
                    subscription.head, _EVENTS_PUSH, array_header(len(page.events)), *page.events
                )
                subscription.credit -= len(page.events)
                subscription.session.send(frame)
            subscription.position = page.position
            if page.more:
                self._enqueue(subscription)
                return
        self._go_live(subscription)

    def _go_live(self, subscription: Subscription) -> None:
        newest = self._engine.published_position
        assert subscription.position == newest == self._live_position, "all live ones are level"
        subscription.live = True
        self._live.add(subscription)
        subscription.session.push(subscription, ["caught_up", newest])
