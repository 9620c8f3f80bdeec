"""The part of `repair` that corrects a log whose time is in the future.

    1  write everything in the write-ahead log to the files, and begin a new, empty log
    2  commit log     every time after the present becomes the present
    3  events         each gets the new time of its commit
    4  state store    the same for aborted transactions, and last for the time of the log

The true times of these commits are unknown, except that they are not after the present and are in
the order of commits. Using the present loses nothing. An earlier time would make retention by age
remove events that it should keep. It would also allow reusing transaction ids that were forgotten
while the clock was wrong.

A crash may come at any point. Commits are redated in order and before events. So a crash leaves
either a log whose newest times are still in the future, or events that are dated after their
commits. A server can run on both, `check` reports both, and another repair continues from there.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from headwater_protocol.errors import InvalidArgument
from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.format.events import decode_event, redate_event
from headwater_server.engine.format.index_keys import (
    ABORTED,
    META_APPLIED,
    META_CLOCK,
    aborted_key,
    aborted_value,
    applied_value,
    clock_value,
    parse_aborted_key,
)
from headwater_server.engine.recovery import OpenLog, open_engine
from headwater_server.engine.repair.logs import LogRepair
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.stored_state import oldest_needed, read_applied, read_time
from headwater_server.storage.commits import commit_log_repair
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.events import event_log_repair
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.store.interface import Family, StateStore, WriteBatch
from headwater_server.storage.wal.interface import WalIndex

EARLIEST_US: Final = 1_577_836_800_000_000
"""The year 2020. An earlier clock was reset, and using it would destroy all times."""

_BATCH_ENTRIES: Final = 1000
_CENTURY_US: Final = 3_155_760_000_000_000

_KEEP: Final = EngineSettings(
    history_window_us=_CENTURY_US, transaction_retention_us=_CENTURY_US, disk_reserve_size=0
)
"""The server's settings are not known here, so nothing may be collected."""


def redate(
    file_system: FileSystem,
    path: str,
    *,
    open_store: Callable[[str], StateStore],
    open_log: OpenLog,
    now: int,
) -> tuple[list[str], list[str]]:
    """Replace all times after *now*, in an undamaged directory that nobody has open.

    Returns:
        Descriptions of what was done, and the files that were kept.

    Raises:
        InvalidArgument: this machine's clock is wrong: *now* is before Headwater existed.
        DirectoryInUse: a server was started meanwhile.
        DiskFull: no room for the new files; what was done so far is durable.
    """
    if now < EARLIEST_US:
        raise InvalidArgument(
            f"this machine's clock says {now} microseconds after 1970, before "
            "Headwater existed: put it right, and repair again"
        )
    _empty_log(file_system, path, open_store, open_log, now)
    with ExitStack() as opened:
        directory = DataDirectory.open(
            file_system, path, source=random.Random(0), now=now, create=False
        )
        opened.callback(directory.close)
        store = open_store(directory.state)
        opened.callback(store.close)
        redating = _Redating(file_system, directory, store, now)
        commits = redating.redate_commits()
        events = redating.redate_events()
        redating.redate_state()
    done = [f"changed the time of {commits} commits and {events} events to that of this repair"]
    return done, redating.rebuilt.copies


def _empty_log(
    file_system: FileSystem,
    path: str,
    open_store: Callable[[str], StateStore],
    open_log: OpenLog,
    now: int,
) -> None:
    """Make a checkpoint and trim the log that it covers, with the times in it."""

    def open_by_path(path: str) -> StateStore:
        return open_store(path)

    engine = open_engine(
        file_system,
        path,
        open_store=open_by_path,
        open_log=open_log,
        settings=_KEEP,
        clock=lambda: now,
        source=random.Random(),
    )
    try:
        checkpoint = engine.begin_checkpoint()
        if checkpoint is not None:
            checkpoint.run()
            engine.finish_checkpoint(checkpoint)
    finally:
        engine.close()
    with ExitStack() as opened:
        directory = DataDirectory.open(
            file_system, path, source=random.Random(0), now=now, create=False
        )
        opened.callback(directory.close)
        store = open_store(directory.state)
        opened.callback(store.close)
        log = open_log(
            file_system,
            directory.wal,
            database_id=directory.database_id,
            random=random.Random(),
            known_durable=WalIndex(read_applied(store).log_index),
        )
        opened.callback(log.close)
        log.claim(log.last_index)
        log.roll()
        log.trim(log.last_index)


