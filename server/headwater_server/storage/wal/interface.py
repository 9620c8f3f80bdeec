"""The interface of the write-ahead log: entries with dense indexes, and one writer.

The log is the database; everything else on the disk is derived from it. The engine submits groups
of records and waits until they are durable. At the next start it reads them back in order. The
engine does not know where the log is stored: in files, or in memory in tests.

    index     1        2          3          4          5         6
    epoch     1        1          1          1          2         2
    body      (claim)  [A] [B]    [C ..      .. C]      (claim)   [D]
                                  continued  resumed

- An entry holds whole records, or one part of a record that is too large for one entry.
- `claim` takes the right to write. It appends an entry without records, so that two writers never
  share an epoch, even if the first wrote nothing.
- Every entry says up to which index the log was durable when it was written. If an entry up to
  that index is damaged, it was durable before: this is corruption, not a torn write.
- `previous_hash` chains the entries: a reader accepts an entry only if it follows the last one.

A group is durable as a whole when `submit` returns. After a power loss during `submit`, the log may
hold any prefix of its entries. A record counts only if its last part is there.

A log may lie elsewhere than in files, and other nodes may read and copy it:

    writer     claim, then send … send, confirm … confirm        several groups may be in flight
    reader     read, wait, read, wait …; or a cursor, for the packed bytes
    copy       ingest: the entries of another log, byte for byte, with its epochs and hashes

How these end is part of the interface: `Fenced` (a later claim: nothing of the group is in the log,
or ever will be), `Unavailable` (the outcome is unknown until `confirm` is called again),
`Truncated` (the entries were trimmed), `Diverged` (the copy has entries that the other log lacks)
and DamagedFile.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NewType, Protocol

from headwater_protocol.limits import KIB, MIB
from headwater_server.storage.log.log_segment import ENTRY_HEADER_SIZE

WalIndex = NewType("WalIndex", int)
"""1, 2, 3 … without gaps, one for each entry. 0 means before the first."""

Epoch = NewType("Epoch", int)
"""1, 2, 3 …, one more at each claim. 0 means before the first."""

ENTRY_SIZE_MAX: Final = 1 * MIB
"""Bytes of the largest entry. It bounds the memory of readers that read entry by entry."""

ENTRY_WRITTEN_SIZE_MAX: Final = 900 * KIB
"""Bytes of an entry that is written. Message systems allow 1 MB for a message with its headers, so
an entry fits into one message. Earlier versions wrote up to ENTRY_SIZE_MAX."""

ENTRY_FIELDS_SIZE: Final = 56
"""Bytes of the fields before the body: epoch, id, previous hash, durable index, flags."""

BODY_SIZE_MAX: Final = ENTRY_WRITTEN_SIZE_MAX - ENTRY_HEADER_SIZE - ENTRY_FIELDS_SIZE
"""Bytes of an entry's body, so that the whole entry stays within ENTRY_WRITTEN_SIZE_MAX."""

LENGTH_SIZE: Final = 4
"""Bytes of the length before each record, or part of one, in a body: u32, big-endian."""

_LENGTH: Final = struct.Struct(">I")

FIRST_EPOCH: Final = Epoch(1)
"""The epoch of the first claim."""

FIRST_HASH: Final = bytes(16)
"""The previous hash of the very first entry."""


@dataclass(slots=True)
class WalEntry:
    """One entry. Not frozen: a restart makes one for each entry, and freezing triples that time.

    Attributes:
        index: its place in the log.
        epoch: the claim under which it was written.
        id: 16 bytes, unique: distinguishes a repeated submit from a new one with equal content.
        previous_hash: SHA-256 of the whole entry before it, the first 16 bytes.
        durable: the log was durable up to this index when the entry was written.
        continued: its record continues in the next entry.
        resumed: its record began in an earlier entry.
        body: the records, each preceded by its length.
    """

    index: WalIndex
    epoch: Epoch
    id: bytes
    previous_hash: bytes
    durable: WalIndex
    continued: bool
    resumed: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class LogEnd:
    """What the entry after an index must fit: that index, its epoch, and the hash of its entry."""

    index: WalIndex
    epoch: Epoch
    hash: bytes


class LogCursor(Protocol):
    """Reads a log onwards, entry by entry as packed bytes. It remembers its place."""

    def take(self, size_max: int) -> list[bytes]:
        """The next durable entries: at least one if there is any, and about *size_max* bytes.

        Raises:
            Truncated: they were trimmed.
            DamagedFile: an entry fails its checks.
        """
        ...


