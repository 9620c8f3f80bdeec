"""Events after a position: does one match a query, or did one push out an event that matches?

Validation asks this for every query that a transaction has read, and conditions ask it for theirs.
The cost depends on the kind of query:

    stream, category, types, tags    the indexes lead to the first matching event
    a name prefix alone              if few events came since, they are scanned, once for all such
                                     queries; most are only checked for the stream's name. Else the
                                     indexes lead to the first match, if not too many names fit.
    any, over streams that keep      each appended event pushes out an older one: the streams that
    their newest events              were appended to are found once for all queries
"""

from collections.abc import Iterable, Iterator
from typing import Final

from headwater_protocol import limits
from headwater_server.engine.format.events import (
    StoredEvent,
    category_of,
    decode_event,
    stream_name,
)
from headwater_server.engine.format.index_keys import CATEGORY
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.searching import FEW, PREFIX_NAMES_MAX, Search
from headwater_server.engine.retention.rules import Visibility, stored_rule, visibility_at
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.names import names_with_prefix
from headwater_server.engine.work_budget import WorkBudget

_BATCH: Final = 512
"""Events or index entries that are fetched at a time."""


def first_event(
    state: State,
    wanted: EventFilter,
    after: int,
    budget: WorkBudget,
    visibility: Visibility | None = None,
) -> StoredEvent | None:
    """The first event after a position that matches and can be read, sequenced ones included.

    *visibility* tells which events can be read, if not those of the newest state.

    Raises:
        TooLarge: the search exceeds the budget.
    """
    if after >= state.last_position:
        return None
    if _has_no_index(wanted):
        if not _has_names(state, wanted, after):
            return LaterEvents(state, after, [wanted], budget, visibility).first_event(wanted)
    if visibility is None:
        visibility = _newest_visibility(state)
    upto = state.last_position
    search = Search(state, wanted, after, upto, reverse=False, budget=budget.entries_left)
    while True:
        positions = search.take(1 if search.exact else _BATCH)
        budget.spend(events=len(positions))
        for stored in state.each_event(positions):
            if visibility is None or visibility.shows(stored):
                event = decode_event(stored)
                if search.exact or wanted.fits(event):
                    return event
        if search.over or search.spent:
            budget.spend(entries=search.cost)
            if search.over:
                return None


