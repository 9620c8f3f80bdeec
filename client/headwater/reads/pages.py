"""Pages: long results are fetched one part at a time while the caller iterates.

The first page is small: reading a few items is cheap, and in a serializable transaction only what
was read can conflict. Later pages grow, so a million items take few round trips.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from operator import length_hint
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from headwater.codecs.codec import Codec, decode_with
from headwater.codecs.events import event_views
from headwater.codecs.keys_and_values import key_of, value_of
from headwater.errors import HistoryGone, InvalidArgument
from headwater.records import CommitRecord, RecordedEvent, StoredSnapshot, time_of
from headwater_protocol.keys import KeyTuple, key_after
from headwater_protocol.limits import PAGE_ITEMS_MAX
from headwater_protocol.numbers import CommitNumber, Position

PAGE_ITEMS_FIRST: Final = 128
"""Items on the first page."""

PAGE_GROWTH: Final = 4
"""Each page is this many times as large as the page before."""

T = TypeVar("T")

Row = dict[str, Any]
"""A row of a table: a value for each column."""

Fetch = Callable[..., Awaitable[Any]]
"""Requests a page: the name of the operation, its arguments, and at_commit=."""


class Pages(ABC, AsyncIterator[T], Generic[T]):
    """An async iterator over items that come in pages.

    Attributes:
        items: the remaining items of the current page.
        commit: the commit as of which the items are. None before the first page, and for items
            that are of no single commit.
        moved: keys and names were read for longer than the history window, so that their commit
            is gone. Those of later pages are as of newer commits, and `commit` is that of the
            first page: changes after it may be in the items, or not.
    """

    may_move: ClassVar[bool] = True
    """Whether later pages may be as of newer commits; see `moved`."""

    def __init__(self, limit: int | None) -> None:
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidArgument(f"limit: expected an int of 0 or more, got {limit!r:.60}")
        self.items: Iterator[T] = iter(())
        self.commit: CommitNumber | None = None
        self.moved = False
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

    @property
    def position(self) -> Position | None:
        """Of events: the position up to which all that match were handed out.

        It is that of an event, or behind it if no later one matches. So after the last event it can
        be the `after=` of an append with `unless=`, and of a later read. In reverse it is where a
        later read continues. None before the first page, and for other items.
        """
        return None

    async def turn(self) -> bool:
        """Fetch the next page into `items`. Returns False after the last page."""
        if not self._more:
            return False
        size = self._size if self._left is None else min(self._size, self._left)
        count, self.items, self._more = await self._page(size)
        self._size = min(self._size * PAGE_GROWTH, PAGE_ITEMS_MAX)
        if self._left is not None:
            self._left -= count
            self._more = self._more and self._left > 0
        return True

    async def to_arrow(self) -> Any:
        """Read all remaining items into a pyarrow.Table; needs `headwater[arrow]`.

        Events have the columns position, stream, version, commit, time, id, type, data, metadata,
        tags, erased and undecodable; keys have key and value. Data, metadata, keys and values are
        JSON text.

        Raises:
            InvalidArgument: the items are neither events nor keys, or pyarrow is not installed.
        """
        raise InvalidArgument("to_arrow: only events and keys can be read into a table")

    async def _ask_as_of(self, ask: Callable[[CommitNumber | None], Awaitable[Any]]) -> Any:
        """Ask for a page as of the first page's commit, or once that is gone, of the newest one."""
        try:
            answer = await ask(None if self.moved else self.commit)
        except HistoryGone:
            if self.commit is None or self.moved or not self.may_move:
                raise
            # In a read of the past this is refused again: its commit is part of the question.
            answer = await ask(None)
            self.moved = True
        if self.commit is None:
            self.commit = answer[0]
        return answer

    @abstractmethod
    async def _page(self, size: int) -> tuple[int, Iterator[T], bool]:
        """Request up to *size* items. Returns their number, the items, and whether more follow."""


class KeyPages(Pages[tuple[KeyTuple, Any]]):
    """The keys of a range with their values, at the commit of the first page; but see `moved`."""

    operation: ClassVar[str] = "scan"

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

    async def _page(self, size: int) -> tuple[int, Iterator[tuple[KeyTuple, Any]], bool]:
        first, last = self._range

        async def ask(commit: CommitNumber | None) -> Any:
            arguments = first, last, size, self._reverse
            return await self._fetch(self.operation, *arguments, at_commit=commit)

        _, items, more = await self._ask_as_of(ask)
        if items:
            # Continue after the last key; in reverse, before it.
            self._range = (first, items[-2]) if self._reverse else (key_after(items[-2]), last)
        return len(items) // 2, self._decoded(items), more

    async def to_arrow(self) -> Any:
        from headwater.tables.arrow import key_schema, table_of
        from headwater.tables.rows import key_row

        return await table_of(_mapped(key_row, self), key_schema())

    def _decoded(self, items: list[bytes]) -> Iterator[tuple[KeyTuple, Any]]:
        # `map` and no generator: a generator would end at a value that cannot be decoded, and a
        # caller that continues would miss the rest of the page.
        return map(self._pair, items[::2], items[1::2])

    def _pair(self, encoded: bytes, value: Any) -> tuple[KeyTuple, Any]:
        return key_of(encoded), value_of(self._codec, encoded, value)


