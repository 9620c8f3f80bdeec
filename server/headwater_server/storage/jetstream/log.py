"""A write-ahead log in a stream of JetStream: the message with sequence n is entry n.

    sent     [ 7 ][ 8 ][ 9 ]     7 is on its way; 8 and 9 wait for it
    confirm    7    8    9       post, wait for the answer, post the next one

One entry is on its way at a time. The stream compares numbers, not contents: if 7 was lost and
another writer's claim took its place, a copy of 8 that is still on its way would land behind that
claim. So 8 is posted once 7 is stored.

What has no answer, or a refusal, is sent again with the same id and expectation. So an entry lands
once and in its place, whenever it does. A refusal is final only if another writer's entry is found
at that index. What the stream says of its newest entry decides nothing: an entry that seems to be
missing may land later.

The stream is not trusted. A reader accepts an entry only if its checksum is right and it follows
the one before; a missing one is never skipped.
"""

import random as random_module
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import (
    Diverged,
    Fenced,
    LogGoesOn,
    NotClaimed,
    Truncated,
    Unavailable,
)
from headwater_server.storage.jetstream.service import Pending
from headwater_server.storage.jetstream.stream import Outcome, Stream, StreamState
from headwater_server.storage.wal.arrivals import Arrivals
from headwater_server.storage.wal.entry import ChainEnd, checked, hash_of, pack
from headwater_server.storage.wal.interface import (
    BODY_SIZE_MAX,
    FIRST_EPOCH,
    FIRST_HASH,
    Body,
    Epoch,
    LogEnd,
    WalEntry,
    WalIndex,
    cut_into_bodies,
)

POLL_S: Final = 0.05
"""Seconds between two looks for entries of other writers, in `wait`."""

READ_SIZE: Final = 4 * 1024 * 1024
"""Bytes of entries that `read` asks for at once."""

CLAIM_TRIES: Final = 4
"""How often an unanswered claim is sent before it counts as unknown."""

_ROOM: Final = 2**40

_MESSAGE_OVERHEAD: Final = 180
"""About how many bytes the stream needs for a message besides its entry."""


@dataclass(slots=True)
class _Sent:
    """An entry that is on its way, or waits for those before it: then `answer` is None."""

    index: WalIndex
    id: bytes
    packed: bytes
    is_last: bool
    answer: Pending | None = None


