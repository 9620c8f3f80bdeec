"""Why a key has its value: its history, the events beside each change, and the model's handler."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any, Final

from headwater.console.pages.commits import value_of_key
from headwater.console.pages.reading import EventRow, rows_of, with_codec
from headwater.console.visits import Hidden, Visit
from headwater.errors import HeadwaterError, InvalidArgument
from headwater.projections.comparing import Explanation, explain
from headwater_protocol.keys import KeyTuple

HISTORY_MAX: Final = 500
"""Versions of a key that are read."""

SHOWN_MAX: Final = 60
"""Versions that are shown, and of which the events are looked up: each takes a request or two."""

STANDS_OUT: Final = 5
"""A change stands out if it is so many times the median of all changes."""

STANDS_OUT_MIN: Final = 5
"""The fewest changes among which one can stand out."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version of a key. `existed` is None for the oldest that is kept."""

    commit: int
    time: datetime | None
    user: str | None
    before: Any
    after: Any
    existed: bool | None
    exists: bool
    expired: bool
    difference: float | None
    events: Sequence[EventRow] = ()


@dataclass(frozen=True, slots=True)
class Sum:
    """The changes that events of one type and actor made together."""

    type: str
    actor: str
    count: int
    total: float


@dataclass(frozen=True, slots=True)
class Sums:
    """A number as its start value and the sums of its changes.

    Attributes:
        start: the value before the first change that is kept, or the one that was set first.
        lines: the changes by type and actor of the event in their commits.
        largest: the largest change, if it stands out, and how many times the median it is.
    """

    start: Any
    lines: list[Sum]
    largest: VersionRow | None
    times: float


@dataclass(frozen=True, slots=True)
class Explained:
    """The events that made a value of a read model, or why they cannot be told."""

    projection: str
    explanation: Explanation | None
    start: Any
    result: Any
    changes: list[tuple[Any, Any, Any]]
    agrees: bool
    problem: str = ""


async def versions_of(visit: Visit, key: KeyTuple) -> list[VersionRow]:
    """The versions of a key that are kept, the newest first, also those after the moment."""
    found: list[VersionRow] = []
    async for one in visit.db.history(key, limit=HISTORY_MAX):
        before = value_of_key(visit, key, one.old)
        after = value_of_key(visit, key, one.new)
        difference = after - before if _number(before) and _number(after) else None
        events: Sequence[EventRow] = ()
        if len(found) < SHOWN_MAX and one.existed is not None:
            beside = await visit.part(_beside(visit, one.commit))
            events = () if isinstance(beside, Hidden) else beside
        found.append(
            VersionRow(
                one.commit,
                one.time,
                one.user,
                before,
                after,
                one.existed,
                one.exists,
                one.expired,
                difference,
                events,
            )
        )
    return found


async def _beside(visit: Visit, commit: int) -> list[EventRow]:
    return await rows_of(visit, await visit.db.events_of(commit), 5)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sums(versions: list[VersionRow]) -> Sums | None:
    """A number as a sum of changes. None: it is no number, or was not changed."""
    changes = [one for one in versions if one.existed is not None]
    if not changes or not _number(versions[0].after):
        return None
    if not all(_number(one.after) and (_number(one.before) or not one.existed) for one in changes):
        return None
    begin = changes[-1]
    if not begin.existed:
        # It was set for the first time, which is no change of a number.
        changes.pop()
    lines: dict[tuple[str, str], list[float]] = {}
    for one in changes:
        first = one.events[0] if one.events else None
        name = ("", one.user or "") if first is None else (first.event.type, first.actor)
        lines.setdefault(name, []).append(_delta(one))
    largest, times = _outstanding(changes)
    return Sums(
        begin.before if begin.existed else begin.after,
        [Sum(*name, len(each), sum(each)) for name, each in sorted(lines.items())],
        largest,
        times,
    )


def _outstanding(changes: list[VersionRow]) -> tuple[VersionRow | None, float]:
    """The largest change, if it stands out, and how many times the median it is."""
    if len(changes) < STANDS_OUT_MIN:
        return None, 0.0
    middle = median([abs(_delta(one)) for one in changes])
    largest = max(changes, key=lambda one: abs(_delta(one)))
    times = abs(_delta(largest)) / middle if middle else 0.0
    return (largest, times) if times >= STANDS_OUT else (None, 0.0)


def _delta(one: VersionRow) -> float:
    before = one.before if _number(one.before) else 0
    return float(one.after - before) if isinstance(one.after, float) else one.after - before


async def explained(visit: Visit, key: KeyTuple) -> Explained | None:
    """For a key of a read model: the events that made it. None: it is of no model."""
    if len(key) < 4 or key[0] != "$model":
        return None
    name = str(key[1])
    if visit.settings.define is None:
        return Explained(
            name, None, None, None, [], False,
            "The handler is not known: start the console with --app module:function.",
        )  # fmt: skip
    db = with_codec(visit.db, visit.settings.codec)
    visit.settings.define(db)
    try:
        (projection,) = db.projections.defined(name)
        found = await explain(
            db._host(),  # noqa: SLF001
            projection,
            key[3:],
            visit.moment.commit,
            visit.moment.oldest,
        )
    except InvalidArgument as error:
        return Explained(name, None, None, None, [], False, str(error))
    except HeadwaterError as error:
        return Explained(name, None, None, None, [], False, f"{type(error).__name__}: {error}")
    stored = await visit.past.get(key)
    changes = [
        (
            cause,
            value_of_key(visit, key, cause.change.before),
            value_of_key(visit, key, cause.change.after),
        )
        for cause in found.causes
    ]
    return Explained(
        name,
        found,
        value_of_key(visit, key, found.start),
        value_of_key(visit, key, found.result),
        changes[-SHOWN_MAX:],
        value_of_key(visit, key, stored) == value_of_key(visit, key, found.result),
    )
