"""Events: the list of all, with filters, and one event with all that belongs to it."""

from typing import Any, Final
from uuid import UUID

from headwater.console.pages.causes import chain_of
from headwater.console.pages.commits import changes_of
from headwater.console.pages.reading import (
    ROWS_MAX,
    EventRow,
    category_of,
    event_at,
    event_of,
    rows_of,
)
from headwater.console.visits import Elsewhere, Hidden, Page, Visit
from headwater.console.words import hexadecimal, pretty, visible
from headwater.errors import InvalidArgument, NoSuchEvent
from headwater.records import RecordedEvent

FILTERS: Final = ("category", "prefix", "type", "tag", "stream")
"""Members of the query that filter the list."""


async def events(visit: Visit) -> Page | Elsewhere:
    """The page of all events, the newest first."""
    identity = visit.get("id").strip()
    if identity:
        return Elsewhere(visit.url("/event", {"id": identity}))
    wanted = {name: visit.get(name) for name in FILTERS if visit.get(name)}
    filters: dict[str, Any] = {
        name: wanted[name] for name in ("category", "prefix", "stream") if name in wanted
    }
    if "type" in wanted:
        filters["types"] = [wanted["type"]]
    if "tag" in wanted:
        filters["tags"] = [wanted["tag"]]
    before = visit.number("before")
    rows: list[EventRow] = []
    if before != 1:
        found = visit.db.read_all(
            reverse=True, after=before or 0, until_commit=visit.moment.commit, **filters
        )
        rows = await rows_of(visit, found)
    since = visit.moment.since
    if since is not None:
        rows = [row for row in rows if row.event.commit > since]
    values = {
        "rows": rows,
        "wanted": wanted,
        "older": rows[-1].event.position if len(rows) == ROWS_MAX else None,
        "before": before,
        "since": since,
    }
    marks = [(row.event.commit, "") for row in rows] if wanted else []
    return Page("events.html", "Events", "/events", values, marks=marks)


async def event(visit: Visit) -> Page | Elsewhere:
    """The page of one event."""
    if not visit.get("stream"):
        # An id or a position leads to the one address of the event.
        return Elsewhere(visit.event_url(await _looked_up(visit)))
    stream, version = visit.get("stream"), visit.number("version") or 0
    row = await event_of(visit, stream, version)
    recorded = row.event
    mates = await _mates(visit, row)
    changes: Any = (
        Hidden("past", "older than the history window")
        if recorded.commit <= visit.moment.oldest
        else await visit.part(changes_of(visit, recorded.commit))
    )
    raw = recorded.data
    values = {
        "row": row,
        "category": category_of(recorded.stream),
        "later": recorded.commit > visit.moment.commit,
        "mates": mates,
        "changes": changes,
        "raw": raw if isinstance(raw, bytes) else b"",
        "pretty_data": pretty(row.data),
        "chain": await visit.part(chain_of(visit, row)),
        "hex_data": hexadecimal(raw if isinstance(raw, bytes) else b""),
    }
    chain = values["chain"]
    marks = {(recorded.commit, "")}
    if not isinstance(chain, Hidden):
        marks |= {(node.row.event.commit, "") for node in chain.nodes}
    return Page("event.html", visible(recorded.type), "/events", values, marks=sorted(marks))


async def _looked_up(visit: Visit) -> RecordedEvent:
    """The event of which the address has the id or the position."""
    if visit.get("id"):
        found = await visit.db.find_event(identity_of(visit.get("id")))
        if found is None:
            raise NoSuchEvent(f"there is no event with the id {visit.get('id')}")
        return found
    position = visit.number("position")
    if position is None:
        raise InvalidArgument(f"event: position: {visit.get('position')!r:.40} is no position")
    return (await event_at(visit, position)).event


async def _mates(visit: Visit, row: EventRow) -> list[EventRow]:
    """The other events of the same commit, the first ones."""
    found = await visit.part(_events_of(visit, row.event.commit))
    if isinstance(found, Hidden):
        return []
    return [one for one in found if one.event.position != row.event.position]


async def _events_of(visit: Visit, commit: int) -> list[EventRow]:
    return await rows_of(visit, await visit.db.events_of(commit))


def identity_of(text: str) -> UUID:
    """The id of an event.

    Raises:
        InvalidArgument: the text is no UUID.
    """
    try:
        return UUID(text.strip())
    except ValueError as error:
        raise InvalidArgument(f"event: id: {text!r:.60} is no UUID") from error
