"""Queries: which events, by their types and tags.

    Query(types=["CourseDefined", "CapacityChanged"], tags=["course:c1"])
    | Query(types=["Enrolled"], tags=["course:c1", "student:s7"])

An event fits a criterion if its type is one of the criterion's types and it has all of its tags;
it fits a query if it fits one of the query's criteria.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.errors import InvalidArgument
from headwater_protocol.operations import FILTER


@dataclass(frozen=True, slots=True)
class Criterion:
    """One way to fit a query.

    Attributes:
        types: the event's type is one of these; none: it may be any.
        tags: the event has all of these; none: it need not have any.

    Raises:
        InvalidArgument: both are empty.
    """

    types: Sequence[str] = ()
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("types", "tags"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise InvalidArgument(f"criterion: {name} is a list, not {given!r:.60}")
            object.__setattr__(self, name, tuple(given))
        if not self.types and not self.tags:
            raise InvalidArgument("a criterion without types and tags: it would fit every event")

    def as_wire(self) -> dict[str, Any]:
        """The criterion as it travels."""
        members = {"types": list(self.types), "tags": list(self.tags)}
        return {name: names for name, names in members.items() if names}


@dataclass(frozen=True, slots=True, init=False)
class Query:
    """Which events: those that fit one of the criteria. `|` puts two queries together.

    Raises:
        InvalidArgument: there is no criterion, or it can mean nothing.
    """

    criteria: tuple[Criterion, ...]

    def __init__(
        self, *criteria: Criterion, types: Iterable[str] = (), tags: Iterable[str] = ()
    ) -> None:
        """A query of these criteria, and one more of *types* and *tags*, if any are given."""
        own = _listed("types", types), _listed("tags", tags)
        if any(own):
            criteria = (*criteria, Criterion(*own))
        if not criteria:
            raise InvalidArgument("a query without a criterion; give types or tags")
        for criterion in criteria:
            if not isinstance(criterion, Criterion):
                raise InvalidArgument(f"query: a Criterion is wanted, not {criterion!r:.60}")
        object.__setattr__(self, "criteria", criteria)

    def __or__(self, other: "Query") -> "Query":
        if not isinstance(other, Query):
            return NotImplemented
        return Query(*dict.fromkeys(self.criteria + other.criteria))

    def as_wire(self) -> list[dict[str, Any]]:
        """The query as it travels."""
        return [criterion.as_wire() for criterion in self.criteria]


def _listed(name: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InvalidArgument(f"query: {name} is a list, not {given!r:.60}")
    return tuple(given)


def event_filter(
    place: str,
    *,
    stream: str | None = None,
    category: str | None = None,
    prefix: str | None = None,
    types: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    query: Query | None = None,
) -> dict[str, Any]:
    """The filter that these arguments mean, as it travels. All that are given must fit."""
    for name, given in (("types", types), ("tags", tags)):
        if isinstance(given, str):
            raise InvalidArgument(f"{place}: {name} is a list of {name}, not {given!r}")
    if query is not None and not isinstance(query, Query):
        raise InvalidArgument(f"{place}: query: a Query is wanted, not {query!r:.60}")
    if tags is not None:
        if not tags:
            raise InvalidArgument(f"{place}: tags: no tag is given")
        criteria = query.criteria if query is not None else (None,)
        query = Query(
            *(
                Criterion(() if each is None else each.types, (*(each.tags if each else ()), *tags))
                for each in criteria
            )
        )
    members = {
        "stream": stream,
        "category": category,
        "prefix": prefix,
        "types": None if types is None else list(types),
        "query": None if query is None else query.as_wire(),
    }
    wanted = {name: member for name, member in members.items() if member is not None}
    FILTER(wanted, place)
    return wanted
