"""A stream at a moment: its events, the state after the last of them, and what that changed."""

from typing import Any, Final

from headwater.console.pages.folding import folded
from headwater.console.pages.reading import (
    ROWS_MAX,
    category_of,
    event_row,
    rows_of,
    version_at,
)
from headwater.console.visits import MARKS_MAX, Elsewhere, Mark, Page, Visit
from headwater.console.words import visible

LATER_SHOWN: Final = 3
"""Events after the moment that are shown, so that one sees what comes next."""


async def stream(visit: Visit) -> Page | Elsewhere:
    """The page of a stream."""
    name = visit.get("name")
    if not name:
        return Elsewhere(visit.url("/streams"))
    moment = visit.moment
    version = await version_at(visit, name)
    newest = await visit.db.version(name)
    before = visit.number("before") or version + 1
    until = min(before, version + 1)
    source = visit.db if moment.gone else visit.past
    rows = await rows_of(visit, source.read(name, reverse=True, after=until))
    later = await _later(visit, name, version)
    since = None if moment.since is None else await version_at(visit, name, moment.since)
    values: dict[str, Any] = {
        "name": name,
        "category": category_of(name),
        "version": version,
        "newest": max(newest, version),
        "rows": rows,
        "older": rows[-1].event.version if rows and rows[-1].event.version > 1 else None,
        "later": later[:LATER_SHOWN] if visit.get("later") != "all" else later,
        "later_count": max(0, newest - version),
        "state": None,
        "current": None,
        "since": since,
        "has_fold": category_of(name) in visit.settings.folds,
        "first_commit": None,
    }
    if version:
        base = max(0, version - 1) if since is None else since
        values["state"] = await folded(visit, name, version, base)
        top = rows[0] if rows and before > version else None
        values["current"] = top if top is not None and top.event.version == version else None
    elif later:
        values["first_commit"] = later[0].event.commit
    marks = await visit.part(_marks(visit, name))
    return Page(
        "stream.html",
        visible(name),
        "/streams",
        values,
        marks=marks if isinstance(marks, list) else [],
        status=200 if newest or version else 404,
    )


async def _later(visit: Visit, name: str, version: int) -> list[Any]:
    if visit.moment.live:
        return []
    events = visit.db.read(name, after=version, limit=ROWS_MAX)
    return [event_row(event, visit.settings.codec) async for event in events]


async def _marks(visit: Visit, name: str) -> list[Mark]:
    events = visit.db.read(name, reverse=True, limit=MARKS_MAX)
    marks = {event.commit: "" for event in [each async for each in events]}
    if visit.moment.live or not visit.moment.gone:
        async for snapshot in visit.past.snapshots_of(name):
            marks[snapshot.commit] = "snap"
    return sorted(marks.items())
