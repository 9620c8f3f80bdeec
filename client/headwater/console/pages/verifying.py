"""A read model compared with what the application's handler makes of the same events."""

from dataclasses import dataclass
from typing import Any, Final

from headwater.console.pages.commits import value_of_key
from headwater.console.pages.reading import with_codec
from headwater.console.visits import Page, Visit
from headwater.errors import InvalidArgument
from headwater.projections.comparing import (
    Difference,
    Replayed,
    Stored,
    differences,
    disagreements,
    replayed,
    stored_at,
)
from headwater_protocol.keys import KeyTuple

VERIFIED_EVENTS_MAX: Final = 50_000
"""Positions up to which a page runs a handler: some seconds. The command line has no bound."""

SHOWN_MAX: Final = 100
"""Differences that are shown."""


@dataclass(frozen=True, slots=True)
class DifferenceRow:
    """A key with two values; None: absent."""

    key: KeyTuple
    full: KeyTuple
    first: Any
    second: Any
    has_first: bool
    has_second: bool


async def verify(visit: Visit) -> Page:
    """The page that runs a handler twice, and compares the results and the model."""
    name = visit.get("projection")
    if visit.settings.define is None:
        raise InvalidArgument(
            "the console does not know the handlers of the application; start it with "
            "--app module:function"
        )
    db = with_codec(visit.db, visit.settings.codec)
    visit.settings.define(db)
    (projection,) = db.projections.defined(name)
    host, commit = db._host(), visit.moment.commit  # noqa: SLF001
    stored = await stored_at(host, name, commit)
    if stored.position > VERIFIED_EVENTS_MAX:
        raise InvalidArgument(
            f"verify: the model was made of the events up to position {stored.position}; a page "
            f"runs handlers over {VERIFIED_EVENTS_MAX} at most. Use headwater verify-projections"
        )
    first = await replayed(host, projection, stored, commit)
    second = await replayed(host, projection, stored, commit)
    unsure = disagreements(name, stored, first, second)
    differing: list[Difference] = []
    if not unsure:
        differing = [one async for one in differences(host, name, stored, commit, first)]
    return _page(visit, name, stored, first, unsure, differing)


def _page(
    visit: Visit,
    name: str,
    stored: Stored,
    done: Replayed,
    unsure: list[Difference],
    differing: list[Difference],
) -> Page:
    chosen = unsure or differing
    prefix = ("$model", name, stored.build.number)

    def row(one: Difference) -> DifferenceRow:
        full = (*prefix, *one.key)
        return DifferenceRow(
            one.key,
            full,
            value_of_key(visit, full, one.first),
            value_of_key(visit, full, one.second),
            one.first is not None,
            one.second is not None,
        )

    values = {
        "name": name,
        "stored": stored,
        "done": done,
        "verdict": "unsure" if unsure else "differs" if differing else "equal",
        "count": len(chosen),
        "rows": [row(one) for one in chosen[:SHOWN_MAX]],
    }
    return Page("verify.html", f"Verify {name}", "/consumers", values)