class JetStreamLog:
    """A WriteAheadLog in a stream.

    Attributes:
        stream: the stream.
        keeps: whether entries that were confirmed are kept for `take_confirmed`.
    """

    def __init__(
        self,
        stream: Stream,
        state: StreamState,
        random: random_module.Random,
        *,
        body_size_max: int = BODY_SIZE_MAX,
    ) -> None:
        self.stream = stream
        self.keeps = False
        self._random = random
        self._body_size_max = body_size_max
        self._first = WalIndex(state.first)
        self._known = WalIndex(state.last)
        self._size = state.size
        self._arrivals = Arrivals()
        # The writer's part. One thread at a time uses it.
        self._epoch: Epoch | None = None
        self._fenced = False
        self._end: ChainEnd | None = None
        self._durable = WalIndex(0)
        self._sent: deque[_Sent] = deque()
        self._confirmed: list[bytes] = []

    # Reading.

    @property
    def first_index(self) -> WalIndex:
        return self._first

    @property
    def last_index(self) -> WalIndex:
        return self._known

    @property
    def size(self) -> int:
        return self._size

    @property
    def room(self) -> int:
        return _ROOM

    def refresh(self) -> StreamState:
        """Ask the stream's leader for the ends of the log.

        Raises:
            Unavailable: no answer.
            DamagedFile: the stream is gone.
        """
        state = self.stream.find()
        if state is None:
            raise DamagedFile(f"the stream {self.stream.name!r} with the log is gone")
        self._first = WalIndex(state.first)
        self._size = state.size
        self.note(state.last)
        return state

    def note(self, index: int) -> None:
        """The log goes on up to an index, or further."""
        if index > self._known:
            self._known = WalIndex(index)
            self._arrivals.announce()

    def read(self, after: WalIndex) -> Iterator[WalEntry]:
        last = self._known
        cursor = JetStreamCursor(self, after)
        while after < last:
            for packed in cursor.take(READ_SIZE):
                entry = checked(packed)
                if entry.index > last:
                    return
                after = entry.index
                yield entry

    def wait(self, after: WalIndex, seconds: float) -> bool:
        for _ in range(max(1, round(seconds / POLL_S))):
            if self._arrivals.wait(lambda: self._known > after, min(seconds, POLL_S)):
                return True
            try:
                found = self.stream.batch(after + 1, 1)
            except Unavailable:
                continue
            if found:
                self.note(found[-1][0])
                return True
        return False

    def cursor(self, after: WalIndex) -> "JetStreamCursor":
        return JetStreamCursor(self, after)

    def end_at(self, index: WalIndex) -> LogEnd:
        end = self._end
        if end is not None and end.index == index:
            return LogEnd(index, end.epoch, end.hash)
        if not index and self._known < self._first:
            return LogEnd(index, Epoch(0), FIRST_HASH)
        if index > self._known:
            raise DamagedFile(f"entry {index} is asked for; the last is {self._known}")
        if index < self._known:
            (packed,) = self.cursor(index).take(1)
            following = checked(packed)
            return LogEnd(index, following.epoch, following.previous_hash)
        (packed,) = self.cursor(WalIndex(index - 1)).take(1)
        return LogEnd(index, checked(packed).epoch, hash_of(packed))

    def missing(self, index: WalIndex) -> Exception:
        """Why an entry at or before the newest one is not there."""
        state = self.refresh()
        if index < state.first:
            return Truncated(index, state.first)
        return DamagedFile(
            f"entry {index} is missing in the stream {self.stream.name!r}, which has "
            f"{state.messages} messages from {state.first} to {state.last}"
        )

    # Writing.

    def continues(self, end: LogEnd) -> None:
        """The caller has read everything up to *end*, and checked it."""
        self._end = ChainEnd(end.index, end.epoch, end.hash, end.index)
        self.note(end.index)

    def claim(self, after: WalIndex, *, at_least: Epoch = FIRST_EPOCH) -> Epoch:
        last = self.refresh().last
        if after < last:
            raise LogGoesOn(f"claim after entry {after}; the log ends with {last}")
        if after > last:
            raise DamagedFile(f"entry {after} was durable, but the log ends with entry {last}")
        if self._sent:
            self._give_up()
        end = self.end_at(after)
        self._end = ChainEnd(after, end.epoch, end.hash, after)
        self._durable = after
        self._fenced = False
        epoch = max(Epoch(end.epoch + 1), at_least)
        self._epoch = epoch
        index = self._send([Body([])], epoch)
        for _ in range(CLAIM_TRIES):
            try:
                self.confirm(index)
            except Unavailable:
                continue
            except Fenced as error:
                self._epoch = None
                raise LogGoesOn(f"claim after entry {after}: {error}") from error
            return epoch
        # It may land later, as the claim of nobody. Then the next one has a higher epoch.
        self._epoch = None
        self._give_up()
        raise Unavailable("no answer to the claim; read the log and claim again")

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        index = self.send(records)
        self.confirm(index)
        return index

    def send(self, records: Sequence[bytes]) -> WalIndex:
        assert records
        epoch = self._claimed()
        return self._send(cut_into_bodies(list(records), self._body_size_max), epoch)

    def beat(self) -> WalIndex:
        """Send an entry without records, and do not wait; return its index."""
        return self._send([Body([])], self._claimed())

    def confirm(self, index: WalIndex) -> None:
        if self._sent and self._sent[0].index <= index:
            self._claimed()
            self._confirm(index)

    def _confirm(self, index: WalIndex) -> None:
        while self._sent and self._sent[0].index <= index:
            first = self._sent[0]
            answer = first.answer or self._post(first)
            outcome = self.stream.outcome(answer.wait(), first.index)
            if outcome is not Outcome.STORED:
                self._settle(first, outcome)
            self._sent.popleft()
            if first.is_last:
                self._durable = first.index
            if self.keeps:
                self._confirmed.append(first.packed)
            self._size += len(first.packed) + _MESSAGE_OVERHEAD
            self.note(first.index)

    def _settle(self, first: _Sent, outcome: Outcome) -> None:
        """Find out what became of the first entry on its way; return once it is stored.

        Raises:
            Fenced: another writer's entry is in its place.
            Unavailable: it is still unknown.
        """
        if outcome is Outcome.REFUSED and self._is_stored(first):
            return
        reply = self._post(first).wait()
        outcome = self.stream.outcome(reply, first.index)
        if outcome is Outcome.STORED or (outcome is Outcome.REFUSED and self._is_stored(first)):
            return
        if reply is None:
            self.stream.service.reset()
        raise Unavailable(f"no answer to entry {first.index}")

    def _post(self, entry: _Sent) -> Pending:
        entry.answer = self.stream.append(entry.index, entry.id.hex(), entry.packed)
        return entry.answer

    def _is_stored(self, first: _Sent) -> bool:
        """Look at the place of an entry that was refused.

        False: nothing is there. The stream may be behind, so this decides nothing.
        """
        packed = self.stream.at(first.index)
        if packed is None:
            state = self.refresh()
            if state.last >= first.index:
                raise self.missing(first.index)
            return False
        found = checked(packed)
        if found.id == first.id:
            return True
        self._fenced = True
        self._give_up()
        self.note(first.index)
        raise Fenced(
            f"entry {first.index} is of another writer, with epoch {found.epoch}; "
            f"this one has epoch {self._epoch}"
        )

    def _send(self, bodies: Sequence[Body], epoch: Epoch) -> WalIndex:
        end = self._end
        assert end is not None, "there is a claim"
        # What is known to be durable: everything before the first group without an answer.
        durable = self._durable
        for place, body in enumerate(bodies):
            entry_id = self._random.randbytes(16)
            packed, end = pack(body, end, epoch, entry_id, durable)
            is_last = place == len(bodies) - 1
            self._sent.append(_Sent(end.index, entry_id, packed, is_last))
        self._end = end
        if len(self._sent) == len(bodies):
            self._post(self._sent[0])
        return end.index

    def _give_up(self) -> None:
        """Forget what was sent: the chain goes on without it, or nobody knows."""
        self._sent.clear()
        self._end = None

    def take_confirmed(self) -> list[bytes]:
        """The entries that were confirmed since the last call, if they are kept."""
        taken, self._confirmed = self._confirmed, []
        return taken

    def put_back(self, taken: list[bytes]) -> None:
        """The caller of `take_confirmed` could not use them yet."""
        self._confirmed[:0] = taken

    @property
    def is_sealed(self) -> bool:
        """Whether an entry without records ends the log."""
        return self._end is not None and self._end.is_empty

    def _claimed(self) -> Epoch:
        if self._fenced:
            raise Fenced("a later claim has taken its place")
        if self._epoch is None:
            raise NotClaimed("there is no claim")
        return self._epoch

    def seal(self) -> None:
        epoch = self._claimed()
        assert self._end is not None, "there is a claim"
        if not self._end.is_empty:
            self._send([Body([])], epoch)
        self.confirm(self._end.index)

    def roll(self) -> None:
        self.confirm(self.beat())

    def begin_segment(self, index: WalIndex) -> None:
        assert index <= self._known, "entries are trimmed one by one, up to the newest"

    def ingest(self, entries: Sequence[bytes]) -> list[WalEntry]:
        assert self._epoch is None, "a copy has no writer of its own"
        end = self.end_at(self.refresh_last())
        # What the last entry says of durability is not known; the next one may say anything.
        chain = ChainEnd(end.index, end.epoch, end.hash, WalIndex(0))
        new: list[WalEntry] = []
        for packed in entries:
            entry = checked(packed)
            if entry.index <= chain.index:
                if entry.index == chain.index and hash_of(packed) != chain.hash:
                    raise Diverged(entry.index, "it has another hash")
                continue
            chain.check_continued(entry)
            self._sent.append(_Sent(entry.index, entry.id, packed, is_last=True))
            chain = chain.then(entry, packed)
            new.append(entry)
        self._confirm(chain.index)
        self._end = chain
        return new

    def refresh_last(self) -> WalIndex:
        """The newest entry, as the stream's leader knows it."""
        return WalIndex(self.refresh().last)

    def put_again(self, index: WalIndex, packed: bytes) -> None:
        """Put an entry back that the stream had and lost.

        Raises:
            Unavailable: no answer; call it again.
            Diverged: another entry is in its place.
        """
        # Another id: the stream remembers the first one, and would only say that it had it.
        again = f"again-{self._random.randbytes(16).hex()}"
        reply = self.stream.append(index, again, packed).wait()
        if self.stream.outcome(reply, index) is Outcome.STORED:
            return
        found = self.stream.at(index)
        if found is None:
            raise Unavailable(f"entry {index} was not put back yet")
        if found != packed:
            raise Diverged(index, "the stream has another entry in its place")

    def prepare(self) -> None:
        """Nothing: the servers of the stream look after their disks."""

    def trim(self, below: WalIndex) -> None:
        # As with files, the newest entry stays.
        below = min(below, self._known)
        if below > self._first:
            self.stream.trim(below)
            self.refresh()

    def close(self) -> None:
        self._epoch = None
        self.stream.service.close()


