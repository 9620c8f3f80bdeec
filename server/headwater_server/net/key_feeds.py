"""Feeds of keys: every change of a range in commit order, from history into live.

As subscriptions are (subscriptions.py): behind, a feed reads pages of changes, in turn with the
others; live, it is handed what was published. Three things differ. Its place is a commit. Commits
are pushed whole: one begins as long as there is credit, and may overdraw it. And history is only
as long as the window: who falls behind that is told `history_gone`, and begins anew.

    ["changes", [[commit, [[key, old, new], …], more], …]]      more: the commit goes on in the next

A change that is too large for a frame comes in two, [key, old] and then [key, new].
"""

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog
import trio

from headwater_protocol.errors import (
    HeadwaterError,
    HistoryGone,
    InternalError,
    InvalidArgument,
    TooMany,
)
from headwater_protocol.frames import join_frame
from headwater_protocol.limits import BODY_SIZE_MAX, KIB, PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine import keyspaces
from headwater_server.engine.changes import Change, CommitChanges
from headwater_server.engine.engine import Engine
from headwater_server.engine.reading import user_range
from headwater_server.net.failures import Failures

if TYPE_CHECKING:
    from headwater_server.net.session import Session

_log = structlog.get_logger(__name__)

_CHANGES_PUSH: Final = b"\x02\x92\xa7changes"
"""What is between the request id and the commits in a push: [id, PUSH, ["changes", […]]]."""

PART_SIZE_MAX: Final = BODY_SIZE_MAX - 64 * KIB
"""Bytes of changes in one push; the rest is for what stands around them."""


class KeyFeed:
    """One subscriber to a range of keys.

    Attributes:
        commit: the last commit that was looked at for it, while it is not live.
        credit: changes that may be pushed before more is granted; below zero if overdrawn.
    """

    __slots__ = (
        "commit",
        "credit",
        "first",
        "head",
        "last",
        "live",
        "queued",
        "request_id",
        "session",
    )

    def __init__(
        self,
        session: "Session",
        request_id: int,
        commit: int,
        wanted: tuple[bytes, bytes],
        credit: int,
    ) -> None:
        self.session = session
        self.request_id = request_id
        self.commit = commit
        self.first, self.last = wanted
        self.credit = credit
        self.head = b"\x93" + encode(request_id)
        self.live = False
        self.queued = False


