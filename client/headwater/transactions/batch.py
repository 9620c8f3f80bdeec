"""A batch: a whole transaction in one round trip.

    batch = db.batch()
    batch.require_stream("account-ann", 41)
    place = batch.get(("balance", "ann"))
    batch.add(("balance", "ann"), -10)
    batch.append("account-ann", [Event("Withdrawn", {"amount": 10})])
    done = await db.execute(batch)
    done.committed, done.results[place]

A read of several items is one page, as large as fits into the answer. Its result is a list that
says in `more` whether there are further items.

If all conditions hold, the server does the reads and then commits the writes. If one does not
hold, `execute` raises ConditionFailed and nothing is written. Each execution of a batch is a
transaction of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from headwater.codecs.codec import Codec, encode_with
from headwater.codecs.events import event_views
from headwater.codecs.keys_and_values import key_of, value_of
from headwater.errors import InvalidArgument, ProtocolError, TooLarge
from headwater.reads.key_ranges import key_range
from headwater.reads.key_reads import entry_of, seconds_left
from headwater.reads.loading import loaded_from
from headwater.reads.query import Filter, Query, event_filter, filter_of
from headwater.records import Committed
from headwater.transactions.writes import REQUEST_SIZE_MAX, Writes
from headwater_protocol.keys import Key, KeyTuple, encode_key
from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.numbers import Position
from headwater_protocol.operations import CONDITION, NAME, READ

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Executed:
    """The result of a batch: the commit, and the results of its reads in order."""

    committed: Committed
    results: list[Any]


class Page(list[T]):
    """What a read of a batch found: a list of items, and whether more follow.

    Attributes:
        more: whether there are items behind the last one, which did not fit or exceed the limit.
        position: of a `read_all`: the last position that was examined, from which to continue.
            None for other reads.
    """

    def __init__(self, items: Iterable[T], *, more: bool, position: Position | None = None) -> None:
        super().__init__(items)
        self.more = more
        self.position = position


class Batch(Writes):
    """Conditions, reads and writes that are executed together. Made by `db.batch()`."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._conditions: list[list[Any]] = []
        self._reads: list[list[Any]] = []
        self._defaults: list[Any] = []

    def require(self, key: Key, value: Any) -> None:
        """Require that a key holds exactly this value. The encoded bytes are compared."""
        data = encode_with(self._codec, value, f"value of {key!r:.80}")
        self._require(["value", encode_key(key), data])

    def require_absent(self, key: Key) -> None:
        """Require that a key is absent."""
        self._require(["value", encode_key(key), None])

    def require_number(
        self,
        key: Key,
        *,
        less: float | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        greater: float | None = None,
    ) -> None:
        """Require that a key holds a number which is less than, or at most, … another one.

        Several limits can be given. An absent key fulfils none.
        """
        limits = {"less": less, "at_most": at_most, "at_least": at_least, "greater": greater}
        given = [(name, number) for name, number in limits.items() if number is not None]
        if not given:
            raise InvalidArgument("require_number: give a limit, such as at_least=")
        conditions = [["compare", encode_key(key), name, number] for name, number in given]
        for condition in conditions:
            # All of them, before the first is added.
            CONDITION(condition, "require_number")
        self._conditions += conditions

    def require_stream(self, stream: str, expect: int) -> None:
        """Require that a stream is at a version, or NO_STREAM, or STREAM_EXISTS."""
        self._require(["stream", stream, expect])

    def require_unchanged(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        commit: int,
    ) -> None:
        """Require that no key of the range was written after *commit*."""
        first, last = key_range(prefix, start, end)
        self._require(["unchanged", first, last, commit])

    def require_no_events(self, query: Query | Filter, *, after: int = 0) -> None:
        """Require that no event after a position matches the query or filter."""
        wanted = filter_of("require_no_events", query)
        self._require(["no_events", wanted, after])

    def get(self, key: Key, default: Any = None) -> int:
        """Read the value of a key. Returns the index of the result."""
        return self._read(["get", encode_key(key)], default)

    def get_entry(self, key: Key) -> int:
        """Read a key's Entry: its value and when it expires. Returns the index of the result."""
        return self._read(["get_entry", encode_key(key)])

    def ttl(self, key: Key) -> int:
        """Read the seconds until a key expires, or None. Returns the index of the result."""
        return self._read(["get_expiry", encode_key(key)], seconds_left)

    def exists(self, key: Key) -> int:
        """Read whether a key exists. Returns the index of the result."""
        return self._read(["get_expiry", encode_key(key)], _is_found)

    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int = PAGE_ITEMS_MAX,
    ) -> int:
        """Read one page of a range: a Page of (key, value). Returns the index of the result."""
        first, last = key_range(prefix, start, end)
        return self._read(["scan", first, last, limit, reverse])

    def read(
        self, stream: str, *, after: int = 0, reverse: bool = False, limit: int = PAGE_ITEMS_MAX
    ) -> int:
        """Read one page of a stream: a Page of RecordedEvent. Returns the index of the result."""
        return self._read(["read_stream", stream, after, limit, reverse])

    def read_all(
        self,
        *,
        after: int = 0,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        reverse: bool = False,
        limit: int = PAGE_ITEMS_MAX,
    ) -> int:
        """Read one page of the events of all streams: a Page of RecordedEvent.

        Args:
            after: a position, exclusive. In reverse, events before it are read, and 0 is the end.
            stream, category, prefix, types, tags, query: which events, as for `db.read_all`.
            reverse: start with the last event.
            limit: the maximum number of events.

        Returns:
            The index of the result.
        """
        wanted = event_filter(
            "read_all",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        return self._read(["read_all", after, wanted, limit, reverse])

    def load(
        self, stream: str, *, schema: int = 0, name: str = "", snapshot_below: int | None = None
    ) -> int:
        """Read the newest snapshot of a stream and the events after it, as far as they fit.

        The result is a Loaded, whose `more` says whether events are missing. A snapshot that cannot
        be decoded is left out; all events are missing then. Returns the index of the result.
        """
        if name != "":
            NAME(name, "load: name")
        return self._read(["load", stream, name, schema, snapshot_below])

    def _require(self, condition: list[Any]) -> None:
        CONDITION(condition, "require")
        self._conditions.append(condition)

    def _read(self, read: list[Any], default: Any = None) -> int:
        READ(read, "read")
        self._reads.append(read)
        self._defaults.append(default)
        return len(self._reads) - 1

    def request(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Conditions, reads and writes in the form of the protocol.

        Raises:
            TooLarge: the writes do not fit into one request. A transaction can send several.
        """
        if self._written_size > REQUEST_SIZE_MAX:
            raise TooLarge(
                f"{self._written_size} bytes in one request; the maximum is {REQUEST_SIZE_MAX}; "
                "use a transaction"
            )
        return self._conditions, self._reads, self._writes

    def results(self, payload: list[Any]) -> list[Any]:
        """The results of the reads, decoded."""
        if not payload and not self._reads:
            return []
        if len(payload) != len(self._reads):
            raise ProtocolError(f"{len(payload)} results for {len(self._reads)} reads")
        return [
            self._result(read, default, answer)
            for read, default, answer in zip(self._reads, self._defaults, payload, strict=True)
        ]

    def _result(self, read: list[Any], default: Any, answer: Any) -> Any:
        if read[0] == "get":
            if answer is None:
                return default
            return value_of(self._codec, read[1], answer)
        view = event_views(self._codec)
        match read[0], answer:
            case "get_entry", _:
                return None if answer is None else entry_of(self._codec, read[1], answer)
            case "get_expiry", _:
                return default(answer)
            case "scan", [_, flat, more, *_]:
                return Page(self._items(flat), more=more)
            case "read_stream", [_, _, rows, more, *_]:
                return Page(map(view, rows), more=more)
            case "read_all", [_, position, rows, more, *_]:
                return Page(map(view, rows), more=more, position=position)
            case _:
                return loaded_from(self._codec, read[1], answer).loaded

    def _items(self, flat: list[bytes]) -> Iterator[tuple[KeyTuple, Any]]:
        for key, data in zip(flat[::2], flat[1::2], strict=True):
            yield key_of(key), value_of(self._codec, key, data)


def _is_found(answer: Any) -> bool:
    return answer is not None
