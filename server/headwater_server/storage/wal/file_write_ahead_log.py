"""The write-ahead log in files: one preallocated segmented log, with one sync for each group.

Opening does the following, in this order:

1. Check every entry (check.py). If the log is corrupt, refuse to open it.
2. Copy a torn tail to a separate file, then erase it; sync both. So bytes that a dead writer left
   beyond the end cannot be mistaken for those of a later writer.
3. Write the last group again in the same place, and sync. If the last process died between write
   and sync, its bytes may be in the page cache only. If its sync failed, the kernel believes them
   written, so only a new write makes a new sync effective.
4. Sync the directory: the name of a segment that was just renamed may be in the cache only.

The check keeps entries in memory, as many as there is room for, and the replay reads these first.
So most restarts read and hash the log once, and replay exactly the bytes that were checked. The
remaining entries are read and checked again.

A submit is one write and one fdatasync; if it crosses into the next segment, one of each in both.
"""

import random as random_module
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from headwater_protocol.limits import MIB
from headwater_server.storage.errors import DiskFull, LogFailed, LogGoesOn, NotClaimed
from headwater_server.storage.files.file_system import FileSystem, make_durable_directory
from headwater_server.storage.log.log_segment import SEGMENT_HEADER_SIZE, damaged, end_of_data
from headwater_server.storage.log.segmented_log import LogLayout, Place, SegmentedLog
from headwater_server.storage.wal.check import (
    Damage,
    KeptEntries,
    LogReport,
    as_error,
    check_log,
)
from headwater_server.storage.wal.entry import (
    ChainEnd,
    attachment,
    attachment_of,
    chain_before,
    pack,
    unpack,
)
from headwater_server.storage.wal.interface import (
    BODY_SIZE_MAX,
    ENTRY_SIZE_MAX,
    FIRST_HASH,
    Body,
    Epoch,
    WalEntry,
    WalIndex,
    cut_into_bodies,
)

SEGMENT_SIZE_DEFAULT: Final = 16 * MIB
"""Bytes of a segment. Not too small: crossing into the next costs two more syncs. Not too large:
filling a spare with zeros takes the disk's bandwidth for a while."""

COPIES_MAX: Final = 16
"""Torn tails that are kept. Each is up to a group, so a server that crashes repeatedly would fill
the disk with them. Nobody was told that their contents are durable."""

KEPT_SIZE_DEFAULT: Final = 16 * MIB
"""Bytes of memory for the entries that the check keeps for the replay: the log of two full
memtables of small commits. Each is freed when the replay reads it."""

SEGMENT_SIZE_MIN: Final = SEGMENT_HEADER_SIZE + 512
"""Bytes of the smallest allowed segment, for tests that cross segments often."""

_BEGUN_SIZE: Final = SEGMENT_HEADER_SIZE + ENTRY_SIZE_MAX
"""Bytes of the first segment of a log for a copy: the largest entry fits."""

_OVERHEAD: Final = ENTRY_SIZE_MAX - BODY_SIZE_MAX + 7
"""Bytes of an entry besides its body: its header, its fields, and zeros up to a multiple of 8."""


Timed = Callable[[Callable[[], None]], None]
"""Makes a call, and may measure how long it takes."""


def untimed(call: Callable[[], None]) -> None:
    """Make the call."""
    call()


def _layout(database_id: bytes, segment_size: int) -> LogLayout:
    assert segment_size >= SEGMENT_SIZE_MIN
    return LogLayout(
        kind=b"wal",
        suffix=".wal",
        database_id=database_id,
        segment_size=segment_size,
        entry_size_max=ENTRY_SIZE_MAX,
        preallocate=True,
        attachment_of=attachment_of,
    )


