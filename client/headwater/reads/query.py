"""Queries select events by their types and tags.

    Query(types=["CourseDefined", "CapacityChanged"], tags=["course:c1"])
    | Query(types=["Enrolled"], tags=["course:c1", "student:s7"])

An event matches a criterion if its type is one of the criterion's types and it has all of the
criterion's tags. It matches a query if it matches one of the query's criteria.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.errors import InvalidArgument
from headwater_protocol.operations import FILTER


@dataclass(frozen=True, slots=True)
class Criterion:
    """One way to match a query.

    Attributes:
        types: the event's type is one of these. Empty: any type.
        tags: the event has all of these. Empty: any tags.

    Raises:
        InvalidArgument: both are empty.
    """

    types: Sequence[str] = ()
    tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("types", "tags"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise InvalidArgument(f"criterion: {name}: expected a list, got {given!r:.60}")
            object.__setattr__(self, name, tuple(given))
        if not self.types and not self.tags:
            raise InvalidArgument("criterion: give types or tags; without both it matches anything")

    def as_wire(self) -> dict[str, Any]:
        """The criterion in the form of the protocol."""
        members = {"types": list(self.types), "tags": list(self.tags)}
        return {name: names for name, names in members.items() if names}


@dataclass(frozen=True, slots=True, init=False)
class Query:
    """The events that match one of several criteria. `|` combines two queries.

    Raises:
        InvalidArgument: there is no criterion, or one is invalid.
    """

    criteria: tuple[Criterion, ...]

    def __init__(
        self, *criteria: Criterion, types: Iterable[str] = (), tags: Iterable[str] = ()
    ) -> None:
        """Make a query of *criteria*, and of one more from *types* and *tags* if they are given."""
        own = _listed("types", types), _listed("tags", tags)
        if any(own):
            criteria = (*criteria, Criterion(*own))
        if not criteria:
            raise InvalidArgument("query: no criterion; give types or tags")
        for criterion in criteria:
            if not isinstance(criterion, Criterion):
                raise InvalidArgument(f"query: expected a Criterion, got {criterion!r:.60}")
        object.__setattr__(self, "criteria", criteria)

    def __or__(self, other: "Query") -> "Query":
        if not isinstance(other, Query):
            return NotImplemented
        return Query(*dict.fromkeys(self.criteria + other.criteria))

    def as_wire(self) -> list[dict[str, Any]]:
        """The query in the form of the protocol."""
        return [criterion.as_wire() for criterion in self.criteria]


def _listed(name: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InvalidArgument(f"query: {name}: expected a list, got {given!r:.60}")
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
    """The filter of these arguments, in the form of the protocol. An event must match all."""
    for name, given in (("types", types), ("tags", tags)):
        if isinstance(given, str):
            raise InvalidArgument(f"{place}: {name}: expected a list, got {given!r:.60}")
    if query is not None and not isinstance(query, Query):
        raise InvalidArgument(f"{place}: query: expected a Query, got {query!r:.60}")
    if tags is not None:
        if not tags:
            raise InvalidArgument(f"{place}: tags: the list is empty")
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
