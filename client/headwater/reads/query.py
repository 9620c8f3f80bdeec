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
            object.__setattr__(self, name, _listed(f"criterion: {name}", getattr(self, name)))
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
        own = _listed("query: types", types), _listed("query: tags", tags)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Events by all that can be asked of them. An event must match all members that are given.

    `Filter()` matches any event at all.

    Attributes:
        stream: events of this stream.
        category: events of streams of this category, the name up to its first "-".
        prefix: events of streams whose names begin with it.
        types: events of one of these types.
        tags: events with all of these tags.
        query: events that match one of its criteria.

    Raises:
        InvalidArgument: a member is invalid.
    """

    stream: str | None = None
    category: str | None = None
    prefix: str | None = None
    types: Sequence[str] | None = None
    tags: Sequence[str] | None = None
    query: Query | None = None

    def __post_init__(self) -> None:
        for name in ("types", "tags"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _listed(f"filter: {name}", given))
        self.as_wire()

    def as_wire(self, place: str = "filter") -> dict[str, Any]:
        """The filter in the form of the protocol."""
        return event_filter(
            place,
            stream=self.stream,
            category=self.category,
            prefix=self.prefix,
            types=self.types,
            tags=self.tags,
            query=self.query,
        )


def filter_of(place: str, given: Query | Filter) -> dict[str, Any]:
    """A query or a filter, in the form of the protocol.

    Raises:
        InvalidArgument: it is neither, or has too many criteria.
    """
    if isinstance(given, Filter):
        return given.as_wire(place)
    if isinstance(given, Query):
        return event_filter(place, query=given)
    raise InvalidArgument(f"{place}: expected a Query or a Filter, got {given!r:.60}")


def _listed(place: str, given: Iterable[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidArgument(f"{place}: expected a list, got {given!r:.60}")
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
    if types is not None:
        types = _listed(f"{place}: types", types)
    if tags is not None:
        tags = _listed(f"{place}: tags", tags)
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
