"""The write buffer of a transaction: its pending writes, as its commit and its own reads see them.

Writes are folded as they arrive, so the buffer holds one entry for each key:

    put, delete        replace whatever was there
    add, min, max      on a buffered put or delete: evaluated immediately; else kept, in order
    delete_range       drops the entries in its range, and hides its stored keys
    expire             kept beside the entries, until the key is put or deleted again

So an entry is always newer than a range, and look-ups check the entries first. Nothing here reads
the database; the caller passes in the stored value that an atomic operation needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.errors import HeadwaterError, InvalidArgument, TooLarge
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.atomics import Atomic, apply_atomic
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.retention.writes import WORDS, RetentionWrite
from headwater_server.engine.work_budget import WRITES_AT_ONCE_MAX, Cutting, InSteps

Entry = bytes | None | list[Atomic]
"""A key's new content: a value, None (deleted), or atomic operations on the stored value."""


class Append:
    """Events for the end of a stream: each is [id | None, type, data, metadata, tags]. Immutable.

    The tags may be left out, and usually are. *unless* is the append condition: no matching event
    may exist after the position *after*.

    Attributes:
        size: bytes of data, metadata and tags.
        largest: the size of the largest event.
        has_ids: whether any event has an id that a user gave.
        has_tags: whether any event has tags.
    """

    __slots__ = (
        "after",
        "events",
        "expect",
        "has_ids",
        "has_tags",
        "largest",
        "size",
        "stream",
        "unless",
    )

    def __init__(
        self,
        stream: str,
        expect: int,
        events: list[list[Any]],
        unless: EventFilter | None = None,
        after: int = 0,
    ) -> None:
        self.stream = stream
        self.expect = expect
        self.events = events
        self.unless = unless
        self.after = after
        total = largest = 0
        has_ids = has_tags = False
        for event in events:
            data: bytes = event[2]
            metadata: bytes = event[3]
            size = len(data) + len(metadata)
            if event[0] is not None:
                has_ids = True
            if len(event) == 5 and event[4]:
                has_tags = True
                size += sum(map(len, event[4]))
            if size > largest:
                largest = size
            total += size
        self.size = total
        self.largest = largest
        self.has_ids = has_ids
        self.has_tags = has_tags


@dataclass(frozen=True, slots=True)
class SnapshotWrite:
    """A snapshot that the transaction saves; its state is an entry of the buffer.

    Attributes:
        place: how many retention writes come before it in the transaction.
        read_at: the commit at which the events of the state were read, or None.
    """

    stream: str
    name: str
    schema: int
    version: int
    key: bytes
    place: int
    read_at: int | None


_USER: Final = keyspaces.USER

_EMPTY: Final[list[Any]] = []
"""A placeholder for a list that is only created when it gets an item. Never changed."""

_NO_EXPIRIES: Final[dict[bytes, tuple[int | None, int | None, bool]]] = {}
"""The same for `expiries`."""

_SMALL: Final = 64 * limits.KIB
_FEW: Final = 1_000
"""Bytes and puts of a buffer without other writes. Below both, no bound needs to be checked."""


