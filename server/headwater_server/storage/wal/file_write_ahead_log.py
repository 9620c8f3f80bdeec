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
from dataclasses import replace
from typing import Final, NoReturn

from headwater_protocol.limits import MIB
from headwater_server.storage.errors import (
    DiskFull,
    Diverged,
    LogFailed,
    LogGoesOn,
    NotClaimed,
    Truncated,
)
from headwater_server.storage.files.file_system import FileSystem, make_durable_directory
from headwater_server.storage.log.log_segment import SEGMENT_HEADER_SIZE, damaged
from headwater_server.storage.log.segmented_log import LogLayout, Place, SegmentedLog
from headwater_server.storage.wal.arrivals import Arrivals
from headwater_server.storage.wal.check import (
    Damage,
    KeptEntries,
    LogReport,
    as_error,
    check_log,
)
from headwater_server.storage.wal.cursor import FileCursor
from headwater_server.storage.wal.entry import (
    ChainEnd,
    attachment,
    attachment_of,
    chain_before,
    checked,
    hash_of,
    pack,
    unpack,
)
from headwater_server.storage.wal.interface import (
    BODY_SIZE_MAX,
    ENTRY_SIZE_MAX,
    ENTRY_WRITTEN_SIZE_MAX,
    FIRST_EPOCH,
    FIRST_HASH,
    Body,
    Epoch,
    LogEnd,
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

_OVERHEAD: Final = ENTRY_WRITTEN_SIZE_MAX - BODY_SIZE_MAX + 7
"""Bytes of an entry besides its body: its header, its fields, and zeros up to a multiple of 8."""


Timed = Callable[[Callable[[], None]], None]
"""Makes a call, and may measure how long it takes."""


def untimed(call: Callable[[], None]) -> None:
    """Make the call."""
    call()


def wal_layout(database_id: bytes, segment_size: int) -> LogLayout:
    """How the segments of a write-ahead log lie in files."""
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
        # The chain's end on the disk, and that of all groups sent, which is ahead of it.
        self._last: ChainEnd = report.last
        self._end: ChainEnd = report.last
        self._epoch: Epoch | None = None
        self._failure: BaseException | None = None
        self._timed: Timed = untimed
        self._arrivals = Arrivals()
        # An entry must fit into a new segment and into the one that is still open.
        smallest = min(log.layout.segment_size, log.limit) - SEGMENT_HEADER_SIZE
        self._entry_size_max = min(ENTRY_WRITTEN_SIZE_MAX, smallest & ~7)
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
            file_system, directory, wal_layout(database_id, segment_size), lock=lock
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
        opened._last = opened._end = report.last.all_durable()
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
            raise Truncated(after + 1, self.first_index)
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
        for place in range(segments.index(first), len(segments)):
            segment = segments[place]
            following = segments[place + 1].first_index if place + 1 < len(segments) else 0
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
                if found.index + 1 == following:
                    # The reader may have trimmed the log up to here, so this file may be closed.
                    break
            if scanner.problem is not None:
                raise damaged(
                    segment.path, scanner.offset, f"it changed since open: {scanner.problem}"
                )
        raise damaged(self._log.directory, 0, f"entry {last} is gone since open")

    def wait(self, after: WalIndex, seconds: float) -> bool:
        return self._arrivals.wait(lambda: self._last.index > after, seconds)

    def cursor(self, after: WalIndex) -> FileCursor:
        return FileCursor(self._log, after, lambda: self._last.index)

    def end_at(self, index: WalIndex) -> LogEnd:
        last = self._last
        if index == last.index:
            return LogEnd(index, last.epoch, last.hash)
        if index > last.index:
            raise damaged(
                self._log.directory, 0, f"entry {index} is asked for; the last is {last.index}"
            )
        (packed,) = self.cursor(index).take(1)
        following = unpack(packed)
        assert following is not None, "the cursor checks entries"
        return LogEnd(index, following.epoch, following.previous_hash)

    def claim(self, after: WalIndex, *, at_least: Epoch = FIRST_EPOCH) -> Epoch:
        self._check_failure()
        if after < self._last.index:
            raise LogGoesOn(f"claim after entry {after}; the log ends with {self._last.index}")
        if after > self._last.index:
            raise damaged(
                self._log.directory,
                0,
                f"entry {after} was durable, but the log ends with entry {self._last.index}",
            )
        epoch = max(Epoch(self._last.epoch + 1), at_least)
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

    def send(self, records: Sequence[bytes]) -> WalIndex:
        assert records
        if self._epoch is None:
            raise NotClaimed("send without a claim")
        self._write(cut_into_bodies(list(records), self._body_size_max), self._epoch)
        return self._end.index

    def confirm(self, index: WalIndex) -> None:
        assert index <= self._end.index, "it was sent"
        if index > self._last.index:
            if self._failure is not None:
                self._check_failure()
            self._sync()

    def seal(self) -> None:
        if self._epoch is None:
            raise NotClaimed("seal without a claim")
        if not self._end.is_empty:
            self._append([Body([])], self._epoch)

    def roll(self) -> None:
        if self._epoch is None:
            raise NotClaimed("roll without a claim")
        # Only whole segments are trimmed, so the entry goes to a new segment.
        self._log.limit = self._log.end
        self._append([Body([])], self._epoch)

    def begin_segment(self, index: WalIndex) -> None:
        self._check_failure()
        last = self._last
        assert last is self._end, "everything is durable"
        if self._log.segments[-1].first_index > min(index, last.index):
            return
        self._log.prepare()
        try:
            self._log.begin_segment(attachment(last.epoch, last.hash))
        except BaseException as error:
            self._failure = error
            raise

    def ingest(self, entries: Sequence[bytes]) -> list[WalEntry]:
        self._check_failure()
        assert self._epoch is None, "a copy has no writer of its own"
        chain = replace(self._end, durable=WalIndex(0))
        new: list[WalEntry] = []
        run: list[bytes] = []
        for packed in entries:
            entry = checked(packed)
            if entry.index <= chain.index:
                if entry.index == chain.index and hash_of(packed) != chain.hash:
                    raise Diverged(entry.index, "it has another hash")
                continue
            chain.check_continued(entry)
            if run and entry.durable > self._last.index:
                # The entry says that the run is durable, so a torn write must not part them.
                self._append_packed(run, chain)
                run = []
            run.append(packed)
            new.append(entry)
            chain = chain.then(entry, packed)
        if run:
            self._append_packed(run, chain)
        return new

    def _append(self, bodies: Sequence[Body], epoch: Epoch) -> None:
        """Write one group and sync it."""
        self._write(bodies, epoch)
        self._sync()

    def _append_packed(self, entries: list[bytes], end: ChainEnd) -> None:
        self._write_packed(entries)
        self._end = end
        self._sync()

    def _write(self, bodies: Sequence[Body], epoch: Epoch) -> None:
        self._check_failure()
        # Each entry says what was durable before this group: a group cannot confirm itself.
        durable = self._last.index
        end = self._end
        entries: list[bytes] = []
        for body in bodies:
            packed, end = pack(body, end, epoch, self._random.randbytes(16), durable)
            entries.append(packed)
        self._write_packed(entries)
        self._end = end

    def _write_packed(self, entries: list[bytes]) -> None:
        log = self._log
        if len(entries) > 1 or log.end + len(entries[0]) > log.limit:
            log.reserve(entries)
        try:
            log.append(entries)
        except BaseException as error:
            self._fail(error)

    def _sync(self) -> None:
        """Make everything durable that was written."""
        end = self._end
        try:
            if self._timed is untimed:
                self._log.sync()
            else:
                self._timed(self._log.sync)
        except BaseException as error:
            self._fail(error)
        self._last = end
        self._arrivals.announce()

    def _check_failure(self) -> None:
        if self._failure is not None:
            raise LogFailed("the log failed before") from self._failure

    def _fail(self, error: BaseException) -> NoReturn:
        # Do not use this log again: a second sync could report success for lost pages.
        self._failure = error
        if isinstance(error, DiskFull):
            raise LogFailed("a write into preallocated space found the disk full") from error
        raise error

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
