"""Feeds: from a position through history to live, without gaps or repetitions.

              open, credit                     reached the newest position: caught_up
    stalled <--------------> behind (reads pages) ---------------------------> live
                                ^                                               |
                                '---- fell_behind: no credit, or output full ---'

A source (event_source.py, key_source.py) defines positions, reads pages and encodes them. This
module has the state machine. A feed that is behind reads its source page by page, in turn with
other feeds. Its progress is one number, so a slow client costs no memory. A live feed is
registered with the source, which reads each publish once and encodes it once for each interest.

Nothing is lost in the step from behind to live. `_step` reads up to the newest position and
registers the feed without an await in between, and `published` runs in the same thread right after
the engine published. So the page contains everything published before the read, and everything
later finds the feed registered. All live feeds of a source are at the same position.

Quiet feeds. A live feed that gets no item is told `caught_up` again now and then, with the position
up to which there was none. Otherwise its client would stay at an old position, which is a long read
after the next lost connection, and for keys may be older than the history window.

Credit. Each item costs one. A source whose items are indivisible (`overdraws`) sends one if the
credit is above zero, even if that makes it negative. Other sources never send more than the credit.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog
import trio

from headwater_protocol.errors import (
    HeadwaterError,
    InternalError,
    PositionNotReached,
    TooLarge,
    TooMany,
)
from headwater_protocol.limits import BODY_SIZE_MAX, CREDIT_MAX, PAGE_ITEMS_MAX
from headwater_server.net.failures import Failures
from headwater_server.net.push.channels import CHANNEL_SIZE, Channel, Owner, Subscriber
from headwater_server.net.push.quiet_feeds import QuietFeeds
from headwater_server.net.turns import Turn

_log = structlog.get_logger(__name__)

STEPS_PER_TURN_MAX: Final = 4
"""Pages that feeds read before connections get their turn: each can be a megabyte from the disk. A
turn also ends by time."""

_HEAD_SIZE_MAX: Final = 6
"""Bytes of an array header and a request id."""

W = TypeVar("W", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are pushed together.

    Attributes:
        count: the credit that they cost.
        bodies: of one or more frames, each without its head; shared by all receiving feeds.
    """

    count: int
    bodies: tuple[bytes, ...]

    @property
    def fits(self) -> bool:
        """Whether each body fits into a frame."""
        return all(len(body) + _HEAD_SIZE_MAX <= BODY_SIZE_MAX for body in self.bodies)


@dataclass(frozen=True, slots=True)
class Page:
    """Items of a source after a position.

    Attributes:
        batch: the wanted items, or None.
        position: the last position that was read.
        more: there may be items after it.
        inside: the page ends inside of the next item, at this place of the source's; or None.
    """

    batch: Batch | None
    position: int
    more: bool
    inside: bytes | None = None


class Feed(Channel, Generic[W]):
    """One subscriber to a source.

    Attributes:
        position: the last position that was read for it, while it is not live.
        wanted: which items of the source it gets.
        credit: items that may be pushed before more is granted; negative if overdrawn.
        told: the position of the last `caught_up`.
        quiet: it got no item since it was looked at last.
        inside: where it is inside of the item after `position`, of which it has a part; or None.
    """

    __slots__ = ("credit", "inside", "live", "position", "queued", "quiet", "told", "wanted")

    def __init__(
        self,
        owner: Owner,
        session: Subscriber,
        request_id: int,
        position: int,
        wanted: W,
        credit: int,
        size: int = CHANNEL_SIZE,
    ) -> None:
        super().__init__(owner, session, request_id, size)
        self.position = position
        self.inside: bytes | None = None
        self.wanted = wanted
        self.credit = credit
        self.live = False
        self.queued = False
        self.told = 0
        self.quiet = True


class LiveFeeds(Protocol[W]):
    """The live feeds of a source, indexed by what they want."""

    def add(self, feed: Feed[W]) -> None:
        """Add a feed."""
        ...

    def remove(self, feed: Feed[W]) -> None:
        """Remove a feed."""
        ...

    def all(self) -> list[Feed[W]]:
        """Every feed."""
        ...


@dataclass(frozen=True, slots=True)
class LivePage(Generic[W]):
    """Items for live feeds: each batch with the feeds that want it. None: read it in pages."""

    batches: list[tuple[list[Feed[W]], Batch | None]]
    position: int
    more: bool


