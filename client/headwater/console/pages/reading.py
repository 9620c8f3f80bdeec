"""Reading for pages: events as rows, and positions and versions at a moment.

Events never change and are kept from the first on. So streams and events can be read at every
moment, also at one that is older than the history window: they are read at the newest commit, and
those of later commits are left out.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

from headwater.codecs.codec import Codec
from headwater.console.moments import commit_record
from headwater.console.visits import Visit
from headwater.console.words import Unreadable, decoded
from headwater.database import Database
from headwater.errors import NoSuchEvent
from headwater.records import RecordedEvent

ROWS_MAX: Final = 100
"""Rows of a list. More are on the next page, so each page is small and quick."""

EQUAL_TIMES_MAX: Final = 10_000
"""Events that are passed over because their commit has the time of the moment, but is later."""

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
    """The first rows of a reading, without those of commits after the moment."""
    found: list[EventRow] = []
    async for event in events:
        if event.commit <= visit.moment.commit:
            found.append(event_row(event, visit.settings.codec))
            if len(found) == limit:
                break
    return found


def with_codec(db: Database, codec: Codec) -> Database:
    """The same database and connection with another codec."""
    other = Database(db.address, replace(db.options, codec=codec), db._runtime)  # noqa: SLF001
    other._opened_channel = db._channel  # noqa: SLF001
    return other


async def position_at(visit: Visit) -> int:
    """The position of the newest event at the moment."""
    moment = visit.moment
    if not moment.gone:
        return await visit.past.newest_position()
    record = await commit_record(visit.db, moment.commit)
    if record is not None and record.events and record.first_position is not None:
        return record.first_position + record.events - 1
    if moment.time is None:
        return 0
    # Commits may have the same time, so a few events may be of later ones.
    latest = visit.db.read_all(until=moment.time, reverse=True, limit=EQUAL_TIMES_MAX)
    async for event in latest:
        if event.commit <= moment.commit:
            return event.position
    return 0


async def version_at(visit: Visit, stream: str) -> int:
    """The version of a stream at the moment."""
    if not visit.moment.gone:
        return await visit.past.version(stream)
    low, high = 0, int(await visit.db.version(stream))
    # The commits of a stream's events ascend, so this halves: some 20 reads for a million events.
    while low < high:
        middle = (low + high + 1) // 2
        event = await anext(visit.db.read(stream, after=middle - 1, limit=1), None)
        if event is None or event.commit > visit.moment.commit:
            high = middle - 1
        else:
            low = middle
    return low


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
