"""A write-ahead log in memory that fails on demand, for tests and simulation.

`MemoryLog` stands for the disk, and outlives its writers. `open` returns a MemoryWriteAheadLog.
There can be several, as on several machines, and a claim by one ends the claim of another. Entries
have the same bytes as in files, so the same chain is checked.
"""

import errno
import random as random_module
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import DiskFull, LogFailed, LogGoesOn, NotClaimed
from headwater_server.storage.log.log_segment import entry_payload, entry_size
from headwater_server.storage.wal.entry import CHAIN_START, ChainEnd, pack, unpack
from headwater_server.storage.wal.interface import (
    BODY_SIZE_MAX,
    ENTRY_FIELDS_SIZE,
    Body,
    Epoch,
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

    def open(self, *, body_size_max: int = BODY_SIZE_MAX) -> "MemoryWriteAheadLog":
        """A handle that can read immediately, and write after a claim."""
        return MemoryWriteAheadLog(self, body_size_max)

    def room(self) -> int:
        """Bytes of entries that still fit."""
        capacity = self.faults.capacity
        return _NO_BOUND if capacity is None else max(0, capacity - self.size)

    def append(self, group: Sequence[tuple[bytes, ChainEnd]]) -> None:
        """Append a whole group, or fail as planned."""
        self.submits += 1
        fails = self.submits == self.faults.fail_at
        kept = group[: self.random.randint(0, len(group))] if fails else group
        for packed, end in kept:
            self.entries.append(packed)
            self.size += len(packed)
            self.last = end
        if fails:
            raise OSError(errno.EIO, "disk error at a submit")


class MemoryWriteAheadLog:
    """A WriteAheadLog on a MemoryLog."""

    def __init__(self, log: MemoryLog, body_size_max: int) -> None:
        self._log = log
        self._body_size_max = body_size_max
        self._epoch: Epoch | None = None
        self._failure: BaseException | None = None

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
        last = self.last_index
        if after >= last:
            return
        if after + 1 < self.first_index:
            raise DamagedFile(
                f"entry {after + 1} was trimmed; the log begins with entry {self.first_index}"
            )
        chain = self._log.before_first
        for packed in list(self._log.entries):
            entry = unpack(packed)
            assert entry is not None
            assert len(entry_payload(packed)) == ENTRY_FIELDS_SIZE + len(entry.body)
            chain_error = chain.error_of(entry)
            if chain_error is not None:
                raise DamagedFile(f"the log in memory: {chain_error}")
            if entry.index > after:
                yield entry
            chain = chain.then(entry, packed)

    def claim(self, after: WalIndex) -> Epoch:
        last = self._log.last
        self._check_failure()
        if after < last.index:
            raise LogGoesOn(f"claim after entry {after}; the log ends with {last.index}")
        if after > last.index:
            raise DamagedFile(
                f"entry {after} was durable, but the log ends with entry {last.index}"
            )
        epoch = Epoch(last.epoch + 1)
        self._append([Body([])], epoch)
        self._epoch = epoch
        return epoch

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        assert records
        return self._append(cut_into_bodies(list(records), self._body_size_max), self._claimed())

    def seal(self) -> None:
        epoch = self._claimed()
        self._check_failure()
        if not self._log.last.is_empty:
            self._append([Body([])], epoch)

    def roll(self) -> None:
        epoch = self._claimed()
        self._check_failure()
        self._append([Body([])], epoch)

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
        if self._epoch is None or self._epoch != self._log.last.epoch:
            raise NotClaimed("no claim, or a later claim has taken its place")
        return self._epoch

    def _append(self, bodies: Sequence[Body], epoch: Epoch) -> WalIndex:
        self._check_failure()
        durable = self._log.last.index
        chain = self._log.last.all_durable()
        group: list[tuple[bytes, ChainEnd]] = []
        for body in bodies:
            packed, _ = pack(body, chain, epoch, self._log.random.randbytes(16), durable)
            entry = unpack(packed)
            assert entry is not None
            assert entry.durable == durable
            chain = chain.then(entry, packed)
            group.append((packed, chain))
        size = sum(len(packed) for packed, _ in group)
        if size > self._log.room():
            raise DiskFull("log in memory", size)
        try:
            self._log.append(group)
        except BaseException as error:
            self._failure = error
            raise
        return chain.index