class FileWriteAheadLog:
    """A WriteAheadLog on a FileSystem. The caller has locked the data directory.

    Attributes:
        torn: the torn tail that `open` found and set aside; None if there was none.
    """

    def __init__(
        self,
        log: SegmentedLog,
        report: LogReport,
        random: random_module.Random,
        kept: KeptEntries,
    ) -> None:
        self.torn: Damage | None = None
        self._kept = kept.entries
        self._log = log
        self._random = random
        self._last: ChainEnd = report.last
        self._epoch: Epoch | None = None
        self._failure: BaseException | None = None
        self._timed: Timed = untimed
        # An entry must fit into a new segment and into the one that is still open.
        smallest = min(log.layout.segment_size, log.limit) - SEGMENT_HEADER_SIZE
        self._entry_size_max = min(ENTRY_SIZE_MAX, smallest & ~7)
        self._body_size_max = self._entry_size_max - _OVERHEAD

    @classmethod
    def open(
        cls,
        file_system: FileSystem,
        directory: str,
        *,
        database_id: bytes,
        random: random_module.Random,
        segment_size: int = SEGMENT_SIZE_DEFAULT,
        known_durable: WalIndex = WalIndex(0),  # noqa: B008
        kept_size_max: int = KEPT_SIZE_DEFAULT,
        timed: Timed = untimed,
        lock: AbstractContextManager[object] | None = None,
    ) -> "FileWriteAheadLog":
        """Open the log in *directory*, or begin one if there is none.

        *known_durable* is an index that is known to have been durable, for example from a
        checkpoint: a log without it, or any entry before it, is damaged. *random* draws entry ids.
        Up to *kept_size_max* bytes of entries are kept for the first read, or until the claim.
        *timed* makes the fsyncs of groups, and may measure how long they take.
        *lock* is passed to the segments; see SegmentedLog.open.

        Raises:
            DamagedFile: something durable is lost; the message says what a repair discards.
            FormatTooNew: a newer version wrote the log.
            DiskFull: no room for a first segment, or for the copy of a torn tail.
        """
        make_durable_directory(file_system, directory)
        log = SegmentedLog.open(
            file_system, directory, _layout(database_id, segment_size), lock=lock
        )
        try:
            if not log.segments:
                if known_durable or log.has_copies:
                    raise damaged(
                        directory, 0, f"no log; entries up to {known_durable} were durable"
                    )
                log.start(1, attachment(Epoch(0), FIRST_HASH))
            kept = KeptEntries(kept_size_max)
            report = check_log(log, known_durable=known_durable, on_entry=kept.add)
            damage = report.damage
            if damage is not None and cls._is_corruption(damage):
                raise as_error(damage)
            log.resume(report.last.index + 1, report.end)
            if damage is not None:
                segment = log.segments[-1]
                if damage.end > damage.offset:
                    log.keep_copy(segment, damage.offset, damage.end)
                log.cut(Place(report.segment, report.end), report.last.index + 1)
                log.remove_old_copies(COPIES_MAX)
            _write_again(log, report)
            file_system.sync_directory(directory)
        except BaseException:
            log.close()
            raise
        opened = cls(log, report, random, kept)
        opened._timed = timed
        opened.torn = damage
        # All entries are durable now, even those that were not before.
        opened._last = report.last.all_durable()
        return opened

    @staticmethod
    def _is_corruption(damage: Damage) -> bool:
        """Whether damage is corruption. A test replaces this method, to see the data loss."""
        return damage.is_corruption

    @property
    def first_index(self) -> WalIndex:
        return WalIndex(self._log.segments[0].first_index)

    @property
    def last_index(self) -> WalIndex:
        return self._last.index

    @property
    def size(self) -> int:
        return self._log.size

    @property
    def room(self) -> int:
        left = self._log.limit - self._log.end
        spares = self._log.spares
        whole = self._body_size_max if spares else min(self._body_size_max, left - _OVERHEAD)
        # At the end of each segment, a group of several entries wastes less than one entry, and
        # it may need up to three entries where one full body would do.
        entry = self._entry_size_max
        capacity = self._log.layout.segment_size - SEGMENT_HEADER_SIZE
        bytes_left = max(0, left - entry) + spares * max(0, capacity - entry) - 3 * _OVERHEAD
        many = bytes_left * self._body_size_max // (self._body_size_max + 3 * _OVERHEAD)
        return max(0, whole, many)

    def read(self, after: WalIndex) -> Iterator[WalEntry]:
        last = self._last.index
        if after >= last:
            return
        if after + 1 < self.first_index:
            raise damaged(
                self._log.directory,
                0,
                f"entry {after + 1} was trimmed; the log begins with entry {self.first_index}",
            )
        kept = self._kept
        # One reader gets each kept entry; later readers read the file.
        while kept and kept[0].index <= after + 1:
            entry = kept.popleft()
            if entry.index > after:
                after = entry.index
                yield entry
        if after >= last:
            return
        chain: ChainEnd | None = None
        segments = list(self._log.segments)
        first = self._log.segment_of(after + 1) or segments[0]
        for segment in segments[segments.index(first) :]:
            assert segment.header is not None
            if chain is None:
                chain = chain_before(segment.first_index, segment.header.attachment)
            scanner = self._log.scan(segment)
            for packed in scanner:
                found = unpack(packed)
                chain_error = "not an entry of this log" if found is None else chain.error_of(found)
                if found is None or chain_error is not None:
                    raise damaged(
                        segment.path, scanner.offset, f"it changed since open: {chain_error}"
                    )
                if found.index > after:
                    yield found
                if found.index == last:
                    return
                chain = chain.then(found, packed)
            if scanner.problem is not None:
                raise damaged(
                    segment.path, scanner.offset, f"it changed since open: {scanner.problem}"
                )
        raise damaged(self._log.directory, 0, f"entry {last} is gone since open")

    def claim(self, after: WalIndex) -> Epoch:
        if self._failure is not None:
            raise LogFailed("the log failed before") from self._failure
        if after < self._last.index:
            raise LogGoesOn(f"claim after entry {after}; the log ends with {self._last.index}")
        if after > self._last.index:
            raise damaged(
                self._log.directory,
                0,
                f"entry {after} was durable, but the log ends with entry {self._last.index}",
            )
        epoch = Epoch(self._last.epoch + 1)
        self._append([Body([])], epoch)
        self._epoch = epoch
        self._kept.clear()
        return epoch

    def submit(self, records: Sequence[bytes]) -> WalIndex:
        assert records
        if self._epoch is None:
            raise NotClaimed("submit without a claim")
        self._append(cut_into_bodies(list(records), self._body_size_max), self._epoch)
        return self._last.index

    def seal(self) -> None:
        if self._epoch is None:
            raise NotClaimed("seal without a claim")
        if not self._last.is_empty:
            self._append([Body([])], self._epoch)

    def roll(self) -> None:
        if self._epoch is None:
            raise NotClaimed("roll without a claim")
        # Only whole segments are trimmed, so the entry goes to a new segment.
        self._log.limit = self._log.end
        self._append([Body([])], self._epoch)

    def _append(self, bodies: Sequence[Body], epoch: Epoch) -> None:
        """Write one group and sync it."""
        if self._failure is not None:
            raise LogFailed("the log failed before") from self._failure
        # Each entry says what was durable before this group: a group cannot confirm itself.
        durable = self._last.index
        last = self._last
        entries: list[bytes] = []
        for body in bodies:
            packed, last = pack(body, last, epoch, self._random.randbytes(16), durable)
            entries.append(packed)
        log = self._log
        if len(entries) > 1 or log.end + len(entries[0]) > log.limit:
            log.reserve(entries)
        try:
            log.append(entries)
            if self._timed is untimed:
                log.sync()
            else:
                self._timed(log.sync)
        except BaseException as error:
            # Do not use this log again: a second sync could report success for lost pages.
            self._failure = error
            if isinstance(error, DiskFull):
                raise LogFailed("a write into preallocated space found the disk full") from error
            raise
        self._last = last

    def prepare(self) -> None:
        self._log.prepare()

    def trim(self, below: WalIndex) -> None:
        self._log.remove_below(below)

    def close(self) -> None:
        self._log.close()