class _Redating(LogRepair):
    """Redates the commits and events of a directory that this process owns."""

    def __init__(
        self, file_system: FileSystem, directory: DataDirectory, store: StateStore, now: int
    ) -> None:
        super().__init__(file_system, directory, store, read_applied(store))
        self._now = now

    def redate_commits(self) -> int:
        """Rewrite the segments of the commit log that have times after the present."""
        count = 0
        files = commit_log_repair.segment_files(self._file_system, self._directory.commits)
        for first, end, path in self._ranges(files, self._applied.commit):
            assert path is not None, "a file of a sound commit log is missing"
            late = sum(record.time > self._now for record in self._records(first, end, path))
            if late:
                self._replace(path, self._commit_writer(first, end, path))
                count += late
        return count

    def _records(self, first: int, end: int, path: str) -> Iterator[CommitRecord]:
        file = self._file_system.open(path, writable=False)
        try:
            commit = first
            for record in commit_log_repair.sound_records(file, first):
                if commit > end:
                    break
                assert record.commit == commit, "the commit log was checked"
                yield record
                commit += 1
            assert commit == end + 1, "the commit log was checked"
        finally:
            file.close()

    def _commit_writer(self, first: int, end: int, path: str) -> Callable[[str], None]:
        file = self._file_system.open(path, writable=False)
        try:
            capacity = commit_log_repair.read_capacity(file)
        finally:
            file.close()
        redated = (
            record._replace(time=min(record.time, self._now))
            for record in self._records(first, end, path)
        )
        return lambda temporary: commit_log_repair.write_segment(
            self._file_system,
            temporary,
            first,
            capacity,
            redated,
            database_id=self._directory.database_id,
        )

    def redate_events(self) -> int:
        """Rewrite the segments of the event log whose times differ from their commits.

        The sizes of events do not change, so the .idx files stay valid.
        """
        count = 0
        with self._commit_log() as log:
            files = event_log_repair.segment_files(self._file_system, self._directory.events)
            for first, end, path in self._ranges(files, self._applied.position):
                assert path is not None, "a file of a sound event log is missing"
                late = sum(
                    new != old
                    for (_, new), (_, old) in zip(
                        self._redated(log, first, end, path),
                        self._sound_in(first, end, path),
                        strict=True,
                    )
                )
                if late:
                    self._replace(path, self._event_writer(log, first, end, path))
                    count += late
        return count

    @contextmanager
    def _commit_log(self) -> Iterator[CommitLog]:
        log = CommitLog.open(
            self._file_system,
            self._directory.commits,
            CommitNumber(self._applied.commit),
            first=oldest_needed(self._store),
            database_id=self._directory.database_id,
            writable=False,
        )
        try:
            yield log
        finally:
            log.close()

    def _redated(
        self, log: CommitLog, first: int, end: int, path: str
    ) -> Iterator[tuple[int, bytes]]:
        """The events of a segment, each with the time of its commit."""
        commit, time = 0, 0
        for position, stored in self._sound_in(first, end, path):
            if not stored:
                yield position, stored
                continue
            event = decode_event(stored)
            if event.commit != commit:
                commit = event.commit
                # A commit without a record is older than the first record.
                known = max(commit, int(log.first_commit))
                time = log.read(CommitNumber(known)).time
            yield position, stored if event.time <= time else redate_event(stored, time)

    def _event_writer(
        self, log: CommitLog, first: int, end: int, path: str
    ) -> Callable[[str], None]:
        payloads = (stored for _, stored in self._redated(log, first, end, path))
        return lambda temporary: event_log_repair.write_segment(
            self._file_system,
            temporary,
            first,
            payloads,
            database_id=self._directory.database_id,
        )

    def redate_state(self) -> None:
        """Change the times in the state store. The log's time is last and marks the end."""
        store, now = self._store, self._now
        batch = WriteBatch()
        for entry_key, _ in store.scan(Family.INDEX, ABORTED, bytes([ABORTED[0] + 1])):
            time, transaction = parse_aborted_key(entry_key)
            if time > now:
                batch.delete(Family.INDEX, entry_key)
                batch.put(Family.INDEX, aborted_key(now, transaction), b"")
                batch.put(Family.TRANSACTIONS, transaction, aborted_value(now))
            if len(batch) >= _BATCH_ENTRIES:
                store.write(batch)
                batch = WriteBatch()
        applied = self._applied
        with self._commit_log() as log:
            newest = read_time(store, applied, log)
        redated = newest._replace(
            time=min(newest.time, now), forget_before=min(newest.forget_before, now)
        )
        batch.put(
            Family.INDEX, META_APPLIED, applied_value(applied._replace(time=min(applied.time, now)))
        )
        batch.put(Family.INDEX, META_CLOCK, clock_value(redated))
        store.write(batch)
        store.flush()
