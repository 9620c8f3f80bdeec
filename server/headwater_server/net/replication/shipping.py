"""Shipping: the leader's side of the log on other nodes.

    follower  replicate(epoch, end of its log)     -> may it follow, or is it the one that leads?
              log_read(after)                      -> entries, as soon as there are any
              log_read(after those)                -> it has them, durably; the next entries

A follower asks for what comes after its newest durable entry. So one request confirms and asks, and
a slow follower is sent nothing that it has not asked for. A request that finds nothing waits, about
a second at most. A leader without followers is not slowed down: group commit is told of this object
when the first follower comes.

With synchronous followers, a group is published and answered once so many of them have it durably.
Then a follower with the newest entries can be promoted, and nothing that was answered is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import (
    DamagedFile,
    HeadwaterError,
    InvalidArgument,
    LogDiverged,
    LogTrimmed,
    NotLeader,
    TooMany,
)
from headwater_protocol.numbers import term_of
from headwater_server.engine.engine import Engine
from headwater_server.net.session.peer import Peer
from headwater_server.storage.errors import Truncated
from headwater_server.storage.wal.interface import LogCursor, LogEnd, WalIndex

_log = structlog.get_logger(__name__)

AWAY_S: Final = 10.0
"""Seconds without a request after which a follower counts as away, for logs and figures."""


FOLLOWS: Final = "follower"
COPIES: Final = "copy"
LEADS: Final = "leader"

FOLLOWERS_MAX: Final = 1000
"""Followers that a leader remembers. Each that is new has a name of its own."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What another node says of its log.

    Attributes:
        node: identifies it.
        epoch, index, end: of the last entry that counts, and its hash.
        leader: where the new leader is, if it says.
        database: the id of its database, if it says.
        role: FOLLOWS, COPIES (a follower whose copy is not complete) or LEADS.
    """

    node: str
    epoch: int
    index: int
    end: bytes
    leader: str | None = None
    database: bytes | None = None
    role: str = FOLLOWS


@dataclass(slots=True)
class Follower:
    """A follower as its leader knows it.

    Attributes:
        confirmed: it has the entries up to this index, durably; -1 while it copies the database.
        heard: when its last request came, in seconds of the event loop's clock.
        cursor: reads the log for it, after `at`.
    """

    confirmed: WalIndex
    heard: float
    peer: str
    cursor: LogCursor | None = None
    at: WalIndex = WalIndex(0)  # noqa: RUF009
    is_away: bool = False
    copies: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A log_read that found nothing."""

    session: Peer
    request_id: int
    node: str
    after: WalIndex
    size_max: int
    until: float


