"""Reads: the same calls in a transaction, outside of one, and in the past."""

from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from headwater.causation import checked_correlation
from headwater.errors import InvalidArgument
from headwater.reads.key_reads import KeyReads
from headwater.reads.loading import loaded_from
from headwater.reads.pages import EventPages, Pages, Span
from headwater.reads.query import Query, event_filter
from headwater.records import Loaded, RecordedEvent, microseconds_of
from headwater_protocol.numbers import Position, StreamVersion
from headwater_protocol.operations import COMMIT, NAME, POSITION, SCHEMA, STREAM, VERSION
from headwater_protocol.vocabulary.causation import causation_tag, correlation_tag

_Ends = tuple[int | None, int | None]
"""Where a read ends: before a time, and with a commit; None: it does not."""


class Reads(KeyReads):
    """The reads. Subclasses send the requests.

    Every read raises InvalidArgument for invalid arguments, and ConnectionLost if the server cannot
    be reached. A value that the codec cannot decode raises Undecodable. An event that it cannot
    decode is handed out like any other, and its data raises Undecodable.
    """

    @abstractmethod
    def _ask(self, name: str, *arguments: Any) -> Coroutine[Any, Any, Any]:
        """Send a read that does not depend on the commit."""

    def _has_own(self, stream: str) -> bool:  # noqa: ARG002
        """Whether reads of the stream show uncommitted events of this transaction."""
        return False

    def read(
        self,
        stream: str,
        *,
        after: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        until_commit: int | None = None,
        types: Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[RecordedEvent]:
        """Iterate over the events of a stream in the order of versions.

        Events that this transaction itself appends have position and commit 0.

        Args:
            stream: its name.
            after: a version, exclusive. In reverse, events before it are read, and 0 is the end.
            since: only events of this time and later.
            until: only events of this time and earlier.
            until_commit: only events of this commit and earlier ones, which may be older than the
                history window. Events that were hidden since are left out.
            types: only events of one of these types.
            reverse: start with the last event.
            limit: the maximum number of events.
        """
        STREAM(stream, "read: stream")
        VERSION(after, "read: after")
        pages = partial(EventPages, self._fetch, self._codec, reverse=reverse, limit=limit)
        if until_commit is not None:
            COMMIT(until_commit, "read: until_commit")
        if types is None and since is None and until is None and until_commit is None:
            return pages(stream, after, {})
        wanted = event_filter("read", stream=stream, types=types)
        time = None if since is None else _microseconds(since, "read: since")
        end = None if until is None else _end(until, "read: until")
        if self._has_own(stream):

            def keep(row: Sequence[Any]) -> bool:
                return (
                    (types is None or row[6] in types)
                    and (time is None or row[4] >= time)
                    and (end is None or row[4] < end)
                    and (until_commit is None or 0 < row[3] <= until_commit)
                )

            return pages(stream, after, {}, keep=keep)
        return pages(
            None,
            0,
            wanted,
            locate=lambda: self._locate_version(stream, after, time, (end, until_commit), reverse),
        )

    def read_all(
        self,
        *,
        after: int = 0,
        since: datetime | None = None,
        until: datetime | None = None,
        until_commit: int | None = None,
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

        An event must match all filters that are given. Events that this transaction itself appends
        are not included.

        Args:
            after: a position, exclusive. In reverse, events before it are read, and 0 is the end.
            since: only events of this time and later.
            until: only events of this time and earlier.
            until_commit: only events of this commit and earlier ones, which may be older than the
                history window. Events that were hidden since are left out.
            stream: only events of this stream.
            category: only events of streams of this category, the name up to its first "-".
            prefix: only events of streams whose names begin with it.
            types: only events of one of these types.
            tags: only events with all of these tags.
            query: only events that match one of its criteria.
            reverse: start with the last event.
            limit: the maximum number of events.
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
        if since is not None or until is not None or until_commit is not None:
            time = None if since is None else _microseconds(since, "read_all: since")
            end = None if until is None else _end(until, "read_all: until")
            if until_commit is not None:
                COMMIT(until_commit, "read_all: until_commit")
            locate = partial(self._locate_time, after, time, (end, until_commit), reverse)
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

    def caused_by(
        self, event: UUID | RecordedEvent, *, limit: int | None = None
    ) -> Pages[RecordedEvent]:
        """Iterate over the events that an event has caused directly, in the order of positions.

        Args:
            event: the event, or its id.
            limit: the maximum number of events.
        """
        identity = event.id if isinstance(event, RecordedEvent) else event
        if not isinstance(identity, UUID):
            raise InvalidArgument(f"caused_by: expected an event or its UUID, got {event!r:.60}")
        return self.read_all(tags=[causation_tag(identity)], limit=limit)

    def correlated(
        self, chain: str | UUID | RecordedEvent, *, limit: int | None = None
    ) -> Pages[RecordedEvent]:
        """Iterate over the events of a chain, in the order of positions.

        The event with which the chain began is not among them, unless it was given the correlation:
        it has caused them, and `find_event` has it.

        Args:
            chain: an event of the chain, the id of the event with which it began, or the
                correlation that was given.
            limit: the maximum number of events.
        """
        if isinstance(chain, RecordedEvent):
            chain = chain.correlation or str(chain.id)
        return self.read_all(tags=[correlation_tag(checked_correlation(str(chain)))], limit=limit)

    async def newest_position(
        self,
        *,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
    ) -> Position:
        """The position of the newest event that matches all filters, 0 if there is none.

        No event is sent. Without filters it is the newest position of all.

        Args:
            stream, category, prefix, types, tags, query: which events, as for read_all.
        """
        wanted = event_filter(
            "newest_position",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        commit, position, more = await self._fetch("newest_position", 0, wanted)
        while more:
            _, position, more = await self._fetch(
                "newest_position", position, wanted, at_commit=commit
            )
        return Position(position)

    async def _locate_time(
        self, after: int, time: int | None, ends: _Ends, reverse: bool
    ) -> Span | None:
        """The span of positions with times from *time* on, and before the ends."""
        floor = 0 if time is None else await self._ask("position_before", time)
        end, commit = ends
        if end is None and commit is None:
            return Span(after, floor) if reverse else Span(max(after, floor))
        ceilings = [] if end is None else [await self._ask("position_before", end)]
        if commit is not None:
            ceilings.append(await self._ask("position_at", commit))
        ceiling = min(ceilings)
        if not ceiling:
            return None
        if reverse:
            return Span(min(after, ceiling + 1) if after else ceiling + 1, floor, ceiling)
        return Span(max(after, floor), 0, ceiling)

    async def _locate_version(
        self, stream: str, after: int, time: int | None, ends: _Ends, reverse: bool
    ) -> Span | None:
        """The span of positions after a version of a stream (in reverse: before it)."""
        position = 0
        if after:
            # The first visible event from this version on. Earlier ones may be hidden.
            _, _, rows, *_ = await self._fetch("read_stream", stream, after - 1, 1, False)
            if rows:
                position, version = rows[0][0], rows[0][2]
                if version > after and not reverse:
                    position -= 1
            elif not reverse:
                return None
        if time is None and ends == (None, None):
            return Span(position)
        return await self._locate_time(position, time, ends, reverse)

    async def version(self, stream: str) -> StreamVersion:
        """The version of a stream; 0 if there is no such stream, or none since it was deleted.

        So it is what an append may expect. No event is sent.
        """
        STREAM(stream, "version: stream")
        return StreamVersion((await self._fetch("stream_version", stream))[1])

    async def load(
        self,
        stream: str,
        *,
        schema: int = 0,
        name: str = "",
        snapshot_below: int | None = None,
        upto: int | None = None,
    ) -> Loaded:
        """Read the newest snapshot of a stream, of this name and schema, and the events after it.

        A snapshot that cannot be decoded is passed over: the next older one is used, or all events.
        If the stream was truncated, events may be missing: see Loaded.is_whole.

        Args:
            snapshot_below: use a snapshot below this version, because the newer ones are wrong.
            upto: load the stream as it was at this version.

        Raises:
            InvalidArgument: the stream is below the version *upto*.
        """
        STREAM(stream, "load: stream")
        SCHEMA(schema, "load: schema")
        if name != "":
            NAME(name, "load: name")
        if snapshot_below is not None:
            VERSION(snapshot_below, "load: snapshot_below")
        if upto is not None:
            VERSION(upto, "load: upto")
            snapshot_below = upto + 1 if snapshot_below is None else min(snapshot_below, upto + 1)
        loaded, unreadable = loaded_from(
            self._codec,
            stream,
            await self._fetch("load", stream, name, schema, snapshot_below),
        )
        while unreadable is not None:
            # It ends, because each version is below the last one; the server keeps a few.
            loaded, unreadable = loaded_from(
                self._codec, stream, await self._fetch("load", stream, name, schema, unreadable)
            )
        if upto is not None:
            loaded = _at_version(stream, loaded, upto)
        if not loaded.more:
            return loaded
        # A large snapshot may leave no room for events in the answer.
        events, version = loaded.events, loaded.version
        after = loaded.snapshot.version if loaded.snapshot is not None else 0
        after = events[-1].version if events else after
        rest = EventPages(
            self._fetch, self._codec, stream, after, {}, reverse=False, limit=version - after
        )
        # If events were hidden since the first page, later ones take their place.
        events += [event async for event in rest if event.version <= version]
        return replace(loaded, events=events, more=False)


def _at_version(stream: str, loaded: Loaded, upto: int) -> Loaded:
    """What was loaded, without what came after a version."""
    if upto > loaded.version:
        raise InvalidArgument(
            f"load: upto: {upto}; stream {stream!r:.80} is at version {loaded.version}"
        )
    events = [event for event in loaded.events if event.version <= upto]
    more = loaded.more and len(events) == len(loaded.events)
    return replace(loaded, version=StreamVersion(upto), events=events, more=more)


def _end(time: datetime, place: str) -> int:
    """The first microsecond after a time."""
    return _microseconds(time, place) + 1


def _microseconds(time: datetime, place: str) -> int:
    """A time in microseconds. There are no events before 1970."""
    return max(0, microseconds_of(time, place))