def _write_again(log: SegmentedLog, report: LogReport) -> None:
    """Make the last group durable, even if its sync failed before. See the module."""
    file = log.segments[-1].file
    for at in range(report.unconfirmed, report.end, MIB):
        file.write_at(at, file.read_at(at, min(MIB, report.end - at)))
    file.sync()


# For `headwater check` and `headwater repair`.


def check_files(
    file_system: FileSystem,
    directory: str,
    *,
    database_id: bytes,
    known_durable: WalIndex = WalIndex(0),  # noqa: B008
) -> LogReport | None:
    """Read every byte of the log and change nothing; None if there is no log.

    `damage.describe()` of the report says what is wrong, and what a repair would discard.
    """
    if not file_system.exists(directory):
        return None
    layout = _layout(database_id, SEGMENT_SIZE_DEFAULT)
    log = SegmentedLog.open(file_system, directory, layout, writable=False)
    try:
        return check_log(log, known_durable=known_durable) if log.segments else None
    finally:
        log.close()


def read_files(
    file_system: FileSystem, directory: str, *, database_id: bytes
) -> Iterator[WalEntry]:
    """The entries of a log up to its first damage. Changes nothing."""
    layout = _layout(database_id, SEGMENT_SIZE_DEFAULT)
    log = SegmentedLog.open(file_system, directory, layout, writable=False)
    try:
        if not log.segments:
            return
        last = check_log(log, known_durable=WalIndex(0)).last.index
        for segment in log.segments:
            for packed in log.scan(segment):
                entry = unpack(packed)
                if entry is None or entry.index > last:
                    return
                yield entry
    finally:
        log.close()


