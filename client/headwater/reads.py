"""Reads, the same wherever they are asked: in a transaction, outside of one, in the past."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any

from headwater.codec import Codec, decode_with
from headwater.errors import InvalidArgument, Undecodable
from headwater.pages import EventPages, KeyPages, Pages
from headwater.records import Loaded, RecordedEvent, Snapshot, from_stored, recorded_event
from headwater.writes import key_range
from headwater_protocol.keys import Key, KeyTuple, encode_key
from headwater_protocol.operations import FILTER, NAME, POSITION, SCHEMA, STREAM, VERSION


class Reads(ABC):
    """What can be read. Subclasses say how it is asked.

    Each of these raises InvalidArgument for arguments that can mean nothing, Undecodable for
    what the codec cannot read, and ConnectionLost if the server cannot be asked.
    """

    _codec: Codec

    @abstractmethod
    def _fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Ask; the payload of the answer."""

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or *default* if it is absent."""
        data = await self._fetch("get", encode_key(key))
        if data is None:
            return default
        try:
            return self._codec.decode(data)
        except Exception:
            decode_with(self._codec, data, f"value of {key!r:.80}")
            raise

    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[tuple[KeyTuple, Any]]:
        """Iterate over (key, value) in the order of keys.

        Args:
            prefix: a tuple that the keys begin with. Without it, start and end: all keys.
            start: the first key, inclusive.
            end: the last key, exclusive.
            reverse: the last keys first.
            limit: stop after so many.
        """
        first, last = key_range(prefix, start, end)
        return KeyPages(self._fetch, self._codec, first, last, reverse=reverse, limit=limit)

    def read(
        self, stream: str, *, after: int = 0, reverse: bool = False, limit: int | None = None
    ) -> Pages[RecordedEvent]:
        """Iterate over the events of a stream in the order of versions.

        Those that the transaction itself appends come with position and commit 0.

        Args:
            after: a version; events after it, or if reverse before it, 0 being the end.
            reverse: the last events first.
            limit: stop after so many.
        """
        STREAM(stream, "read: stream")
        VERSION(after, "read: after")
        return EventPages(self._fetch, self._codec, stream, after, {}, reverse=reverse, limit=limit)

    def read_all(
        self,
        *,
        after: int = 0,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[RecordedEvent]:
        """Iterate over the events of all streams in the order of positions.

        Args:
            after: a position; events after it, or if reverse before it, 0 being the end.
            stream, category, prefix: only of this stream, of streams of this category (the
                name up to its first "-"), of streams whose names begin so.
            types: only of one of these types.
            reverse: the last events first.
            limit: stop after so many.
        """
        POSITION(after, "read_all: after")
        wanted = event_filter("read_all", stream, category, prefix, types)
        return EventPages(
            self._fetch, self._codec, None, after, wanted, reverse=reverse, limit=limit
        )

    async def load(self, stream: str, *, schema: int = 0, name: str = "") -> Loaded:
        """A stream's newest snapshot of this name and schema, and the events after it.

        A snapshot that cannot be decoded is passed over: the events are the truth.
        """
        STREAM(stream, "load: stream")
        SCHEMA(schema, "load: schema")
        if name:
            NAME(name, "load: name")
        _, version, stored, rows, more = await self._fetch("load", stream, name, schema)
        snapshot = None
        if stored is not None:
            try:
                state = decode_with(self._codec, stored[1], f"snapshot of {stream}")
                snapshot = Snapshot(stored[0], state)
            except Undecodable:
                rows, more = [], version > 0
        codec = self._codec
        events = [*from_stored([recorded_event(row, codec) for row in rows], codec)]
        if more:
            after = events[-1].version if events else 0
            rest = EventPages(
                self._fetch, self._codec, stream, after, {}, reverse=False, limit=version - after
            )
            events += [event async for event in rest]
        return Loaded(version, snapshot, events)


def event_filter(
    place: str,
    stream: str | None,
    category: str | None,
    prefix: str | None,
    types: Sequence[str] | None,
) -> dict[str, Any]:
    """The filter that these arguments mean, as it travels."""
    if isinstance(types, str):
        raise InvalidArgument(f"{place}: types is a list of types, not {types!r}")
    members = {
        "stream": stream,
        "category": category,
        "prefix": prefix,
        "types": None if types is None else list(types),
    }
    wanted = {name: member for name, member in members.items() if member is not None}
    FILTER(wanted, place)
    return wanted
