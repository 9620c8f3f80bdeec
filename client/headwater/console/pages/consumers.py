"""Consumers: groups and projections, how far they are, what they have parked, and why."""

from dataclasses import dataclass, replace
from typing import Any, Final

from headwater.console.pages.reading import ROWS_MAX, EventRow, event_row
from headwater.console.visits import Hidden, Mark, Page, Visit
from headwater.errors import InvalidArgument, NoSuchGroup, PermissionDenied
from headwater.groups.administration import GroupInfo
from headwater.projections.state import RECORDS, ParkedStream, build_key, head_key, head_of

LISTED_MAX: Final = 50
"""Groups and projections whose figures are read; each takes a request or two."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group in the list. Its members are not known of the past."""

    name: str
    filter: str
    members: int | None
    lag: int
    in_flight: int
    retrying: int
    parked: int
    waiting: int
    position: int
    newest: int

    @property
    def state(self) -> tuple[str, str]:
        """A kind for the colour, and a word."""
        if self.parked:
            return ("bad", "parked")
        if self.members == 0:
            return ("warn", "no consumer")
        return ("", "working") if self.lag else ("good", "level")


@dataclass(frozen=True, slots=True)
class ProjectionRow:
    """A projection in the list; behind is in seconds, None if that is not known of the past."""

    name: str
    version: int
    build: int
    position: int
    newest: int
    lag: int
    behind: float | None
    parked: int
    next_position: int | None

    @property
    def state(self) -> tuple[str, str]:
        """A kind for the colour, and a word."""
        if self.parked:
            return ("bad", "parked")
        if self.next_position is not None:
            return ("", "rebuilding")
        return ("warn", "behind") if self.lag else ("good", "level")


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """An event that a group has parked. The event is None if it cannot be read any more."""

    position: int
    attempts: int
    reason: str
    time: Any
    row: EventRow | None


async def consumers(visit: Visit) -> Page:
    """The page of groups and projections."""
    groups = await visit.part(group_rows(visit))
    projections: list[ProjectionRow] | Hidden = (
        Hidden("past", "older than the history window")
        if visit.moment.gone
        else await visit.part(projection_rows(visit))
    )
    group, projection = visit.get("group"), visit.get("projection")
    if not group and not projection and isinstance(groups, list):
        # The first that has parked something is what people come for.
        group = next((one.name for one in groups if one.parked), "")
    if not group and not projection and isinstance(projections, list):
        projection = next((one.name for one in projections if one.parked), "")
    marks: list[Mark] = []
    values: dict[str, Any] = {
        "groups": groups,
        "projections": projections,
        "group": group,
        "projection": projection,
        "info": None,
        "parked_events": None,
        "parked_streams": None,
        "done": visit.get("done"),
    }
    if group:
        values["info"] = await visit.part(_info(visit, group))
        parked = await visit.part(parked_events(visit, group))
        values["parked_events"] = parked
        if isinstance(parked, list):
            marks = [(one.row.event.commit, "bad") for one in parked if one.row is not None]
    elif projection and not visit.moment.gone:
        values["parked_streams"] = await visit.part(parked_streams(visit, projection))
    return Page("consumers.html", "Consumers", "/consumers", values, marks=marks)


async def _info(visit: Visit, name: str) -> GroupInfo:
    return await visit.db.groups.info(name, commit=visit.moment.at)


async def group_rows(visit: Visit) -> list[GroupRow]:
    """The groups at the moment; of the past, without members, which are not stored."""
    rights = await visit.session.rights()
    names: list[str]
    allowed = [one.name for one in rights.grants if one.right == "group" and one.name]
    try:
        names = [one.name for one in await visit.db.groups.list(commit=visit.moment.at)]
    except PermissionDenied:
        # A user may have the right to some groups, and not to list all.
        if not allowed:
            raise
        names = allowed
    found = []
    for name in names[:LISTED_MAX]:
        try:
            found.append(_group_row(await _info(visit, name), live=visit.moment.live))
        except NoSuchGroup:
            # It was deleted meanwhile.
            continue
    return found


def _group_row(info: GroupInfo, *, live: bool) -> GroupRow:
    words = (f"{name} {_listed(wanted)}" for name, wanted in info.filter.items())
    return GroupRow(
        info.name,
        "; ".join(words) or "all events",
        info.members if live else None,
        info.lag,
        info.in_flight,
        info.retrying,
        info.parked,
        info.waiting,
        info.position,
        info.newest,
    )


def _listed(wanted: Any) -> str:
    return ", ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)


async def parked_events(visit: Visit, group: str) -> list[ParkedRow]:
    """The parked events of a group, the first ones."""
    found = []
    async for one in visit.db.groups.parked(group, limit=ROWS_MAX, commit=visit.moment.at):
        row = None if one.event is None else event_row(one.event, visit.settings.codec)
        found.append(ParkedRow(one.position, one.attempts, one.reason, one.time, row))
    return found


async def projection_rows(visit: Visit) -> list[ProjectionRow]:
    """The projections at the moment: their state is in keys, so it can be read of the past."""
    past = visit.past
    names = [str(key[1]) async for key in past.prefixes(("$projection",), limit=LISTED_MAX)]
    newest = await visit.past.newest_position()
    found = []
    for name in names:
        one = await (_now(visit, name, newest) if visit.moment.live else _then(visit, name, newest))
        if one is not None:
            found.append(one)
    return found


async def _now(visit: Visit, name: str, newest: int) -> ProjectionRow | None:
    try:
        status = await visit.db.projection_status(name)
    except InvalidArgument:
        # It was removed meanwhile.
        return None
    parked = len(await visit.db.projections.parked(name)) if status.parked else 0
    return ProjectionRow(
        name,
        status.version,
        status.build,
        status.position,
        newest,
        status.lag_events,
        status.lag_seconds,
        parked,
        status.next_position,
    )


async def _then(visit: Visit, name: str, newest: int) -> ProjectionRow | None:
    stored = await visit.past.get(head_key(name))
    if stored is None:
        return None
    head = head_of(RECORDS.decode(stored))
    keys = [build_key(name, head.build.number)]
    if head.next is not None:
        keys.append(build_key(name, head.next.number))
    records = await visit.past.get_many(keys)
    progress = [None if one is None else RECORDS.decode(one) for one in records]
    position = progress[0]["position"] if progress[0] else 0
    following = await visit.past.newest_position(**_wanted(head.build.wanted))
    return ProjectionRow(
        name,
        head.build.version,
        head.build.number,
        position,
        newest,
        newest - position if following > position else 0,
        None,
        len(await parked_streams(visit, name)),
        progress[1]["position"] if len(progress) > 1 and progress[1] else None,
    )


def _wanted(filters: Any) -> dict[str, Any]:
    """The filter of a projection as arguments of a read."""
    simple = ("stream", "category", "prefix", "types", "tags")
    return {name: filters[name] for name in simple if name in filters}


async def parked_streams(visit: Visit, name: str) -> list[ParkedStream]:
    """The parked streams of a projection at the moment."""
    past = visit.past
    stored = await past.get(head_key(name))
    if stored is None:
        # It had not run at this moment.
        return []
    build = head_of(RECORDS.decode(stored)).build.number
    found: dict[str, ParkedStream] = {}
    async for key, value in past.scan(("$parked", name, build), limit=2 * ROWS_MAX):
        stream, record = str(key[3]), RECORDS.decode(value)
        if len(key) == 4:
            found[stream] = ParkedStream(stream=stream, **record)
        elif stream in found:
            found[stream] = replace(found[stream], held=record)
    return list(found.values())
