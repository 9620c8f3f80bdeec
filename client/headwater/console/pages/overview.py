"""The overview: figures, what needs attention, the latest events."""

from dataclasses import dataclass
from typing import Any, Final

from headwater.console.pages.consumers import (
    GroupRow,
    ProjectionRow,
    group_rows,
    projection_rows,
)
from headwater.console.pages.reading import rows_of
from headwater.console.visits import Hidden, Page, Visit

LATEST: Final = 10
"""The latest events that are shown."""

BEHIND_S: Final = 10.0
"""Seconds after which a projection that is behind needs attention."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Something that somebody should look at: a kind for its colour, a word, and what it is."""

    kind: str
    word: str
    name: str
    text: str
    address: str


async def overview(visit: Visit) -> Page:
    """The page of the overview."""
    moment = visit.moment
    stats: Any = await visit.part(visit.db.stats())
    position = await visit.part(visit.db.position_at(moment.commit))
    latest: Any = await visit.part(_latest(visit))
    categories: Any = (
        Hidden("past", "older than the history window")
        if moment.gone
        else await visit.part(_categories(visit))
    )
    groups = await visit.part(group_rows(visit))
    projections = (
        Hidden("past", "older than the history window")
        if moment.gone
        else await visit.part(projection_rows(visit))
    )
    values = {
        "stats": stats,
        "position": position,
        "latest": latest,
        "categories": categories,
        "groups": groups,
        "projections": projections,
        "attention": _attention(visit, stats, groups, projections),
    }
    return Page("overview.html", "Overview", "/", values)


async def _latest(visit: Visit) -> Any:
    events = visit.db.read_all(reverse=True, until_commit=visit.moment.commit, limit=LATEST)
    return await rows_of(visit, events)


async def _categories(visit: Visit) -> Any:
    found = [one async for one in visit.past.categories()]
    return sorted(found, key=lambda one: -one.events)[:LATEST]


def _attention(
    visit: Visit,
    stats: Any,
    groups: list[GroupRow] | Hidden,
    projections: list[ProjectionRow] | Hidden,
) -> list[Attention]:
    """What needs attention, the worst first."""
    found: list[Attention] = []
    if isinstance(stats, dict):
        if stats["read_only"]:
            found.append(Attention("bad", "read only", "", str(stats["read_only"]), ""))
        problem = stats["replication"]["replication_problem"]
        if problem:
            found.append(Attention("bad", "replication", "", str(problem), ""))
    for group in () if isinstance(groups, Hidden) else groups:
        at = visit.url("/consumers", {"group": group.name})
        if group.parked:
            text = f"{group.parked} parked, {group.waiting} events wait behind them"
            found.append(Attention("bad", "parked", group.name, text, at))
        elif group.members == 0 and group.lag:
            text = f"nobody has joined; {group.lag} positions behind"
            found.append(Attention("warn", "no consumer", group.name, text, at))
    for one in () if isinstance(projections, Hidden) else projections:
        at = visit.url("/consumers", {"projection": one.name})
        if one.parked:
            streams = "stream" if one.parked == 1 else "streams"
            found.append(Attention("bad", "parked", one.name, f"{one.parked} {streams} parked", at))
        if (one.behind or 0) > BEHIND_S:
            text = f"{one.lag} events behind, by {round(one.behind or 0)} s"
            found.append(Attention("warn", "behind", one.name, text, at))
    return sorted(found, key=lambda one: one.kind != "bad")
