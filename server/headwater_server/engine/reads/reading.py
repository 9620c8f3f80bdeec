"""Reading at a read view: keys, ranges, streams, the log, and aggregates with their snapshots.

A Reader is a state and a commit number. It sees that commit, and all events up to `position`, the
newest at that commit. Pages are bounded by items and bytes; `more` says that something may follow.

Events are returned in their stored form. They are decoded only for filters that no index answers.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from headwater_protocol import limits
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.format.stored_rules import Rule
from headwater_server.engine.reads.changes import (
    ChangesPage,
    PartlyRead,
    keys_of_commit,
    read_changes,
)
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.engine.reads.key_names import (
    EXAMINED_KEYS_MAX,
    KeysPage,
    key_names,
    key_prefixes,
)
from headwater_server.engine.reads.listing import (
    CategoriesPage,
    StreamsPage,
    list_categories,
    list_streams,
)
from headwater_server.engine.reads.scanning import ScanPage, scan_page
from headwater_server.engine.reads.searching import Search
from headwater_server.engine.retention.rules import NO_LIMIT, Visibility, as_of, hiding_rule
from headwater_server.engine.state.layers import State
from headwater_server.engine.work_budget import ENTRIES_PER_UNIT

_LOAD_SIZE_MAX: Final = limits.BODY_SIZE_MAX - 64 * limits.KIB
"""Bytes of a snapshot and the events after it in one answer. The rest of the frame is for the
other members of the answer."""

_BATCH: Final = 512
"""Positions whose events are fetched at a time while a page is filled."""

EXAMINED_SIZE_MAX: Final = 4 * limits.PAGE_SIZE_MAX
"""About how many bytes of events one page looks through. Few of them may be shown, or match."""


class StreamPage(NamedTuple):
    """The stream's version, stored events, and whether the stream goes on after the last."""

    version: int
    events: list[bytes]
    more: bool


class EventsPage(NamedTuple):
    """The last examined position, the matching events, and whether more may follow."""

    position: int
    events: list[bytes]
    more: bool


class Loaded(NamedTuple):
    """A stream's version, its newest usable snapshot (version, state), and the events after.

    *begins* is the version of the first event since the stream was last deleted, whether that event
    is hidden or not.
    """

    version: int
    snapshot: tuple[int, bytes] | None
    events: list[bytes]
    more: bool
    begins: int


