"""Buffered writes: what a transaction or a batch has yet to send.

Each call encodes and checks its arguments at once, so an error is raised where the mistake is, and
the buffer holds only complete writes. On the server, later writes win over earlier ones.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from headwater.causation import Cause, current_cause, tags_with_cause
from headwater.codecs.codec import Codec, encode_with
from headwater.errors import InvalidArgument, TooLarge
from headwater.groups.delivery import Acknowledgeable, Delivery, ack_writes, claimed
from headwater.reads.key_ranges import deleted_range
from headwater.reads.query import Filter, Query, filter_of
from headwater.records import Event
from headwater.transactions.expiry import expiry_members
from headwater.transactions.retention import RetentionWrites
from headwater_protocol import limits
from headwater_protocol.keys import Key, encode_key
from headwater_protocol.numbers import ANY
from headwater_protocol.operations import (
    COMMIT,
    EXPECT,
    NAME,
    POSITION,
    SCHEMA,
    STREAM,
    TAGS,
    VERSION,
    WRITE,
)

WRITE_OVERHEAD_SIZE: Final = 32
"""The most bytes that a write, or an event in it, takes on the wire beside keys and values."""

REQUEST_SIZE_MAX: Final = limits.BODY_SIZE_MAX - limits.MIB
"""Bytes of writes in one request. The rest of the frame is for everything around them."""

_COUNTED: Final = {
    "append": ("events", limits.EVENTS_MAX),
    "delete_range": ("range deletes", limits.RANGE_DELETES_MAX),
    "erase": ("erased events", limits.ERASED_MAX),
    "erase_ids": ("erased events", limits.ERASED_MAX),
    "erase_positions": ("erased events", limits.ERASED_MAX),
}
"""Writes that have a bound of their own: what counts, and how many a transaction may have. The
server has the same bounds, but refuses the whole transaction."""

# Fast checks. Only if one fails does the slow check run, which builds the error message.
_accepts_stream: Final = STREAM.fast_validator().accepts
_accepts_expect: Final = EXPECT.fast_validator().accepts
_accepts_name: Final = NAME.fast_validator().accepts


class Writes(RetentionWrites):
    """Collects writes. No method here waits for the server.

    A key is a tuple. A bare value stands for a tuple of one. Each method raises InvalidArgument or
    TooLarge if the write is not possible; then nothing was added.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._writes: list[list[Any]] = []
        self._sizes: list[int] = []
        self._written_size = 0
        self._written_count = 0
        self._counts: dict[str, int] = {}
        self._acknowledged: list[Delivery] = []

    def put(
        self,
        key: Key,
        value: Any,
        *,
        ttl: timedelta | float | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Set the value of a key, and when it expires.

        Args:
            key: the key.
            value: any value that the codec can encode.
            ttl: the time from the commit on after which the key is deleted. A number is in seconds.
            expires_at: the time at which it is deleted. Without either it does not expire, also if
                it would have before.
        """
        try:
            data = self._codec.encode(value)
        except Exception:
            encode_with(self._codec, value, f"value of {key!r:.80}")
            raise
        _check_size(data, "value of", key)
        encoded = encode_key(key)
        size = len(encoded) + len(data)
        if ttl is None and expires_at is None:
            self._keep(["put", encoded, data], size)
            return
        members = expiry_members("put", ttl, expires_at)
        self._check_room("put", size + len(encoded), count=2)
        self._keep(["put", encoded, data], size)
        self._keep(["expire", encoded, *members], len(encoded))

    def touch(
        self,
        key: Key,
        *,
        ttl: timedelta | float | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Let a key expire at another time, without a new value. Nothing happens if it is absent.

        Args:
            key: the key.
            ttl, expires_at: when it expires, as for `put`. Without either it does not expire.
        """
        encoded = encode_key(key)
        members = expiry_members("touch", ttl, expires_at)
        self._keep(["expire", encoded, *members], len(encoded))

    def delete(self, key: Key) -> None:
        """Delete a key. It is no error if the key is absent."""
        encoded = encode_key(key)
        self._keep(["delete", encoded], len(encoded))

    def delete_range(
        self, prefix: Key | None = None, *, start: Key | None = None, end: Key | None = None
    ) -> None:
        """Delete the keys that begin with *prefix*, or those from *start* to before *end*.

        The empty tuple is the prefix of all keys.
        """
        first, last = deleted_range(prefix, start, end)
        self._keep(["delete_range", first, last], len(first) + len(last or b""))

    def add(self, key: Key, number: float) -> None:
        """Add to the number that a key holds. An absent key counts as 0. Adds do not conflict."""
        self._keep_number("add", key, number)

    def min(self, key: Key, number: float) -> None:
        """Set a key to *number* unless it already holds a smaller number."""
        self._keep_number("min", key, number)

    def max(self, key: Key, number: float) -> None:
        """Set a key to *number* unless it already holds a larger number."""
        self._keep_number("max", key, number)

    def append(
        self,
        stream: str,
        events: Event | Iterable[Event],
        *,
        expect: int = ANY,
        unless: Query | Filter | None = None,
        after: int = 0,
    ) -> None:
        """Append events to a stream.

        Args:
            stream: its name.
            events: one, or several in order.
            expect: the version that the stream must be at: a number, NO_STREAM, STREAM_EXISTS
                or ANY.
            unless, after: append only if no event after this position, in any stream, matches
                this query or filter; otherwise the commit raises ConditionFailed. *after* is the
                position up to which it was read. Events of this transaction do not count.
        """
        if not _accepts_stream(stream):
            STREAM(stream, "append: stream")
        if not _accepts_expect(expect):
            EXPECT(expect, "append: expect")
        condition = _condition(unless, after)
        encoded: list[list[Any]] = []
        size = len(stream)
        to_stored = getattr(self._codec, "to_stored", None)
        cause = current_cause()
        for event in several(events, "append"):
            members, event_size = self._encode_event(event, len(encoded), stream, to_stored, cause)
            encoded.append(members)
            size += event_size + WRITE_OVERHEAD_SIZE
        if not encoded:
            raise InvalidArgument(f"append: no events for {stream!r:.80}")
        if size > REQUEST_SIZE_MAX:
            raise TooLarge(
                f"append: {size} bytes of events for {stream!r:.80}; the maximum for one append is "
                f"{REQUEST_SIZE_MAX}"
            )
        if condition:
            size += _size_of(condition)
        self._keep(["append", stream, expect, encoded, *condition], size)

    def save_snapshot(
        self,
        stream: str,
        *,
        version: int,
        state: Any,
        schema: int = 0,
        name: str = "",
        read_at: int | None = None,
    ) -> None:
        """Store the state of a stream at a version, for `load`.

        Args:
            stream: its name.
            version: the version of the stream that the state belongs to. It may be one that this
                transaction appends.
            state: any value that the codec can encode.
            schema: the version of the code that made the state. `load` asks for the same.
            name: distinguishes several states of one stream.
            read_at: the commit at which the events of the state were read: `loaded.commit`. None:
                they were read in this transaction.
        """
        STREAM(stream, "save_snapshot: stream")
        VERSION(version, "save_snapshot: version")
        SCHEMA(schema, "save_snapshot: schema")
        if name != "":
            NAME(name, "save_snapshot: name")
        if read_at is not None:
            COMMIT(read_at, "save_snapshot: read_at")
        place = f"state of {stream!r:.80}"
        data = encode_with(self._codec, state, place)
        _check_size(data, place)
        write = ["save_snapshot", stream, name, schema, version, data]
        self._keep(write if read_at is None else [*write, read_at], len(data) + 512)

    def ack(self, *deliveries: Acknowledgeable) -> None:
        """Acknowledge deliveries of a consumer group if, and only if, the transaction commits.

        If this consumer has lost one of the deliveries by then, nothing is written and the commit
        raises DeliveryLost.
        """
        taken = claimed(deliveries, "ack")
        for delivery in taken:
            delivery.check_mine()
        writes = ack_writes(taken)
        # Checked for all groups before the first is added.
        self._check_room("ack", sum(16 * len(write[2]) for write in writes), count=len(writes))
        for write in writes:
            self._keep(write, 16 * len(write[2]))
        self._acknowledged += taken

    def settle_deliveries(self) -> None:
        """Mark the acknowledged deliveries as settled. The transaction has committed."""
        for delivery in self._acknowledged:
            delivery.settle()

    def _keep_number(self, word: str, key: Key, number: float) -> None:
        encoded = encode_key(key)
        write = [word, encoded, number]
        WRITE.variants[word](write[1:], word)
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise InvalidArgument(f"{word}: {number} does not fit into 64 bits")
        self._keep(write, len(encoded))

    def _encode_event(
        self,
        event: Event,
        number: int,
        stream: str,
        to_stored: Callable[[Event], Event] | None,
        cause: Cause | None,
    ) -> tuple[list[Any], int]:
        if not isinstance(event, Event):
            place = _place_of(number, stream)
            raise InvalidArgument(f"{place}: expected an Event, got {type(event).__name__}")
        given = event
        if to_stored is not None:
            event = to_stored(event)
        codec = self._codec
        try:
            data = codec.encode(event.data)
            metadata = b"" if event.metadata is None else codec.encode(event.metadata)
            identity = None if event.id is None else _id_bytes(event.id)
        except Exception:
            self._check_event(event, _place_of(number, stream))
            raise
        if to_stored is not None and (check := getattr(codec, "check_stored", None)) is not None:
            check(event.type, data)
        size = len(data) + len(metadata)
        empty = not metadata and event.metadata is not None
        if empty or size > limits.VALUE_SIZE_MAX or not _accepts_name(event.type):
            self._check_event(event, _place_of(number, stream))
        size += len(event.type)
        if cause is None and given.causation is None and given.correlation is None:
            if not event.tags:
                return [identity, event.type, data, metadata], size
            tags = list(event.tags)
        else:
            tags = tags_with_cause(given, cause)
        TAGS(tags, f"{_place_of(number, stream)}: tags")
        # A character has at most four bytes. The eight bytes for each tag keep a request that
        # consists of short tags below REQUEST_ITEMS_MAX.
        size += 4 * sum(map(len, tags)) + 8 * len(tags)
        return [identity, event.type, data, metadata, tags], size

    def _check_event(self, event: Event, place: str) -> None:
        """Check the parts of an event one by one, and raise an error that names the part."""
        NAME(event.type, f"{place}: type")
        _check_size(encode_with(self._codec, event.data, f"{place}: data"), f"{place}: data")
        if event.metadata is not None:
            part = f"{place}: metadata"
            metadata = encode_with(self._codec, event.metadata, part)
            _check_size(metadata, part)
            if not metadata:
                raise InvalidArgument(
                    f"{part}: {event.metadata!r:.60} is encoded as no bytes, which stand for None"
                )
        if event.id is not None and not isinstance(event.id, UUID):
            raise InvalidArgument(f"{place}: id: expected a UUID, got {event.id!r:.60}") from None

    def _keep(self, write: list[Any], size: int) -> None:
        self._check_room(write[0], size)
        if write[0] in _COUNTED:
            self._count(write)
        size += WRITE_OVERHEAD_SIZE
        self._written_size += size
        self._written_count += 1
        self._writes.append(write)
        self._sizes.append(size)

    def _count(self, write: list[Any]) -> None:
        """Count what a transaction may have only so many of.

        Raises:
            TooLarge: there would be too many.
        """
        what, count_max = _COUNTED[write[0]]
        count = self._counts.get(what, 0)
        count += 1 if what == "range deletes" else len(write[3 if write[0] == "append" else -1])
        if count > count_max:
            raise TooLarge(
                f"{write[0]}: the transaction would have {count} {what}; the maximum is {count_max}"
            )
        self._counts[what] = count

    def _check_room(self, place: str, size: int, *, count: int = 1) -> None:
        """Raise TooLarge unless *count* writes of *size* bytes together can be added."""
        size += self._written_size + count * WRITE_OVERHEAD_SIZE
        if size > limits.TRANSACTION_SIZE_MAX:
            raise TooLarge(
                f"{place}: the transaction would have {size} bytes; the maximum is "
                f"{limits.TRANSACTION_SIZE_MAX}"
            )
        if self._written_count + count > limits.WRITES_MAX:
            raise TooLarge(f"{place}: a transaction may have at most {limits.WRITES_MAX} writes")

    def _parts(self) -> Iterator[list[list[Any]]]:
        """The buffered writes, in parts that each fit into one request."""
        writes, sizes = self._writes, self._sizes
        start = size = 0
        for index, write_size in enumerate(sizes):
            if size + write_size > REQUEST_SIZE_MAX:
                yield writes[start:index]
                start, size = index, 0
            size += write_size
        if writes:
            yield writes[start:]

    def _empty(self) -> None:
        """Empty the buffer. Its writes were sent."""
        self._writes = []
        self._sizes = []


def several(events: Event | Iterable[Event], place: str) -> Iterable[Event]:
    """An iterable of events, from one event or several.

    Raises:
        InvalidArgument: *events* is neither.
    """
    if isinstance(events, Event):
        return (events,)
    if isinstance(events, list):
        return events  # The usual case. The test below is slower.
    if not isinstance(events, Iterable):
        raise InvalidArgument(f"{place}: events: expected an Event, or several, got {events!r:.60}")
    return events


def _id_bytes(identity: UUID) -> bytes:
    if not isinstance(identity, UUID):
        raise TypeError(identity)
    return identity.bytes


def _condition(unless: Query | Filter | None, after: int) -> list[Any]:
    """The members of an append that hold its condition."""
    if unless is None and type(after) is int and not after:
        return []
    POSITION(after, "append: after")
    if unless is None:
        if after:
            raise InvalidArgument(f"append: after={after} needs unless=")
        return []
    return [filter_of("append: unless", unless), after]


def _size_of(condition: list[Any]) -> int:
    """The most bytes that a condition takes on the wire."""
    wanted = condition[0]
    criteria = wanted.get("query", ())
    names = [name for criterion in criteria for listed in criterion.values() for name in listed]
    names += wanted.get("types", ())
    names += [wanted[name] for name in ("stream", "category", "prefix") if name in wanted]
    return 64 + 4 * sum(map(len, names)) + 16 * (len(names) + len(criteria))


def _place_of(number: int, stream: str) -> str:
    return f"event {number} of {stream!r:.80}"


def _check_size(data: bytes, place: str, key: Key = ()) -> None:
    if len(data) > limits.VALUE_SIZE_MAX:
        what = f"{place} {key!r:.80}" if key else place
        raise TooLarge(f"{what}: {len(data)} bytes; the maximum is {limits.VALUE_SIZE_MAX}")
