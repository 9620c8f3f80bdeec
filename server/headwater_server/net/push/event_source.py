"""Events as a source of feeds: subscriptions to the events that match a filter.

A position is an event's position. An index finds live feeds by filter (live_index.py). A publish is
read once, and encoded once for each filter.
"""

from typing import Final, TypeAlias

from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.net.push.feeds import Batch, Feed, LivePage, Page
from headwater_server.net.push.live_index import LiveIndex

EventFeed: TypeAlias = Feed[EventFilter]

_EVENTS_PUSH: Final = b"\x02\x92\xa6events"
"""The bytes between the request id and the events in a push: [id, PUSH, ["events", […]]]."""


class EventSource:
    """See Source."""

    name = "subscription"
    plural = "subscriptions"
    unit = "position"
    overdraws = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live: LiveIndex[EventFeed] = LiveIndex()

    @property
    def live(self) -> LiveIndex[EventFeed]:
        """See Source."""
        return self._live

    @property
    def newest(self) -> int:
        """See Source."""
        return self._engine.published_position

    def size_of(self, wanted: EventFilter) -> int:
        """See Source."""
        return wanted.size

    def check_readable(self, position: int) -> None:
        """See Source. Events of all positions can be read."""

    def page(
        self, position: int, wanted: EventFilter, limit: int, inside: bytes | None = None
    ) -> Page:
        """See Source. A page never ends inside of an event."""
        assert inside is None, "no page was"
        page = self._engine.events_page(position, wanted, limit)
        return Page(_batch(page.events) if page.events else None, page.position, page.more)

    def live_page(self, position: int) -> LivePage[EventFilter]:
        """See Source."""
        page = self._engine.events_page(position, EVERYTHING, PAGE_ITEMS_MAX)
        batches: list[tuple[list[EventFeed], Batch | None]] = [
            (list(filtered.members), _batch(events))
            for filtered, events in self._live.batches(page.events)
        ]
        return LivePage(batches, page.position, page.more)


def _batch(events: list[bytes]) -> Batch:
    body = b"".join((_EVENTS_PUSH, array_header(len(events)), *events))
    return Batch(len(events), (body,))
