"""Changes of keys as a source of feeds: every change in a range of keys, in commit order.

A position is a commit. Commits are pushed whole: one is sent if the credit is above zero, even if
that makes it negative. History reaches back as far as the history window: a feed that falls behind
the window ends with `history_gone`, and the client starts again.

    ["changes", [[commit, [[key, old, new], …], more], …]]      more: the next entry continues it

A change that is too large for a frame is sent in two parts, [key, old] and then [key, new].
"""

from bisect import bisect_left
from typing import Final, TypeAlias

from headwater_protocol.errors import HistoryGone, InvalidArgument
from headwater_protocol.limits import BODY_SIZE_MAX, KIB, PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.engine import Engine
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.changes import Change, CommitChanges
from headwater_server.engine.reads.reading import user_range
from headwater_server.net.push.feeds import Batch, Feed, LivePage, Page

KeyRange: TypeAlias = tuple[bytes, bytes]
"""The first key and the end of a range, in stored form."""

KeyFeed: TypeAlias = Feed[KeyRange]

_CHANGES_PUSH: Final = b"\x02\x92\xa7changes"
"""The bytes between the request id and the commits in a push: [id, PUSH, ["changes", […]]]."""

PART_SIZE_MAX: Final = BODY_SIZE_MAX - 64 * KIB
"""Bytes of changes in one push; the rest of the frame is for the fields around them."""


def key_range(start: bytes, end: bytes | None) -> KeyRange:
    """The range of keys from *start* up to *end*, exclusive.

    Raises:
        InvalidArgument: the range is empty.
    """
    if end is not None and start >= end:
        raise InvalidArgument(f"start {start!r} is not below end {end!r}")
    return user_range(start, end)


class LiveRanges:
    """The live feeds by range, so that each range is searched and encoded once."""

    def __init__(self) -> None:
        self.by_range: dict[KeyRange, dict[KeyFeed, None]] = {}

    def add(self, feed: KeyFeed) -> None:
        """Add a feed, under its range."""
        self.by_range.setdefault(feed.wanted, {})[feed] = None

    def remove(self, feed: KeyFeed) -> None:
        """Remove a feed; with the last feed of a range, remove the range."""
        feeds = self.by_range[feed.wanted]
        del feeds[feed]
        if not feeds:
            del self.by_range[feed.wanted]

    def all(self) -> list[KeyFeed]:
        """Every feed."""
        return [feed for feeds in self.by_range.values() for feed in feeds]


class KeySource:
    """See Source."""

    name = "feed"
    plural = "feeds of keys"
    unit = "commit"
    overdraws = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live = LiveRanges()

    @property
    def live(self) -> LiveRanges:
        """See Source."""
        return self._live

    @property
    def newest(self) -> int:
        """See Source."""
        return self._engine.published

    def check_readable(self, position: int) -> None:
        """See Source."""
        oldest = self._engine.oldest_readable
        if position < oldest:
            raise HistoryGone(
                f"changes after commit {position} are older than the history window; a feed can "
                f"start at commit {oldest} or later",
                details={"oldest": oldest},
            )

    def page(self, position: int, wanted: KeyRange, limit: int) -> Page:
        """See Source."""
        page = self._engine.reader().read_changes(position, *wanted, limit)
        return Page(_batch(page.commits) if page.commits else None, page.commit, page.more)

    def live_page(self, position: int) -> LivePage[KeyRange]:
        """See Source."""
        page = self._engine.reader().read_changes(
            position, keyspaces.USER, keyspaces.USER_END, PAGE_ITEMS_MAX
        )
        batches: list[tuple[list[KeyFeed], Batch]] = []
        for wanted, feeds in self._live.by_range.items():
            found = [part for each in page.commits if (part := _within(each, wanted)) is not None]
            if found:
                batches.append((list(feeds), _batch(found)))
        return LivePage(batches, page.commit, page.more)


def _batch(commits: list[CommitChanges]) -> Batch:
    """Whole commits, in as few frames as possible."""
    bodies: list[bytes] = []
    parts: list[bytes] = []
    size = count = 0
    for commit, changes in commits:
        count += len(changes)
        entries: list[bytes] = []
        entries_size = 0
        for entry in (encoded for change in changes for encoded in _encoded(change)):
            if size + entries_size + len(entry) > PART_SIZE_MAX:
                if entries:
                    parts.append(_part(commit, entries, more=True))
                if parts:
                    bodies.append(_body(parts))
                parts, size, entries, entries_size = [], 0, [], 0
            entries.append(entry)
            entries_size += len(entry)
        parts.append(_part(commit, entries, more=False))
        size += entries_size + 32
    bodies.append(_body(parts))
    return Batch(count, tuple(bodies))


def _body(parts: list[bytes]) -> bytes:
    return b"".join((_CHANGES_PUSH, array_header(len(parts)), *parts))


def _within(commit: CommitChanges, wanted: KeyRange) -> CommitChanges | None:
    """The part of a commit's sorted changes that is in a range."""
    first, last = wanted
    changes = commit.changes
    low = bisect_left(changes, first[1:], key=lambda change: change.key)
    high = len(changes)
    if last != keyspaces.USER_END:
        high = bisect_left(changes, last[1:], key=lambda change: change.key)
    return CommitChanges(commit.commit, changes[low:high]) if low < high else None


def _encoded(change: Change) -> list[bytes]:
    key, old, new = change
    if len(key) + len(old or b"") + len(new or b"") + KIB > PART_SIZE_MAX:
        return [encode([key, old]), encode([key, new])]
    return [encode([key, old, new])]


def _part(commit: int, entries: list[bytes], *, more: bool) -> bytes:
    return b"".join((b"\x93", encode(commit), array_header(len(entries)), *entries, encode(more)))
