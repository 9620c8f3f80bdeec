"""Reading for pages: events as rows, and versions at a moment.

Events never change and are kept from the first on. So streams and events can be read at every
moment, also at one that is older than the history window, with `until_commit`.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

from headwater.codecs.codec import Codec
from headwater.console.visits import Visit
from headwater.console.words import Unreadable, decoded
from headwater.database import Database
from headwater.errors import NoSuchEvent
from headwater.records import RecordedEvent

ROWS_MAX: Final = 100
"""Rows of a list. More are on the next page, so each page is small and quick."""

ACTORS: Final = ("actor", "user", "by")
"""Members of metadata that name who caused an event, in this order."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event for a template: its data are decoded, and what cannot be decoded says so."""

    event: RecordedEvent
    data: Any
    metadata: Any

    @property
    def actor(self) -> str:
        """Who caused it, by the conventions of metadata; empty if nothing says so."""
        if isinstance(self.metadata, dict):
            for name in ACTORS:
                if isinstance(self.metadata.get(name), str):
                    return str(self.metadata[name])
        return ""

    @property
    def unreadable(self) -> bool:
        """Whether the codec cannot decode the data."""
        return isinstance(self.data, Unreadable)


def event_row(event: RecordedEvent, codec: Codec) -> EventRow:
    """The row of an event that was read as bytes."""
    return EventRow(event, decoded(codec, event.data), decoded(codec, event.metadata))


async def rows_of(
    visit: Visit, events: AsyncIterator[RecordedEvent], limit: int = ROWS_MAX
) -> list[EventRow]:
    """The first rows of a reading."""
    found: list[EventRow] = []
    async for event in events:
        found.append(event_row(event, visit.settings.codec))
        if len(found) == limit:
            break
    return found


def with_codec(db: Database, codec: Codec) -> Database:
    """The same database and connection with another codec."""
    other = Database(db.address, replace(db.options, codec=codec), db._runtime)  # noqa: SLF001
    other._opened_channel = db._channel  # noqa: SLF001
    return other


async def version_at(visit: Visit, stream: str, commit: int | None = None) -> int:
    """The version of a stream at a commit, however old it is; by default that of the moment."""
    at = visit.moment.commit if commit is None else commit
    if at >= max(visit.moment.oldest, 1):
        return await visit.db.at(commit=at).version(stream)
    last = visit.db.read(stream, reverse=True, limit=1, until_commit=at)
    event = await anext(last, None)
    return 0 if event is None else event.version


async def event_at(visit: Visit, position: int) -> EventRow:
    """The event at a position.

    Raises:
        NoSuchEvent: there is none.
    """
    found = await anext(visit.db.read_all(after=position - 1, limit=1), None) if position else None
    if found is None or found.position != position:
        raise NoSuchEvent(f"there is no event at position {position}")
    return event_row(found, visit.settings.codec)


async def event_of(visit: Visit, stream: str, version: int) -> EventRow:
    """The event of a stream with a version.

    Raises:
        NoSuchEvent: there is none.
    """
    pages = visit.db.read(stream, after=version - 1, limit=1) if version else None
    found = None if pages is None else await anext(pages, None)
    if found is None or found.version != version:
        raise NoSuchEvent(f"stream {stream!r:.80} has no event {version}")
    return event_row(found, visit.settings.codec)


def category_of(stream: str) -> str:
    """The category of a stream: its name up to the first "-"."""
    return stream.partition("-")[0]