class WriteBuffer:
    """The folded writes of one transaction. Keys carry the byte of their key space.

    Attributes:
        conditional: an append has a condition.
        expiries: when keys expire: so long after the commit, or at a time; None: never.
        is_empty: nothing was written yet.
        puts_only: all writes so far are puts.
    """

    __slots__ = (
        "acks",
        "appends",
        "conditional",
        "entries",
        "erased",
        "events",
        "expiries",
        "failure",
        "is_empty",
        "puts_only",
        "ranges",
        "retention",
        "size",
        "snapshots",
    )

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        # Most transactions write only keys, so these lists are created when needed.
        self.ranges: list[tuple[bytes, bytes]] = _EMPTY
        self.appends: list[Append] = _EMPTY
        self.snapshots: list[SnapshotWrite] = _EMPTY
        self.acks: list[tuple[str, int, int]] = _EMPTY
        self.retention: list[RetentionWrite] = _EMPTY
        self.expiries: dict[bytes, tuple[int | None, int | None, bool]] = _NO_EXPIRIES
        self.size = 0
        self.events = 0
        self.erased = 0
        self.failure: HeadwaterError | None = None
        self.is_empty = True
        self.puts_only = True
        self.conditional = False

    def __bool__(self) -> bool:
        return not self.is_empty

    @property
    def appends_only(self) -> bool:
        """Whether there are appends and no other writes."""
        others = self.entries or self.ranges or self.snapshots or self.acks or self.retention
        return bool(self.appends) and not others and not self.expiries

    @property
    def only_removes(self) -> bool:
        """Whether the writes only delete, truncate or erase, or set a retention."""
        if self.appends or self.snapshots or self.acks or self.expiries:
            return False
        return all(entry is None for entry in self.entries.values())

    def add(self, writes: list[list[Any]]) -> None:
        """Fold in a request's writes, which were checked against the vocabulary.

        After an error the buffer holds only some of the writes. So every later call raises too: a
        commit that the client has already sent must not make those durable.

        Raises:
            TooLarge: the transaction has too many writes, events or bytes.
            NotANumber: an atomic operation on a buffered value that is not a number.
            InvalidArgument: a range that ends before it begins.
        """
        if self.failure is not None:
            raise type(self.failure)(f"an earlier write failed: {self.failure.message}")
        entries = self.entries
        if writes:
            self.is_empty = False
        try:
            for write in writes:
                if write[0] == "put":
                    key: bytes = _USER + write[1]
                    value: bytes = write[2]
                    entries[key] = value
                    self.size += len(key) + len(value)
                    if self.puts_only and self.size <= _SMALL and len(entries) <= _FEW:
                        continue
                    if self.expiries:
                        self.expiries.pop(key, None)
                else:
                    self.puts_only = False
                    self._fold(write)
                # Check after each write, so that an oversized list is refused early.
                self._check_bounds()
        except HeadwaterError as error:
            self.failure = error
            raise

    def add_in_parts(self, writes: list[list[Any]], cutting: Cutting | None) -> bool:
        """Fold in a request's writes, in steps if there are any; return whether there are.

        Raises:
            InSteps: there are too many writes for one stretch.
            TooLarge, NotANumber, InvalidArgument: see `add`.
        """
        pause = None if cutting is None else cutting.pause
        if pause is None:
            if cutting is not None and len(writes) > WRITES_AT_ONCE_MAX:
                raise InSteps
            self.add(writes)
            return False
        for begin in range(0, len(writes), WRITES_AT_ONCE_MAX):
            self.add(writes[begin : begin + WRITES_AT_ONCE_MAX])
            pause()
        return True

    @property
    def may_take_long(self) -> bool:
        """Whether the plan of these writes may take too long for one stretch."""
        if self.puts_only:
            return False
        # A stream that is truncated or deleted costs as much as several events.
        count = len(self.entries) + self.events + self.erased + 8 * len(self.retention)
        return bool(self.ranges) or count > WRITES_AT_ONCE_MAX

    def _fold(self, write: list[Any]) -> None:
        match write[0]:
            case "delete":
                self.put(keyspaces.USER + write[1], None)
                self.expiries.pop(keyspaces.USER + write[1], None)
            case "expire":
                self._expire(keyspaces.USER + write[1], write[2], write[3])
            case "add" | "min" | "max":
                self._add_atomic(keyspaces.USER + write[1], Atomic(write[0], write[2]))
            case "append":
                # Most appends have no condition; skip a call for them.
                plain = len(write) == 4
                self.conditional |= not plain
                self._append(Append(*write[1:]) if plain else _append_of(*write[1:]))
            case "save_snapshot":
                self._save_snapshot(*write[1:])
            case "delete_range":
                self._delete_range(write[1], write[2])
            case "ack":
                self._add_acks(write[1], write[2])
            case word if word in WORDS:
                self._add_retention(RetentionWrite(word, write[1:], len(self.appends)))
            case unknown:
                raise AssertionError(f"a write {unknown!r} that the vocabulary let through")

    def put(self, key: bytes, value: bytes | None) -> None:
        """Write a key of any key space; the value None deletes it."""
        self.is_empty = False
        self.entries[key] = value
        self.size += len(key) + (0 if value is None else len(value))

    def covers(self, key: bytes) -> bool:
        """Whether a range delete of this transaction hides the stored value of a key."""
        return any(start <= key < end for start, end in self.ranges)

    def overlay(
        self, stored: Iterator[tuple[bytes, bytes]], start: bytes, end: bytes, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """A scan of stored items with this transaction's own writes on top."""
        own = sorted((key for key in self.entries if start <= key < end), reverse=reverse)
        ahead = next(stored, None)
        for key in own:
            while ahead is not None and (ahead[0] > key if reverse else ahead[0] < key):
                if not self.covers(ahead[0]):
                    yield ahead
                ahead = next(stored, None)
            beneath: bytes | None = None
            if ahead is not None and ahead[0] == key:
                # An entry is newer than any range delete, but the stored value is not.
                beneath = None if self.covers(key) else ahead[1]
                ahead = next(stored, None)
            value = evaluate(self.entries[key], beneath)
            if value is not None:
                yield key, value
        while ahead is not None:
            if not self.covers(ahead[0]):
                yield ahead
            ahead = next(stored, None)

    def _add_atomic(self, key: bytes, atomic: Atomic) -> None:
        self.size += len(key) + 9
        if key not in self.entries:
            if self.covers(key):
                self.entries[key] = apply_atomic(atomic, None)
            else:
                self.entries[key] = [atomic]
            return
        entry = self.entries[key]
        if isinstance(entry, list):
            entry.append(atomic)
        else:
            self.entries[key] = apply_atomic(atomic, entry)

    def _delete_range(self, start: bytes, end: bytes | None) -> None:
        first = keyspaces.USER + start
        last = keyspaces.USER_END if end is None else keyspaces.USER + end
        if first >= last:
            raise InvalidArgument(f"delete_range: start {start!r} is not below end {end!r}")
        for key in [key for key in self.entries if first <= key < last]:
            del self.entries[key]
        for key in [key for key in self.expiries if first <= key < last]:
            del self.expiries[key]
        if not self.ranges:
            self.ranges = []
        self.ranges.append((first, last))
        self.size += len(first) + len(last)

    def _expire(self, key: bytes, after: int | None, at: int | None) -> None:
        # It has no effect on a key that is absent at this place of the transaction. Whether a key
        # that was not written yet is stored is known at the commit.
        written = key in self.entries
        if self.entries[key] is None if written else self.covers(key):
            return
        if not self.expiries:
            self.expiries = {}
        self.expiries[key] = (after, at, not written)
        self.size += 2 * len(key) + 32

    def _append(self, append: Append) -> None:
        if not self.appends:
            self.appends = []
        self.appends.append(append)
        self.events += len(append.events)
        if append.largest > limits.EVENT_SIZE_MAX:
            raise TooLarge(
                f"an event for stream {append.stream!r} of {append.largest} bytes of data, "
                f"metadata and tags; allowed are {limits.EVENT_SIZE_MAX}"
            )
        if append.unless is not None:
            self.size += append.unless.size
        self.size += 64 * len(append.events) + append.size

    def _save_snapshot(
        self,
        stream: str,
        name: str,
        schema: int,
        version: int,
        state: bytes,
        read_at: int | None = None,
    ) -> None:
        key = keyspaces.snapshot_key(stream, name, schema, version)
        if not self.snapshots:
            self.snapshots = []
        place = len(self.retention)
        self.snapshots.append(SnapshotWrite(stream, name, schema, version, key, place, read_at))
        self.put(key, state)

    def _add_acks(self, group: str, deliveries: list[list[int]]) -> None:
        self.acks = [*self.acks, *((group, position, token) for position, token in deliveries)]
        self.size += 64 * len(deliveries)

    def _add_retention(self, write: RetentionWrite) -> None:
        if not self.retention:
            self.retention = []
        self.retention.append(write)
        self.erased += write.erased_count
        self.size += 64 + 9 * write.erased_count

    def _check_bounds(self) -> None:
        if self.size > limits.TRANSACTION_SIZE_MAX:
            raise TooLarge(
                f"a transaction of {self.size} bytes; allowed are {limits.TRANSACTION_SIZE_MAX}"
            )
        count = len(self.entries) + len(self.ranges) + len(self.acks) + len(self.retention)
        count += len(self.expiries)
        if count > limits.WRITES_MAX:
            raise TooLarge(f"a transaction of {count} writes; allowed are {limits.WRITES_MAX}")
        if len(self.ranges) > limits.RANGE_DELETES_MAX:
            raise TooLarge(
                f"a transaction of {len(self.ranges)} range deletes; "
                f"allowed are {limits.RANGE_DELETES_MAX}"
            )
        if self.erased > limits.ERASED_MAX:
            raise TooLarge(
                f"a transaction that erases {self.erased} events; allowed are {limits.ERASED_MAX}"
            )
        if self.events > limits.EVENTS_MAX:
            raise TooLarge(
                f"a transaction of {self.events} events; allowed are {limits.EVENTS_MAX}"
            )


def _append_of(
    stream: str,
    expect: int,
    events: list[list[Any]],
    unless: dict[str, Any] | None = None,
    after: int = 0,
) -> Append:
    """The append with these members of a request."""
    if unless is None:
        return Append(stream, expect, events)
    return Append(stream, expect, events, EventFilter.from_wire(unless), after)


def evaluate(entry: Entry, stored: bytes | None) -> bytes | None:
    """A key's value after its entry is applied to the stored value."""
    if not isinstance(entry, list):
        return entry
    value = stored
    for atomic in entry:
        value = apply_atomic(atomic, value)
    return value


def next_key(key: bytes) -> bytes:
    """The smallest key above a key."""
    return key + b"\0"