class KeyFeeds:
    """All feeds of keys of a server.

    Attributes:
        count: how many are open.
    """

    def __init__(self, engine: Engine, failures: Failures, *, per_session_max: int) -> None:
        self._engine = engine
        self._failures = failures
        self._per_session_max = per_session_max
        self._live: dict[KeyFeed, None] = {}
        self._live_commit = engine.published
        self._queue: deque[KeyFeed] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self.count = 0

    # What sessions ask for.

    def open(
        self,
        session: "Session",
        request_id: int,
        wanted: tuple[bytes, bytes | None],
        after: int,
        credit: int,
    ) -> None:
        """Open a feed of the changes of a range after a commit.

        Raises:
            InvalidArgument: the commit was not made yet, or the range is empty.
            HistoryGone: the commit is older than the history window.
            TooMany: the session has too many.
        """
        start, end = wanted
        if end is not None and start >= end:
            raise InvalidArgument(f"start {start!r} is not below end {end!r}")
        if after > self._engine.published:
            # It would miss what comes until then, and believe to have seen it.
            raise InvalidArgument(f"after: {after}; the newest commit is {self._engine.published}")
        self._check_history(after)
        if len(session.key_feeds) >= self._per_session_max:
            raise TooMany(
                f"{len(session.key_feeds)} feeds of keys on this connection; "
                f"allowed are {self._per_session_max}"
            )
        feed = KeyFeed(session, request_id, after, user_range(start, end), credit)
        session.key_feeds[request_id] = feed
        self.count += 1
        self._enqueue(feed)

    def _check_history(self, commit: int) -> None:
        oldest = self._engine.oldest_readable
        if commit < oldest:
            raise HistoryGone(
                f"changes after commit {commit} are older than the history window; they are known "
                f"from commit {oldest} on",
                details={"oldest": oldest},
            )

    def grant(self, feed: KeyFeed, changes: int) -> None:
        """Allow that many more changes."""
        feed.credit += changes
        if not feed.live:
            self._enqueue(feed)

    def resume(self, session: "Session") -> None:
        """The session's client has taken its output: push again."""
        for feed in session.key_feeds.values():
            if not feed.live:
                self._enqueue(feed)

    def close(self, feed: KeyFeed) -> None:
        """Forget a feed; nothing of it is pushed any more."""
        del feed.session.key_feeds[feed.request_id]
        self.count -= 1
        feed.live = False
        self._live.pop(feed, None)

    def close_session(self, session: "Session") -> None:
        """Forget all feeds of a session."""
        for feed in list(session.key_feeds.values()):
            self.close(feed)

    def end(self, feed: KeyFeed, error: HeadwaterError) -> None:
        """Tell the subscriber that nothing more will come, and why."""
        self.close(feed)
        feed.session.send(
            feed.session.connection.push(feed.request_id, ["ended", error.as_payload()])
        )

    # Live.

    def published(self) -> None:
        """Hand what the engine has just published to the live feeds."""
        upto = self._engine.published
        more = bool(self._live)
        while more and self._live:
            page = self._engine.reader().read_changes(
                self._live_commit, keyspaces.USER, keyspaces.USER_END, PAGE_ITEMS_MAX
            )
            for feed in list(self._live):
                self._deliver(feed, page.commits)
            self._live_commit, more = page.commit, page.more
        self._live_commit = upto

    def _deliver(self, feed: KeyFeed, commits: list[CommitChanges]) -> None:
        wanted = [part for each in commits if (part := _within(each, feed)) is not None]
        if not wanted:
            return
        if feed.credit <= 0 or feed.session.output_blocked:
            self._live.pop(feed)
            feed.live = False
            # The commits at hand were not sent: they are read again when there is room.
            feed.commit = self._live_commit
            self._say(feed, "fell_behind", feed.commit)
            self._enqueue(feed)
            return
        self._send(feed, wanted)

    # Behind.

    def _enqueue(self, feed: KeyFeed) -> None:
        if not feed.queued:
            feed.queued = True
            self._queue.append(feed)
            self._idle.unpark()

    async def run(self) -> None:
        """Push history to the feeds that are behind, page by page, until cancelled."""
        while True:
            if not self._queue:
                await self._idle.park()
            feed = self._queue.popleft()
            feed.queued = False
            self._try_step(feed)
            await trio.lowlevel.checkpoint()

    def _try_step(self, feed: KeyFeed) -> None:
        if feed.session.key_feeds.get(feed.request_id) is not feed:
            return
        try:
            self._step(feed)
        except HeadwaterError as error:
            self.end(feed, error)
        except Exception as error:
            self.end(feed, InternalError("the feed failed in the server; its log says more"))
            if not isinstance(error, OSError):
                self._failures.end_process(error, "a feed of keys")
                return
            _log.error("a feed of keys failed", session=str(feed.session), exc_info=error)

    def _step(self, feed: KeyFeed) -> None:
        """Push one page, or see that there is nothing more and go live."""
        if feed.live or feed.session.output_blocked:
            # `resume` brings it back once the output has been taken.
            return
        if feed.commit < self._engine.published:
            self._check_history(feed.commit)
            limit = max(1, min(feed.credit, PAGE_ITEMS_MAX))
            page = self._engine.reader().read_changes(feed.commit, feed.first, feed.last, limit)
            if page.commits:
                if feed.credit <= 0:
                    # `grant` brings it back.
                    return
                self._send(feed, page.commits)
            feed.commit = page.commit
            if page.more or feed.commit < self._engine.published:
                self._enqueue(feed)
                return
        assert feed.commit == self._engine.published == self._live_commit, "all live ones are level"
        feed.live = True
        self._live[feed] = None
        self._say(feed, "caught_up", feed.commit)

    # What is sent.

    def _say(self, feed: KeyFeed, word: str, commit: int) -> None:
        feed.session.send(feed.session.connection.push(feed.request_id, [word, commit]))

    def _send(self, feed: KeyFeed, commits: list[CommitChanges]) -> None:
        """Push whole commits, in as few frames as they fit."""
        parts: list[bytes] = []
        size = 0
        for commit, changes in commits:
            feed.credit -= len(changes)
            entries: list[bytes] = []
            entries_size = 0
            for entry in (encoded for change in changes for encoded in _encoded(change)):
                if size + entries_size + len(entry) > PART_SIZE_MAX:
                    if entries:
                        parts.append(_part(commit, entries, more=True))
                    self._send_parts(feed, parts)
                    parts, size, entries, entries_size = [], 0, [], 0
                entries.append(entry)
                entries_size += len(entry)
            parts.append(_part(commit, entries, more=False))
            size += entries_size + 32
        self._send_parts(feed, parts)

    @staticmethod
    def _send_parts(feed: KeyFeed, parts: list[bytes]) -> None:
        if parts:
            frame = join_frame(feed.head, _CHANGES_PUSH, array_header(len(parts)), *parts)
            feed.session.send(frame)


def _within(commit: CommitChanges, feed: KeyFeed) -> CommitChanges | None:
    """The part of a commit's changes that is in a feed's range; they are sorted."""
    first, last = feed.first[1:], feed.last[1:]
    changes = commit.changes
    low = bisect_left(changes, first, key=lambda change: change.key)
    high = len(changes)
    if feed.last != keyspaces.USER_END:
        high = bisect_left(changes, last, key=lambda change: change.key)
    return CommitChanges(commit.commit, changes[low:high]) if low < high else None


def _encoded(change: Change) -> list[bytes]:
    key, old, new = change
    if len(key) + len(old or b"") + len(new or b"") + KIB > PART_SIZE_MAX:
        return [encode([key, old]), encode([key, new])]
    return [encode([key, old, new])]


def _part(commit: int, entries: list[bytes], *, more: bool) -> bytes:
    return b"".join((b"\x93", encode(commit), array_header(len(entries)), *entries, encode(more)))
