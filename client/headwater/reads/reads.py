"""Reads, the same wherever they are asked: in a transaction, outside of one, in the past."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from headwater.codecs.codec import Codec, decode_with
from headwater.codecs.events import from_stored, recorded_event
from headwater.errors import Undecodable
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import EventPages, KeyPages, Pages, Span
from headwater.reads.query import Query, event_filter
from headwater.records import Loaded, RecordedEvent, Snapshot, microseconds_of
from headwater_protocol.keys import Key, KeyTuple, encode_key
from headwater_protocol.operations import NAME, POSITION, SCHEMA, STREAM, VERSION


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

    @abstractmethod
    def _ask(self, name: str, *arguments: Any) -> Coroutine[Any, Any, Any]:
        """Ask what does not depend on the commit that is read."""

    def _has_own(self, stream: str) -> bool:  # noqa: ARG002
        """Whether reads of the stream show events that are not committed."""
        return False

    def read(
        self,
        stream: str,
        *,
        after: int = 0,
        since: datetime | None = None,
        types: Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[RecordedEvent]:
        """Iterate over the events of a stream in the order of versions.

        Those that the transaction itself appends come with position and commit 0.

        Args:
            after: a version; events after it, or if reverse before it, 0 being the end.
            since: only events of this time and later.
            types: only events of one of these types.
            reverse: the last events first.
            limit: stop after so many.
        """
        STREAM(stream, "read: stream")
        VERSION(after, "read: after")
        pages = partial(EventPages, self._fetch, self._codec, reverse=reverse, limit=limit)
        if types is None and since is None:
            return pages(stream, after, {})
        wanted = event_filter("read", stream=stream, types=types)
        time = None if since is None else _microseconds(since, "read: since")
        if self._has_own(stream):

            def keep(row: Sequence[Any]) -> bool:
                return (types is None or row[6] in types) and (time is None or row[4] >= time)

            return pages(stream, after, {}, keep=keep)
        return pages(
            None, 0, wanted, locate=lambda: self._locate_version(stream, after, time, reverse)
        )

    def read_all(
        self,
        *,
        after: int = 0,
        since: datetime | None = None,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[RecordedEvent]:
        """Iterate over the events of all streams in the order of positions.

        Of all that is given, everything must fit. Those that a transaction itself appends are
        not among them.

        Args:
            after: a position; events after it, or if reverse before it, 0 being the end.
            since: only events of this time and later.
            stream, category, prefix: only of this stream, of streams of this category (the
                name up to its first "-"), of streams whose names begin so.
            types: only of one of these types.
            tags: only with all of these tags.
            query: only what fits one of its criteria.
            reverse: the last events first.
            limit: stop after so many.
        """
        POSITION(after, "read_all: after")
        wanted = event_filter(
            "read_all",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        locate = None
        if since is not None:
            time = _microseconds(since, "read_all: since")
            locate = partial(self._locate_time, after, time, reverse)
        return EventPages(
            self._fetch,
            self._codec,
            None,
            after,
            wanted,
            reverse=reverse,
            limit=limit,
            locate=locate,
        )

    async def _locate_time(self, after: int, time: int, reverse: bool) -> Span:
        floor = await self._ask("position_before", time)
        return Span(after, floor) if reverse else Span(max(after, floor))

    async def _locate_version(
        self, stream: str, after: int, time: int | None, reverse: bool
    ) -> Span | None:
        """The span of positions after a version of a stream, or before it, from a time on."""
        position = 0
        if after:
            # The first that is there from this version on: earlier ones may have been hidden.
            _, _, rows, *_ = await self._fetch("read_stream", stream, after - 1, 1, False)
            if rows:
                position, version = rows[0][0], rows[0][2]
                if version > after and not reverse:
                    position -= 1
            elif not reverse:
                return None
        if time is None:
            return Span(position)
        return await self._locate_time(position, time, reverse)

    async def load(self, stream: str, *, schema: int = 0, name: str = "") -> Loaded:
        """A stream's newest snapshot of this name and schema, and the events after it.

        A snapshot that cannot be decoded is passed over: the events are the truth. If the stream
        was truncated, they may not be all of it: see Loaded.is_whole.
        """
        STREAM(stream, "load: stream")
        SCHEMA(schema, "load: schema")
        if name:
            NAME(name, "load: name")
        _, version, stored, rows, more, begins, *_ = await self._fetch("load", stream, name, schema)
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
            # A large snapshot may have left no room for events.
            after = snapshot.version if snapshot is not None else 0
            after = events[-1].version if events else after
            rest = EventPages(
                self._fetch, self._codec, stream, after, {}, reverse=False, limit=version - after
            )
            # Where some were hidden since the first page, later ones come in their place.
            events += [event async for event in rest if event.version <= version]
        return Loaded(version, snapshot, events, begins)


def _microseconds(time: datetime, place: str) -> int:
    """A time as it travels; nothing happened before 1970."""
    return max(0, microseconds_of(time, place))
