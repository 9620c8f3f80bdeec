"""Repair: fixes a damaged data directory, and reports every loss.

    plan      check the directory; describe what would be done and lost for each kind of damage
    perform   do it and check again; repeat if there was more damage behind the first
    redate    last, in an undamaged directory: correct times in the future

Repairs follow the dependencies: the state store's own files, the write-ahead log, the commit log,
the events, and then what the state store derives from them. Nothing readable is thrown away:
replaced files and cut parts of the log are kept beside the new ones under other names. LOCK
prevents a repair of a directory that a server has open.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.check.check import OpenStore, check, check_parts
from headwater_server.engine.check.findings import Kind, Progress, Report
from headwater_server.engine.format.index_keys import META_APPLIED, Applied
from headwater_server.engine.format.records import decode_record
from headwater_server.engine.recovery import OpenLog
from headwater_server.engine.repair.actions import Plan, plan_of
from headwater_server.engine.repair.logs import LogRepair
from headwater_server.engine.repair.redating import redate
from headwater_server.engine.repair.state import (
    StateRepair,
    commit_of_position,
    set_applied,
)
from headwater_server.engine.state.stored_state import StoredState, read_applied
from headwater_server.storage.commits import commit_log_repair
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.store.interface import Family, StateStore
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog, records
from headwater_server.storage.wal.offline import check_files, cut_files, read_files, repair_files

ROUNDS_MAX: Final = 4
"""Rounds of check and repair. Damage can hide other damage, but rarely several times."""

RepairStore = Callable[[str], str]
"""Repairs the files of a state store by the store's own means; returns what it did."""


@dataclass(slots=True)
class Outcome:
    """What a repair did.

    Attributes:
        done: descriptions, in order.
        copies: old files that were kept.
        report: what a check finds afterwards.
    """

    done: list[str]
    copies: list[str]
    report: Report