class Reader:
    """Reads at one commit and one time. The age of events is measured at that time for all reads.

    *time* is of the log's clock, in microseconds. None: the end of the time in which the commit was
    the newest.
    """

    __slots__ = ("_examined_max", "_state", "_time", "position", "view")

    def __init__(
        self, state: State, view: int, position: int, *, examined_max: int, time: int | None = None
    ) -> None:
        self._state = state
        self.view = view
        self.position = position
        self._time = time
        self._examined_max = examined_max

    def get(self, key: bytes) -> bytes | None:
        """The value of a user's key, or None."""
        return self._state.get(keyspaces.USER + key, self.view)

    def expiry(self, key: bytes) -> int | None:
        """When a user's key expires, in microseconds; None: it does not, or is absent."""
        return self._state.expiry(keyspaces.USER + key, self.view)

    def scan_expiries(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> ScanPage:
        """The keys of [start, end) that expire, each with its stored expiry."""
        first, last = expiry_range(start, end)
        return self._page(first, last, limit, reverse)

    def scan(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> ScanPage:
        """The keys of [start, end) in order; in reverse the last come first."""
        first, last = user_range(start, end)
        return self._page(first, last, limit, reverse)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of the first of some keys, about a page of them; at least one."""
        found: list[bytes | None] = []
        size = 0
        for key in keys:
            value = self.get(key)
            found.append(value)
            size += 0 if value is None else len(value)
            if size >= limits.PAGE_SIZE_MAX:
                break
        return found

    def scan_keys(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> KeysPage:
        """The keys of [start, end) in order, without values; in reverse the last come first."""
        first, last = user_range(start, end)
        return key_names(self._state, first, last, self.view, limit=limit, reverse=reverse)

    def count_keys(self, start: bytes, end: bytes | None) -> KeysPage:
        """How many keys [start, end) has, up to where the page ends."""
        first, last = user_range(start, end)
        most = EXAMINED_KEYS_MAX
        return key_names(self._state, first, last, self.view, limit=most, named=False)

    def scan_prefixes(
        self, start: bytes, end: bytes | None, size: int, delimiter: bytes | None, limit: int
    ) -> KeysPage:
        """The distinct beginnings of the keys of [start, end), which share *size* bytes."""
        first, last = user_range(start, end)
        return key_prefixes(
            self._state, first, last, self.view, size=size + 1, delimiter=delimiter, limit=limit
        )

    def read_stream(self, stream: str, after: int, limit: int, reverse: bool) -> StreamPage:
        """Events of a stream after a version, or in reverse before it (0: from the end)."""
        head = self._state.head(stream)
        version = self._state.version_at(stream, head, self.position)
        lowest = self._visibility().first(stream) if self._may_hide(stream) else 1
        if reverse:
            last = version if after == 0 else min(version, after - 1)
            first = max(lowest, last - limit + 1)
        else:
            after = max(after, lowest - 1)
            first = after + 1
            last = min(version, after + limit)
        positions = self._state.stream_positions(stream, head, first, last)
        events = self._events_within(positions[::-1] if reverse else positions)
        if reverse:
            more = last - len(events) >= lowest
        else:
            more = first + len(events) - 1 < version and first <= version
        return StreamPage(version, events, more)

    def stream_version(self, stream: str) -> int:
        """The version of a stream; 0 if it does not exist, or not since it was deleted."""
        version = self.read_stream(stream, limits.NUMBER_MAX, 1, False).version
        return version if version >= self._begins(stream) else 0

    def load(self, stream: str, name: str, schema: int, below: int | None = None) -> Loaded:
        """The newest snapshot of this name and schema, and the events after it.

        With *below*, the newest below that version: a client could not decode the one there.
        """
        head = self._state.head(stream)
        version = self._state.version_at(stream, head, self.position)
        snapshot = self._usable_snapshot(
            stream, name, schema, version, NO_LIMIT if below is None else below - 1
        )
        after = 0 if snapshot is None else snapshot[0]
        page = self.read_stream(stream, after, limits.PAGE_ITEMS_MAX, reverse=False)
        if snapshot is None:
            return Loaded(page.version, None, page.events, page.more, self._begins(stream))
        # The answer is one frame: a large snapshot leaves little or no room for events.
        events = _within(page.events, _LOAD_SIZE_MAX - len(snapshot[1]))
        more = page.more or len(events) < len(page.events)
        return Loaded(page.version, snapshot, events, more, self._begins(stream))

    def read_all(self, after: int, wanted: EventFilter, limit: int, reverse: bool) -> EventsPage:
        """Events of all streams after a position, or in reverse before it (0: from the end)."""
        if reverse:
            upto = self.position if after == 0 else min(self.position, after - 1)
            after = 0
        else:
            upto = self.position
        if after >= upto:
            return EventsPage(after if not reverse else 0, [], more=False)
        if wanted == EVERYTHING:
            if self._hides_any():
                return self._read_shown(after, upto, limit, reverse)
            return self._read_log(after, upto, limit, reverse)
        return self._read_filtered(after, upto, wanted, limit, reverse)

    def newest_position(self, after: int, wanted: EventFilter) -> tuple[int, bool]:
        """The position of the newest event that matches, 0 if there is none.

        If *after* is not 0, only events before it. The second member says that the search stopped
        at this position before it found one, and has to be continued.
        """
        page = self.read_all(after, wanted, 1, reverse=True)
        if page.events:
            return page.position, False
        return (page.position, True) if page.more else (0, False)

    def read_changes(
        self,
        after: int,
        first: bytes,
        last: bytes,
        count_max: int,
        inside: bytes | None = None,
        partly: PartlyRead | None = None,
    ) -> ChangesPage:
        """The changes of stored keys in [first, last) by the commits after *after*.

        *inside*: go on inside of a commit, behind this key; see changes.py.
        """
        return read_changes(
            self._state,
            after,
            self.view,
            first,
            last,
            count_max=count_max,
            size_max=limits.PAGE_SIZE_MAX,
            examined_max=self._examined_max,
            inside=inside,
            partly=partly,
        )

    def keys_of_commit(self, commit: int, partly: PartlyRead) -> list[bytes]:
        """The stored keys that a commit has written, in order."""
        return keys_of_commit(self._state, commit, partly)

    def list_streams(self, prefix: str, after: str | None, limit: int) -> StreamsPage:
        """Streams whose names begin with *prefix*, after a name, with their versions."""
        return list_streams(
            self._state,
            self.view,
            self.position,
            prefix,
            after,
            limit,
            examined_max=self._examined_max,
        )

    def list_categories(self, after: str | None, limit: int) -> CategoriesPage:
        """Categories after a name, with their counts of events."""
        return list_categories(
            self._state, self.view, self.position, after, limit, examined_max=self._examined_max
        )

    def _charge(self, *, events: int, entries: int) -> None:
        """Called with what a page of events has looked at; see charged_reader.py."""

    # Retention; see retention/rules.py.

    def _hides_any(self) -> bool:
        """Whether any event may be hidden from this reader."""
        return bool(self._state.retention.hiding)

    def _may_hide(self, stream: str) -> bool:
        """Whether any event of a stream may be hidden from this reader."""
        return self._state.retention.hiding.may_have(stream)

    def _begins(self, stream: str) -> int:
        """The version of a stream's first event since it was last deleted."""
        return self._rule_of(stream).deleted + 1

    def _rule_of(self, stream: str) -> Rule:
        return hiding_rule(self._state, stream, self.view)

    @property
    def time(self) -> int:
        """The time at which the age of events is measured, in microseconds."""
        if self._time is None:
            self._time = as_of(self._state, self.view)
        return self._time

    def _visibility(self) -> Visibility:
        return Visibility(self._state, self.position, rule_of=self._rule_of, now=self.time)

    def _usable_snapshot(
        self, stream: str, name: str, schema: int, version: int, version_max: int
    ) -> tuple[int, bytes] | None:
        """The newest snapshot up to *version_max* that may be read."""
        if not self._state.retention.in_use and not self._hides_any():
            return self._newest_snapshot(stream, name, schema, version, version_max)
        lowest, highest = self._visibility().snapshot_versions(stream, self.view)
        snapshot = self._newest_snapshot(stream, name, schema, version, min(highest, version_max))
        return None if snapshot is None or snapshot[0] < lowest else snapshot

    # Stored pages.

    def _page(self, first: bytes, last: bytes, limit: int, reverse: bool) -> ScanPage:
        return scan_page(
            self._state,
            first,
            last,
            self.view,
            limit=limit,
            size_max=limits.PAGE_SIZE_MAX,
            reverse=reverse,
        )

    def _newest_snapshot(
        self, stream: str, name: str, schema: int, version: int, version_max: int
    ) -> tuple[int, bytes] | None:
        """The newest snapshot up to *version_max*, and up to the *version* of the stream."""
        first, last = keyspaces.snapshot_range(stream, name, schema, min(version, version_max))
        newest = self._state.scan(first, last, self.view, reverse=True, ahead=1)
        for key, state in newest:
            return keyspaces.parse_snapshot_key(key).version, state
        return None

    def _read_log(self, after: int, upto: int, limit: int, reverse: bool) -> EventsPage:
        if reverse:
            first = max(after + 1, upto - limit + 1)
            events = self._events_within(range(upto, first - 1, -1))
            position = upto - len(events) + 1
            return EventsPage(position, events, more=position > after + 1)
        # Each layer fills only its own part, so a page may be short where the files end.
        events = self._state.events_from(after + 1, upto, limit, limits.PAGE_SIZE_MAX)
        position = after + len(events)
        return EventsPage(position, events, more=position < upto)

    def _read_shown(self, after: int, upto: int, limit: int, reverse: bool) -> EventsPage:
        """As `_read_log`, without hidden events. A page also ends after `examined_max` events."""
        visibility = self._visibility()
        events: list[bytes] = []
        size = examined = looked_through = 0
        position = upto + 1 if reverse else after
        step = -1 if reverse else 1
        count = limit
        while True:
            if reverse:
                found = self._events_within(
                    range(position - 1, max(after, position - 1 - count), -1)
                )
            else:
                found = self._state.events_from(position + 1, upto, count, limits.PAGE_SIZE_MAX)
            for stored in found:
                if visibility.shows(stored):
                    size += len(stored)
                    if events and size > limits.PAGE_SIZE_MAX:
                        return EventsPage(position, events, more=True)
                    events.append(stored)
                position += step
                if len(events) == limit:
                    break
            more = self._goes_on(position, after, upto, reverse)
            examined += len(found)
            looked_through += sum(map(len, found))
            self._charge(events=len(found), entries=0)
            is_spent = examined >= self._examined_max or looked_through > EXAMINED_SIZE_MAX
            if not more or len(events) == limit or is_spent:
                return EventsPage(position, events, more)
            # Read larger batches, so that a page is not filled one event at a time.
            count = max(limit - len(events), _BATCH)

    def _read_filtered(
        self, after: int, upto: int, wanted: EventFilter, limit: int, reverse: bool
    ) -> EventsPage:
        """Search the indexes in batches until the page is full or the limit of work is reached."""
        events: list[bytes] = []
        size = examined = looked_through = 0
        position = upto + 1 if reverse else after
        thinned = self._hides_any() if wanted.stream is None else self._may_hide(wanted.stream)
        shows = self._visibility().shows if thinned else None
        entries_max = self._examined_max * ENTRIES_PER_UNIT
        search = Search(self._state, wanted, after, upto, reverse=reverse, budget=entries_max)
        while True:
            # If candidates may not match, fetch more of them than the page has room for.
            room = limit - len(events) if search.exact else self._examined_max - examined
            cost = search.cost
            positions = search.take(min(_BATCH, room))
            self._charge(events=len(positions), entries=search.cost - cost)
            # Where all candidates match, no more are read than fit into the page.
            left = max(0, limits.PAGE_SIZE_MAX - size)
            found = self._state.each_event(positions, wanted_size=left)
            for candidate, stored in zip(positions, found, strict=True):
                looked_through += len(stored)
                if looked_through > EXAMINED_SIZE_MAX and position not in (after, upto + 1):
                    return EventsPage(position, events, more=True)
                shown = shows is None or shows(stored)
                if shown and (search.exact or wanted.fits(decode_event(stored))):
                    if events and size + len(stored) > limits.PAGE_SIZE_MAX:
                        return EventsPage(position, events, more=True)
                    events.append(stored)
                    size += len(stored)
                position = candidate
                if len(events) == limit:
                    more = self._goes_on(position, after, upto, reverse)
                    return EventsPage(position, events, more)
            if search.over:
                # Everything up to the end of the view was examined.
                return EventsPage(after + 1 if reverse else upto, events, more=False)
            position = search.looked_at
            examined += len(positions)
            if search.spent or examined >= self._examined_max:
                return EventsPage(
                    position, events, more=self._goes_on(position, after, upto, reverse)
                )

    @staticmethod
    def _goes_on(position: int, after: int, upto: int, reverse: bool) -> bool:
        return position > after + 1 if reverse else position < upto

    def _events_within(self, positions: Sequence[int]) -> list[bytes]:
        """The events at positions, until a page is full by bytes; at least one, if there is any."""
        events: list[bytes] = []
        size = at = 0
        pending = list(positions)
        while at < len(pending):
            left = max(0, limits.PAGE_SIZE_MAX - size)
            found = self._state.events_within(pending[at : at + _BATCH], left)
            for stored in found:
                if events and size + len(stored) > limits.PAGE_SIZE_MAX:
                    return events
                events.append(stored)
                size += len(stored)
            at += len(found)
        return events


def _within(events: list[bytes], size_max: int) -> list[bytes]:
    """The longest prefix of events with at most *size_max* bytes in total."""
    size = 0
    for count, event in enumerate(events):
        size += len(event)
        if size > size_max:
            return events[:count]
    return events


def user_range(start: bytes, end: bytes | None) -> tuple[bytes, bytes]:
    """The stored range for a range of users' keys."""
    return (
        keyspaces.USER + start,
        keyspaces.USER_END if end is None else keyspaces.USER + end,
    )


def expiry_range(start: bytes, end: bytes | None) -> tuple[bytes, bytes]:
    """The stored range of the expiries of a range of users' keys."""
    return (
        keyspaces.EXPIRIES + start,
        keyspaces.EXPIRIES_END if end is None else keyspaces.EXPIRIES + end,
    )