class Shipping:
    """The followers of this node, and what they wait for.

    Attributes:
        followers: by name.
        synchronous: how many followers must have a group before it is published.
        common: the last entry that this node has in common with the leader before it; None: it was
            never promoted.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        synchronous: int,
        depose: Callable[[str | None, int, LogEnd | None], str],
        begin: Callable[["Shipping"], None],
        any_node: bool = False,
    ) -> None:
        """*depose* is called with the leader, its epoch, and the last entry that both have.

        It makes this node write no more, and tells what it has that the new leader lacks. *begin*
        is called with the first follower. *any_node*: the log is that of a cluster, and any node
        may give entries of it.
        """
        self.followers: dict[str, Follower] = {}
        self.synchronous = synchronous
        self.common: LogEnd | None = None
        self._engine = engine
        self._clock = clock
        self._monotonic = monotonic
        self._depose = depose
        self._begin = begin
        self._any_node = any_node
        self._waiting: list[_Waiting] = []
        self._confirmed = trio.lowlevel.ParkingLot()
        self._stopping = False
        self._missing_since: float | None = None

    # Requests of followers.

    def greet(self, session: Peer, greeting: Greeting) -> list[Any]:
        """Compare the log of another node with this one.

        Raises:
            NotLeader: this node does not lead, or does not lead any more.
            LogTrimmed: the follower must begin again from a copy.
            LogDiverged: the follower has entries that this node lacks.
            InvalidArgument: it has another database.
        """
        engine = self._engine
        leadership = engine.leadership
        if greeting.database not in (None, engine.database_id):
            raise InvalidArgument("replicate: the log of this node is that of another database")
        leadership.check_leads()
        own = leadership.end
        if term_of(greeting.epoch) > term_of(own.epoch):
            beyond = self._depose(greeting.leader, greeting.epoch, self._shared_end(greeting))
            raise NotLeader(
                f"this node, with epoch {own.epoch}, was deposed by one with {greeting.epoch}; "
                f"{beyond}",
                details={"leader": greeting.leader, "beyond": beyond},
            )
        answer = [own.epoch, engine.log_reader.first_index, own.index]
        if greeting.role == LEADS:
            # It compares the epochs. It is no follower, so nothing is kept for it.
            return answer
        self._check_shared(greeting, own)
        self._note_greeting(session, greeting, own.index)
        return answer

    def _shared_end(self, greeting: Greeting) -> LogEnd | None:
        """The end of the log of another node, if this node has that entry, too."""
        index = WalIndex(greeting.index)
        reader = self._engine.log_reader
        try:
            if index <= reader.last_index:
                end = reader.end_at(index)
                return end if end.hash == greeting.end else None
        except (Truncated, DamagedFile):
            pass
        return None

    def _check_shared(self, greeting: Greeting, own: LogEnd) -> None:
        """Raise unless this log goes on where that of a follower ends."""
        at = WalIndex(greeting.index)
        # Of an earlier leader, it took more than the node that was promoted.
        is_beyond = (
            self.common is not None
            and at > self.common.index
            and term_of(greeting.epoch) < term_of(own.epoch)
        )
        try:
            matches = (
                not is_beyond
                and at <= own.index
                and self._engine.log_reader.end_at(at).hash == greeting.end
            )
        except Truncated as error:
            raise LogTrimmed(
                f"entry {at + 1} was trimmed; the oldest one here is {error.first_index}",
                details={"first": error.first_index},
            ) from None
        if not matches:
            raise LogDiverged(
                f"entry {at} of this follower is not in the log of its leader, which ends with "
                f"entry {own.index}",
                details=_details(self.common),
            )

    def _note_greeting(self, session: Peer, greeting: Greeting, last: WalIndex) -> None:
        node, at = greeting.node, WalIndex(greeting.index)
        known = node in self.followers
        if not known and len(self.followers) >= FOLLOWERS_MAX:
            self._forget_one()
        self._note(session, node, at)
        follower = self.followers[node]
        if not known:
            # A restart remembers it. Afterwards this is done before each trim.
            self._engine.checkpoints.readers.save()
        # It may have lost its disk since it was here. A copy counts once it is complete.
        follower.copies = greeting.role == COPIES
        follower.confirmed = WalIndex(-1) if follower.copies else at
        self._confirmed.unpark_all()
        _log.info(
            "a follower is here" if not known else "a follower is here again",
            node=node,
            peer=session.peer,
            behind=last - at,
        )

    def _forget_one(self) -> None:
        """Forget the follower that has been away for longest; raise TooMany if none is away."""
        away = [node for node, follower in self.followers.items() if follower.is_away]
        if not away:
            raise TooMany(
                f"replicate: {len(self.followers)} followers are here; allowed are {FOLLOWERS_MAX}"
            )
        longest = min(away, key=lambda node: self.followers[node].heard)
        del self.followers[longest]
        self._engine.checkpoints.readers.forget(longest)

    def read(
        self,
        session: Peer,
        request_id: int,
        node: str,
        after: WalIndex,
        size_max: int,
        wait_ms: int,
    ) -> bytes | None:
        """The answer to a log_read, or None if it comes later.

        Raises:
            NotLeader, LogTrimmed: see `greet`.
            InvalidArgument: the follower has not greeted this node, or asks beyond its log.
        """
        if not self._any_node:
            self._engine.leadership.check_leads()
            if node not in self.followers:
                raise InvalidArgument("log_read: ask for replicate first")
        if after > self._engine.log_reader.last_index:
            raise InvalidArgument(
                f"log_read: entry {after} is not in this log, which ends with entry "
                f"{self._engine.log_reader.last_index}"
            )
        self._note(session, node, after)
        until = self._monotonic() + wait_ms / 1000
        request = _Waiting(session, request_id, node, after, size_max, until)
        answer = self._answer(request, even_empty=not wait_ms)
        if answer is None:
            self._waiting.append(request)
        return answer

    def _note(self, session: Peer, node: str, index: WalIndex) -> None:
        follower = self.followers.get(node)
        if follower is None:
            follower = self.followers[node] = Follower(WalIndex(-1), 0.0, session.peer)
            self._begin(self)
        follower.heard = self._monotonic()
        follower.peer = session.peer
        if follower.is_away:
            follower.is_away = False
            _log.info("a follower is back", node=node, peer=session.peer)
        if index > follower.confirmed and not follower.copies:
            follower.confirmed = index
            if self.synchronous:
                self._confirmed.unpark_all()
        self._engine.checkpoints.readers.note(node, index, remembered=True)

    def _answer(self, request: _Waiting, *, even_empty: bool = False) -> bytes | None:
        engine = self._engine
        reader = engine.log_reader
        entries: list[bytes] = []
        if reader.last_index > request.after:
            follower = self.followers[request.node]
            if follower.cursor is None or follower.at != request.after:
                follower.cursor = reader.cursor(request.after)
            try:
                entries = follower.cursor.take(request.size_max)
            except Truncated as error:
                follower.cursor = None
                raise LogTrimmed(
                    f"entry {request.after + 1} was trimmed; the oldest one here is "
                    f"{error.first_index}",
                    details={"first": error.first_index},
                ) from None
            except DamagedFile:
                follower.cursor = None
                raise
            follower.at = WalIndex(request.after + len(entries))
        elif not even_empty:
            return None
        payload = [
            entries,
            reader.last_index,
            engine.published,
            engine.sequencer.published_time.time,
            self._clock(),
        ]
        return request.session.connection.answer(request.request_id, payload)

    def _answer_later(self, request: _Waiting, *, even_empty: bool) -> bool:
        session = request.session
        if session.closing:
            return True
        try:
            answer = self._answer(request, even_empty=even_empty)
        except HeadwaterError as error:
            answer = session.connection.error(request.request_id, error)
        if answer is None:
            return False
        session.send(answer)
        return True

    # Group commit (see GroupCommit.ship).

    def logged(self) -> None:
        """New entries are durable here: send them to the followers that wait."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if not self._answer_later(request, even_empty=False):
                self._waiting.append(request)

    async def wait_confirmed(self, index: int) -> bool:
        """Wait until enough followers have the log up to an index; False: the server stops."""
        while self.synchronous and not self._stopping:
            having = sum(each.confirmed >= index for each in self.followers.values())
            if having >= self.synchronous:
                self._missing_since = None
                return True
            await self._confirmed.park()
        return not self.synchronous

    # From time to time.

    def tick(self) -> None:
        """Answer requests that have waited for long enough, and look for followers that left."""
        now = self._monotonic()
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            if request.until > now or not self._answer_later(request, even_empty=True):
                self._waiting.append(request)
        for node, follower in self.followers.items():
            if not follower.is_away and now - follower.heard > AWAY_S:
                follower.is_away = True
                _log.warning("a follower is away", node=node, peer=follower.peer)
        self._look_for_synchronous(now)

    def _look_for_synchronous(self, now: float) -> None:
        present = sum(not each.is_away for each in self.followers.values())
        if present >= self.synchronous or not self._engine.leadership.leads:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
            _log.error(
                "writes wait for synchronous followers",
                present=present,
                needed=self.synchronous,
            )

    def lost(self, session: Peer) -> None:
        """A session was closed."""
        self._waiting = [each for each in self._waiting if each.session is not session]

    def stop(self) -> None:
        """The server stops: groups that wait for followers are answered as unknown."""
        self._stopping = True
        self._confirmed.unpark_all()

    def figures(self) -> list[dict[str, Any]]:
        """What is known of each follower, for `stats`."""
        last = self._engine.log_reader.last_index
        now = self._monotonic()
        return [
            {
                "node": node,
                "address": each.peer,
                "behind_entries": max(0, last - each.confirmed),
                "heard_ms": round((now - each.heard) * 1000),
            }
            for node, each in self.followers.items()
        ]


def _details(common: LogEnd | None) -> dict[str, Any]:
    if common is None:
        return {"common": None}
    return {"common": int(common.index), "hash": common.hash.hex()}