class LogReader(Protocol):
    """Reads a log that may have its writer elsewhere."""

    @property
    def first_index(self) -> WalIndex:
        """The oldest entry that was not trimmed; last_index + 1 if there is none."""
        ...

    @property
    def last_index(self) -> WalIndex:
        """The newest durable entry; 0 if the log never had one."""
        ...

    @property
    def size(self) -> int:
        """Bytes of the entries from first_index to last_index, which a restart has to read."""
        ...

    def read(self, after: WalIndex) -> Iterator[WalEntry]:
        """The entries after an index, up to the last one at this moment.

        To follow the log, wait and read again.

        Raises:
            Truncated: the entry after *after* was trimmed.
            DamagedFile: an entry fails its checks, or is missing.
        """
        ...

    def wait(self, after: WalIndex, seconds: float) -> bool:
        """Block until there are entries after an index; False if none came within that time.

        For a thread of its own: the log may be elsewhere.
        """
        ...

    def cursor(self, after: WalIndex) -> LogCursor:
        """Begin to read packed entries after an index."""
        ...

    def end_at(self, index: WalIndex) -> LogEnd:
        """What the entry after *index* must fit.

        Raises:
            Truncated: that can be told neither from entry *index* nor from the next one.
            DamagedFile: the log has not got so far, or an entry fails its checks.
        """
        ...


class LogWriter(Protocol):
    """Appends groups of records. A writer needs a claim, and loses it to a later one."""

    def claim(self, after: WalIndex, *, at_least: Epoch = FIRST_EPOCH) -> Epoch:
        """Take the right to write, after reading everything up to *after*.

        The claim is an entry, so last_index grows by one. The previous writer can submit no more.
        The epoch is one more than the last, or *at_least* if that is greater.

        Raises:
            LogGoesOn: there are entries after *after*; read them first.
            DamagedFile: the log ends before *after*: durable entries are missing.
            DiskFull: there is no space; nothing was changed, try again later.
        """
        ...

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        """Append a group of records and wait until it is durable: `send`, then `confirm`.

        Returns:
            the index of the group's last entry.

        Raises:
            NotClaimed: there is no claim; Fenced: a later one replaced it.
            DiskFull: no space could be reserved before the write. Nothing was written, and the log
                is unchanged. This does not happen to groups within `room`.
            LogFailed: the log failed earlier; this group was not written.
            Exception: the write or sync failed. Whether the group is durable is unknown until the
                next start, and the log accepts no more groups.
        """
        ...

    def send(self, records: Sequence[bytes]) -> WalIndex:
        """Append a group and do not wait; return the index of its last entry.

        Groups that are sent become durable in their order. Raises as `submit`.
        """
        ...

    def confirm(self, index: WalIndex) -> None:
        """Wait until everything up to a sent index is durable.

        Raises:
            Unavailable: the outcome is unknown; call it again.
            Otherwise as `submit`.
        """
        ...

    def seal(self) -> None:
        """Append an empty entry that marks everything before it as durable.

        Call it at a clean stop or when idle: until another entry follows, a damaged last group
        cannot be told from a torn write. Does nothing if the last entry is empty.
        Raises as `submit` does.
        """
        ...


class WriteAheadLog(LogReader, LogWriter, Protocol):
    """An append-only log with one writer at a time. The module's docstring has the rules."""

    def ingest(self, entries: Sequence[bytes]) -> list[WalEntry]:
        """Append entries of another log, byte for byte, and wait until they are durable.

        Entries that this log has are skipped. What an entry says was durable is durable here
        before that entry is written, so this log tells a torn tail from corruption as the other.

        Returns:
            those that are new here, unpacked.

        Raises:
            Diverged: an entry does not continue this log: its writers went different ways.
            DamagedFile: an entry fails its checks, or entries before it are missing.
            DiskFull: there is no room; a prefix may have been written. Try again later.
            LogFailed, Exception: as `submit`.
        """
        ...

    @property
    def room(self) -> int:
        """Bytes of records, plus LENGTH_SIZE for each, for which `submit` has space reserved."""
        ...

    def roll(self) -> None:
        """Append an empty entry, so that everything before it can be trimmed.

        Raises as `submit` does.
        """
        ...

    def begin_segment(self, index: WalIndex) -> None:
        """Make entries up to an index trimmable, without an entry: for a copy.

        It does what `roll` does for a writer, and nothing if it was done for this index.

        Raises:
            DiskFull: there is no room; try again later.
        """
        ...

    def prepare(self) -> None:
        """Preallocate space ahead of need. Safe to call from another thread at any time.

        Raises:
            DiskFull: there is no space; nothing was changed, try again later.
        """
        ...

    def trim(self, below: WalIndex) -> None:
        """Allow the removal of entries below an index; some may stay. Safe in another thread."""
        ...

    def close(self) -> None:
        """Release all resources. Nothing is written."""
        ...


