"""An open transaction: a read view, a read set, and a write buffer.

Reads see the state at the read view, with the transaction's own writes on top. A serializable
transaction registers what it *asked for*, not what it got: an absent key, an empty range, the
range up to where a scan stopped, the head of a stream, a query that reached the end of the log.
What it reads from its own writes is not registered.

The client chooses the transaction's id, which makes the commit exactly once.
"""

from collections.abc import Iterator
from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.errors import InvalidArgument, TooLarge
from headwater_protocol.operations import SERIALIZABLE
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import encode_event, erase_event
from headwater_server.engine.format.stored_rules import Rule
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.key_names import (
    EXAMINED_KEYS_MAX,
    KeysPage,
    own_key_names,
    own_prefixes,
)
from headwater_server.engine.reads.reading import (
    EventsPage,
    Reader,
    StreamPage,
    expiry_range,
    user_range,
)
from headwater_server.engine.reads.scanning import ScanPage, pack_page
from headwater_server.engine.retention.rules import Visibility
from headwater_server.engine.state.layers import NO_EXPIRY, State
from headwater_server.engine.transactions.expiries import Expiry
from headwater_server.engine.transactions.own_writes import OwnWrites
from headwater_server.engine.transactions.write_buffer import (
    WriteBuffer,
    evaluate,
    next_key,
)

_UNCOMMITTED_ID: Final = bytes(16)

_READ_SIZE: Final = 150
"""Approximate bytes of a key, range or stream in a read set, besides its own bytes."""


class ReadSet:
    """What a serializable transaction has read.

    Dicts as sets: conflicts must be reported in the order of the reads, deterministically.

    Attributes:
        size: approximate bytes of everything in it.
    """

    __slots__ = ("keys", "pages", "queries", "ranges", "size", "streams")

    def __init__(self) -> None:
        self.size = 0
        self.keys: dict[bytes, None] = {}
        self.ranges: dict[tuple[bytes, bytes], None] = {}
        self.streams: dict[str, None] = {}
        self.queries: dict[EventFilter, None] = {}
        # Queries that stopped before the end: only retention can change their result.
        self.pages: dict[EventFilter, None] = {}

    def __len__(self) -> int:
        events = len(self.streams) + len(self.queries) + len(self.pages)
        return len(self.keys) + len(self.ranges) + events


