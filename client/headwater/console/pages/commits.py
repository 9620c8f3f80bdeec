"""Commits: who, when, and what, as one transaction across events and keys."""

from dataclasses import dataclass
from typing import Any, Final

from headwater.console.moments import commit_record
from headwater.console.pages.reading import ROWS_MAX, EventRow, rows_of
from headwater.console.visits import Hidden, Page, Visit
from headwater.console.words import decoded
from headwater.projections.state import RECORDS
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
    listed = visit.db.commits(until=top, reverse=True, limit=ROWS_MAX) if top else None
    rows = [] if listed is None else [one async for one in listed]
    if moment.since is not None:
        rows = [one for one in rows if one.commit > moment.since]
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
        "contents": None,
    }
    if card is not None:
        values["events"] = await visit.part(_events_of(visit, card.commit))
        values["contents"] = await visit.part(visit.db.read_commit(card.commit))
        values["changes"] = (
            Hidden("past", "older than the history window")
            if card.commit <= moment.oldest
            else await visit.part(changes_of(visit, card.commit))
        )
    return Page("commits.html", "Commits", "/commits", values)


async def _events_of(visit: Visit, commit: int) -> list[EventRow]:
    return await rows_of(visit, await visit.db.events_of(commit))


async def changes_of(visit: Visit, commit: int) -> list[ChangeRow]:
    """The keys that a commit changed, the first ones. It must be in the history window."""
    found = visit.db.changes(commit, limit=CHANGES_MAX)
    return [change_row(visit, change) async for change in found]


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
