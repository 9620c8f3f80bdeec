"""Commits: the commit log in both directions, counted over time, and one with what it wrote."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.reads.key_changes import KeyChange
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import CommitPages, EventPages, Fetch, Pages, commit_record
from headwater.records import CommitRecord, RecordedEvent, microseconds_of, time_of
from headwater.transport.channel import Channel
from headwater_protocol.keys import Key
from headwater_protocol.limits import SLICES_MAX
from headwater_protocol.numbers import CommitNumber, Position, StreamVersion
from headwater_protocol.operations import COMMIT

SLICES_DEFAULT: Final = 100
"""Slices of a count: bars of a picture."""


class WrittenSnapshot(NamedTuple):
    """A snapshot that a commit saved or removed."""

    stream: str
    name: str
    schema: int
    version: StreamVersion


@dataclass(frozen=True, slots=True)
class CommitContents:
    """A commit with what it wrote.

    Attributes:
        record: who, when, and how many events.
        keys: how many keys it wrote. None: the commit is older than the history window, and only
            its events are known.
        snapshots: the snapshots that it wrote, at most 1000; None likewise.
        others: how many records of other kinds: "accounts", "groups", "expiries", "retention",
            "erasures", and "snapshots" of all snapshots; None likewise.
    """

    record: CommitRecord
    keys: int | None
    snapshots: Sequence[WrittenSnapshot] | None
    others: Mapping[str, int] | None


class CommitMark(NamedTuple):
    """The end of a slice of a span of commits: the newest commit and position at a time."""

    commit: CommitNumber
    time: datetime
    position: Position


class KnownCommit(NamedTuple):
    """A commit and its time; None if it is not recorded any more."""

    commit: CommitNumber
    time: datetime | None


class KnownSpan(NamedTuple):
    """How far back a database goes.

    Attributes:
        recorded: the oldest commit of which it is known who made it, and when.
        readable: the oldest commit as of which keys can be read. Events are kept longer.
        newest: the newest commit.
    """

    recorded: KnownCommit
    readable: KnownCommit
    newest: KnownCommit


class ChangePages(Pages[KeyChange]):
    """What one commit did to keys, in the order of keys."""

    def __init__(
        self,
        fetch: Fetch,
        codec: Codec,
        commit: int,
        wanted: tuple[bytes, bytes | None],
        *,
        limit: int | None,
    ) -> None:
        super().__init__(limit)
        self.commit = CommitNumber(commit)
        self._fetch = fetch
        self._codec = codec
        self._range = wanted

    async def _page(self, size: int) -> tuple[int, Iterator[KeyChange], bool]:
        first, last = self._range
        rows, rest = await self._fetch("commit_changes", self.commit, first, last, size)
        if rest is not None:
            self._range = rest, last
        return len(rows), map(self._change, rows), rest is not None

    def _change(self, row: Sequence[Any]) -> KeyChange:
        return KeyChange(self._codec, row[:4] if row[3] else row[:3])


class CommitReads(ABC):
    """The commits of a database."""

    _codec: Codec

    @property
    @abstractmethod
    def _channel(self) -> Channel:
        """The channel to the server."""

    def commits(
        self,
        *,
        after: int | None = None,
        until: int | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[CommitRecord]:
        """Iterate over the commit log. HistoryGone: commits after *after* were trimmed.

        Args:
            after: a commit, exclusive. In reverse, commits before it are listed, and None is the
                newest.
            until: only commits up to this one.
            reverse: start with the newest.
            limit: the maximum number of commits.
        """
        COMMIT(after or 0, "commits: after")
        COMMIT(until or 0, "commits: until")
        if reverse and until is not None:
            after = until + 1 if after is None else min(after, until + 1)
            until = None
        return CommitPages(self._channel.read, after, limit=limit, reverse=reverse, until=until)

    async def read_commit(self, commit: int) -> CommitContents:
        """A commit with what it wrote. `changes` and `events_of` have the contents.

        Raises:
            NoSuchCommit, HistoryGone: it does not exist yet, or its record was trimmed.
        """
        COMMIT(commit, "read_commit: commit")
        row = await self._channel.read("read_commit", commit)
        keys, snapshots, others = row[6:9]
        named = None if snapshots is None else tuple(WrittenSnapshot(*each) for each in snapshots)
        return CommitContents(commit_record(row[:6]), keys, named, others)

    def changes(
        self, commit: int, prefix: Key | None = None, *, limit: int | None = None
    ) -> Pages[KeyChange]:
        """Iterate over what a commit did to keys, in the order of keys.

        Args:
            commit: its number. HistoryGone: what was before it is older than the history window.
            prefix: a tuple that the keys begin with. None: all keys.
            limit: the maximum number of changes.
        """
        COMMIT(commit, "changes: commit")
        wanted = key_range(prefix, None, None)
        return ChangePages(self._channel.read, self._codec, commit, wanted, limit=limit)

    async def events_of(self, commit: int) -> Pages[RecordedEvent]:
        """The events of a commit, in their order, to iterate over.

        Raises:
            NoSuchCommit: it does not exist yet.
        """
        COMMIT(commit, "events_of: commit")
        last = await self.position_at(commit)
        first = await self.position_at(commit - 1) if commit else last
        return EventPages(
            self._channel.fetch,
            self._codec,
            None,
            first,
            {},
            reverse=False,
            limit=last - first,
            keep=lambda row: row[3] == commit,
        )

    async def count_commits(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        slices: int = SLICES_DEFAULT,
    ) -> list[CommitMark]:
        """Count the commits and events of a span of time, in slices of the same length.

        No commit is read but those at the ends of slices, so it is quick however many there are.

        Args:
            since: the beginning, exclusive. None: before all commits that are recorded.
            until: the end, inclusive. None: the time of the newest commit.
            slices: how many slices, at most 256.

        Returns:
            The beginning of the first slice, and the end of each. A slice has the commits after one
            mark up to the next one; the difference of the positions is the count of its events.
            Empty: there are no commits.

        Raises:
            InvalidArgument: the span is empty.
        """
        first = None if since is None else max(0, microseconds_of(since, "count_commits: since"))
        last = None if until is None else max(0, microseconds_of(until, "count_commits: until"))
        return await self._marks("time", first, last, slices)

    async def count_events(
        self, *, after: int | None = None, until: int | None = None, slices: int = SLICES_DEFAULT
    ) -> list[CommitMark]:
        """As `count_commits`, in slices of the same number of commits.

        Args:
            after: a commit, exclusive. None: before all commits that are recorded.
            until: a commit, inclusive. None: the newest.
            slices: how many slices, at most 256. There are fewer if there are fewer commits.
        """
        COMMIT(after or 0, "count_events: after")
        COMMIT(until or 0, "count_events: until")
        return await self._marks("commits", after, until, slices)

    async def _marks(
        self, by: str, first: int | None, last: int | None, slices: int
    ) -> list[CommitMark]:
        if not 1 <= slices <= SLICES_MAX:
            raise InvalidArgument(f"slices: {slices}; allowed are 1 to {SLICES_MAX}")
        rows = await self._channel.read("count_commits", by, first, last, slices)
        return [CommitMark(commit, time_of(time), position) for commit, time, position in rows]

    async def known_span(self) -> KnownSpan:
        """How far back commits are recorded, and how far back they can be read."""
        rows = await self._channel.read("known_span")
        return KnownSpan(*(KnownCommit(each[0], _time(each[1])) for each in rows[:3]))

    async def position_at(self, commit: int) -> Position:
        """The position of the newest event at a commit, however old the commit is.

        Raises:
            NoSuchCommit: it does not exist yet.
        """
        COMMIT(commit, "position_at: commit")
        return Position(await self._channel.read("position_at", commit))


def _time(microseconds: int) -> datetime | None:
    return time_of(microseconds) if microseconds else None
