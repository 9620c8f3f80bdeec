"""Which transaction ids may be in the files, so that new ids need no look-up.

Every commit must know whether its transaction was committed before. Most ids begin with the time,
so a new one is greater than all those that the last checkpoint has written:

    ids in the files    x xx x xxx xx|         e    e  e        |    x
                                   newest      early          beyond

    up to `newest`        the id may be there, so the store is asked
    between the two       the id is there only if it is one of the early ids, which are all known
    from `beyond` on      the id may be there, so the store is asked

An id is early if it was made by a clock ahead of the log's time. If such an id raised `newest`, one
client would cost all others a look-up per commit until the time catches up. So early ids are kept
in a list and become ordinary when the log's time passes them. If there are too many, the greatest
are dropped, and `beyond` becomes the least of those.
"""

from bisect import bisect_left
from typing import Final

from headwater_server.engine.format.index_keys import (
    IDS_END,
    id_bucket_end,
    id_bucket_key,
    parse_transactions,
)
from headwater_server.storage.store.interface import Family, StateStore

EARLY_MAX: Final = 1024
"""Early ids that are kept: 100 commits a second of clients whose clocks are ten seconds ahead."""

SLACK_US: Final = 1_000_000
"""How far ahead of the log's time an id may be and still be ordinary: the latency of a request and
the error of a well-set clock."""


class SeenIds:
    """The ids below IDS_END that are in the files or about to be written there.

    Attributes:
        newest: the greatest ordinary id.
        early: the known early ids, in order.
        beyond: from here on, ids may be in the files without being listed.
        early_from: ids from here on are early, as of the last update.
    """

    __slots__ = ("beyond", "early", "early_from", "newest")

    def __init__(self) -> None:
        self.newest = b""
        self.early: list[bytes] = []
        self.beyond = IDS_END
        self.early_from = b""

    def note(self, transaction: bytes, time: int) -> None:
        """Add the id of a record with the time *time*, in microseconds."""
        if transaction >= IDS_END:
            return
        if transaction >= self.early_from:
            self._advance(time)
        if transaction < self.early_from:
            self.newest = max(self.newest, transaction)
            return
        place = bisect_left(self.early, transaction)
        if place == len(self.early) or self.early[place] != transaction:
            self.early.insert(place, transaction)
            self._give_up_the_greatest()

    def may_have(self, transaction: bytes) -> bool:
        """Whether an id may be in the files."""
        if not self.newest < transaction < self.beyond:
            return True
        place = bisect_left(self.early, transaction)
        return place < len(self.early) and self.early[place] == transaction

    def absorb(self, other: "SeenIds", time: int) -> None:
        """Add all ids of *other*, at the log's time *time*."""
        self.newest = max(self.newest, other.newest)
        self.beyond = min(self.beyond, other.beyond)
        self.early = sorted({*self.early, *other.early})
        self._give_up_the_greatest()
        self.early_from = b""
        self._advance(time)

    @property
    def is_outrun(self) -> bool:
        """Whether time has passed `beyond`, so that every new id would need a look-up."""
        return self.beyond <= self.early_from

    def _advance(self, time: int) -> None:
        self.early_from = max(self.early_from, _first_id(time + SLACK_US))
        count = bisect_left(self.early, self.early_from)
        if count:
            self.newest = max(self.newest, self.early[count - 1])
            del self.early[:count]

    def _give_up_the_greatest(self) -> None:
        if len(self.early) > EARLY_MAX:
            self.beyond = min(self.beyond, self.early[EARLY_MAX])
        del self.early[bisect_left(self.early, self.beyond) :]


def read_seen_ids(store: StateStore, time: int) -> SeenIds:
    """The ids that a store has, at the log's time *time*."""
    seen = SeenIds()
    boundary = id_bucket_key(_first_id(time + SLACK_US) + bytes(10))
    below = store.scan(Family.TRANSACTIONS, b"", min(boundary, IDS_END), reverse=True)
    newest = next(below, None)
    if newest is not None:
        seen.newest = id_bucket_end(newest[0])
    if boundary >= IDS_END:
        return seen
    for entry_key, entry in store.scan(Family.TRANSACTIONS, boundary, IDS_END):
        if len(seen.early) >= EARLY_MAX:
            seen.beyond = min(seen.beyond, entry_key)
            break
        for transaction, _ in parse_transactions(entry_key, entry):
            seen.note(transaction, time)
    return seen


def _first_id(time: int) -> bytes:
    """A lower bound of the ids made at *time* or later; above all ids of earlier milliseconds."""
    milliseconds: int = time // 1000
    return min(milliseconds.to_bytes(6, "big"), IDS_END)
