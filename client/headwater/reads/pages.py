"""Pages: long answers that are fetched a part at a time while they are iterated over.

The first page is small, so that looking at the first few items costs little (and reads little,
which in a serializable transaction is what can conflict); the pages grow, so that going through
a million items takes few round trips.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from headwater.codecs.codec import Codec, decode_with
from headwater.codecs.events import recorded_event
from headwater.errors import InvalidArgument
from headwater.records import CommitRecord, RecordedEvent, StoredSnapshot, time_of
from headwater_protocol.keys import KeyTuple, decode_key, key_after
from headwater_protocol.limits import PAGE_ITEMS_MAX

PAGE_ITEMS_FIRST: Final = 128
"""Items of a first page."""

PAGE_GROWTH: Final = 4
"""How many times larger each following page is."""

T = TypeVar("T")

Fetch = Callable[..., Awaitable[Any]]
"""Asks for a page: name of the operation, its arguments, and at_commit=."""


class Pages(ABC, AsyncIterator[T], Generic[T]):
    """An async iterator over items that come in pages.

    Attributes:
        items: what is left of the page that is there.
    """

    def __init__(self, limit: int | None) -> None:
        if limit is not None and limit < 0:
            raise InvalidArgument(f"limit: {limit}; it cannot be negative")
        self.items: Iterator[T] = iter(())
        self._left = limit
        self._more = limit != 0
        self._size = PAGE_ITEMS_FIRST

    def __aiter__(self) -> "Pages[T]":
        return self

    async def __anext__(self) -> T:
        while True:
            for item in self.items:
                return item
            if not await self.turn():
                raise StopAsyncIteration

    async def turn(self) -> bool:
        """Fetch the next page into `items`; False if there is none."""
        if not self._more:
            return False
        size = self._size if self._left is None else min(self._size, self._left)
        count, self.items, self._more = await self._page(size)
        self._size = min(self._size * PAGE_GROWTH, PAGE_ITEMS_MAX)
        if self._left is not None:
            self._left -= count
            self._more = self._more and self._left > 0
        return True

    @abstractmethod
    async def _page(self, size: int) -> tuple[int, Iterator[T], bool]:
        """Ask for up to *size* items: how many they are, the items, and whether more follow."""


class KeyPages(Pages[tuple[KeyTuple, Any]]):
    """Keys of a range with their values, all as of the commit of the first page."""

    def __init__(
        self,
        fetch: Fetch,
        codec: Codec,
        first: bytes,
        last: bytes | None,
        *,
        reverse: bool,
        limit: int | None,
    ) -> None:
        super().__init__(limit)
        self._fetch = fetch
        self._codec = codec
        self._range = first, last
        self._reverse = reverse
        self._commit: int | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[tuple[KeyTuple, Any]], bool]:
        first, last = self._range
        self._commit, items, more = await self._fetch(
            "scan", first, last, size, self._reverse, at_commit=self._commit
        )
        if items:
            # What follows the last key; or, in reverse, what comes before it.
            self._range = (first, items[-2]) if self._reverse else (key_after(items[-2]), last)
        return len(items) // 2, self._decoded(items), more

    def _decoded(self, items: list[bytes]) -> Iterator[tuple[KeyTuple, Any]]:
        codec = self._codec
        for index in range(0, len(items), 2):
            key = decode_key(items[index])
            try:
                yield key, codec.decode(items[index + 1])
            except Exception:
                decode_with(codec, items[index + 1], f"value of {key!r:.80}")
                raise


class Span(NamedTuple):
    """Where events begin, exclusive, and the position that a reverse read stops behind."""

    after: int
    floor: int = 0


class EventPages(Pages[RecordedEvent]):
    """Events of a stream, or of all, as they stood when the first page was read.

    What was appended since is left out by its commit number, so the pages need no read view
    that the server would have to keep.

    *locate* says where to begin once it is asked for the first page, if that is not known
    before; None is nowhere. *keep* leaves out what is not wanted of what the server sends.
    """

    def __init__(
        self,
        fetch: Fetch,
        codec: Codec,
        stream: str | None,
        after: int,
        wanted: dict[str, Any],
        *,
        reverse: bool,
        limit: int | None,
        locate: Callable[[], Awaitable[Span | None]] | None = None,
        keep: Callable[[Sequence[Any]], bool] | None = None,
    ) -> None:
        super().__init__(limit)
        self._fetch = fetch
        self._codec = codec
        self._stream = stream
        self._after = after
        self._floor = 0
        self._locate = locate
        self._keep = keep
        self._filter = wanted
        self._reverse = reverse
        self._commit: int | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[RecordedEvent], bool]:
        if self._locate is not None:
            span = await self._locate()
            self._locate = None
            if span is None:
                return 0, iter(()), False
            self._after, self._floor = span
        if self._stream is None:
            commit, position, events, more = await self._fetch(
                "read_all", self._after, self._filter, size, self._reverse
            )
            self._after = position
        else:
            commit, _, events, more = await self._fetch(
                "read_stream", self._stream, self._after, size, self._reverse
            )
            if events:
                self._after = events[-1][2]
        if self._commit is None:
            self._commit = commit
        if events and events[-1][3] > self._commit:
            events = [event for event in events if event[3] <= self._commit]
            more = False
        # Before the first there is nothing, and 0 would mean "from the end".
        more = more and not (self._reverse and self._after <= max(1, self._floor))
        if self._floor:
            events = [event for event in events if event[0] > self._floor]
        if self._keep is not None:
            events = [event for event in events if self._keep(event)]
        codec = self._codec
        items: Iterator[RecordedEvent] = (recorded_event(event, codec) for event in events)
        revive = getattr(codec, "from_stored", None)
        return len(events), items if revive is None else map(revive, items), more


class CommitPages(Pages[CommitRecord]):
    """The commit log."""

    def __init__(self, fetch: Fetch, after: int, *, limit: int | None) -> None:
        super().__init__(limit)
        self._fetch = fetch
        self._after = after

    async def _page(self, size: int) -> tuple[int, Iterator[CommitRecord], bool]:
        rows = await self._fetch("read_commits", self._after, size)
        if rows:
            self._after = rows[-1][0]
        return len(rows), map(_commit_record, rows), len(rows) > 0


class SnapshotPages(Pages[StoredSnapshot]):
    """Every stored snapshot, as of one commit; None: each page as of the newest."""

    def __init__(
        self,
        fetch: Fetch,
        codec: Codec,
        commit: Callable[[], Awaitable[int | None]] | None = None,
    ) -> None:
        super().__init__(None)
        self._at = commit
        self._fetch = fetch
        self._codec = codec
        self._cursor: bytes | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[StoredSnapshot], bool]:
        commit = None if self._at is None else await self._at()
        rows, self._cursor = await self._fetch("read_snapshots", self._cursor, size, commit)
        codec = self._codec
        items = (
            StoredSnapshot(
                stream,
                name,
                schema,
                version,
                decode_with(codec, state, f"snapshot {version} of {stream}"),
            )
            for stream, name, schema, version, state in rows
        )
        return len(rows), items, self._cursor is not None


def _commit_record(row: list[Any]) -> CommitRecord:
    commit, transaction, time, user, first_position, events = row
    return CommitRecord(
        commit, UUID(bytes=transaction), time_of(time), user, first_position or None, events
    )
