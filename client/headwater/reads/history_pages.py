"""The records and pages of what happened: versions of keys, events with their users, snapshots."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.codecs.events import event_views
from headwater.codecs.keys_and_values import key_of, value_of
from headwater.reads.listing import StreamInfo, stream_info
from headwater.reads.pages import Pages
from headwater.records import RecordedEvent, time_of
from headwater_protocol.keys import Key, KeyTuple, encode_key, prefix_range
from headwater_protocol.limits import DESCRIBED_MAX
from headwater_protocol.numbers import CommitNumber, Position, StreamVersion

Look = Callable[..., Awaitable[Any]]
"""Sends a request whose last argument, which is left out here, is the commit to look at."""


class KeyVersion:
    """A commit that wrote a key: who, when, from what, to what.

    The values are decoded when they are asked for. One that cannot be decoded raises Undecodable.

    Attributes:
        commit: its number.
        time: of the commit; None if its record was trimmed.
        user: who committed it; None if the server had no users, or its record was trimmed.
        old, new: the value before and after. None if the key was, or is, absent, or if what was
            before is not known.
        existed: whether the key was present before. None: that is not known, because this is the
            oldest version in the history window.
        exists: whether the key is present after it.
        expired: whether it was deleted because its time had come.
    """

    __slots__ = ("_codec", "_key", "_new", "_old", "commit", "existed", "expired", "time", "user")

    def __init__(
        self, codec: Codec, key: bytes, row: Sequence[Any], older: Sequence[Any] | None, known: bool
    ) -> None:
        commit, time, user, value, expired = row[:5]
        self._codec = codec
        self._key = key
        self._new: bytes | None = value
        self._old: bytes | None = None if older is None else older[3]
        self.commit = CommitNumber(commit)
        self.time: datetime | None = None if time is None else time_of(time)
        self.user: str | None = user
        self.expired: bool = expired
        self.existed: bool | None = self._old is not None if known else None

    @property
    def new(self) -> Any:
        return self._value(self._new)

    @property
    def old(self) -> Any:
        return self._value(self._old)

    @property
    def exists(self) -> bool:
        return self._new is not None

    def _value(self, data: bytes | None) -> Any:
        return None if data is None else value_of(self._codec, self._key, data)

    def __repr__(self) -> str:
        return (
            f"KeyVersion(commit={self.commit}, time={self.time!r}, user={self.user!r}, "
            f"existed={self.existed}, exists={self.exists}, expired={self.expired})"
        )


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An event, and the user who appended it; None: no users, or the record was trimmed."""

    event: RecordedEvent
    user: str | None


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot of a stream, without its state.

    Attributes:
        stream, name, schema: of which stream, and by which code.
        version: of the stream that the state includes.
        commit: the commit that saved it.
        time: of that commit; None if its record was trimmed.
        size: bytes of the encoded state.
    """

    stream: str
    name: str
    schema: int
    version: StreamVersion
    commit: CommitNumber
    time: datetime | None
    size: int


@dataclass(frozen=True, slots=True)
class Branch:
    """A distinct beginning of keys.

    Attributes:
        prefix: the beginning, as a tuple.
        is_key: whether there is a key of just these members.
        below: how many longer keys begin so, as far as they were counted.
        more: whether there are more than `below`.
    """

    prefix: KeyTuple
    is_key: bool
    below: int
    more: bool


@dataclass(frozen=True, slots=True)
class DescribedStream:
    """A stream with its newest event: its position, time and type. None: no event is visible."""

    info: StreamInfo
    position: Position | None
    time: datetime | None
    type: str | None


class _Looked(Pages[Any]):
    """Pages that are all as of the commit of the first one; see `moved`."""

    def __init__(self, look: Look, *, limit: int | None) -> None:
        super().__init__(limit)
        self._look = look

    async def _ask_at(self, name: str, *arguments: Any) -> Any:
        async def ask(commit: CommitNumber | None) -> Any:
            return await self._look(name, *arguments, at_commit=commit)

        return await self._ask_as_of(ask)


class KeyVersionPages(_Looked):
    """The versions of a key, the newest first."""

    def __init__(self, look: Look, codec: Codec, key: Key, *, limit: int | None) -> None:
        super().__init__(look, limit=limit)
        self._codec = codec
        self._key = encode_key(key)
        self._before: int | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[KeyVersion], bool]:
        # One more, because a version tells what was before the one that follows it.
        rows: Sequence[Any]
        _, rows, more, oldest = await self._ask_at("key_history", self._key, self._before, size + 1)
        kept = rows[:size] if more or len(rows) > size else rows
        if more and len(rows) <= size:
            # The page ended by its size; the last one needs the next page.
            kept = rows[:-1] if len(rows) > 1 else rows
        goes_on = len(kept) < len(rows) or more
        if kept:
            self._before = kept[-1][0]
        found = [
            KeyVersion(
                self._codec,
                self._key,
                row,
                rows[place + 1] if place + 1 < len(rows) else None,
                place + 1 < len(rows) or (not more and row[0] > oldest),
            )
            for place, row in enumerate(kept)
        ]
        return len(found), iter(found), goes_on


class StreamEntryPages(_Looked):
    """The events of a stream, the newest first, with their users."""

    def __init__(self, look: Look, codec: Codec, stream: str, *, limit: int | None) -> None:
        super().__init__(look, limit=limit)
        self._view = event_views(codec)
        self._stream = stream
        self._before = 0

    async def _page(self, size: int) -> tuple[int, Iterator[StreamEntry], bool]:
        _, _, rows, users, more = await self._ask_at(
            "stream_history", self._stream, self._before, size
        )
        if rows:
            self._before = rows[-1][2]
        return len(rows), map(StreamEntry, map(self._view, rows), users), more


class SnapshotInfoPages(_Looked):
    """The snapshots of a stream."""

    def __init__(self, look: Look, stream: str) -> None:
        super().__init__(look, limit=None)
        self._stream = stream
        self._cursor: bytes | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[SnapshotInfo], bool]:
        _, rows, self._cursor = await self._ask_at(
            "list_snapshots", self._stream, self._cursor, size
        )
        return len(rows), map(self._info, rows), self._cursor is not None

    def _info(self, row: Sequence[Any]) -> SnapshotInfo:
        name, schema, version, commit, time, size = row[:6]
        when = None if time is None else time_of(time)
        return SnapshotInfo(self._stream, name, schema, version, commit, when, size)


class BranchPages(_Looked):
    """The branches behind a prefix, in the order of keys."""

    def __init__(self, look: Look, prefix: Key, *, count: int, limit: int | None) -> None:
        super().__init__(look, limit=limit)
        members = prefix if isinstance(prefix, tuple) else (prefix,)
        first, last = prefix_range(members)
        self._prefix_size = len(first)
        # The key that equals the prefix has no further member.
        self._range: tuple[bytes, bytes | None] = (first + b"\0", last) if members else (b"", None)
        self._count = count

    async def _page(self, size: int) -> tuple[int, Iterator[Branch], bool]:
        first, last = self._range
        _, rows, rest = await self._ask_at(
            "scan_branches", first, last, self._prefix_size, None, self._count, size
        )
        if rest is not None:
            self._range = rest, last
        found = (Branch(key_of(row[0]), *row[1:4]) for row in rows)
        return len(rows), found, rest is not None


class DescribedPages(_Looked):
    """The streams with their newest events."""

    def __init__(self, look: Look, prefix: str) -> None:
        super().__init__(look, limit=None)
        self._prefix = prefix
        self._cursor: str | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[DescribedStream], bool]:
        _, rows, self._cursor = await self._ask_at(
            "describe_streams", self._prefix, self._cursor, min(size, DESCRIBED_MAX)
        )
        return len(rows), map(_described, rows), self._cursor is not None


def _described(row: list[Any]) -> DescribedStream:
    info, newest = stream_info(row), row[6]
    if newest is None:
        return DescribedStream(info, None, None, None)
    position, time, kind = newest[:3]
    return DescribedStream(info, position, time_of(time), kind)
