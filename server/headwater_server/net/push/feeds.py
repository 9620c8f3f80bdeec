"""Feeds: from a position through history into live, without a gap or a repetition.

              open, credit                     reached the newest position: caught_up
    stalled <--------------> behind (reads pages) ---------------------------> live
                                ^                                               |
                                '---- fell_behind: no credit, or output full ---'

A source (event_source.py, key_source.py) says what positions are, reads pages and encodes them;
the state machine is here, once. Behind, a feed reads its source a page at a time, in turn with the
others. How far it came is one number, so a slow client costs no memory. Live, a feed is registered
with the source, which reads each publish once and encodes it once for all feeds of one interest.

Nothing is lost between the two: `_step` reads up to the newest position and registers the feed as
live without an await in between, and `published` runs in the same thread right after the engine
published. So what is published before the read is in the page, and what comes after finds the feed
registered. All live feeds of a source are at one position.

Credit. Each item costs one. A source whose items come whole (`overdraws`) may begin one as long as
there is any credit, and leave the credit below zero; other sources never send more than the credit.
"""

from collections import deque
from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog
import trio

from headwater_protocol.errors import (
    HeadwaterError,
    InternalError,
    InvalidArgument,
    TooLarge,
    TooMany,
)
from headwater_protocol.limits import BODY_SIZE_MAX, CREDIT_MAX, PAGE_ITEMS_MAX
from headwater_protocol.messages import encode
from headwater_server.net.failures import Failures

_log = structlog.get_logger(__name__)

STEPS_PER_TURN_MAX: Final = 4
"""Pages that are read for feeds before the connections get their turn: each can take a megabyte
from the disk."""

_HEAD_SIZE_MAX: Final = 6
"""Bytes of an array header and a request id."""

W = TypeVar("W", bound=Hashable)


class Pushes(Protocol):
    """The part of a server connection that makes the frames of pushes."""

    def push(self, request_id: int, payload: Any, /) -> bytes:
        """The frame of a push."""
        ...


class Subscriber(Protocol):
    """The part of a session that feeds use."""

    @property
    def output_blocked(self) -> bool:
        """Too much output was not taken; nothing more is pushed until it was."""
        ...

    @property
    def feeds(self) -> "MutableMapping[int, Channel]":
        """What is open, by the id of the request that opened it."""
        ...

    @property
    def connection(self) -> Pushes:
        """Makes frames."""
        ...

    def send(self, frame: bytes, /) -> None:
        """Put a frame into the output."""
        ...

    def send_shared(self, head: bytes, shared: bytes, /) -> None:
        """Put a frame into the output whose body is *head* and *shared*, which is not copied."""
        ...


class Channel:
    """Something that a request opened and that pushes under the id of that request.

    Attributes:
        owner: what serves it.
        head: the first bytes of the body of each of its pushes.
    """

    __slots__ = ("head", "owner", "request_id", "session")

    def __init__(self, owner: "Owner", session: Subscriber, request_id: int) -> None:
        self.owner = owner
        self.session = session
        self.request_id = request_id
        self.head = b"\x93" + encode(request_id)

    @property
    def is_open(self) -> bool:
        """Whether anything may still be pushed."""
        return self.session.feeds.get(self.request_id) is self

    def push(self, payload: list[Any]) -> None:
        """Push something that is not encoded yet."""
        self.session.send(self.session.connection.push(self.request_id, payload))


class Owner(Protocol):
    """Serves the channels of one kind."""

    def grant(self, channel: Any, credit: int, /) -> None:
        """Allow that many more items."""
        ...

    def resume(self, channel: Any, /) -> None:
        """The client has taken its output: push again."""
        ...

    def close(self, channel: Any, /) -> None:
        """Push nothing more: the client asked for it."""
        ...

    def lost(self, channel: Any, /) -> None:
        """Push nothing more: the connection is gone."""
        ...

    def end(self, channel: Any, error: HeadwaterError, /) -> None:
        """Tell the client that nothing more will come, and why."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Items that are pushed together.

    Attributes:
        count: what they cost of the credit.
        bodies: of one frame or more, each without its head; shared by all that get them.
    """

    count: int
    bodies: tuple[bytes, ...]

    @property
    def fits(self) -> bool:
        """Whether each body fits a frame."""
        return all(len(body) + _HEAD_SIZE_MAX <= BODY_SIZE_MAX for body in self.bodies)


