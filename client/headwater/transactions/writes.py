"""Writes that wait to be sent: what a transaction, or a batch, will do.

Everything is encoded and checked where it is called, so what is wrong is told there, and the
writes that are kept are whole. Later writes win over earlier ones, on the server.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from headwater.codecs.codec import Codec, encode_with
from headwater.errors import InvalidArgument, TooLarge
from headwater.groups.delivery import Acknowledgeable, Delivery, ack_writes, claimed
from headwater.reads.key_ranges import key_range
from headwater.reads.query import Query, event_filter
from headwater.records import Event
from headwater.transactions.retention import RetentionWrites
from headwater_protocol import limits
from headwater_protocol.keys import Key, encode_key
from headwater_protocol.numbers import ANY
from headwater_protocol.operations import (
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
"""Bytes that a write, or an event in it, has on the wire beside keys and values, at most."""

REQUEST_SIZE_MAX: Final = limits.BODY_SIZE_MAX - limits.MIB
"""Bytes of writes that are sent in one request. The rest is for what stands around them."""

# What is surely right needs no closer look, and no words for what might be wrong with it.
_stream_fits: Final = STREAM.fitting().fits
_expect_fits: Final = EXPECT.fitting().fits
_name_fits: Final = NAME.fitting().fits


class Writes(RetentionWrites):
    """Collects writes. Nothing here waits, on any runtime.

    A key is a tuple, or a bare value, which is a tuple of one. Each of these raises
    InvalidArgument or TooLarge for what cannot be written, and then has written nothing.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._writes: list[list[Any]] = []
        self._sizes: list[int] = []
        self._written_size = 0
        self._written_count = 0
        self._acknowledged: list[Delivery] = []

    def put(self, key: Key, value: Any) -> None:
        """Set the value of a key."""
        try:
            data = self._codec.encode(value)
        except Exception:
            encode_with(self._codec, value, f"value of {key!r:.80}")
            raise
        _check_size(data, "value of", key)
        encoded = encode_key(key)
        self._keep(["put", encoded, data], len(encoded) + len(data))

    def delete(self, key: Key) -> None:
        """Remove a key; it is no error if it is not there."""
        encoded = encode_key(key)
        self._keep(["delete", encoded], len(encoded))

    def delete_range(
        self, prefix: Key | None = None, *, start: Key | None = None, end: Key | None = None
    ) -> None:
        """Remove the keys that begin with *prefix*, or those from *start* to before *end*.

        The empty tuple is the prefix of all keys, and means it.
        """
        if prefix is None and start is None and end is None:
            raise InvalidArgument("delete_range: which? A prefix, or start= and end=; () is all")
        first, last = key_range(prefix, start, end)
        self._keep(["delete_range", first, last], len(first) + len(last or b""))

    def add(self, key: Key, number: float) -> None:
        """Add to the number that a key holds, 0 if it is absent. Adds do not conflict."""
        self._keep_number("add", key, number)

    def min(self, key: Key, number: float) -> None:
        """Set a key to *number* unless it holds a smaller one."""
        self._keep_number("min", key, number)

    def max(self, key: Key, number: float) -> None:
        """Set a key to *number* unless it holds a larger one."""
        self._keep_number("max", key, number)

    def append(
        self,
        stream: str,
        events: Event | Iterable[Event],
        *,
        expect: int = ANY,
        unless: Query | None = None,
        after: int = 0,
    ) -> None:
        """Append events to a stream.

        Args:
            stream: its name.
            events: one, or several in order.
            expect: the version that the stream must be at: a number, NO_STREAM, STREAM_EXISTS
                or ANY.
            unless, after: an event that fits this query beyond this position must not be there,
                of any stream; else the transaction fails with ConditionFailed. *after* is the
                position up to which the query was read. The transaction's own do not count.
        """
        if not _stream_fits(stream):
            STREAM(stream, "append: stream")
        if not _expect_fits(expect):
            EXPECT(expect, "append: expect")
        condition = _condition(unless, after)
        encoded: list[list[Any]] = []
        size = len(stream)
        to_stored = getattr(self._codec, "to_stored", None)
        for event in several(events, "append"):
            members, event_size = self._encode_event(event, len(encoded), stream, to_stored)
            encoded.append(members)
            size += event_size + WRITE_OVERHEAD_SIZE
        if not encoded:
            raise InvalidArgument(f"append: no events for {stream!r:.80}")
        if size > REQUEST_SIZE_MAX:
            raise TooLarge(
                f"append: {size} bytes of events for {stream!r:.80}; allowed in one append are "
                f"{REQUEST_SIZE_MAX}"
            )
        if condition:
            size += _size_of(condition)
        self._keep(["append", stream, expect, encoded, *condition], size)

    def save_snapshot(
        self, stream: str, *, version: int, state: Any, schema: int = 0, name: str = ""
    ) -> None:
        """Keep the state that a stream has at a version, for `load`.

        Args:
            version: of the stream; it may be one that this transaction appends.
            state: what the codec can encode.
            schema: version of the code that made the state; load asks for the same.
            name: tells apart several states of one stream.
        """
        STREAM(stream, "save_snapshot: stream")
        VERSION(version, "save_snapshot: version")
        SCHEMA(schema, "save_snapshot: schema")
        if name:
            NAME(name, "save_snapshot: name")
        place = f"state of {stream!r:.80}"
        data = encode_with(self._codec, state, place)
        _check_size(data, place)
        self._keep(["save_snapshot", stream, name, schema, version, data], len(data) + 512)

    def ack(self, *deliveries: Acknowledgeable) -> None:
        """Acknowledge deliveries of a consumer group, if and only if all this commits.

        If one is not this consumer's any more when it comes to that, nothing is done, and the
        commit raises DeliveryLost.
        """
        taken = claimed(deliveries, "ack")
        for delivery in taken:
            delivery.check_mine()
        for write in ack_writes(taken):
            self._keep(write, 16 * len(write[2]))
        self._acknowledged += taken

    def settle_deliveries(self) -> None:
        """It has committed: what was acknowledged is settled."""
        for delivery in self._acknowledged:
            delivery.settle()

    def _keep_number(self, word: str, key: Key, number: float) -> None:
        encoded = encode_key(key)
        write = [word, encoded, number]
        WRITE.variants[word](write[1:], word)
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise InvalidArgument(f"{word}: {number} is outside of 64 bits")
        self._keep(write, len(encoded))

    def _encode_event(
        self, event: Event, number: int, stream: str, to_stored: Callable[[Event], Event] | None
    ) -> tuple[list[Any], int]:
        if not isinstance(event, Event):
            place = _place_of(number, stream)
            raise InvalidArgument(f"{place}: an Event is wanted, not {type(event).__name__}")
        if to_stored is not None:
            event = to_stored(event)
        codec = self._codec
        try:
            data = codec.encode(event.data)
            metadata = b"" if event.metadata is None else codec.encode(event.metadata)
            identity = None if event.id is None else event.id.bytes
        except Exception:
            self._check_event(event, _place_of(number, stream))
            raise
        size = len(data) + len(metadata)
        if size > limits.VALUE_SIZE_MAX or not _name_fits(event.type):
            self._check_event(event, _place_of(number, stream))
        size += len(event.type)
        if not event.tags:
            return [identity, event.type, data, metadata], size
        tags = list(event.tags)
        TAGS(tags, f"{_place_of(number, stream)}: tags")
        # A character is four bytes at most. The rest is what keeps a request of nothing but
        # short tags below REQUEST_ITEMS_MAX.
        size += 4 * sum(map(len, tags)) + 8 * len(tags)
        return [identity, event.type, data, metadata, tags], size

    def _check_event(self, event: Event, place: str) -> None:
        """Raise what is wrong with an event, part by part, with its place."""
        NAME(event.type, f"{place}: type")
        _check_size(encode_with(self._codec, event.data, f"{place}: data"), f"{place}: data")
        if event.metadata is not None:
            part = f"{place}: metadata"
            _check_size(encode_with(self._codec, event.metadata, part), part)
        if event.id is not None and not hasattr(event.id, "bytes"):
            raise InvalidArgument(f"{place}: id: a UUID is wanted, not {event.id!r:.60}") from None

    def _keep(self, write: list[Any], size: int) -> None:
        size += WRITE_OVERHEAD_SIZE
        if self._written_size + size > limits.TRANSACTION_SIZE_MAX:
            raise TooLarge(
                f"{write[0]}: the transaction would be of {self._written_size + size} bytes; "
                f"allowed are {limits.TRANSACTION_SIZE_MAX}"
            )
        if self._written_count == limits.WRITES_MAX:
            raise TooLarge(f"{write[0]}: a transaction may have {limits.WRITES_MAX} writes")
        self._written_size += size
        self._written_count += 1
        self._writes.append(write)
        self._sizes.append(size)

    def _take(self) -> Iterator[list[list[Any]]]:
        """The writes that are not sent yet, in parts that each fit a request; now they are."""
        writes, self._writes = self._writes, []
        sizes, self._sizes = self._sizes, []
        start = size = 0
        for index, write_size in enumerate(sizes):
            if size + write_size > REQUEST_SIZE_MAX:
                yield writes[start:index]
                start, size = index, 0
            size += write_size
        if writes:
            yield writes[start:]


