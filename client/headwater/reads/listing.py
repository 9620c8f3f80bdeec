"""Listings: the streams and categories of a database, page by page."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from headwater.reads.pages import Pages
from headwater.records import FIRST_VERSION
from headwater_protocol.numbers import CommitNumber, StreamVersion

Ask = Callable[..., Awaitable[Any]]
"""Requests a page: the name of the operation, and its arguments."""

Commit = Callable[[], Awaitable[int | None]]
"""The commit to list. None: the newest commit when the listing begins."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream.

    Attributes:
        stream: its name.
        version: how many events were ever appended to it.
        first: the version of the first visible event; above `version` if none is visible.
        max_count, max_age: the limits that `set_retention` has set, or None.
        begins: the version at which the stream begins: 1, or one above the version at which it was
            last deleted. If `first` is above it, the stream was truncated.
    """

    stream: str
    version: StreamVersion
    first: StreamVersion
    max_count: int | None = None
    max_age: timedelta | None = None
    begins: StreamVersion = FIRST_VERSION


@dataclass(frozen=True, slots=True)
class CategoryInfo:
    """A category, and the number of events that were ever appended to its streams."""

    category: str
    events: int


class StreamPages(Pages[StreamInfo]):
    """Streams in the order of their names, at one commit; but see `moved`."""

    def __init__(self, ask: Ask, prefix: str, commit: Commit) -> None:
        super().__init__(None)
        self._ask = ask
        self._prefix = prefix
        self._at = commit
        self._cursor: str | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[StreamInfo], bool]:
        async def ask(commit: CommitNumber | None) -> Any:
            at = await self._at() if commit is None else commit
            return await self._ask("list_streams", self._prefix, self._cursor, size, at)

        _, rows, self._cursor = await self._ask_as_of(ask)
        return len(rows), map(stream_info, rows), self._cursor is not None


class CategoryPages(Pages[CategoryInfo]):
    """Categories in the order of their names, at one commit; but see `moved`."""

    def __init__(self, ask: Ask, commit: Commit) -> None:
        super().__init__(None)
        self._ask = ask
        self._at = commit
        self._cursor: str | None = None

    async def _page(self, size: int) -> tuple[int, Iterator[CategoryInfo], bool]:
        async def ask(commit: CommitNumber | None) -> Any:
            at = await self._at() if commit is None else commit
            return await self._ask("list_categories", self._cursor, size, at)

        _, rows, self._cursor = await self._ask_as_of(ask)
        return len(rows), (CategoryInfo(*row[:2]) for row in rows), self._cursor is not None


async def newest() -> None:
    """Stands for the newest commit."""


def stream_info(row: list[Any]) -> StreamInfo:
    """A row of the listing."""
    stream, version, first, count, microseconds, begins = row[:6]
    age = None if microseconds is None else timedelta(microseconds=microseconds)
    return StreamInfo(stream, version, first, count, age, begins)