class Source(Protocol[W]):
    """Where feeds read their items.

    Attributes:
        name: a feed of this source, in messages; `plural`: several of them.
        unit: a position, in messages.
        overdraws: an item is sent if the credit is above zero, and may make it negative.
        live: the live feeds.
    """

    name: str
    plural: str
    unit: str
    overdraws: bool

    @property
    def live(self) -> LiveFeeds[W]:
        """See the class."""
        ...

    @property
    def newest(self) -> int:
        """The newest published position."""
        ...

    def size_of(self, wanted: W) -> int:
        """Bytes of a filter in memory."""
        ...

    def check_readable(self, position: int) -> None:
        """Raise HistoryGone if items after a position were already discarded."""
        ...

    def page(self, position: int, wanted: W, limit: int, inside: bytes | None = None) -> Page:
        """The items after a position; *inside*: go on inside of the next one."""
        ...

    def live_page(self, position: int) -> LivePage[W]:
        """The items after a position, for the live feeds."""
        ...


class Feeds(Generic[W]):
    """All feeds of a source.

    Attributes:
        count, live_count: number of open feeds, and of those at the newest position.
        size: bytes that they take in memory, about.
    """

    def __init__(
        self,
        source: Source[W],
        failures: Failures,
        *,
        per_session_max: int,
        turn: Turn,
        quiet: QuietFeeds,
    ) -> None:
        self._source = source
        self._turn = turn
        self._failures = failures
        self._per_session_max = per_session_max
        self._live_position = source.newest
        self.live_count = 0
        self._queue: deque[Feed[W]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._quiet = quiet
        self.count = 0
        self.size = 0

    # What sessions ask for.

    def open(
        self, session: Subscriber, request_id: int, after: int, wanted: W, credit: int
    ) -> None:
        """Open a feed of the items after a position.

        Raises:
            PositionNotReached: the position is above the newest.
            HistoryGone: the position is older than the history window.
            TooMany: the session has too many.
        """
        source = self._source
        if after > source.newest:
            # The feed would miss all items up to this position, and the client would not notice.
            raise PositionNotReached(
                f"after: {after}; the newest {source.unit} is {source.newest}",
                details={"newest": source.newest},
            )
        source.check_readable(after)
        count = sum(channel.owner is self for channel in session.feeds.values())
        if count >= self._per_session_max:
            raise TooMany(
                f"{count} {source.plural} on this connection; allowed are {self._per_session_max}"
            )
        size = CHANNEL_SIZE + source.size_of(wanted)
        feed = Feed(self, session, request_id, after, wanted, credit, size)
        session.feeds[request_id] = feed
        self.count += 1
        self.size += size
        self._enqueue(feed)

    def grant(self, feed: Feed[W], credit: int, /) -> None:
        """Allow that many more items.

        Raises:
            TooLarge: the credit would exceed what a feed may have.
        """
        if feed.credit + credit > CREDIT_MAX:
            raise TooLarge(f"credit: {feed.credit} and {credit} events; allowed are {CREDIT_MAX}")
        feed.credit += credit
        self.resume(feed)

    def resume(self, feed: Feed[W], /) -> None:
        """There is credit or room in the output: push again."""
        if not feed.live:
            self._enqueue(feed)

    def close(self, feed: Feed[W], /) -> None:
        """Remove a feed, and push nothing more."""
        del feed.session.feeds[feed.request_id]
        self.count -= 1
        self.size -= feed.size
        if feed.live:
            self._leave_live(feed)

    def lost(self, feed: Feed[W], /) -> None:
        """Remove a feed whose connection is gone."""
        self.close(feed)

    def end(self, feed: Feed[W], error: HeadwaterError, /) -> None:
        """Tell the client that nothing more will come, and why."""
        self.close(feed)
        feed.push(["ended", error.as_payload()])

    # Live.

    def published(self) -> None:
        """Push the items of the last publish to the live feeds."""
        if not self.live_count:
            return
        upto = self._source.newest
        more = self._live_position < upto
        while more and self.live_count:
            try:
                page = self._source.live_page(self._live_position)
            except (OSError, HeadwaterError) as error:
                # Each feed reads again on its own, and ends if that fails.
                _log.error(f"live {self._source.plural} could not be read", exc_info=error)
                for feed in self._source.live.all():
                    self._fall_behind(feed)
                break
            for feeds, batch in page.batches:
                self._deliver(feeds, batch)
            self._live_position, more = page.position, page.more or page.position < upto
        self._live_position = upto
        if self._quiet.note_publish():
            self._idle.unpark()

    def _deliver(self, feeds: list[Feed[W]], batch: Batch | None) -> None:
        if batch is not None and not batch.fits:
            batch = None
        needed = 1 if batch is None or self._source.overdraws else batch.count
        for feed in feeds:
            if batch is None or feed.credit < needed or feed.session.output_blocked:
                self._fall_behind(feed)
            else:
                feed.quiet = False
                _send(feed, batch)

    def _fall_behind(self, feed: Feed[W]) -> None:
        self._leave_live(feed)
        # The current batch was not sent: the feed reads it again when there is room.
        feed.position = self._live_position
        feed.push(["fell_behind", feed.position])
        self._enqueue(feed)

    def _leave_live(self, feed: Feed[W]) -> None:
        feed.live = False
        self.live_count -= 1
        self._source.live.remove(feed)

    # Behind.

    def _enqueue(self, feed: Feed[W]) -> None:
        if not feed.queued:
            feed.queued = True
            self._queue.append(feed)
            self._idle.unpark()

    async def run(self) -> None:
        """Push history to the feeds that are behind, page by page, until cancelled."""
        while True:
            if not self._queue and not self._quiet.is_due:
                with trio.move_on_at(self._quiet.next_time):
                    await self._idle.park()
            if self._quiet.is_due:
                self._quiet.tell(self._source.live.all, self._live_position)
            self.turn()
            await trio.lowlevel.checkpoint()

    def turn(self) -> bool:
        """Take one step for each of a few feeds; return whether any are left."""
        self._turn.begin()
        for place in range(min(STEPS_PER_TURN_MAX, len(self._queue))):
            if place and self._turn.over:
                break
            feed = self._queue.popleft()
            feed.queued = False
            if feed.is_open:
                self._try_step(feed)
        return bool(self._queue)

    def _try_step(self, feed: Feed[W]) -> None:
        name = self._source.name
        try:
            self._step(feed)
        except HeadwaterError as error:
            self.end(feed, error)
        except Exception as error:
            message = f"the {name} failed in the server; see the server's log"
            self.end(feed, InternalError(message))
            if not isinstance(error, OSError):
                self._failures.end_process(error, f"a {name}")
                return
            _log.error(f"a {name} failed", session=str(feed.session), exc_info=error)

    def _step(self, feed: Feed[W]) -> None:
        """Push one page, or go live if there is none."""
        if feed.live or feed.session.output_blocked:
            # `resume` enqueues the feed again once the client has read the output.
            return
        source = self._source
        if feed.position < source.newest:
            source.check_readable(feed.position)
            # Read even without credit: if nothing is left, the client must hear caught_up.
            limit = max(1, min(feed.credit, PAGE_ITEMS_MAX))
            page = source.page(feed.position, feed.wanted, limit, feed.inside)
            if page.batch is not None:
                if feed.credit <= 0 and feed.inside is None:
                    # `grant` enqueues the feed again.
                    return
                if not page.batch.fits:
                    raise TooLarge(f"a {source.name}: an item is too large for a frame")
                _send(feed, page.batch)
            feed.position, feed.inside = page.position, page.inside
            if page.more or feed.position < source.newest:
                self._enqueue(feed)
                return
        self._go_live(feed)

    def _go_live(self, feed: Feed[W]) -> None:
        newest = self._source.newest
        if not self.live_count:
            # Without live feeds, nobody advanced the live position.
            self._live_position = newest
        assert feed.position == newest == self._live_position, (
            "all live feeds are at the same position"
        )
        feed.live = feed.quiet = True
        feed.told = newest
        self.live_count += 1
        self._source.live.add(feed)
        feed.push(["caught_up", newest])


def _send(feed: Feed[Any], batch: Batch) -> None:
    feed.credit -= batch.count
    for body in batch.bodies:
        feed.session.send_shared(feed.head, body)