def several(events: Event | Iterable[Event], place: str) -> Iterable[Event]:
    """One event, or several, as several.

    Raises:
        InvalidArgument: it is neither.
    """
    if isinstance(events, Event):
        return (events,)
    if isinstance(events, list):
        return events  # Nearly always; the test below takes longer.
    if not isinstance(events, Iterable):
        raise InvalidArgument(
            f"{place}: events: an Event, or several, is wanted, not {events!r:.60}"
        )
    return events


def _condition(unless: Query | None, after: int) -> list[Any]:
    """The members of an append that say on which condition."""
    if unless is None and type(after) is int and not after:
        return []
    POSITION(after, "append: after")
    if unless is None:
        if after:
            raise InvalidArgument(f"append: after={after} without unless=")
        return []
    return [event_filter("append: unless", query=unless), after]


def _size_of(condition: list[Any]) -> int:
    """Bytes that a condition has on the wire, at most."""
    criteria = condition[0]["query"]
    names = [name for criterion in criteria for listed in criterion.values() for name in listed]
    return 4 * sum(map(len, names)) + 16 * (len(names) + len(criteria))


def _place_of(number: int, stream: str) -> str:
    return f"event {number} of {stream!r:.80}"


def _check_size(data: bytes, place: str, key: Key = ()) -> None:
    if len(data) > limits.VALUE_SIZE_MAX:
        what = f"{place} {key!r:.80}" if key else place
        raise TooLarge(f"{what}: {len(data)} bytes; allowed are {limits.VALUE_SIZE_MAX}")