class Transaction(Reader):
    """A transaction between begin and commit or rollback.

    Attributes:
        id: 16 bytes, chosen by the client.
        owner: the connection that opened it and ends it when it closes; only compared here.
        user: the number of the user who began it, 0 if there are no users.
        isolation: "serializable" or "snapshot".
        read_only: takes no writes, keeps no read set, and never conflicts.
        charged_size: the bytes that OpenTransactions has counted for it; see `held_size`.
        begun, used: when it began and when it was last used, in microseconds.
    """

    __slots__ = (
        "_own_writes",
        "_read_set_max",
        "begun",
        "buffer",
        "charged_size",
        "id",
        "isolation",
        "owner",
        "read_only",
        "read_set",
        "used",
        "user",
    )

    def __init__(
        self,
        state: State,
        view: int,
        position: int,
        *,
        transaction: bytes,
        owner: object,
        user: int,
        isolation: str,
        read_only: bool,
        now: int,
        examined_max: int,
        read_set_max: int,
        time: int | None = None,
    ) -> None:
        super().__init__(state, view, position, examined_max=examined_max, time=time)
        self.id = transaction
        self.owner = owner
        self.user = user
        self.isolation = isolation
        self.read_only = read_only
        self.begun = now
        self.used = now
        self.buffer = WriteBuffer()
        self._own_writes: OwnWrites | None = None
        self.charged_size = 0
        self.read_set: ReadSet | None = (
            ReadSet() if isolation == SERIALIZABLE and not read_only else None
        )
        self._read_set_max = read_set_max

    @property
    def held_size(self) -> int:
        """Approximate bytes of its buffered writes and its read set."""
        return self.buffer.size + (0 if self.read_set is None else self.read_set.size)

    def write(self, writes: list[list[Any]]) -> None:
        """Add a request's writes to the buffer.

        Raises:
            InvalidArgument: the transaction is read-only.
            TooLarge: the transaction has become too large and can only be rolled back.
        """
        if self.read_only and writes:
            raise InvalidArgument("a write in a read-only transaction")
        self.buffer.add(writes)

    # Reads, with the transaction's own writes on top.

    def get(self, key: bytes) -> bytes | None:
        stored_key = keyspaces.USER + key
        if stored_key in self.buffer.entries:
            entry = self.buffer.entries[stored_key]
            if not isinstance(entry, list):
                return entry
            self._register_key(stored_key)
            return evaluate(entry, self._state.get(stored_key, self.view))
        if self.buffer.ranges and self.buffer.covers(stored_key):
            return None
        self._register_key(stored_key)
        return self._state.get(stored_key, self.view)

    def expiry(self, key: bytes) -> int | None:
        stored_key = keyspaces.USER + key
        if not self.buffer:
            self._register_key(keyspaces.expiry_key(stored_key))
            return super().expiry(key)
        exists = self.get(key) is not None
        return self._own_expiry(stored_key) if exists else None

    def _own_expiry(self, stored_key: bytes) -> int | None:
        """When a key that exists expires, with the transaction's own writes."""
        given = self.buffer.expiries.get(stored_key)
        if given is not None:
            after, at, stored = given
            if stored and stored_key in self.buffer.entries:
                self._register_key(stored_key)
                if self._state.get(stored_key, self.view) is None:
                    # An atomic operation has made the key since.
                    return None
            until = Expiry(after, at).until(self.time)
            return None if until == NO_EXPIRY else until
        own = self.buffer.entries.get(stored_key)
        if own is not None and not isinstance(own, list):
            return None
        self._register_key(keyspaces.expiry_key(stored_key))
        return self._state.expiry(stored_key, self.view)

    def scan_expiries(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> ScanPage:
        first, last = expiry_range(start, end)
        if not self.buffer:
            self._register_range(first, last)
            return super().scan_expiries(start, end, limit, reverse)
        found = self._scan_expiries(start, end, reverse=reverse)
        page = pack_page(found, limit, limits.PAGE_SIZE_MAX)
        self._register_range(first, last)
        return page

    def _scan_expiries(
        self, start: bytes, end: bytes | None, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, _ in self._scan_own(*user_range(start, end), reverse=reverse):
            until = self._own_expiry(key)
            if until is not None:
                yield keyspaces.expiry_key(key), keyspaces.pack_expiry(until)

    def scan(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> ScanPage:
        first, last = user_range(start, end)
        if self.buffer:
            found = self._scan_own(first, last, reverse=reverse)
            page = pack_page(found, limit, limits.PAGE_SIZE_MAX)
        else:
            page = self._page(first, last, limit, reverse)
        if page.more and page.key_count:
            # Register only the part that the scan reached.
            if reverse:
                first = page.last
            else:
                last = next_key(page.last)
        self._register_range(first, last)
        return page

    def scan_keys(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> KeysPage:
        first, last = user_range(start, end)
        if self.buffer:
            found = self._scan_own(first, last, reverse=reverse)
            page = own_key_names(found, limit, reverse=reverse)
        else:
            page = super().scan_keys(start, end, limit, reverse)
        self._register_upto(first, last, page, reverse=reverse)
        return page

    def count_keys(self, start: bytes, end: bytes | None) -> KeysPage:
        first, last = user_range(start, end)
        if self.buffer:
            found = self._scan_own(first, last, reverse=False)
            page = own_key_names(found, EXAMINED_KEYS_MAX, named=False)
        else:
            page = super().count_keys(start, end)
        self._register_upto(first, last, page, reverse=False)
        return page

    def scan_prefixes(
        self, start: bytes, end: bytes | None, size: int, delimiter: bytes | None, limit: int
    ) -> KeysPage:
        first, last = user_range(start, end)
        if self.buffer:
            page = own_prefixes(
                lambda at: self._scan_own(at, last, reverse=False, ahead=1),
                first,
                size=size + 1,
                delimiter=delimiter,
                limit=limit,
            )
        else:
            page = super().scan_prefixes(start, end, size, delimiter, limit)
        self._register_upto(first, last, page, reverse=False)
        return page

    def _register_upto(self, first: bytes, last: bytes, page: KeysPage, *, reverse: bool) -> None:
        """Register the part of a range that a page has reached."""
        if page.rest is not None:
            first, last = (page.rest, last) if reverse else (first, page.rest)
        self._register_range(first, last)

    def read_stream(self, stream: str, after: int, limit: int, reverse: bool) -> StreamPage:
        self._register_stream(stream)
        page = super().read_stream(stream, after, limit, reverse)
        if self.buffer.erased:
            page = page._replace(events=self._without_erased(page.events))
        own = self._own_events(stream)
        if not own:
            return page
        return self._with_own_events(stream, page, own, after, limit, reverse)

    def read_all(self, after: int, wanted: EventFilter, limit: int, reverse: bool) -> EventsPage:
        page = super().read_all(after, wanted, limit, reverse)
        # Only a query that reached the end of the view can be changed by later events.
        open_ended = after == 0 or after > self.position + 1 if reverse else not page.more
        if open_ended:
            self._register_query(wanted)
        elif self.read_set is not None and wanted not in self.read_set.pages:
            self.read_set.pages[wanted] = None
            self.read_set.size += wanted.size
            self._check_read_set()
        if self.buffer.erased:
            page = page._replace(events=self._without_erased(page.events))
        return page

    def _hides_any(self) -> bool:
        return super()._hides_any() or bool(self.buffer.retention)

    def _own(self) -> OwnWrites:
        # Most transactions never need it.
        if self._own_writes is None:
            self._own_writes = OwnWrites(self._state, self.buffer, self.position)
        return self._own_writes

    def _may_hide(self, stream: str) -> bool:
        if super()._may_hide(stream):
            return True
        return bool(self.buffer.retention) and self._own().thins(stream)

    def _rule_of(self, stream: str) -> Rule:
        if not self.buffer.retention or not self._own().thins(stream):
            return super()._rule_of(stream)
        return self._own().stream(stream, super()._rule_of, self.time)[0]

    def _visibility(self) -> Visibility:
        return Visibility(
            self._state,
            self.position,
            rule_of=self._rule_of,
            now=self.time,
            own=lambda stream: len(self._own_events(stream)),
        )

    def _without_erased(self, events: list[bytes]) -> list[bytes]:
        erasures = self._own().erasures(super()._rule_of, self.time)
        if erasures is None or not erasures.positions:
            return events
        return [erasures.masked(stored) for stored in events]

    def _scan_own(
        self, first: bytes, last: bytes, *, reverse: bool, ahead: int = 32
    ) -> Iterator[tuple[bytes, bytes]]:
        stored = self._state.scan(first, last, self.view, reverse=reverse, ahead=ahead)
        if not self.buffer:
            return stored
        return self.buffer.overlay(stored, first, last, reverse=reverse)

    def _newest_snapshot(
        self, stream: str, name: str, schema: int, version: int, version_max: int
    ) -> tuple[int, bytes] | None:
        version = min(version + len(self._own_events(stream)), version_max)
        first, last = keyspaces.snapshot_range(stream, name, schema, version)
        for key, state in self._scan_own(first, last, reverse=True, ahead=1):
            if self.buffer.erased and self._own().holds_erased(key, super()._rule_of, self.time):
                continue
            self._register_range(key, last)
            return keyspaces.parse_snapshot_key(key).version, state
        self._register_range(first, last)
        return None

    def _own_events(self, stream: str) -> list[list[Any]]:
        """The events that this transaction appends to a stream, in order."""
        if not self.buffer.appends:
            return []
        return self._own().stream(stream, super()._rule_of, self.time)[1]

    def _with_own_events(
        self,
        stream: str,
        page: StreamPage,
        own: list[list[Any]],
        after: int,
        limit: int,
        reverse: bool,
    ) -> StreamPage:
        """The page with this transaction's own events added, at position and commit 0."""
        version = page.version + len(own)
        own_stored = [
            (
                page.version + place,
                encode_event(
                    0,
                    stream,
                    page.version + place,
                    0,
                    self.used,
                    event[0] or _UNCOMMITTED_ID,
                    event[1],
                    event[2],
                    event[3],
                    event[4] if len(event) > 4 else (),
                ),
            )
            for place, event in enumerate(own, 1)
        ]
        if self._may_hide(stream):
            lowest = self._visibility().first(stream)
            own_stored = [each for each in own_stored if each[0] >= lowest]
        erasures = self._own().erasures(super()._rule_of, self.time) if self.buffer.erased else None
        if erasures is not None and (erased := erasures.versions.get(stream)):
            own_stored = [
                (number, erase_event(stored) if number in erased else stored)
                for number, stored in own_stored
            ]
        more = page.more
        if reverse:
            upto = version if after == 0 else after - 1
            events = [stored for number, stored in reversed(own_stored) if number <= upto]
            events += page.events
        else:
            events = list(page.events)
            if not more:
                events += [stored for number, stored in own_stored if number > after]
        size = 0
        for count, stored in enumerate(events):
            size += len(stored)
            if count == limit or (count and size > limits.PAGE_SIZE_MAX):
                return StreamPage(version, events[:count], more=True)
        return StreamPage(version, events, more)

    # The read set. A transaction that reads too much is refused; widening what it read silently
    # would cause false conflicts.

    def _register_key(self, stored_key: bytes) -> None:
        reads = self.read_set
        if reads is not None and stored_key not in reads.keys:
            reads.keys[stored_key] = None
            reads.size += _READ_SIZE + len(stored_key)
            self._check_read_set()

    def _register_range(self, first: bytes, last: bytes) -> None:
        reads = self.read_set
        if reads is not None and first < last and (first, last) not in reads.ranges:
            reads.ranges[first, last] = None
            reads.size += _READ_SIZE + len(first) + len(last)
            self._check_read_set()

    def _register_stream(self, stream: str) -> None:
        reads = self.read_set
        if reads is not None and stream not in reads.streams:
            reads.streams[stream] = None
            reads.size += _READ_SIZE + len(stream)
            self._check_read_set()

    def _register_query(self, wanted: EventFilter) -> None:
        reads = self.read_set
        if reads is not None and wanted not in reads.queries:
            reads.queries[wanted] = None
            reads.size += wanted.size
            self._check_read_set()

    def _check_read_set(self) -> None:
        if self.read_set is not None and len(self.read_set) > self._read_set_max:
            raise TooLarge(
                f"a serializable transaction that read {len(self.read_set)} keys, ranges, "
                f"streams and queries; allowed are {self._read_set_max}"
            )
