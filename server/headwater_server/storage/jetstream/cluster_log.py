"""The log of a node in a cluster: a stream that all nodes share, and the node's own copy.

    leader     send --> stream: stored --> copy: written and synced --> confirmed
    follower   stream --> checked --> ingest into the copy --> applied
    recovery   reads the copy

The copy holds nothing that the stream has not stored. So a leader that is deposed has nothing to
take back in its files. Readers read the copy, and only a node that is behind reads the stream.

The lease says how long no other node leads: from the moment at which the newest stored entry was
first sent, LEASE_S on. Others claim only if they saw no entry for longer (see
net/cluster/election.py). After a pause beyond the lease, nothing is confirmed before one more entry
is stored: it shows that nobody else has claimed.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from headwater_server.storage.errors import Fenced, LogGoesOn, Unavailable
from headwater_server.storage.jetstream.log import JetStreamLog
from headwater_server.storage.wal.interface import (
    FIRST_EPOCH,
    Epoch,
    LogCursor,
    LogEnd,
    WalEntry,
    WalIndex,
    WriteAheadLog,
)

LEASE_S: Final = 2.0
"""Seconds from the sending of an entry for which its writer may answer reads as the leader."""

HEARTBEAT_S: Final = 0.5
"""Seconds between two entries of an idle leader."""

NO_LEASE: Final = float("-inf")

_RENEWALS_MAX: Final = 3
"""Entries that are sent after a pause beyond the lease, before the caller has to try again."""


class ClusterLog:
    """A WriteAheadLog on a stream and a copy.

    Attributes:
        stream: the stream.
        lease_until: the lease, in seconds of the clock. Read it in any thread.
    """

    def __init__(
        self, copy: WriteAheadLog, stream: JetStreamLog, clock: Callable[[], float]
    ) -> None:
        """*clock* counts seconds, also while the machine is suspended."""
        self.stream = stream
        self.lease_until = NO_LEASE
        stream.keeps = True
        self._copy = copy
        self._clock = clock
        self._sent: deque[tuple[WalIndex, float]] = deque()
        self._sent_at = NO_LEASE

    @property
    def has_lease(self) -> bool:
        """Whether no other node leads at this moment."""
        return self._clock() < self.lease_until

    def release(self) -> None:
        """Give the lease back: this node leads no more."""
        self.lease_until = NO_LEASE

    # Reading.

    @property
    def first_index(self) -> WalIndex:
        return self._copy.first_index

    @property
    def last_index(self) -> WalIndex:
        return self._copy.last_index

    @property
    def size(self) -> int:
        return self._copy.size

    def read(self, after: WalIndex) -> Iterator[WalEntry]:
        return self._copy.read(after)

    def wait(self, after: WalIndex, seconds: float) -> bool:
        return self._copy.wait(after, seconds)

    def cursor(self, after: WalIndex) -> LogCursor:
        return self._copy.cursor(after)

    def end_at(self, index: WalIndex) -> LogEnd:
        return self._copy.end_at(index)

    # Writing.

    def claim(self, after: WalIndex, *, at_least: Epoch = FIRST_EPOCH) -> Epoch:
        last = self._copy.last_index
        if after < last:
            raise LogGoesOn(f"claim after entry {after}; the log ends with {last}")
        if after == last:
            self.stream.continues(self._copy.end_at(last))
        self._sent.clear()
        sent_at = self._clock()
        epoch = self.stream.claim(after, at_least=at_least)
        self._keep()
        self._sent_at = sent_at
        self.lease_until = sent_at + LEASE_S
        return epoch

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        index = self.send(records)
        self.confirm(index)
        return index

    def send(self, records: Sequence[bytes]) -> WalIndex:
        # Before it is sent: the lease must not begin later than the entry is stored.
        now = self._clock()
        return self._note(self.stream.send(records), now)

    def _note(self, index: WalIndex, sent_at: float) -> WalIndex:
        self._sent.append((index, sent_at))
        self._sent_at = sent_at
        return index

    def _beat(self) -> WalIndex:
        now = self._clock()
        return self._note(self.stream.beat(), now)

    def confirm(self, index: WalIndex) -> None:
        self._confirm(index)
        for _ in range(_RENEWALS_MAX):
            if self.has_lease:
                return
            self._confirm(self._beat())
        if not self.has_lease:
            raise Unavailable(f"entry {index} is stored, and the lease ran out again and again")

    def _confirm(self, index: WalIndex) -> None:
        try:
            self.stream.confirm(index)
        except Fenced:
            self.release()
            raise
        finally:
            self._keep()
        while self._sent and self._sent[0][0] <= index:
            self.lease_until = self._sent.popleft()[1] + LEASE_S

    def _keep(self) -> None:
        """Put into the copy what the stream has stored."""
        stored = self.stream.take_confirmed()
        if stored:
            try:
                self._copy.ingest(stored)
            except BaseException:
                self.stream.put_back(stored)
                raise

    def seal(self) -> None:
        """Append an entry without records, unless one that is young ends the log."""
        if not self.stream.is_sealed or self._clock() - self._sent_at > HEARTBEAT_S / 2:
            self.confirm(self._beat())

    def roll(self) -> None:
        index = self._beat()
        self.confirm(index)
        self._copy.begin_segment(self._copy.last_index)

    def begin_segment(self, index: WalIndex) -> None:
        self._copy.begin_segment(index)

    def ingest(self, entries: Sequence[bytes]) -> list[WalEntry]:
        return self._copy.ingest(entries)

    @property
    def room(self) -> int:
        return self._copy.room

    def prepare(self) -> None:
        self._copy.prepare()

    def trim(self, below: WalIndex) -> None:
        self._copy.trim(below)

    def close(self) -> None:
        self.release()
        self._copy.close()
        self.stream.close()