class LaterEvents:
    """The events after a position, each scanned once at most for all queries.

    *queries* are those that will be passed to `first_event`.
    """

    def __init__(
        self,
        state: State,
        position: int,
        queries: Iterable[EventFilter],
        budget: WorkBudget,
        visibility: Visibility | None = None,
    ) -> None:
        self._state = state
        self._position = position
        self._budget = budget
        self._visibility = visibility or _newest_visibility(state)
        # Name prefixes for which no event was found yet.
        self._open = {_prefix_of(query) for query in queries if _has_no_index(query)}
        self._first: dict[bytes, StoredEvent] = {}
        # The rest of a resumable scan over all events; names whose events need no further look;
        # for other names, the open prefixes that they begin with.
        self._rest = self._stored()
        self._done: set[bytes] = set()
        self._wanted: dict[bytes, list[bytes]] = {}
        self._sizes = sorted({len(prefix) for prefix in self._open})
        self._is_over = False
        # Streams with a rule that were appended to: those that the scan has met, and those of
        # single categories.
        self._ruled: list[str] = []
        self._ruled_by_category: dict[str, list[str]] = {}
        self._lost: dict[str, list[StoredEvent]] = {}

    def first_event(self, wanted: EventFilter) -> StoredEvent | None:
        """The first event that matches a query and can be read."""
        if not _has_no_index(wanted) or (
            not self._is_over and _has_names(self._state, wanted, self._position)
        ):
            return first_event(self._state, wanted, self._position, self._budget)
        prefix = _prefix_of(wanted)
        if prefix not in self._first:
            assert prefix in self._open, "the query was announced"
            self._walk(prefix)
        return self._first.get(prefix)

    def stream_that_lost(self, query: EventFilter) -> str | None:
        """A stream that lost a matching event because others were appended to it, or None.

        The appended events need not match: a stream with a count limit loses one for each.
        """
        if not self._state.retention.hiding:
            return None
        for stream in self._ruled_streams(query):
            lost = self._lost_of(stream)
            self._budget.spend(events=len(lost))
            if any(map(query.fits, lost)):
                return stream
        return None

    def _walk(self, until: bytes | None) -> None:
        """Scan on until an event for the prefix *until* is found, or to the end."""
        visibility = self._visibility
        for stored in self._rest:
            if not stored:
                continue
            name = stream_name(stored)
            if name in self._done:
                continue
            prefixes = self._wanted.get(name)
            if prefixes is None:
                if self._may_lose(name.decode()):
                    self._ruled.append(name.decode())
                cuts = [name[:size] for size in self._sizes if size <= len(name)]
                prefixes = self._wanted[name] = [cut for cut in cuts if cut in self._open]
            if not prefixes:
                self._done.add(name)
            elif visibility is None or visibility.shows(stored):
                self._done.add(name)
                event = decode_event(stored)
                for prefix in prefixes:
                    self._first.setdefault(prefix, event)
                if until in self._first:
                    return
        self._is_over = True

    def _stored(self) -> Iterator[bytes]:
        state, position = self._state, self._position
        while position < state.last_position:
            found = state.events_from(
                position + 1, state.last_position, _BATCH, limits.PAGE_SIZE_MAX
            )
            self._budget.spend(events=len(found))
            position += len(found)
            yield from found

    def _ruled_streams(self, query: EventFilter) -> Iterator[str]:
        """Streams that a query covers, that have a rule, and that were appended to."""
        category, prefix = query.category, query.prefix or ""
        if query.stream is not None:
            found = [query.stream] if self._may_lose(query.stream) else []
        else:
            if category is None and "-" in prefix:
                category = category_of(prefix)
            found = self._ruled_of(category)
        for stream in found:
            if stream.startswith(prefix) and (category is None or category_of(stream) == category):
                yield stream

    def _ruled_of(self, category: str | None) -> list[str]:
        if category is None or self._is_over:
            self._walk(None)
            return self._ruled
        found = self._ruled_by_category.get(category)
        if found is None:
            names = dict.fromkeys(map(stream_name, self._stored_of(category)))
            streams = [name.decode() for name in names]
            found = self._ruled_by_category[category] = list(filter(self._may_lose, streams))
        return found

    def _stored_of(self, category: str) -> Iterator[bytes]:
        """The events of a category."""
        state, after = self._state, self._position
        upto = state.last_position
        while True:
            found = state.indexed_positions("category", category, after, upto, _BATCH)
            if not found:
                return
            self._budget.spend(events=len(found))
            after = found[-1]
            yield from filter(None, state.each_event(found))

    def _may_lose(self, stream: str) -> bool:
        return self._state.retention.hiding.may_have(stream)

    def _lost_of(self, stream: str) -> list[StoredEvent]:
        """The events that a stream lost to its count limit since the position."""
        lost = self._lost.get(stream)
        if lost is None:
            lost = self._lost[stream] = self._find_lost(stream)
        return lost

    def _find_lost(self, stream: str) -> list[StoredEvent]:
        state = self._state
        rule = stored_rule(state, stream, state.last_commit)
        if not rule.count_max:
            return []
        head = state.head(stream)
        before = state.version_at(stream, head, self._position)
        first = max(rule.before, before - rule.count_max + 1, 1)
        last = min(before, head.version - rule.count_max)
        if first > last:
            return []
        self._budget.spend(events=last - first + 1)
        positions = state.stream_positions(stream, head, first, last)
        return [decode_event(stored) for stored in state.each_event(positions) if stored]


def _has_no_index(wanted: EventFilter) -> bool:
    """Whether a query selects by a name prefix alone, or selects every event."""
    return (
        wanted.stream is None
        and wanted.category is None
        and not wanted.types
        and not wanted.query
        and "-" not in (wanted.prefix or "")
    )


def _has_names(state: State, wanted: EventFilter, after: int) -> bool:
    """Whether the indexes of the categories with a prefix find its events sooner than a scan."""
    return (
        bool(wanted.prefix)
        and state.last_position - after > FEW
        and names_with_prefix(state, CATEGORY, wanted.prefix or "", PREFIX_NAMES_MAX) is not None
    )


def _prefix_of(wanted: EventFilter) -> bytes:
    return (wanted.prefix or "").encode()


def _newest_visibility(state: State) -> Visibility | None:
    """Which events can be read in the newest state; None if nothing is hidden."""
    if not state.retention.hiding:
        return None
    return visibility_at(state, state.last_commit, state.last_position)