def begin_files(
    file_system: FileSystem, directory: str, *, database_id: bytes, after: WalIndex
) -> None:
    """Make an empty log, durably, whose first entry will be the one after *after*.

    It belongs to a copy of the other files, which hold all data of the entries up to *after*.

    Raises:
        DiskFull: there is no room.
    """
    # Small: most copies are never written to. Later segments have the usual size.
    log = SegmentedLog(file_system, directory, _layout(database_id, _BEGUN_SIZE))
    try:
        log.start(after + 1, attachment(Epoch(0), FIRST_HASH))
    finally:
        log.close()


@dataclass(frozen=True, slots=True)
class Repair:
    """The result of a repair.

    Attributes:
        last_index: the last entry of the log now.
        copies: files with the discarded bytes.
    """

    last_index: WalIndex
    copies: tuple[str, ...]


def repair_files(
    file_system: FileSystem,
    directory: str,
    *,
    database_id: bytes,
    segment_size: int = SEGMENT_SIZE_DEFAULT,
) -> Repair | None:
    """Cut the log before its first damage, and keep the discarded bytes in files beside it.

    Returns None if the log is sound and was not changed. Entries before the damage stay. All later
    ones are discarded, even sound ones, because a log must not have gaps.
    """
    layout = _layout(database_id, segment_size)
    log = SegmentedLog.open(file_system, directory, layout)
    try:
        report = check_log(log, known_durable=WalIndex(0)) if log.segments else None
        if report is None or report.damage is None:
            return None
        copies: list[str] = []
        last = report.last
        if log.segments[0].problem is not None:
            while log.segments:
                copies.append(log.set_last_aside())
            log.start(last.index + 1, attachment(last.epoch, last.hash))
        else:
            segment = log.segment_of(report.segment)
            assert segment is not None
            end = max(report.end, report.damage.end)
            if report.damage.path == segment.path and end > report.end:
                copies.append(log.keep_copy(segment, report.end, end))
            place = Place(report.segment, report.end)
            copies += log.cut(place, last.index + 1)
        return Repair(last.index, tuple(copies))
    finally:
        log.close()


def cut_files(
    file_system: FileSystem,
    directory: str,
    *,
    database_id: bytes,
    before: WalIndex,
    segment_size: int = SEGMENT_SIZE_DEFAULT,
) -> Repair:
    """Cut a sound log before one of its entries, as `repair_files` does at damage."""
    layout = _layout(database_id, segment_size)
    log = SegmentedLog.open(file_system, directory, layout)
    try:
        copies: list[str] = []
        last = check_log(log, known_durable=WalIndex(0)).last
        while log.segments and log.segments[-1].first_index >= before:
            copies.append(log.set_last_aside())
        if not log.segments:
            log.start(last.index + 1, attachment(last.epoch, last.hash))
            return Repair(last.index, tuple(copies))
        segment = log.segments[-1]
        scanner = log.scan(segment)
        for _ in scanner:
            if scanner.index == before:
                break
        # `scanner.offset` is that of the entry that it yielded last.
        place = Place(segment.first_index, scanner.offset)
        behind = end_of_data(segment.file, place.offset)
        if behind > place.offset:
            copies.append(log.keep_copy(segment, place.offset, behind))
        log.cut(place, before)
        return Repair(WalIndex(before - 1), tuple(copies))
    finally:
        log.close()
