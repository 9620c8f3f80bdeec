"""Filters of events: by stream, category, prefix of the stream's name, types, and a query.

    query      criterion or criterion or …
    criterion  one of these types, and all of these tags        either part may be left out

A filter is hashable, so that a read set and the live subscriptions hold each filter once.
"""

from dataclasses import dataclass
from typing import Any

from headwater_server.engine.format.events import StoredEvent, category_of


@dataclass(frozen=True, slots=True)
class Criterion:
    """Matches an event if its type is one of *types*, if any, and it has all of *tags*."""

    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def fits(self, event: StoredEvent) -> bool:
        """Whether the event matches."""
        return (not self.types or event.type in self.types) and all(
            tag in event.tags for tag in self.tags
        )

    def as_wire(self) -> dict[str, Any]:
        """The criterion in the form of a request."""
        members: dict[str, Any] = {}
        if self.types:
            members["types"] = list(self.types)
        if self.tags:
            members["tags"] = list(self.tags)
        return members


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events. All given parts must match; an empty filter matches every event."""

    stream: str | None = None
    category: str | None = None
    prefix: str | None = None
    types: tuple[str, ...] = ()
    query: tuple[Criterion, ...] = ()

    @classmethod
    def from_wire(cls, members: dict[str, Any]) -> "EventFilter":
        """The filter of a request, whose members were checked against the vocabulary."""
        if not members:
            return EVERYTHING
        return cls(
            stream=members.get("stream"),
            category=members.get("category"),
            prefix=members.get("prefix"),
            types=tuple(dict.fromkeys(members.get("types", ()))),
            query=tuple(
                dict.fromkeys(
                    Criterion(
                        tuple(dict.fromkeys(criterion.get("types", ()))),
                        tuple(dict.fromkeys(criterion.get("tags", ()))),
                    )
                    for criterion in members.get("query", ())
                )
            ),
        )

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        names = [*self.types]
        for criterion in self.query:
            names += criterion.types
            names += criterion.tags
        names += filter(None, (self.stream, self.category, self.prefix))
        return 400 + 200 * len(self.query) + 100 * len(names) + sum(map(len, names))

    def fits(self, event: StoredEvent) -> bool:
        """Whether the event matches."""
        return (
            (self.stream is None or event.stream == self.stream)
            and (self.category is None or category_of(event.stream) == self.category)
            and (self.prefix is None or event.stream.startswith(self.prefix))
            and (not self.types or event.type in self.types)
            and (not self.query or any(criterion.fits(event) for criterion in self.query))
        )

    def as_wire(self) -> dict[str, Any]:
        """The filter in the form of a request."""
        members: dict[str, Any] = {}
        if self.stream is not None:
            members["stream"] = self.stream
        if self.category is not None:
            members["category"] = self.category
        if self.prefix is not None:
            members["prefix"] = self.prefix
        if self.types:
            members["types"] = list(self.types)
        if self.query:
            members["query"] = [criterion.as_wire() for criterion in self.query]
        return members


EVERYTHING = EventFilter()
