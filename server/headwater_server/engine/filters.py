"""Filters of events: by stream, category, prefix of the stream's name, and types."""

from dataclasses import dataclass
from typing import Any

from headwater_server.engine.events import StoredEvent, category_of


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted. All that is given must fit; nothing given fits every event."""

    stream: str | None = None
    category: str | None = None
    prefix: str | None = None
    types: tuple[str, ...] = ()

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
        )

    def fits(self, event: StoredEvent) -> bool:
        """Whether the event is one of those that are wanted."""
        return (
            (self.stream is None or event.stream == self.stream)
            and (self.category is None or category_of(event.stream) == self.category)
            and (self.prefix is None or event.stream.startswith(self.prefix))
            and (not self.types or event.type in self.types)
        )

    def as_wire(self) -> dict[str, Any]:
        """The filter as it stands in a request."""
        members: dict[str, Any] = {}
        if self.stream is not None:
            members["stream"] = self.stream
        if self.category is not None:
            members["category"] = self.category
        if self.prefix is not None:
            members["prefix"] = self.prefix
        if self.types:
            members["types"] = list(self.types)
        return members


EVERYTHING = EventFilter()