class ExpiryPages(KeyPages):
    """The keys of a range that expire, each with its time."""

    operation = "scan_expiries"

    def _pair(self, encoded: bytes, value: Any) -> tuple[KeyTuple, Any]:
        return key_of(encoded), time_of(value)


class Span(NamedTuple):
    """A span of positions: it begins after `after`, or in reverse before it.

    Events up to `floor` and those above `ceiling` do not belong to it. None: there is no ceiling.
    """

    after: int
    floor: int = 0
    ceiling: int | None = None


class EventPages(Pages[RecordedEvent]):
    """Events of one stream or of all streams, as they were when the first page was read.

    Events that were appended later are recognized by their commit number and skipped, so the
    server needs to keep no read view for these pages.

    If the start is not known beforehand, *locate* finds it when the first page is read; None means
    that there are no events. *keep* filters the rows that the server sends.
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
        self._view = event_views(codec)
        self._stream = stream
        self._after = after
        self._floor = 0
        self._ceiling: int | None = None
        self._locate = locate
        self._keep = keep
        self._filter = wanted
        self._reverse = reverse
        # The events of the current page, an iterator over them, and the last position examined.
        self._rows: Sequence[Any] = ()
        self._unseen: Iterator[Any] = iter(())
        self._examined: Position | None = None

    @property
    def position(self) -> Position | None:
        if self._stream is not None:
            return None
        unseen = length_hint(self._unseen)
        if not unseen:
            return self._examined
        # All before the next event of the page.
        next_one: int = self._rows[len(self._rows) - unseen][0]
        return Position(next_one + 1 if self._reverse else next_one - 1)

    async def to_arrow(self) -> Any:
        from headwater.tables.arrow import event_schema, table_of
        from headwater.tables.rows import event_row

        return await table_of(_mapped(event_row, self), event_schema())

    async def _page(self, size: int) -> tuple[int, Iterator[RecordedEvent], bool]:
        if self._locate is not None:
            span = await self._locate()
            self._locate = None
            if span is None:
                return 0, iter(()), False
            self._after, self._floor, self._ceiling = span
        if self._stream is None:
            commit, position, events, more = await self._fetch(
                "read_all", self._after, self._filter, size, self._reverse
            )
            self._after = self._examined = Position(position)
        else:
            commit, _, events, more = await self._fetch(
                "read_stream", self._stream, self._after, size, self._reverse
            )
            if events:
                self._after = events[-1][2]
        if self.commit is None:
            self.commit = CommitNumber(commit)
        if events and events[-1][3] > self.commit:
            newer = next(event for event in events if event[3] > self.commit)
            self._examined = Position(newer[0] - 1)
            events = [event for event in events if event[3] <= self.commit]
            more = False
        # Nothing comes before the first event, and after=0 would mean "from the end".
        more = more and not (self._reverse and self._after <= max(1, self._floor))
        if self._floor:
            events = [event for event in events if event[0] > self._floor]
        if self._ceiling is not None:
            if not self._reverse and self._after >= self._ceiling:
                more = False
            events = [event for event in events if event[0] <= self._ceiling]
        if self._keep is not None:
            events = [event for event in events if self._keep(event)]
        self._rows = events
        self._unseen = iter(events)
        return len(events), map(self._view, self._unseen), more


async def _mapped(row: Callable[[T], Row], pages: Pages[T]) -> AsyncIterator[Row]:
    async for item in pages:
        yield row(item)


class CommitPages(Pages[CommitRecord]):
    """The commit log."""

    def __init__(
        self,
        fetch: Fetch,
        after: int | None,
        *,
        limit: int | None,
        reverse: bool = False,
        until: int | None = None,
    ) -> None:
        super().__init__(limit)
        self._fetch = fetch
        self._after = after
        self._reverse = reverse
        self._until = until

    async def _page(self, size: int) -> tuple[int, Iterator[CommitRecord], bool]:
        # A server of an earlier version knows no third argument.
        backwards = (True,) if self._reverse else ()
        rows = await self._fetch("read_commits", self._after, size, *backwards)
        more = len(rows) > 0
        if rows:
            self._after = rows[-1][0]
        if self._until is not None:
            wanted = [row for row in rows if row[0] <= self._until]
            more = more and len(wanted) == len(rows)
            rows = wanted
        return len(rows), map(commit_record, rows), more


class SnapshotPages(Pages[StoredSnapshot]):
    """All stored snapshots, at one commit. Without a commit, each page is of the newest one."""

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
        return len(rows), map(self._snapshot, rows), self._cursor is not None

    def _snapshot(self, row: list[Any]) -> StoredSnapshot:
        stream, name, schema, version, stored = row
        state = decode_with(self._codec, stored, f"snapshot {version} of {stream}")
        return StoredSnapshot(stream, name, schema, version, state)


def commit_record(row: list[Any]) -> CommitRecord:
    """An entry of the commit log."""
    commit, transaction, time, user, first_position, events = row
    return CommitRecord(
        commit, UUID(bytes=transaction), time_of(time), user, first_position or None, events
    )
