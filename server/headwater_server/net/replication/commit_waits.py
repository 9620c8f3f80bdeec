"""Waiting for a commit: a client that wrote at the leader reads its own writes at a follower.

leader    commit --> committed as 812
follower  wait_commit(812) --> answered once readers here see commit 812
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headwater_protocol.errors import CommitNotReached, TooMany
from headwater_server.engine.engine import Engine
from headwater_server.net.session.peer import Peer

WAITS_MAX: Final = 100_000
"""Requests that may wait for commits together, over all connections."""


@dataclass(frozen=True, slots=True)
class _Wait:
    session: Peer
    request_id: int
    commit: int
    until: float


class CommitWaits:
    """Requests that wait for a commit to be published.

    Attributes:
        waits: those that wait.
    """

    def __init__(self, engine: Engine, monotonic: Callable[[], float]) -> None:
        self.waits: list[_Wait] = []
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
        wait = _Wait(session, request_id, commit, self._monotonic() + wait_ms / 1000)
        if not wait_ms:
            raise self._not_reached(wait)
        if len(self.waits) >= WAITS_MAX:
            raise TooMany(f"wait_commit: {len(self.waits)} requests wait; allowed are {WAITS_MAX}")
        self.waits.append(wait)
        return None

    def _not_reached(self, wait: _Wait) -> CommitNotReached:
        newest = self._engine.published
        return CommitNotReached(
            f"commit {wait.commit} is not here; the newest is {newest}", details={"newest": newest}
        )

    def published(self) -> None:
        """Answer those whose commit is published."""
        newest = self._engine.published
        waits, self.waits = self.waits, []
        for wait in waits:
            if wait.commit > newest:
                self.waits.append(wait)
            elif not wait.session.closing:
                wait.session.send(wait.session.connection.answer(wait.request_id, newest))

    def tick(self) -> None:
        """Answer those that have waited for long enough."""
        now = self._monotonic()
        waits, self.waits = self.waits, []
        for wait in waits:
            if wait.until > now:
                self.waits.append(wait)
            elif not wait.session.closing:
                error = self._not_reached(wait)
                wait.session.send(wait.session.connection.error(wait.request_id, error))

    def lost(self, session: Peer) -> None:
        """A session was closed."""
        self.waits = [each for each in self.waits if each.session is not session]