def plan(
    file_system: FileSystem,
    path: str,
    *,
    open_store: OpenStore,
    now: int | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> Plan:
    """Describe what a repair of the directory at *path* would do; changes nothing.

    Args:
        open_store: opens the state store in a directory for reading only.
        now: the wall clock's time, as for `check`.

    Raises:
        DirectoryInUse, FormatTooNew, InvalidArgument: as `check`.
    """
    return plan_of(
        check(file_system, path, open_store=open_store, now=now, on_progress=on_progress)
    )


def _open_log(
    file_system: FileSystem,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
) -> WriteAheadLog:
    return FileWriteAheadLog.open(
        file_system, path, database_id=database_id, random=random, known_durable=known_durable
    )


def perform(
    file_system: FileSystem,
    path: str,
    *,
    open_store: OpenStore,
    open_store_to_check: OpenStore,
    repair_store: RepairStore | None,
    open_log: OpenLog = _open_log,
    now: int | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> Outcome:
    """Repair the directory at *path*, as `plan` says.

    Args:
        open_store: opens the state store for writing, or creates an empty one.
        open_store_to_check: opens it for reading only.
        repair_store: repairs a store that does not open; None if the store cannot do that.
        open_log: opens the write-ahead log for writing.
        now: the wall clock's time, as for `check`.

    Raises:
        DirectoryInUse, FormatTooNew, InvalidArgument: as `check`.
        DamagedFile: a repair is not possible; the message says why.
        DiskFull: no room for the new files; nothing was lost, try again.
    """
    outcome = Outcome([], [], Report())
    look = partial(_look, file_system, path, open_store_to_check, outcome, on_progress, now)
    for _ in range(ROUNDS_MAX):
        with look() as directory:
            if outcome.report.is_clean:
                break
            _Round(file_system, directory, outcome).run(open_store, repair_store)
    if outcome.report.is_clean and outcome.report.warnings and now is not None:
        done, copies = redate(file_system, path, open_store=open_store, open_log=open_log, now=now)
        outcome.done += done
        outcome.copies += copies
        with look():
            pass
    return outcome


@contextmanager
def _look(
    file_system: FileSystem,
    path: str,
    open_store: OpenStore,
    outcome: Outcome,
    on_progress: Progress,
    now: int | None,
) -> Iterator[DataDirectory]:
    """Lock the directory and check it."""
    directory = DataDirectory.open(file_system, path, source=random.Random(0), now=0, create=False)
    try:
        outcome.report = Report()
        check_parts(file_system, directory, open_store, outcome.report, on_progress, now=now)
        yield directory
    finally:
        directory.close()


class _Round:
    """One round of repair."""

    def __init__(self, file_system: FileSystem, directory: DataDirectory, outcome: Outcome) -> None:
        self._file_system = file_system
        self._directory = directory
        self._outcome = outcome
        self._report = outcome.report
        # Much of the state store may be missing, or it may be older than the logs.
        self._is_store_new = outcome.report.has(Kind.STORE)

    def run(self, open_store: OpenStore, repair_store: RepairStore | None) -> None:
        """Repair what the report contains."""
        report, done = self._report, self._outcome.done
        if report.has(Kind.STORE):
            if repair_store is None:
                raise DamagedFile(
                    f"{self._directory.state}: the state store is damaged, and it cannot "
                    "repair itself; restore the directory from a backup",
                    details={"file": self._directory.state},
                )
            done.append(repair_store(self._directory.state))
        store = open_store(self._directory.state)
        try:
            self._repair(store)
        finally:
            store.close()

    def _repair(self, store: StateStore) -> None:
        report, done = self._report, self._outcome.done
        if store.get(Family.INDEX, META_APPLIED) is None:
            self._is_store_new = True
            applied = self._find_applied()
            set_applied(store, applied)
            done.append(f"determined commit {applied.commit} as the last one in the files")
        applied = self._repair_log(store, read_applied(store))
        logs = LogRepair(self._file_system, self._directory, store, applied)
        for kind in (Kind.LATER_COMMITS, Kind.LATER_EVENTS):
            for last in self._numbers(kind):
                done.append(logs.set_later_aside(last, is_events=kind is Kind.LATER_EVENTS))
        if report.has(Kind.COMMIT, Kind.COMMIT_FILE):
            logs.repair_commits(self._numbers(Kind.COMMIT))
            done.append(
                f"rebuilt {logs.rebuilt.commits} commit records; "
                f"{logs.rebuilt.without_id} of them have lost their transaction's id"
            )
        if report.has(Kind.OFFSETS):
            paths = {each.file for each in report.findings if each.kind is Kind.OFFSETS}
            logs.remove_offsets(paths)
            done.append(f"rebuilt {len(paths)} .idx files")
        with ExitStack() as opened:
            commit_log = CommitLog.open(
                self._file_system,
                self._directory.commits,
                CommitNumber(applied.commit),
                database_id=self._directory.database_id,
            )
            opened.callback(commit_log.close)
            if report.has(Kind.EVENT, Kind.EVENT_FILE):
                self._repair_events(logs, commit_log)
            event_log = EventLog.open(
                self._file_system,
                self._directory.events,
                Position(applied.position),
                database_id=self._directory.database_id,
            )
            opened.callback(event_log.close)
            self._repair_state(StoredState(store, event_log, commit_log), logs)
        self._outcome.copies += logs.rebuilt.copies

    def _numbers(self, kind: Kind) -> set[int]:
        return {each.number for each in self._report.findings if each.kind is kind}

    # The write-ahead log.

    def _repair_log(self, store: StateStore, applied: Applied) -> Applied:
        if not self._report.has(Kind.LOG, Kind.LOG_GAP):
            return applied
        directory, database_id = self._directory.wal, self._directory.database_id
        repaired = repair_files(self._file_system, directory, database_id=database_id)
        gaps = sorted(self._numbers(Kind.LOG_GAP) - {0})
        if repaired is None and gaps:
            repaired = cut_files(
                self._file_system, directory, database_id=database_id, before=WalIndex(gaps[0])
            )
        if repaired is not None:
            self._outcome.copies += repaired.copies
            self._outcome.done.append(f"cut the write-ahead log after entry {repaired.last_index}")
        found = check_files(self._file_system, directory, database_id=database_id)
        last = found.last.index if found is not None else 0
        if last < applied.log_index:
            applied = applied._replace(log_index=last)
            set_applied(store, applied)
        return applied

    def _find_applied(self) -> Applied:
        """The applied commit, found from the logs because the state store has lost it."""
        entries = read_files(
            self._file_system, self._directory.wal, database_id=self._directory.database_id
        )
        for _, encoded in records(entries):
            record = decode_record(encoded)
            if record.commit:
                # The files need to have only what comes before the log's first commit.
                return Applied(record.commit - 1, record.first_position - 1, 0, 0)
        last: CommitRecord | None = None
        files = commit_log_repair.segment_files(self._file_system, self._directory.commits)
        for first, path in files:
            file = self._file_system.open(path, writable=False)
            try:
                for each in commit_log_repair.sound_records(file, first):
                    last = each
            finally:
                file.close()
        if last is None:
            return Applied(0, 0, 0, 0)
        position = last.first_position + last.event_count - 1
        return Applied(last.commit, position, last.time, 0)

    # Events and what is made of them.

    def _repair_events(self, logs: LogRepair, commit_log: CommitLog) -> None:
        def commit_of(position: int) -> CommitRecord | None:
            return commit_of_position(commit_log, position)

        logs.repair_events(self._numbers(Kind.EVENT) - {0}, commit_of)
        replaced = logs.rebuilt.replaced
        named = f", at positions {', '.join(map(str, replaced[:20]))}" if replaced else ""
        self._outcome.done.append(
            f"took {logs.rebuilt.restored} events from the write-ahead log; the content of "
            f"{len(replaced)} is lost{named}"
        )

    def _repair_state(self, state: StoredState, logs: LogRepair) -> None:
        report, done = self._report, self._outcome.done
        repair = StateRepair(state)
        is_store_new = self._is_store_new
        # After the log was cut, an unfinished checkpoint may have left the store ahead of it.
        is_log_cut = report.has(Kind.LOG, Kind.LOG_GAP)
        if is_store_new or is_log_cut or report.has(Kind.VERSIONS):
            versions, lost = repair.give_up_history()
            done.append(f"dropped {versions} older versions, and {lost} keys that were unreadable")
        rebuilt = (Kind.INDEX, Kind.EVENT_IDS, Kind.EVENT, Kind.EVENT_FILE)
        if is_store_new or is_log_cut or report.has(*rebuilt):
            done.append(f"rebuilt the index from {repair.rebuild_index()} events")
        if is_store_new or is_log_cut or report.has(Kind.TRANSACTIONS, *_COMMITS):
            done.append(f"rebuilt the index of {repair.rebuild_transactions()} transactions")
        if is_store_new or report.has(Kind.SNAPSHOT) or logs.rebuilt.replaced:
            done.append(f"removed {repair.drop_snapshots()} snapshots")


_COMMITS: Final = (Kind.COMMIT, Kind.COMMIT_FILE)
