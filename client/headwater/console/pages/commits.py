"""Commits: who, when, and what, as one transaction across events and keys."""

from dataclasses import dataclass
from typing import Any, Final

from headwater.console.moments import commit_record
from headwater.console.pages.reading import ROWS_MAX, EventRow, event_row
from headwater.console.visits import Hidden, Page, Visit
from headwater.console.words import decoded
from headwater.feeds.items import Changes
from headwater.projections.state import RECORDS
from headwater.records import CommitRecord
from headwater_protocol.keys import KeyTuple

CHANGES_MAX: Final = 100
"""Changed keys of a commit that are shown."""

INTERNAL: Final = ("$projection", "$parked", "$skipped")
"""First members of keys whose values are those of the client library, whatever the codec."""


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A key that a commit changed: kind is "add", "del" or "ch"."""

    key: KeyTuple
    kind: str
    before: Any
    after: Any
    expired: bool


async def commits(visit: Visit) -> Page:
    """The page of commits, the newest first."""
    moment = visit.moment
    chosen = visit.number("commit")
    chosen = None if chosen is None else max(1, min(chosen, moment.commit))
    top = visit.number("before")
    top = moment.commit if top is None else min(top - 1, moment.commit)
    if visit.number("before") is None and chosen is not None and top - chosen >= ROWS_MAX:
        top = min(moment.commit, chosen + ROWS_MAX // 2)
    rows = [
        one
        async for one in visit.db.commits(after=max(0, top - ROWS_MAX), limit=min(top, ROWS_MAX))
        if one.commit <= top
    ]
    if moment.since is not None:
        rows = [one for one in rows if one.commit > moment.since]
    rows.reverse()
    card = None
    if chosen is None and rows:
        chosen = rows[0].commit
    if chosen is not None:
        record = next((one for one in rows if one.commit == chosen), None)
        card = record or await commit_record(visit.db, chosen)
    values: dict[str, Any] = {
        "rows": rows,
        "chosen": chosen,
        "record": card,
        "picked": visit.number("commit") is not None,
        "older": rows[-1].commit if rows and rows[-1].commit > 1 else None,
        "events": [],
        "changes": None,
    }
    if card is not None:
        values["events"] = await visit.part(events_of(visit, card))
        values["changes"] = (
            Hidden("past", "older than the history window")
            if card.commit <= moment.oldest
            else await visit.part(changes_of(visit, card.commit))
        )
    return Page("commits.html", "Commits", "/commits", values)


async def events_of(visit: Visit, record: CommitRecord) -> list[EventRow]:
    """The events of a commit."""
    if not record.events or record.first_position is None:
        return []
    found = visit.db.read_all(after=record.first_position - 1, limit=min(record.events, ROWS_MAX))
    return [
        event_row(event, visit.settings.codec)
        async for event in found
        if event.commit == record.commit
    ]


async def changes_of(visit: Visit, commit: int) -> list[ChangeRow]:
    """The keys that a commit changed. It must be in the history window."""
    async with visit.db.subscribe(keys=(), after=commit - 1, window=1) as feed:
        async for item in feed:
            if not isinstance(item, Changes) or item.position != commit:
                return []
            return [change_row(visit, change) for change in item.changes[:CHANGES_MAX]]
    return []


def change_row(visit: Visit, change: Any) -> ChangeRow:
    """The row of a changed key, whose values were read as bytes."""
    kind = "add" if not change.existed else "ch" if change.exists else "del"
    key: KeyTuple = change.key
    before = value_of_key(visit, key, change.old if change.existed else None)
    after = value_of_key(visit, key, change.new if change.exists else None)
    return ChangeRow(key, kind, before, after, change.expired)


def value_of_key(visit: Visit, key: KeyTuple, stored: bytes | None) -> Any:
    """The value of a key, decoded by the codec that wrote it."""
    internal = bool(key) and key[0] in INTERNAL
    return decoded(RECORDS if internal else visit.settings.codec, stored)