@dataclass(frozen=True, slots=True)
class Page:
    """What a source has after a position.

    Attributes:
        batch: the items that were wanted, or None.
        position: how far was looked.
        more: there is more behind it.
    """

    batch: Batch | None
    position: int
    more: bool


class Feed(Channel, Generic[W]):
    """One subscriber to a source.

    Attributes:
        position: the last position that was looked at for it, while it is not live.
        wanted: which items of the source.
        credit: items that may be pushed before more is granted; below zero if overdrawn.
    """

    __slots__ = ("credit", "live", "position", "queued", "wanted")

    def __init__(
        self,
        owner: Owner,
        session: Subscriber,
        request_id: int,
        position: int,
        wanted: W,
        credit: int,
    ) -> None:
        super().__init__(owner, session, request_id)
        self.position = position
        self.wanted = wanted
        self.credit = credit
        self.live = False
        self.queued = False


class LiveFeeds(Protocol[W]):
    """The live feeds of a source, found by what they want."""

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
    """What is to be handed to live feeds: each batch with the feeds that want it."""

    batches: list[tuple[list[Feed[W]], Batch]]
    position: int
    more: bool


class Source(Protocol[W]):
    """What feeds are fed from.

    Attributes:
        name: what messages call a feed of this source, and `plural` several of them.
        unit: what messages call a position.
        overdraws: an item is begun as long as there is any credit.
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
        """The newest position that is published."""
        ...

    def check_readable(self, position: int) -> None:
        """Raise HistoryGone if what comes after a position is not known any more."""
        ...

    def page(self, position: int, wanted: W, limit: int) -> Page:
        """What comes after a position."""
        ...

    def live_page(self, position: int) -> LivePage[W]:
        """What comes after a position, for the live feeds."""
        ...


class Feeds(Generic[W]):
    """All feeds of a source.

    Attributes:
        count: how many are open.
    """

    def __init__(self, source: Source[W], failures: Failures, *, per_session_max: int) -> None:
        self._source = source
        self._failures = failures
        self._per_session_max = per_session_max
        self._live_position = source.newest
        self._live_count = 0
        self._queue: deque[Feed[W]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self.count = 0

    # What sessions ask for.

    def open(
        self, session: Subscriber, request_id: int, after: int, wanted: W, credit: int
    ) -> None:
        """Open a feed of what comes after a position.

        Raises:
            InvalidArgument: the position was not reached yet.
            HistoryGone: the position is older than the history window.
            TooMany: the session has too many.
        """
        source = self._source
        if after > source.newest:
            # It would miss what comes until then, and believe to have seen it.
            raise InvalidArgument(f"after: {after}; the newest {source.unit} is {source.newest}")
        source.check_readable(after)
        count = sum(channel.owner is self for channel in session.feeds.values())
        if count >= self._per_session_max:
            raise TooMany(
                f"{count} {source.plural} on this connection; allowed are {self._per_session_max}"
            )
        feed = Feed(self, session, request_id, after, wanted, credit)
        session.feeds[request_id] = feed
        self.count += 1
        self._enqueue(feed)

    def grant(self, feed: Feed[W], credit: int, /) -> None:
        """Allow that many more items.

        Raises:
            TooLarge: it would be more than a feed may have.
        """
        if feed.credit + credit > CREDIT_MAX:
            raise TooLarge(f"credit: {feed.credit} and {credit} events; allowed are {CREDIT_MAX}")
        feed.credit += credit
        self.resume(feed)

    def resume(self, feed: Feed[W], /) -> None:
        """There is credit, or room in the output: push again."""
        if not feed.live:
            self._enqueue(feed)

    def close(self, feed: Feed[W], /) -> None:
        """Forget a feed; nothing of it is pushed any more."""
        del feed.session.feeds[feed.request_id]
        self.count -= 1
        if feed.live:
            self._leave_live(feed)

    def lost(self, feed: Feed[W], /) -> None:
        """The connection is gone, and the feed with it."""
        self.close(feed)

    def end(self, feed: Feed[W], error: HeadwaterError, /) -> None:
        """Tell the client that nothing more will come, and why."""
        self.close(feed)
        feed.push(["ended", error.as_payload()])

    # Live.

    def published(self) -> None:
        """Hand what the engine has just published to the live feeds."""
        if not self._live_count:
            return
        upto = self._source.newest
        more = self._live_position < upto
        while more and self._live_count:
            try:
                page = self._source.live_page(self._live_position)
            except (OSError, HeadwaterError) as error:
                # Each feed reads again by itself, and ends if it cannot.
                _log.error(f"live {self._source.plural} could not be read", exc_info=error)
                for feed in self._source.live.all():
                    self._fall_behind(feed)
                break
            for feeds, batch in page.batches:
                self._deliver(feeds, batch)
            self._live_position, more = page.position, page.more or page.position < upto
        self._live_position = upto

    def _deliver(self, feeds: list[Feed[W]], batch: Batch) -> None:
        needed = 1 if self._source.overdraws else batch.count
        fits = batch.fits
        for feed in feeds:
            if feed.credit < needed or feed.session.output_blocked or not fits:
                self._fall_behind(feed)
            else:
                _send(feed, batch)

    def _fall_behind(self, feed: Feed[W]) -> None:
        self._leave_live(feed)
        # The batch at hand was not sent: it is read from the source when there is room.
        feed.position = self._live_position
        feed.push(["fell_behind", feed.position])
        self._enqueue(feed)

    def _leave_live(self, feed: Feed[W]) -> None:
        feed.live = False
        self._live_count -= 1
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
            if not self._queue:
                await self._idle.park()
            self.turn()
            await trio.lowlevel.checkpoint()

    def turn(self) -> bool:
        """Take one step for each of a few feeds; return whether any are left."""
        for _ in range(min(STEPS_PER_TURN_MAX, len(self._queue))):
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
            message = f"the {name} failed in the server; its log says more"
            self.end(feed, InternalError(message))
            if not isinstance(error, OSError):
                self._failures.end_process(error, f"a {name}")
                return
            _log.error(f"a {name} failed", session=str(feed.session), exc_info=error)

    def _step(self, feed: Feed[W]) -> None:
        """Push one page, or see that there is nothing more and go live."""
        if feed.live or feed.session.output_blocked:
            # `resume` brings it back once the output has been taken.
            return
        source = self._source
        if feed.position < source.newest:
            source.check_readable(feed.position)
            # Without credit it is still worth a look whether anything is left to be sent at all:
            # a client that got the last item must hear that it has caught up.
            limit = max(1, min(feed.credit, PAGE_ITEMS_MAX))
            page = source.page(feed.position, feed.wanted, limit)
            if page.batch is not None:
                if feed.credit <= 0:
                    # `grant` brings it back.
                    return
                if not page.batch.fits:
                    raise TooLarge(f"a {source.name}: an item that no frame can hold")
                _send(feed, page.batch)
            feed.position = page.position
            if page.more or feed.position < source.newest:
                self._enqueue(feed)
                return
        self._go_live(feed)

    def _go_live(self, feed: Feed[W]) -> None:
        newest = self._source.newest
        if not self._live_count:
            # Nobody moved it while nobody was live.
            self._live_position = newest
        assert feed.position == newest == self._live_position, "all live feeds are level"
        feed.live = True
        self._live_count += 1
        self._source.live.add(feed)
        feed.push(["caught_up", newest])


def _send(feed: Feed[Any], batch: Batch) -> None:
    feed.credit -= batch.count
    for body in batch.bodies:
        feed.session.send_shared(feed.head, body)
