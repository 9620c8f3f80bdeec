"""Expiries: when keys expire, as the writes of a commit.

    EXPIRIES    key        ->  time        how a read finds the expiry of a key
    DUE         time key   ->  nothing     how the server finds what is due

Both are ordinary versioned keys, so they have history, garbage collection and backups without code
of their own. They exist together, and only beside the key itself: each commit that deletes a key or
gives it a value without an expiry removes them, and atomic operations keep them. So a key that has
expired is a deleted key, and no read has to look at the time; see engine/expiring.py.
"""

from typing import Final, NamedTuple

from headwater_server.engine.format import keyspaces
from headwater_server.engine.state.layers import NO_EXPIRY, State
from headwater_server.engine.transactions.write_buffer import WriteBuffer

_USER: Final = keyspaces.USER[0]


class Expiry(NamedTuple):
    """When a key is to expire: so long after the commit, at a time, or never. Microseconds."""

    after: int | None
    at: int | None

    def until(self, now: int) -> int:
        """The time at which the key expires if the commit has the time *now*."""
        at = self.at
        if at is None:
            if self.after is None:
                return NO_EXPIRY
            at = now + self.after
        return min(at, NO_EXPIRY - 1)


def evaluate_expiries(
    state: State, buffer: WriteBuffer, writes: list[bytes | None], now: int
) -> None:
    """Add the writes of expiries to the other *writes* of a commit."""
    given = buffer.expiries
    entries = buffer.entries
    places: dict[bytes, int] = {}
    for place in range(0, len(writes), 2):
        key = writes[place]
        assert key is not None
        if key[0] == _USER:
            places[key] = place
    for key in places:
        # Atomic operations change a value and keep its expiry.
        if key not in given and not isinstance(entries.get(key), list):
            _set(state, key, NO_EXPIRY, writes)
    for key, (after, at, stored) in given.items():
        if key in entries:
            place = places[key]
            exists = writes[place + 1] is not None
            if exists and stored and state.get(key, state.last_commit) is None:
                # The key was absent then, and an atomic operation has made it since.
                continue
        else:
            place = -1
            exists = not buffer.covers(key) and state.get(key, state.last_commit) is not None
        if not exists:
            # This transaction deletes it, perhaps: then its expiry goes, too.
            _set(state, key, NO_EXPIRY, writes)
            continue
        until = Expiry(after, at).until(now)
        if until > now:
            _set(state, key, until, writes)
            continue
        # The time has come already, so the key is deleted by this commit and never seen.
        if place >= 0:
            writes[place + 1] = None
        else:
            writes += (key, None)
        _set(state, key, NO_EXPIRY, writes)


def _set(state: State, key: bytes, until: int, writes: list[bytes | None]) -> None:
    """Let a key expire at a time, or no more."""
    expiry_key = keyspaces.expiry_key(key)
    before = state.expiry(key, state.last_commit)
    if before == until or (before is None and until == NO_EXPIRY):
        return
    if before is not None:
        writes += (keyspaces.due_key(before, key), None)
    if until == NO_EXPIRY:
        writes += (expiry_key, None)
        return
    writes += (expiry_key, keyspaces.pack_expiry(until))
    due_key = keyspaces.due_key(until, key)
    writes += (due_key, b"")
    if due_key < state.due_from:
        # These are lower bounds, so it does no harm if this plan is refused.
        state.due_from, state.next_expiry = due_key, until
