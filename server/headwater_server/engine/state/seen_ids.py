"""Which transaction ids may be in the files, so that a new one needs no look-up.

Every commit must know whether its transaction was committed before. Ids are made of the time, by
preference, so a new one is greater than all that the last checkpoint has written:

    ids in the files    x xx x xxx xx|         e    e  e        |    x
                                   newest      early          beyond

    up to `newest`        it may be there, so the store is asked
    between the two       it is there only if it is one of the early ones, which are all known
    from `beyond` on      it may be there, as in the first case

An id is early if it was made by a clock that is ahead of the log. If it raised `newest`, one such
client would cost all others a look-up for each commit until the time has caught up. So early ids
are kept one by one, and become ordinary when the log's time passes them. Of too many, the greatest
are given up, and `beyond` is the least of these.
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
"""Early ids that are kept: what clients that are ten seconds ahead commit at 100 a second."""

SLACK_US: Final = 1_000_000
"""How far ahead of the log an id may be and still be ordinary: the time of a request's way, and of
clocks that are set well."""


class SeenIds:
    """Ids of transactions that are in the files, or on the way there, below IDS_END.

    Attributes:
        newest: the greatest ordinary id.
        early: the early ids that are known, in order.
        beyond: where nothing is known any more.
        early_from: ids from here on are early, by the time when this was last asked.
    """

    __slots__ = ("beyond", "early", "early_from", "newest")

    def __init__(self) -> None:
        self.newest = b""
        self.early: list[bytes] = []
        self.beyond = IDS_END
        self.early_from = b""

    def note(self, transaction: bytes, time: int) -> None:
        """Take in an id of a record that the log has at *time*, in microseconds."""
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
        """Take in all ids of another, when the log's time is *time*."""
        self.newest = max(self.newest, other.newest)
        self.beyond = min(self.beyond, other.beyond)
        self.early = sorted({*self.early, *other.early})
        self._give_up_the_greatest()
        self.early_from = b""
        self._advance(time)

    @property
    def is_outrun(self) -> bool:
        """Whether the time has passed `beyond`, so that every new id would be looked up."""
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
    """The ids that a store has, when the log's time is *time*."""
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
    """At or below every id that is made from a time on, and above those made before its ms."""
    milliseconds: int = time // 1000
    return min(milliseconds.to_bytes(6, "big"), IDS_END)
