"""Expiring: keys whose time has come are deleted by a commit of the database itself.

    log's time    10.0        11.0        12.0        13.0
    key a         put, expires at 11.5  ..............| deleted
    records       commit 7    commit 8    commit 9    commit 10: deletes a, then commit 11

A transaction that commits at or after the time of an expiry is preceded by this deletion, and while
nobody commits the server makes it as soon as the time comes. So every commit, condition and key
feed, and every read in the past, sees an expired key as a deleted one, and two servers with the
same log agree. A transaction that has read the key conflicts with its deletion, as with any other.

The work of one step is bounded. If more keys are due, those of the earliest times go first, and
the others follow in further steps, between requests.
"""

import random
from collections.abc import Callable
from typing import Final

from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.settings import SECOND_US
from headwater_server.engine.state.layers import NO_EXPIRY, State
from headwater_server.engine.transactions.sequencer import Sequencer

EXPIRED_MAX: Final = 1_000
"""Keys that one step deletes. That takes some milliseconds, for which all clients wait."""


class Expiring:
    """Deletes the keys that have expired."""

    def __init__(
        self,
        state: State,
        sequencer: Sequencer,
        may_write: Callable[[], bool],
        source: random.Random,
    ) -> None:
        """*may_write*: whether this node leads, and its disk has room for deletions."""
        self._state = state
        self._sequencer = sequencer
        self._may_write = may_write
        self._source = source

    @property
    def next_time(self) -> int:
        """No key expires before this time; NO_EXPIRY: none does."""
        return self._state.next_expiry

    def wait_us(self) -> int:
        """Microseconds until the next step, at most a second: the wall clock may be set."""
        if not self._may_write():
            return SECOND_US
        return min(max(0, self._state.next_expiry - self._sequencer.clock.now()), SECOND_US)

    def step(self) -> bool:
        """Delete the first keys that are due; whether there may be more."""
        now = self._sequencer.clock.now()
        if self._state.next_expiry > now or not self._may_write():
            return False
        due, onward = self._find(now)
        self._delete(due, now)
        # Only now: as long as the bounds are lower, the evaluation looks for expiries.
        self._look_from(onward)
        return self._state.next_expiry <= now

    def _find(self, now: int) -> tuple[list[tuple[int, bytes]], bytes]:
        """The first keys that are due, and a lower bound of the due keys after them."""
        state = self._state
        due: list[tuple[int, bytes]] = []
        found, rest = state.first_items(
            state.due_from, keyspaces.DUE_END, state.last_commit, count_max=EXPIRED_MAX
        )
        for key, _ in found:
            time, user_key = keyspaces.parse_due_key(key)
            if time > now:
                return due, key
            due.append((time, user_key))
        # Deleted entries are met too, so there may be no due key at this bound.
        return due, keyspaces.DUE_END if rest is None else rest

    def _look_from(self, due_from: bytes) -> None:
        state = self._state
        state.due_from = due_from
        is_end = due_from == keyspaces.DUE_END
        state.next_expiry = NO_EXPIRY if is_end else keyspaces.parse_due_key(due_from)[0]

    def _delete(self, due: list[tuple[int, bytes]], now: int) -> None:
        """Commit the deletion of keys that are due."""
        writes: list[bytes | None] = []
        for time, key in due:
            # The evaluation also removes the expiry of a key that it deletes. In a database that
            # was repaired, a key may be called due that is not.
            stray = self._state.expiry(key, self._state.last_commit) != time
            writes += (keyspaces.due_key(time, key) if stray else key, None)
        if writes:
            transaction = new_transaction_id(now, self._source)
            ticket = self._sequencer.commit_stored(transaction, 0, writes)
            assert ticket.error is None, "deletions fit into a commit"
