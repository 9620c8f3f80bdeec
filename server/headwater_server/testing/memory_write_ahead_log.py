"""A write-ahead log in memory that fails on demand, for tests and simulation.

`MemoryLog` stands for the disk, or for a log service, and outlives its writers. `open` returns a
MemoryWriteAheadLog. There can be several, as on several machines, and a claim by one ends the claim
of another. Entries have the same bytes as in files, so the same chain is checked.

As in a log service, each sent entry names its predecessor, and is taken only if that is the last
one. An entry whose id is there was sent again, and counts as taken.
"""

import errno
import random as random_module
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import (
    DiskFull,
    Diverged,
    Fenced,
    LogFailed,
    LogGoesOn,
    NotClaimed,
    Truncated,
    Unavailable,
)
from headwater_server.storage.log.log_segment import entry_index, entry_size
from headwater_server.storage.wal.arrivals import Arrivals
from headwater_server.storage.wal.entry import (
    CHAIN_START,
    checked,
    hash_of,
    pack,
    unpack,
)
from headwater_server.storage.wal.interface import (
    BODY_SIZE_MAX,
    ENTRY_FIELDS_SIZE,
    FIRST_EPOCH,
    Body,
    Epoch,
    LogEnd,
    WalEntry,
    WalIndex,
    cut_into_bodies,
)

_NO_BOUND = 2**40


@dataclass(slots=True)
class LogFaults:
    """The faults to inject. Submits, including claims, are numbered from 1 over all writers."""

    fail_at: int | None = None
    """This submit fails with a disk error; a prefix of its group, maybe all of it, is kept."""
    capacity: int | None = None
    """Bound on the bytes of all entries; beyond it, prepare and submit raise DiskFull."""
    answers_lost: int = 0
    """So many of the next groups land, and their writer gets no answer."""
    duplicated: bool = False
    """Each group arrives twice."""
    reordered: bool = False
    """The answers to groups come in another order than the groups."""
    late: bool = False
    """Groups are on their way until `land` is called; their writer gets no answer."""
    paused: bool = False
    """Nothing arrives, not even what is sent again."""


