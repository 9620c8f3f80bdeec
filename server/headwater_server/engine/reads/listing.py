"""Listings of streams and categories, as of a commit.

    files       heads of the index, in order of name      account-ann  account-bob  order-1
    memtables   names that have events since              account-bob  account-cid

Both are merged by name. A head says where a stream ends now. Its positions say where it ended at
the read view; a stream that began later is left out. So is a deleted stream: retention hides even
its name.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from headwater_server.engine.format.index_keys import CATEGORY, STREAM, IndexHead, parse_head
from headwater_server.engine.retention.rules import stored_rule, visibility_at
from headwater_server.engine.state import postings
from headwater_server.engine.state.layers import Head, State
from headwater_server.engine.state.names import names_in_order

_LOOKED_AT: Final = 1000
"""Deleted streams that are examined in one step."""

_ALL: Final = 2**62
"""More than all positions."""


class StreamEntry(NamedTuple):
    """A stream: its name, its version, the version of the first event that can be read, its limits.

    *count_max* and *age_us_max* are the limits of its rule; None: no limit. *begins* is the version
    of the first event since the stream was last deleted, whether that event is hidden or not.
    """

    stream: str
    version: int
    first: int
    count_max: int | None = None
    age_us_max: int | None = None
    begins: int = 1


class CategoryEntry(NamedTuple):
    """A category, and how many events were appended to its streams."""

    category: str
    events: int


class StreamsPage(NamedTuple):
    """Streams in order of name, and the name after which to continue; None at the end."""

    streams: list[StreamEntry]
    cursor: str | None


class CategoriesPage(NamedTuple):
    """Categories in order of name, and the name after which to continue; None at the end."""

    categories: list[CategoryEntry]
    cursor: str | None


def list_streams(
    state: State,
    view: int,
    position: int,
    prefix: str,
    after: str | None,
    limit: int,
    *,
    examined_max: int,
) -> StreamsPage:
    """Streams whose names begin with *prefix*, after a name, as they were at a position.

    At most *examined_max* names are examined, so a page may be short or empty without being the
    last.
    """
    found: list[StreamEntry] = []
    previous = after
    visibility = visibility_at(state, view, position) if state.retention.in_use else None
    for examined, (name, known) in enumerate(_streams(state, prefix, after, examined_max)):
        if len(found) == limit or examined == examined_max:
            return StreamsPage(found, previous)
        previous = name
        head = known or state.head(name)
        version = state.version_at(name, head, position)
        if not version:
            continue
        if visibility is None:
            found.append(StreamEntry(name, version, 1))
        elif (rule := stored_rule(state, name, view)).deleted != version:
            kept = rule.count_max or None, rule.age_us_max or None
            first = visibility.first(name)
            found.append(StreamEntry(name, version, first, *kept, begins=rule.deleted + 1))
    return StreamsPage(found, None)


def list_categories(
    state: State, view: int, position: int, after: str | None, limit: int, *, examined_max: int
) -> CategoriesPage:
    """Categories after a name, as they were at a position, with their counts of events.

    Truncated events count. A category is left out if all of its streams are deleted.
    """
    found: list[CategoryEntry] = []
    previous = after
    hiding = bool(state.retention.hiding)
    names = names_in_order(state, CATEGORY, "", after, examined_max)
    for examined, (name, entry) in enumerate(names):
        if len(found) == limit or examined == examined_max:
            return CategoriesPage(found, previous)
        previous = name
        events = _count(state, name, None if entry is None else parse_head(entry), position)
        if events and (not hiding or _has_stream(state, view, position, name)):
            found.append(CategoryEntry(name, events))
    return CategoriesPage(found, None)


def _has_stream(state: State, view: int, position: int, category: str) -> bool:
    """Whether any stream of a category is not deleted."""
    for prefix in (category + "-", category):
        after: str | None = None
        while True:
            page = list_streams(state, view, position, prefix, after, 1, examined_max=_LOOKED_AT)
            if page.streams and (prefix != category or page.streams[0].stream == category):
                return True
            after = page.cursor
            if after is None or (prefix == category):
                break
    return False


def _streams(
    state: State, prefix: str, after: str | None, count_max: int
) -> Iterator[tuple[str, Head | None]]:
    """The name of each stream, with its head if the files have its newest events."""
    applied = state.files.applied_position
    tables = state.memtables()
    for name, entry in names_in_order(state, STREAM, prefix, after, count_max):
        if entry is not None:
            head = parse_head(entry)
            if head.last_position <= applied and not any(name in table.streams for table in tables):
                yield name, Head(head.id, head.version, head.last_position)
                continue
        yield name, None


def _count(state: State, category: str, head: IndexHead | None, position: int) -> int:
    """How many events of a category have *position* or a lower one."""
    upto = min(position, state.files.applied_position)
    count = 0
    if head is not None:
        later = 0
        if head.last_position > upto:
            # Later events are from within the history window, or from a running checkpoint, so
            # there are few of them compared to the whole category.
            later = len(
                postings.positions_between(
                    state.files.store, CATEGORY, head, upto, head.last_position, _ALL, reverse=False
                )
            )
        count = head.version - later
    for table in state.memtables():
        positions = table.categories.get(category)
        if positions is not None:
            count += bisect_right(positions, position)
    return count
