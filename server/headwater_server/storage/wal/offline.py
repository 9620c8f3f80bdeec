"""The files of a write-ahead log while no server runs: check, read, begin, repair and cut.

For `headwater check` and `headwater repair`, and for copies of a database.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.log.log_segment import SEGMENT_HEADER_SIZE, end_of_data
from headwater_server.storage.log.segmented_log import Place, SegmentedLog
from headwater_server.storage.wal.check import LogReport, check_log
from headwater_server.storage.wal.entry import attachment, unpack
from headwater_server.storage.wal.file_write_ahead_log import (
    SEGMENT_SIZE_DEFAULT,
    FileWriteAheadLog,
    wal_layout,
)
from headwater_server.storage.wal.interface import (
    ENTRY_SIZE_MAX,
    FIRST_HASH,
    Epoch,
    LogEnd,
    WalEntry,
    WalIndex,
)

_BEGUN_SIZE: Final = SEGMENT_HEADER_SIZE + ENTRY_SIZE_MAX
"""Bytes of the first segment of a log for a copy: the largest entry fits."""


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
    layout = wal_layout(database_id, SEGMENT_SIZE_DEFAULT)
    log = SegmentedLog.open(file_system, directory, layout, writable=False)
    try:
        return check_log(log, known_durable=known_durable) if log.segments else None
    finally:
        log.close()


def read_files(
    file_system: FileSystem, directory: str, *, database_id: bytes
) -> Iterator[WalEntry]:
    """The entries of a log up to its first damage. Changes nothing."""
    layout = wal_layout(database_id, SEGMENT_SIZE_DEFAULT)
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
    file_system: FileSystem,
    directory: str,
    *,
    database_id: bytes,
    after: WalIndex,
    end: LogEnd | None = None,
) -> None:
    """Make an empty log, durably, whose first entry will be the one after *after*.

    It belongs to a copy of the other files, which hold all data of the entries up to *after*.
    *end*: the entries after *after* will be those of another log, which continues there.

    Raises:
        DiskFull: there is no room.
    """
    # Small: most copies are never written to. Later segments have the usual size.
    log = SegmentedLog(file_system, directory, wal_layout(database_id, _BEGUN_SIZE))
    try:
        if end is None:
            log.start(after + 1, attachment(Epoch(0), FIRST_HASH))
        else:
            assert end.index == after
            log.start(after + 1, attachment(end.epoch, end.hash))
    finally:
        log.close()


def open_copied(
    file_system: FileSystem, path: str, *, database_id: bytes, end: LogEnd
) -> FileWriteAheadLog:
    """Open the log of a copy, or begin one whose entries continue those of another at *end*.

    Raises:
        DamagedFile, DiskFull: see FileWriteAheadLog.open.
    """
    if not any(name.endswith(".wal") for name in file_system.list(path)):
        begin_files(file_system, path, database_id=database_id, after=end.index, end=end)
    # The random source draws ids of new entries, of which a copy has none.
    return FileWriteAheadLog.open(
        file_system, path, database_id=database_id, random=random.Random(0)
    )


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
    layout = wal_layout(database_id, segment_size)
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
    layout = wal_layout(database_id, segment_size)
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