class MemoryLog:
    """Entries that outlive their writers. *seed* determines what a failing submit leaves.

    Attributes:
        faults: the faults to inject; change them at any time.
        submits: number of submits so far.
    """

    def __init__(self, seed: int | random_module.Random = 0) -> None:
        self.random = seed if isinstance(seed, random_module.Random) else random_module.Random(seed)
        self.faults = LogFaults()
        self.submits = 0
        self.entries: list[bytes] = []
        self.first_index = WalIndex(1)
        self.before_first = CHAIN_START
        self.last = CHAIN_START
        self.size = 0
        self.arrivals = Arrivals()
        self._ids: set[bytes] = set()
        self._late: list[bytes] = []

    def open(self, *, body_size_max: int = BODY_SIZE_MAX) -> "MemoryWriteAheadLog":
        """A handle that can read immediately, and write after a claim."""
        return MemoryWriteAheadLog(self, body_size_max)

    def room(self) -> int:
        """Bytes of entries that still fit."""
        capacity = self.faults.capacity
        return _NO_BOUND if capacity is None else max(0, capacity - self.size)

    def append(self, group: Sequence[bytes]) -> bool:
        """Take a whole group, or fail as planned; return whether its writer gets an answer."""
        self.submits += 1
        faults = self.faults
        if self.submits == faults.fail_at:
            self.arrive(group[: self.random.randint(0, len(group))])
            raise OSError(errno.EIO, "disk error at a submit")
        if faults.late or faults.paused:
            if faults.late:
                self._late += group
            return False
        taken = self.arrive(group)
        if faults.duplicated:
            self.arrive(group)
        if taken and faults.answers_lost:
            faults.answers_lost -= 1
            return False
        return taken

    def arrive(self, group: Sequence[bytes]) -> bool:
        """Take entries that continue the log, or are there already; stop at one that does not."""
        for packed in group:
            entry = unpack(packed)
            assert entry is not None
            if entry.id in self._ids:
                continue
            if entry.index != self.last.index + 1 or entry.previous_hash != self.last.hash:
                return False
            self._ids.add(entry.id)
            self.entries.append(packed)
            self.size += len(packed)
            self.last = self.last.then(entry, packed)
        self.arrivals.announce()
        return True

    def land(self) -> None:
        """Let everything arrive that is on its way."""
        late, self._late = self._late, []
        for packed in late:
            self.arrive([packed])

    def lose(self, index: int) -> None:
        """Lose an entry: a gap, of which nobody is told."""
        self.entries = [packed for packed in self.entries if entry_index(packed) != index]

    def flip(self, index: int, bit: int) -> None:
        """Flip a bit of an entry."""
        for place, packed in enumerate(self.entries):
            if entry_index(packed) == index:
                changed = bytearray(packed)
                changed[bit // 8] ^= 1 << bit % 8
                self.entries[place] = bytes(changed)
                return
        raise AssertionError(f"there is no entry {index}")

    def read(self, after: int, last: int) -> Iterator[tuple[WalEntry, bytes]]:
        """The entries after an index to *last*, checked."""
        if after >= last:
            return
        if after + 1 < self.first_index:
            raise Truncated(after + 1, self.first_index)
        chain = self.before_first
        for packed in list(self.entries):
            entry = checked(packed)
            chain_error = chain.error_of(entry)
            if chain_error is not None:
                raise DamagedFile(f"the log in memory: {chain_error}")
            if entry.index > last:
                return
            if entry.index > after:
                yield entry, packed
            chain = chain.then(entry, packed)
        if chain.index < last:
            raise DamagedFile(f"the log in memory: it ends with {chain.index}, not {last}")


class MemoryCursor:
    """A LogCursor on a MemoryLog."""

    def __init__(self, log: MemoryLog, after: WalIndex) -> None:
        self._log = log
        self._after = after

    def take(self, size_max: int) -> list[bytes]:
        entries: list[bytes] = []
        size = 0
        for entry, packed in self._log.read(self._after, self._log.last.index):
            entries.append(packed)
            self._after = entry.index
            size += len(packed)
            if size >= size_max:
                break
        return entries


class MemoryWriteAheadLog:
    """A WriteAheadLog on a MemoryLog."""

    def __init__(self, log: MemoryLog, body_size_max: int) -> None:
        self._log = log
        self._body_size_max = body_size_max
        self._epoch: Epoch | None = None
        self._failure: BaseException | None = None
        self._end = CHAIN_START
        # Groups without an answer, in order, with the index of the last entry of each.
        self._unanswered: list[tuple[WalIndex, list[bytes]]] = []
        self._answered: set[WalIndex] = set()

    @property
    def first_index(self) -> WalIndex:
        return self._log.first_index

    @property
    def last_index(self) -> WalIndex:
        return self._log.last.index

    @property
    def size(self) -> int:
        return self._log.size

    @property
    def room(self) -> int:
        # There may be up to three entries where one full body would do, each with header and zeros.
        overhead = 3 * (entry_size(ENTRY_FIELDS_SIZE) + 7)
        bytes_left = self._log.room() - overhead
        return max(0, bytes_left * self._body_size_max // (self._body_size_max + overhead))

    def read(self, after: WalIndex) -> Iterator[WalEntry]:
        # Fixed now: reading ends where the log ended when it began.
        reading = self._log.read(after, self.last_index)
        return (entry for entry, _ in reading)

    def wait(self, after: WalIndex, seconds: float) -> bool:
        return self._log.arrivals.wait(lambda: self.last_index > after, seconds)

    def cursor(self, after: WalIndex) -> MemoryCursor:
        return MemoryCursor(self._log, after)

    def end_at(self, index: WalIndex) -> LogEnd:
        last = self._log.last
        if index == last.index:
            return LogEnd(index, last.epoch, last.hash)
        if index > last.index:
            raise DamagedFile(f"entry {index} is asked for; the last is {last.index}")
        following, _ = next(self._log.read(index, last.index))
        return LogEnd(index, following.epoch, following.previous_hash)

    def claim(self, after: WalIndex, *, at_least: Epoch = FIRST_EPOCH) -> Epoch:
        last = self._log.last
        self._check_failure()
        if after < last.index:
            raise LogGoesOn(f"claim after entry {after}; the log ends with {last.index}")
        if after > last.index:
            raise DamagedFile(
                f"entry {after} was durable, but the log ends with entry {last.index}"
            )
        epoch = max(Epoch(last.epoch + 1), at_least)
        self._end = last.all_durable()
        self._unanswered.clear()
        self._epoch = epoch
        self._send([Body([])], epoch)
        # A later claim may have been first.
        if not self._unanswered:
            return epoch
        self._unanswered.clear()
        if self._log.last.epoch == epoch and self._log.last.index == self._end.index:
            return epoch
        self._epoch = None
        raise Unavailable("no answer to the claim; read the log and claim again")

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        index = self.send(records)
        self.confirm(index)
        return index

    def send(self, records: Sequence[bytes]) -> WalIndex:
        assert records
        epoch = self._claimed()
        return self._send(cut_into_bodies(list(records), self._body_size_max), epoch)

    def confirm(self, index: WalIndex) -> None:
        self._check_failure()
        if not self._unanswered or self._unanswered[0][0] > index:
            return
        self._claimed()
        if self._log.faults.paused or self._log.faults.late:
            raise Unavailable(f"no answer to entry {self._unanswered[0][0]}")
        order = [place for place, (last, _) in enumerate(self._unanswered) if last <= index]
        for place in order:
            # Sent again, with the same ids and in the same order: it lands once, and in its place.
            if not self._log.arrive(self._unanswered[place][1]):
                raise Fenced(f"entry {self._unanswered[place][0]}: another writer was first")
        if self._log.faults.reordered:
            # One answer at a call. A group counts once all groups before it have theirs.
            waiting = [last for last, _ in self._unanswered if last not in self._answered]
            self._answered.add(self._log.random.choice(waiting))
            if any(self._unanswered[place][0] not in self._answered for place in order):
                raise Unavailable(f"no answer yet to all groups up to entry {index}")
        for last, _ in self._unanswered[: len(order)]:
            self._answered.discard(last)
        del self._unanswered[: len(order)]

    def seal(self) -> None:
        epoch = self._claimed()
        self._check_failure()
        if not self._end.is_empty:
            self.confirm(self._send([Body([])], epoch))

    def roll(self) -> None:
        epoch = self._claimed()
        self._check_failure()
        self.confirm(self._send([Body([])], epoch))

    def begin_segment(self, index: WalIndex) -> None:
        self._check_failure()
        assert index <= self.last_index, "entries are trimmed one by one, up to the newest"

    def ingest(self, entries: Sequence[bytes]) -> list[WalEntry]:
        self._check_failure()
        assert self._epoch is None, "a copy has no writer of its own"
        chain = replace(self._log.last, durable=WalIndex(0))
        new: list[WalEntry] = []
        for packed in entries:
            entry = checked(packed)
            if entry.index <= chain.index:
                if entry.index == chain.index and hash_of(packed) != chain.hash:
                    raise Diverged(entry.index, "it has another hash")
                continue
            chain.check_continued(entry)
            if len(packed) > self._log.room():
                raise DiskFull("log in memory", len(packed))
            try:
                self._log.append([packed])
            except BaseException as error:
                self._failure = error
                raise
            chain = chain.then(entry, packed)
            new.append(entry)
        return new

    def prepare(self) -> None:
        if not self._log.room():
            raise DiskFull("log in memory", self._body_size_max)

    def trim(self, below: WalIndex) -> None:
        log = self._log
        # As with files, the newest entry stays.
        while log.first_index < min(below, log.last.index):
            packed = log.entries.pop(0)
            entry = unpack(packed)
            assert entry is not None
            log.before_first = log.before_first.then(entry, packed)
            log.first_index = WalIndex(log.first_index + 1)
            log.size -= len(packed)

    def close(self) -> None:
        self._epoch = None

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise LogFailed("the log failed before") from self._failure

    def _claimed(self) -> Epoch:
        if self._epoch is None:
            raise NotClaimed("there is no claim")
        if self._epoch != self._log.last.epoch:
            raise Fenced("a later claim has taken its place")
        return self._epoch

    def _send(self, bodies: Sequence[Body], epoch: Epoch) -> WalIndex:
        self._check_failure()
        # What is known to be durable: everything before the first group without an answer.
        durable = self._end.index
        if self._unanswered:
            durable = WalIndex(entry_index(self._unanswered[0][1][0]) - 1)
        end = self._end
        group: list[bytes] = []
        for body in bodies:
            packed, end = pack(body, end, epoch, self._log.random.randbytes(16), durable)
            group.append(packed)
        size = sum(map(len, group))
        if size > self._log.room():
            raise DiskFull("log in memory", size)
        try:
            answered = self._log.append(group)
        except BaseException as error:
            self._failure = error
            raise
        self._end = end
        if not answered or self._unanswered or self._log.faults.reordered:
            self._unanswered.append((end.index, group))
        return end.index