class JetStreamCursor:
    """A LogCursor on a stream. It reads any server that has the entries, and checks them."""

    def __init__(self, log: JetStreamLog, after: WalIndex) -> None:
        self._log = log
        self._next = WalIndex(after + 1)

    def take(self, size_max: int) -> list[bytes]:
        """The next entries; see LogCursor.

        Raises:
            Truncated, DamagedFile: see LogCursor.
            Unavailable: no answer.
        """
        log = self._log
        found = log.stream.batch(self._next, size_max)
        if not found or found[0][0] != self._next:
            found = self._ask_leader(bool(found))
        entries: list[bytes] = []
        for sequence, packed in found:
            if sequence != self._next:
                # Only a reader that gets here may say so: the gap is asked for again.
                break
            entry = checked(packed)
            if entry.index != sequence:
                raise DamagedFile(f"message {sequence} of the stream holds entry {entry.index}")
            entries.append(packed)
            self._next = WalIndex(sequence + 1)
        log.note(self._next - 1)
        return entries

    def _ask_leader(self, goes_on: bool) -> list[tuple[int, bytes]]:
        """The server that was asked lacks the next entry; *goes_on*: it has later ones."""
        log = self._log
        if not goes_on and log.last_index < self._next:
            return []
        packed = log.stream.at(self._next)
        if packed is not None:
            return [(self._next, packed)]
        raise log.missing(self._next)
