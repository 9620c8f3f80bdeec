"""Events as a source of feeds: subscriptions to the events that match a filter.

A position is an event's position. An index finds live feeds by filter: an event is compared only
with the few filters that name its stream, category, type or tag. A publish is read once, and
encoded once for each filter.
"""

from collections.abc import Iterable
from typing import Final, TypeAlias

from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header
from headwater_server.engine.engine import Engine
from headwater_server.engine.format.events import StoredEvent, category_of, decode_event
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.net.push.feeds import Batch, Feed, LivePage, Page

EventFeed: TypeAlias = Feed[EventFilter]

_EVENTS_PUSH: Final = b"\x02\x92\xa6events"
"""The bytes between the request id and the events in a push: [id, PUSH, ["events", […]]]."""


class LiveGroup:
    """The live feeds of one filter."""

    __slots__ = ("feeds", "wanted")

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.feeds: dict[EventFeed, None] = {}


class LiveIndex:
    """Finds the filters that an event may match, without trying thousands of them.

    The index lists a filter under names such that every matching event has at least one: its
    stream, its category, or for each criterion one tag, or else all of its types.
    """

    def __init__(self) -> None:
        self.groups: dict[EventFilter, LiveGroup] = {}
        self._places: dict[str, dict[str, list[LiveGroup]]] = {
            "stream": {},
            "category": {},
            "type": {},
            "tag": {},
        }
        self._others: list[LiveGroup] = []

    def all(self) -> list[EventFeed]:
        """Every feed."""
        return [feed for group in self.groups.values() for feed in group.feeds]

    def add(self, feed: EventFeed) -> None:
        """Add a feed, under the names of its filter."""
        group = self.groups.get(feed.wanted)
        if group is None:
            group = self.groups[feed.wanted] = LiveGroup(feed.wanted)
            names = _names_of(group.wanted)
            for kind, name in names:
                self._places[kind].setdefault(name, []).append(group)
            if not names:
                self._others.append(group)
        group.feeds[feed] = None

    def remove(self, feed: EventFeed) -> None:
        """Remove a feed; with the last feed of a filter, remove the filter."""
        group = self.groups[feed.wanted]
        del group.feeds[feed]
        if group.feeds:
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

    def batches(self, events: list[bytes]) -> list[tuple[LiveGroup, list[bytes]]]:
        """The matching events of each filter that matches any."""
        everything = self.groups.get(EVERYTHING)
        found: dict[LiveGroup, list[bytes]] = {}
        if everything is not None:
            found[everything] = events
        if len(self.groups) > len(found):
            for stored in events:
                event = decode_event(stored)
                for group in self._candidates(event):
                    if group is not everything and group.wanted.fits(event):
                        found.setdefault(group, []).append(stored)
        return list(found.items())

    def _candidates(self, event: StoredEvent) -> Iterable[LiveGroup]:
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
        # A filter may be listed under several of the event's names, such as a type and a tag.
        return dict.fromkeys(found)


def _names_of(wanted: EventFilter) -> list[tuple[str, str]]:
    """Kinds and names under which to list a filter, each once; none if it names nothing."""
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


class EventSource:
    """See Source."""

    name = "subscription"
    plural = "subscriptions"
    unit = "position"
    overdraws = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live = LiveIndex()

    @property
    def live(self) -> LiveIndex:
        """See Source."""
        return self._live

    @property
    def newest(self) -> int:
        """See Source."""
        return self._engine.published_position

    def check_readable(self, position: int) -> None:
        """See Source. Events of all positions can be read."""

    def page(self, position: int, wanted: EventFilter, limit: int) -> Page:
        """See Source."""
        page = self._engine.events_page(position, wanted, limit)
        return Page(_batch(page.events) if page.events else None, page.position, page.more)

    def live_page(self, position: int) -> LivePage[EventFilter]:
        """See Source."""
        page = self._engine.events_page(position, EVERYTHING, PAGE_ITEMS_MAX)
        batches = [
            (list(group.feeds), _batch(events)) for group, events in self._live.batches(page.events)
        ]
        return LivePage(batches, page.position, page.more)


def _batch(events: list[bytes]) -> Batch:
    body = b"".join((_EVENTS_PUSH, array_header(len(events)), *events))
    return Batch(len(events), (body,))
