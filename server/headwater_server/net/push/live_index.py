"""Finds who is interested in an event, among thousands of filters.

    places   stream    order-17   -> filters          an event is compared with the filters at the
             category  order      -> filters          names that it has: its stream, category, type
             type      Paid       -> filters          and tags, and the beginnings of its stream's
             tag       vip        -> filters          name
             prefix    order-1    -> filters

So the cost of an event depends on how many filters share a name with it, not on how many there are.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from headwater_server.engine.format.events import StoredEvent, category_of, decode_event
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter


class Interested(Protocol):
    """Somebody who wants the events of a filter."""

    @property
    def wanted(self) -> EventFilter:
        """The filter."""
        ...


M = TypeVar("M", bound=Interested)


class Filtered(Generic[M]):
    """All who want the events of one filter."""

    __slots__ = ("members", "wanted")

    def __init__(self, wanted: EventFilter) -> None:
        self.wanted = wanted
        self.members: dict[M, None] = {}


class LiveIndex(Generic[M]):
    """Everybody who is interested, by filter.

    A filter is listed under names such that every matching event has at least one: its stream, its
    category, for each criterion one tag or else all of its types, or its prefix.

    Attributes:
        filters: those who are interested, by filter.
        candidates_count: how many filters were compared with an event so far.
    """

    def __init__(self) -> None:
        self.filters: dict[EventFilter, Filtered[M]] = {}
        self.candidates_count = 0
        self._places: dict[str, dict[str, list[Filtered[M]]]] = {
            "stream": {},
            "category": {},
            "type": {},
            "tag": {},
            "prefix": {},
        }
        # The lengths of the prefixes in the index, each with the number of prefixes.
        self._lengths: dict[int, int] = {}
        self._others: list[Filtered[M]] = []

    def all(self) -> list[M]:
        """Everybody."""
        return [member for filtered in self.filters.values() for member in filtered.members]

    def add(self, member: M) -> None:
        """Add somebody, under the names of the filter."""
        wanted = member.wanted
        filtered = self.filters.get(wanted)
        if filtered is None:
            filtered = self.filters[wanted] = Filtered(wanted)
            names = _names_of(wanted)
            for kind, name in names:
                placed = self._places[kind].setdefault(name, [])
                if kind == "prefix" and not placed:
                    self._lengths[len(name)] = self._lengths.get(len(name), 0) + 1
                placed.append(filtered)
            if not names:
                self._others.append(filtered)
        filtered.members[member] = None

    def remove(self, member: M) -> None:
        """Remove somebody; with the last one of a filter, remove the filter."""
        filtered = self.filters[member.wanted]
        del filtered.members[member]
        if filtered.members:
            return
        del self.filters[filtered.wanted]
        names = _names_of(filtered.wanted)
        for kind, name in names:
            placed = self._places[kind][name]
            placed.remove(filtered)
            if not placed:
                del self._places[kind][name]
                if kind == "prefix":
                    self._lengths[len(name)] -= 1
                    if not self._lengths[len(name)]:
                        del self._lengths[len(name)]
        if not names:
            self._others.remove(filtered)

    def batches(self, events: list[bytes]) -> list[tuple[Filtered[M], list[bytes]]]:
        """The matching events of each filter that matches any."""
        everything = self.filters.get(EVERYTHING)
        found: dict[Filtered[M], list[bytes]] = {}
        if everything is not None:
            found[everything] = events
        if len(self.filters) > len(found):
            for stored in events:
                event = decode_event(stored)
                for filtered in self._candidates(event):
                    self.candidates_count += 1
                    if filtered is not everything and filtered.wanted.fits(event):
                        found.setdefault(filtered, []).append(stored)
        return list(found.items())

    def _candidates(self, event: StoredEvent) -> Iterable[Filtered[M]]:
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
        for length in self._lengths:
            if length <= len(event.stream):
                found += places["prefix"].get(event.stream[:length], ())
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
    if not names and wanted.prefix:
        return [("prefix", wanted.prefix)]
    return list(names)
