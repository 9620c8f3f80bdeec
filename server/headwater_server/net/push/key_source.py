"""Changes of keys as a source of feeds: every change in a range of keys, in commit order.

A position is a commit. Commits are pushed whole: one is sent if the credit is above zero, even if
that makes it negative. A large commit is read and sent in parts, as fast as the client reads them.
A live feed falls behind for that, so that a commit of hundreds of megabytes passes. History reaches
back as far as the history window: a feed that falls behind the window ends with `history_gone`, and
the client starts again.

    ["changes", [[commit, [[key, old, new], …], more], …]]      more: the next entry continues it

A change that is too large for a frame is sent in two parts, [key, old] and then [key, new]. The
deletion of a key that expired has a fourth member, true.
"""

from bisect import bisect_left
from typing import Final, TypeAlias

from headwater_protocol.errors import HistoryGone, InvalidArgument
from headwater_protocol.limits import BODY_SIZE_MAX, KIB, PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.engine import Engine
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.changes import Change, CommitChanges, PartlyRead
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
    """The live feeds by range, so that each range is searched and encoded once.

    Ranges are found by the prefix that all their keys share: a key is compared with the ranges at
    the beginnings that it has. So a feed costs nothing while other keys are written.

    Attributes:
        compared_count: how many ranges were compared with a key or a commit so far.
    """

    def __init__(self) -> None:
        self.by_range: dict[KeyRange, dict[KeyFeed, None]] = {}
        self.compared_count = 0
        self._by_prefix: dict[bytes, dict[KeyRange, None]] = {}
        # The lengths of the prefixes, each with the number of prefixes.
        self._lengths: dict[int, int] = {}

    def add(self, feed: KeyFeed) -> None:
        """Add a feed, under its range."""
        feeds = self.by_range.get(feed.wanted)
        if feeds is None:
            feeds = self.by_range[feed.wanted] = {}
            prefix = _shared_prefix(feed.wanted)
            ranges = self._by_prefix.get(prefix)
            if ranges is None:
                ranges = self._by_prefix[prefix] = {}
                self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
            ranges[feed.wanted] = None
        feeds[feed] = None

    def remove(self, feed: KeyFeed) -> None:
        """Remove a feed; with the last feed of a range, remove the range."""
        feeds = self.by_range[feed.wanted]
        del feeds[feed]
        if feeds:
            return
        del self.by_range[feed.wanted]
        prefix = _shared_prefix(feed.wanted)
        del self._by_prefix[prefix][feed.wanted]
        if not self._by_prefix[prefix]:
            del self._by_prefix[prefix]
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]

    def all(self) -> list[KeyFeed]:
        """Every feed."""
        return [feed for feeds in self.by_range.values() for feed in feeds]

    def found(self, commits: list[CommitChanges]) -> dict[KeyRange, list[CommitChanges]]:
        """The part of each commit that is in a range, for each range that has any."""
        found: dict[KeyRange, list[CommitChanges]] = {}
        for commit in commits:
            # A large commit is cut once for each range, a small one looked up key by key.
            small = len(commit.changes) < len(self.by_range)
            for wanted in self._ranges_of(commit.changes) if small else self.by_range:
                self.compared_count += 1
                part = _within(commit, wanted)
                if part is not None:
                    found.setdefault(wanted, []).append(part)
        return found

    def with_any(self, keys: list[bytes]) -> list[KeyRange]:
        """The ranges in which any of the sorted stored keys is."""
        found: list[KeyRange] = []
        for first, last in self.by_range:
            place = bisect_left(keys, first)
            if place < len(keys) and keys[place] < last:
                found.append((first, last))
        return found

    def _ranges_of(self, changes: list[Change]) -> dict[KeyRange, None]:
        """Every range that may have one of the keys."""
        ranges: dict[KeyRange, None] = {}
        for change in changes:
            key = keyspaces.USER + change.key
            for length in self._lengths:
                if length <= len(key):
                    ranges.update(self._by_prefix.get(key[:length], ()))
        return ranges


def _shared_prefix(wanted: KeyRange) -> bytes:
    """The beginning that all keys of a range have."""
    first, last = wanted
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    # A range up to the next prefix, such as "a" to "b", shares one more byte.
    if len(last) == length + 1 and len(first) > length and first[length] + 1 == last[length]:
        length += 1
    return first[:length]


class KeySource:
    """See Source."""

    name = "feed"
    plural = "feeds of keys"
    unit = "commit"
    overdraws = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._live = LiveRanges()
        self._partly = PartlyRead()

    @property
    def live(self) -> LiveRanges:
        """See Source."""
        return self._live

    @property
    def newest(self) -> int:
        """See Source."""
        return self._engine.published

    def size_of(self, wanted: KeyRange) -> int:
        """See Source."""
        return 2 * sum(map(len, wanted))

    def check_readable(self, position: int) -> None:
        """See Source."""
        oldest = self._engine.oldest_readable
        if position < oldest:
            raise HistoryGone(
                f"changes after commit {position} are older than the history window; a feed can "
                f"start at commit {oldest} or later",
                details={"oldest": oldest},
            )

    def page(
        self, position: int, wanted: KeyRange, limit: int, inside: bytes | None = None
    ) -> Page:
        """See Source."""
        page = self._engine.reader().read_changes(position, *wanted, limit, inside, self._partly)
        batch = None
        if page.commits:
            batch = _batch(page.commits, goes_on=page.inside is not None)
        return Page(batch, page.commit, page.more, page.inside)

    def live_page(self, position: int) -> LivePage[KeyRange]:
        """See Source."""
        reader = self._engine.reader()
        page = reader.read_changes(
            position, keyspaces.USER, keyspaces.USER_END, PAGE_ITEMS_MAX, None, self._partly
        )
        if page.inside is not None:
            large = page.commits.pop().commit
            if not page.commits:
                keys = reader.keys_of_commit(large, self._partly)
                behind = [list(self._live.by_range[wanted]) for wanted in self._live.with_any(keys)]
                return LivePage([(feeds, None) for feeds in behind], large, more=True)
        batches: list[tuple[list[KeyFeed], Batch | None]] = [
            (list(self._live.by_range[wanted]), _batch(commits, goes_on=False))
            for wanted, commits in self._live.found(page.commits).items()
        ]
        return LivePage(batches, page.commit, page.more)


def _batch(commits: list[CommitChanges], *, goes_on: bool) -> Batch:
    """Commits, in as few frames as possible; *goes_on*: the last one has further changes."""
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
        parts.append(_part(commit, entries, more=goes_on and commit == commits[-1].commit))
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
    key, old, new, expired = change
    if len(key) + len(old or b"") + len(new or b"") + KIB > PART_SIZE_MAX:
        return [encode([key, old]), encode([key, new])]
    return [encode([key, old, new, True] if expired else [key, old, new])]


def _part(commit: int, entries: list[bytes], *, more: bool) -> bytes:
    return b"".join((b"\x93", encode(commit), array_header(len(entries)), *entries, encode(more)))
