"""The write-ahead log as the engine sees it: entries with dense indexes, and one writer.

The log is the database; everything else on the disk is derived from it. The engine hands in
groups of records and waits until they are durable; at the next start it reads them back in
order. Where the log lies (files here, memory in tests, several machines later) does not show.

    index     1        2          3          4          5         6
    epoch     1        1          1          1          2         2
    body      (claim)  [A] [B]    [C ..      .. C]      (claim)   [D]
                                  continued  resumed

- An entry holds whole records, or one part of a record too large for it: nothing else.
- `claim` takes the right to write and is an entry itself, with no records, so that two writers
  never share an epoch, even if the first wrote nothing.
- Every entry says up to which index the log was durable when it was written. Such an entry
  vouches for those before it: if one of them is damaged, that was no torn write.
- `previous_hash` chains the entries: a reader accepts one only if it follows the last accepted.

A group is durable as a whole when `submit` returns. After a power loss during `submit`, any
first part of its entries may be found; a record counts only when its last part is there.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NewType, Protocol

from headwater_protocol.limits import MIB
from headwater_server.storage.log.log_segment import ENTRY_HEADER_SIZE

WalIndex = NewType("WalIndex", int)
"""1, 2, 3 … without gaps, one for each entry. 0 is before the first."""

Epoch = NewType("Epoch", int)
"""1, 2, 3 …, one more at each claim. 0 is before the first."""

ENTRY_SIZE_MAX: Final = 1 * MIB
"""Bytes of an entry. A replica takes entries one by one, and keeps some of them in memory."""

ENTRY_FIELDS_SIZE: Final = 56
"""Bytes of the fields before the body: epoch, id, previous hash, durable index, flags."""

BODY_SIZE_MAX: Final = ENTRY_SIZE_MAX - ENTRY_HEADER_SIZE - ENTRY_FIELDS_SIZE
"""Bytes of an entry's body, so that the whole entry keeps to ENTRY_SIZE_MAX."""

LENGTH_SIZE: Final = 4
"""Bytes of the length before each record, or part of one, in a body: u32, big-endian."""

_LENGTH: Final = struct.Struct(">I")

FIRST_HASH: Final = bytes(16)
"""What the first entry of all has as the hash of the one before it."""


@dataclass(slots=True)
class WalEntry:
    """One entry. Not frozen: a restart makes one for each, and freezing takes thrice as long.

    Attributes:
        index: its place in the log.
        epoch: the claim under which it was written.
        id: 16 bytes, unique: tells a repeated submit from another one with the same content.
        previous_hash: SHA-256 of the whole entry before it, the first 16 bytes.
        durable: the log was durable up to this index when the entry was written.
        continued: its record goes on in the next entry.
        resumed: its record began in an entry before it.
        body: the records, each with its length before it.
    """

    index: WalIndex
    epoch: Epoch
    id: bytes
    previous_hash: bytes
    durable: WalIndex
    continued: bool
    resumed: bool
    body: bytes


class WriteAheadLog(Protocol):
    """An append-only log with one writer at a time. See the module for the rules."""

    @property
    def first_index(self) -> WalIndex:
        """The oldest entry that was not trimmed; last_index + 1 if there is none."""
        ...

    @property
    def last_index(self) -> WalIndex:
        """The newest durable entry; 0 if there was never one."""
        ...

    @property
    def size(self) -> int:
        """Bytes that the entries take, from first_index to last_index. It bounds a restart."""
        ...

    @property
    def room(self) -> int:
        """Bytes of records, with LENGTH_SIZE more for each, that `submit` surely has space for."""
        ...

    def read(self, after: WalIndex) -> Iterator[WalEntry]:
        """The entries after an index, up to the last one as of now. To follow, read again.

        Raises:
            DamagedFile: an entry fails its checks, or was trimmed.
        """
        ...

    def claim(self, after: WalIndex) -> Epoch:
        """Take the right to write, as one who has read everything up to *after*.

        It is written to the log, so last_index is one more afterwards; whoever held the right
        before can submit no more.

        Raises:
            LogGoesOn: there are entries after *after*; read them first.
            DamagedFile: the log ends before *after*: entries that were durable are missing.
            DiskFull: no space for it; nothing was changed, and it may be tried again.
        """
        ...

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        """Append a group of records and wait until it is durable.

        Returns:
            the index of the group's last entry.

        Raises:
            NotClaimed: there is no claim, or a later one took its place.
            DiskFull: no space could be had ahead of the write. Nothing was written, and the log
                is as it was. Does not happen to groups that keep to `room`.
            LogFailed: it failed earlier; this group was not written.
            Exception: whatever failed. The group's fate is open until the next start, and
                the log takes no more.
        """
        ...

    def seal(self) -> None:
        """Append an entry without records that vouches for everything before it.

        For a clean stop, or a quiet moment: until another entry follows, a damaged last group
        cannot be told from a torn write. Does nothing if the last entry has no records.
        Raises as `submit` does.
        """
        ...

    def roll(self) -> None:
        """Append an entry without records, so that everything before it can be trimmed.

        Raises as `submit` does.
        """
        ...

    def prepare(self) -> None:
        """Get space ahead of need. May run in another thread beside everything else.

        Raises:
            DiskFull: there is none; nothing was changed, and it may be tried again.
        """
        ...

    def trim(self, below: WalIndex) -> None:
        """Allow entries below an index to go. Some of them may stay. May run in another thread."""
        ...

    def close(self) -> None:
        """Let go of everything. Nothing is written."""
        ...


class Body(NamedTuple):
    """What one entry is to carry: *parts*, whose concatenation is its body."""

    parts: Sequence[bytes]
    continued: bool = False
    resumed: bool = False


def cut_into_bodies(records: Sequence[bytes], body_size_max: int) -> list[Body]:
    """Spread records over as few entries as their order and the rules allow."""
    if sum(map(len, records)) + LENGTH_SIZE * len(records) <= body_size_max:
        return [Body(_framed(records))]
    bodies: list[Body] = []
    begin = 0
    size = 0
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


def _framed(records: Sequence[bytes]) -> list[bytes]:
    # All lengths at once; each is four bytes of it.
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


def records_by_entry(entries: Iterable[WalEntry]) -> Iterator[tuple[WalIndex, list[bytes]]]:
    """The records that each of consecutive entries completes, for those that complete any.

    A record whose last part is missing is dropped: the power failed while it was written, so
    nobody was told that it is durable. So is the rest of one that began before the first entry.
    """
    parts: list[bytes] = []
    epoch = Epoch(0)
    for entry in entries:
        # A fresh start after an unfinished record: its writer died, and this is a later one.
        if not entry.resumed or entry.epoch != epoch:
            parts.clear()
            epoch = entry.epoch
        if entry.resumed and not parts:
            continue
        body = entry.body
        if entry.continued or entry.resumed:
            parts.append(body[LENGTH_SIZE:])
            if not entry.continued:
                yield entry.index, [b"".join(parts)]
                parts.clear()
        elif body:
            yield entry.index, _cut(body)


def _cut(body: bytes) -> list[bytes]:
    """The records of a body that has whole ones alone."""
    found: list[bytes] = []
    start = 0
    end = len(body)
    while start < end:
        # By hand, in a third of the time that a struct takes once this is compiled.
        length = body[start] << 24 | body[start + 1] << 16 | body[start + 2] << 8 | body[start + 3]
        start += LENGTH_SIZE
        stop = start + length
        assert stop <= end, "a body's checksum is right, so its lengths are"
        found.append(body[start:stop])
        start = stop
    return found