class Body(NamedTuple):
    """The contents of one entry: *parts* are concatenated to its body."""

    parts: list[bytes]
    continued: bool = False
    resumed: bool = False


def cut_into_bodies(records: list[bytes], body_size_max: int) -> list[Body]:
    """Distribute records over as few entries as their order and the rules allow."""
    size = LENGTH_SIZE * len(records)
    # A loop: compiled, it takes a twentieth of the time of `sum`.
    for record in records:
        size += len(record)
    if size <= body_size_max:
        return [Body(_framed(records))]
    bodies: list[Body] = []
    begin = size = 0
    for place, record in enumerate(records):
        size += LENGTH_SIZE + len(record)
        if size <= body_size_max:
            continue
        if begin < place:
            bodies.append(Body(_framed(records[begin:place])))
        begin = place
        size = LENGTH_SIZE + len(record)
        if size > body_size_max:
            bodies += _parts_of(record, body_size_max - LENGTH_SIZE)
            begin = place + 1
            size = 0
    if begin < len(records):
        bodies.append(Body(_framed(records[begin:])))
    return bodies


def _framed(records: list[bytes]) -> list[bytes]:
    # Pack all lengths together: one call for the group, not one for each record.
    lengths = array("I", map(len, records))
    if sys.byteorder == "little":
        lengths.byteswap()
    packed = lengths.tobytes()
    framed: list[bytes] = []
    at = 0
    for record in records:
        framed.append(packed[at : at + LENGTH_SIZE])
        framed.append(record)
        at += LENGTH_SIZE
    return framed


def _parts_of(record: bytes, size_max: int) -> Iterator[Body]:
    for start in range(0, len(record), size_max):
        part = record[start : start + size_max]
        yield Body(
            _framed([part]),
            continued=start + size_max < len(record),
            resumed=start > 0,
        )


def records(entries: Iterable[WalEntry]) -> Iterator[tuple[WalIndex, bytes]]:
    """The records of consecutive entries, each with the index of the entry that completes it."""
    for index, completed in records_by_entry(entries):
        for record in completed:
            yield index, record


class RecordAssembler:
    """Puts the records of consecutive entries together.

    A record without its last part is dropped: the power failed during its write, so nobody was told
    that it is durable. The rest of a record that began before the first entry is dropped, too.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._epoch = Epoch(0)
        self._before: list[bytes] = []

    @property
    def is_between_records(self) -> bool:
        """Whether no record has begun and is not complete."""
        return not self._parts

    def undo(self) -> None:
        """Forget the last entry: it is added again later."""
        self._parts[:] = self._before

    def add(self, entry: WalEntry) -> list[bytes]:
        """The records that the next entry completes."""
        parts = self._parts
        self._before = parts.copy() if entry.resumed else []
        # The writer of an unfinished record died, and a later writer began a new one.
        if not entry.resumed or entry.epoch != self._epoch:
            parts.clear()
            self._epoch = entry.epoch
        if entry.resumed and not parts:
            return []
        body = entry.body
        if entry.continued or entry.resumed:
            parts.append(body[LENGTH_SIZE:])
            if entry.continued:
                return []
            whole = b"".join(parts)
            parts.clear()
            return [whole]
        return _cut(body) if body else []


def records_by_entry(entries: Iterable[WalEntry]) -> Iterator[tuple[WalIndex, list[bytes]]]:
    """The records that each of consecutive entries completes, for those that complete any."""
    assembler = RecordAssembler()
    for entry in entries:
        completed = assembler.add(entry)
        if completed:
            yield entry.index, completed


def _cut(body: bytes) -> list[bytes]:
    """The records of a body that has only whole ones."""
    found: list[bytes] = []
    start = 0
    end = len(body)
    while start < end:
        # Compiled, this takes a third of the time of struct.unpack.
        length = body[start] << 24 | body[start + 1] << 16 | body[start + 2] << 8 | body[start + 3]
        start += LENGTH_SIZE
        stop = start + length
        assert stop <= end, "a body with a valid checksum has valid lengths"
        found.append(body[start:stop])
        start = stop
    return found
