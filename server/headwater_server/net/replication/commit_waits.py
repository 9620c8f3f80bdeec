"""Waiting for a commit: a client that wrote at the leader reads its own writes at a follower.

leader    commit --> committed as 812
follower  wait_commit(812) --> answered once readers here see commit 812
          read_at_least(812, [get, …]) --> served again, by its session, at that time
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol.errors import CommitNotReached, TooMany
from headwater_protocol.limits import MIB
from headwater_protocol.messages import encode
from headwater_server.engine.engine import Engine
from headwater_server.net.session.peer import Peer

WAITS_MAX: Final = 100_000
"""Requests that may wait for commits together, over all connections."""

WAITING_SIZE_MAX: Final = 16 * MIB
"""Bytes of the reads that may wait for commits together: most have some hundred."""


@dataclass(frozen=True, slots=True)
class _Wait:
    session: Peer
    request_id: int
    commit: int
    until: float
    arguments: list[Any] | None = None
    """Of a read that waits; None: a wait_commit."""
    size: int = 0


class CommitWaits:
    """Requests that wait for a commit to be published.

    Attributes:
        waits: those that wait.
    """

    def __init__(self, engine: Engine, monotonic: Callable[[], float]) -> None:
        self.waits: list[_Wait] = []
        self._size = 0
        self._engine = engine
        self._monotonic = monotonic

    def ask(self, session: Peer, request_id: int, commit: int, wait_ms: int) -> bytes | None:
        """The answer, or None if it comes later.

        Raises:
            CommitNotReached: with *wait_ms* 0, the commit is not here.
            TooMany: too many requests wait.
        """
        published = self._engine.published
        if published >= commit:
            return session.connection.answer(request_id, published)
        self._add(_Wait(session, request_id, commit, self._until(wait_ms)), wait_ms)
        return None

    def hold(self, session: Peer, request_id: int, arguments: list[Any], wait_ms: int) -> None:
        """Hold a read_at_least until its commit, which is not here, is published.

        Raises:
            CommitNotReached, TooMany: as for `ask`.
        """
        commit = arguments[0]
        until = self._until(wait_ms)
        size = len(encode(arguments)) if wait_ms else 0
        self._add(_Wait(session, request_id, commit, until, arguments, size), wait_ms)

    def _until(self, wait_ms: int) -> float:
        return self._monotonic() + wait_ms / 1000

    def _add(self, wait: _Wait, wait_ms: int) -> None:
        if not wait_ms:
            raise self._not_reached(wait)
        if len(self.waits) >= WAITS_MAX:
            raise TooMany(f"{len(self.waits)} requests wait for commits; allowed are {WAITS_MAX}")
        if self._size + wait.size > WAITING_SIZE_MAX:
            raise TooMany(
                f"{self._size} bytes of reads wait for commits; allowed are {WAITING_SIZE_MAX}"
            )
        self._size += wait.size
        self.waits.append(wait)

    def _not_reached(self, wait: _Wait) -> CommitNotReached:
        newest = self._engine.published
        return CommitNotReached(
            f"commit {wait.commit} is not here; the newest is {newest}", details={"newest": newest}
        )

    def _take(self, over: Callable[[_Wait], bool]) -> list[_Wait]:
        """Take out the waits that are over, in their order."""
        waits, self.waits = self.waits, []
        taken: list[_Wait] = []
        for wait in waits:
            (taken if over(wait) else self.waits).append(wait)
        self._size -= sum(wait.size for wait in taken)
        return taken

    def published(self) -> None:
        """Answer those whose commit is published, and let reads be served."""
        newest = self._engine.published
        for wait in self._take(lambda wait: wait.commit <= newest):
            session = wait.session
            if session.closing:
                continue
            if wait.arguments is None:
                session.send(session.connection.answer(wait.request_id, newest))
            else:
                # In a turn of the session, which bounds what many reads put into its output.
                session.serve_later(wait.request_id, "read_at_least", wait.arguments)

    def tick(self) -> None:
        """Answer those that have waited for long enough."""
        now = self._monotonic()
        for wait in self._take(lambda wait: wait.until <= now):
            if not wait.session.closing:
                error = self._not_reached(wait)
                wait.session.send(wait.session.connection.error(wait.request_id, error))

    def lost(self, session: Peer) -> None:
        """A session was closed."""
        self._take(lambda wait: wait.session is session)
