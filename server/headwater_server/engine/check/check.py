"""Offline verification of a data directory: reads every byte, changes nothing.

    0  BACKUP, if there is one: the sizes and digests of all files
    1  FORMAT, the state store's own checksums
    2  write-ahead log      chain of hashes; continues where the files end
    3  commit log           checksums, times, positions; times in the future are a warning
    4  events               checksums, positions, commits; .idx files
    5  index                streams, categories, types, event ids: must agree with the events
    6  versions             LATEST, HISTORY, CHANGES; snapshots, consumer groups, expiries
    7  transaction ids      must agree with the commit log

All damage is reported, unless it prevents reading further. Memory is bounded for any amount of
data; see sums.py. The remains of a crash, a torn tail or an unfinished checkpoint, are not damage.
"""

from collections.abc import Callable
from contextlib import ExitStack

from headwater_protocol.errors import DamagedFile
from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.check.clock import FutureTimes
from headwater_server.engine.check.expiries import ExpiryCheck
from headwater_server.engine.check.findings import (
    NOTHING,
    Counter,
    Finding,
    Kind,
    Progress,
    Report,
)
from headwater_server.engine.check.groups import GroupCheck
from headwater_server.engine.check.index import IndexCheck
from headwater_server.engine.check.logs import (
    EventReader,
    check_commit_log,
    check_moments,
    check_offsets,
    check_write_ahead_log,
    first_logged_commit,
)
from headwater_server.engine.check.recorded import check_recorded
from headwater_server.engine.check.versions import TransactionCheck, VersionCheck
from headwater_server.engine.format.index_keys import META_UNFINISHED, Applied, parse_number
from headwater_server.engine.state.stored_state import (
    StoredState,
    oldest_needed,
    read_applied,
)
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.directory import FORMAT, DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.store.interface import Family, StateStore

OpenStore = Callable[[str], StateStore]
"""Opens the state store in a directory for reading only."""

REPAIR_STORE = (
    "the state store is rebuilt from its sound blocks; keys in damaged blocks "
    "are lost unless the write-ahead log has them; indexes are rebuilt from the logs"
)
HISTORY = "older versions of keys are lost"
CUT_EVENTS = "events that cannot be found are replaced, also those of a missing file"
CUT_COMMITS = "the records are rebuilt from the events and the transaction index"


def check(
    file_system: FileSystem,
    path: str,
    *,
    open_store: OpenStore,
    now: int | None = None,
    on_progress: Progress = lambda _done, _total: None,
) -> Report:
    """Verify the data directory at *path*; nobody may have it open.

    Args:
        now: the wall clock's time, in microseconds since 1970-01-01 UTC. None: times are not
            compared with it.

    Raises:
        DirectoryInUse: a server runs on it.
        FormatTooNew: a newer version made it.
        InvalidArgument: it is not a data directory.
    """
    report = Report()
    check_recorded(file_system, path, report)
    with ExitStack() as opened:
        try:
            directory = DataDirectory.look_at(file_system, path)
        except DamagedFile as error:
            report.add_error(Kind.DIRECTORY, path, error, "none: restore it from a copy")
            return report
        opened.callback(directory.close)
        if directory.format < FORMAT:
            report.notes.append(
                f"it has format {directory.format}; the next start upgrades it to {FORMAT}"
            )
        elif directory.is_older:
            report.notes.append("the next start upgrades it; older versions then refuse it")
        check_parts(file_system, directory, open_store, report, on_progress, now=now)
    return report


def check_parts(
    file_system: FileSystem,
    directory: DataDirectory,
    open_store: OpenStore,
    report: Report,
    on_progress: Progress,
    *,
    now: int | None = None,
) -> None:
    """Verify a directory that this process owns."""
    future = FutureTimes(now)
    try:
        _check_parts(file_system, directory, open_store, report, on_progress, future)
    finally:
        future.tell(report, directory.path)


def _check_parts(
    file_system: FileSystem,
    directory: DataDirectory,
    open_store: OpenStore,
    report: Report,
    on_progress: Progress,
    future: FutureTimes,
) -> None:
    with ExitStack() as opened:
        store = _open_store(file_system, directory, open_store, report)
        applied = NOTHING
        unfinished = 0
        oldest = 1
        if store is not None:
            opened.callback(store.close)
            with report.told(Kind.STORE, directory.state, REPAIR_STORE):
                applied = read_applied(store)
                unfinished = parse_number(store.get(Family.INDEX, META_UNFINISHED))
                oldest = oldest_needed(store)
                if applied == NOTHING:
                    _check_is_new(file_system, directory, report)
        report.applied = applied
        newest = None
        with report.told(Kind.LOG, directory.wal, "the log is cut there"):
            newest = check_write_ahead_log(
                file_system,
                directory.wal,
                database_id=directory.database_id,
                applied=applied,
                unfinished=unfinished,
                report=report,
                future=future,
            )
        commit_log = _open_commit_log(file_system, directory, applied, oldest, report)
        if commit_log is not None:
            opened.callback(commit_log.close)
        event_log = _open_event_log(file_system, directory, applied, report)
        if event_log is not None:
            opened.callback(event_log.close)
        unreadable = report.has(Kind.APPLIED, Kind.STORE)
        if unreadable or store is None or commit_log is None or event_log is None:
            report.notes.append("parts that depend on files that cannot be opened were not checked")
            return
        if newest is not None:
            check_moments(event_log, commit_log, newest, report)
        state: StoredState | None = None
        # In a directory of format 3, the time comes from a record of the commit log.
        with report.told(Kind.COMMIT, directory.commits, CUT_COMMITS):
            state = StoredState(store, event_log, commit_log)
        if state is None:
            return
        future.add(state.time.time)
        keys = store.sizes()["keys"]
        total = 2 * int(commit_log.last_commit) + applied.position + 2 * keys
        counter = Counter(on_progress, total)
        with report.told(Kind.STORE, directory.state, REPAIR_STORE):
            counter.add(store.verify())
        _check_content(state, max(applied.commit, unfinished), report, counter, future)
        counter.end()


def _check_is_new(file_system: FileSystem, directory: DataDirectory, report: Report) -> None:
    """Check that the log has everything, because the store knows of no checkpoint."""
    first = first_logged_commit(file_system, directory.wal, directory.database_id)
    if first > 1 or (first == 0 and file_system.list(directory.commits)):
        what = "it does not know what the last checkpoint applied, and the log does not begin there"
        remedy = "what the write-ahead log does not have is taken from the commit log; " + HISTORY
        report.add(Finding(Kind.APPLIED, directory.state, None, what, remedy))


def _open_store(
    file_system: FileSystem, directory: DataDirectory, open_store: OpenStore, report: Report
) -> StateStore | None:
    try:
        return open_store(directory.state)
    except DamagedFile as error:
        # The first start was cut off while the store made its first files. Nothing is committed
        # before they are complete, so there is nothing in the logs either.
        is_new = error.details.get("missing") and not _has_logs(file_system, directory)
        if is_new:
            report.notes.append("the database was never opened completely; there is no state yet")
            return None
        report.add_error(Kind.STORE, directory.state, error, REPAIR_STORE)
        return None


def _has_logs(file_system: FileSystem, directory: DataDirectory) -> bool:
    """Whether there is a commit anywhere in the logs."""
    if file_system.list(directory.events) or file_system.list(directory.commits):
        return True
    return first_logged_commit(file_system, directory.wal, directory.database_id) > 0


def _open_commit_log(
    file_system: FileSystem,
    directory: DataDirectory,
    applied: Applied,
    oldest: int,
    report: Report,
) -> CommitLog | None:
    try:
        return CommitLog.open(
            file_system,
            directory.commits,
            CommitNumber(applied.commit),
            first=oldest,
            database_id=directory.database_id,
            writable=False,
        )
    except DamagedFile as error:
        report.add_error(Kind.COMMIT_FILE, directory.commits, error, CUT_COMMITS)
        return None


def _open_event_log(
    file_system: FileSystem, directory: DataDirectory, applied: Applied, report: Report
) -> EventLog | None:
    try:
        return EventLog.open(
            file_system,
            directory.events,
            Position(applied.position),
            database_id=directory.database_id,
            writable=False,
        )
    except DamagedFile as error:
        report.add_error(Kind.EVENT_FILE, directory.events, error, CUT_EVENTS)
        return None


def _check_content(
    state: StoredState,
    last_commit: int,
    report: Report,
    counter: Counter,
    future: FutureTimes,
) -> None:
    with report.told(Kind.COMMIT, "commits/", CUT_COMMITS):
        check_commit_log(state.commit_log, state.applied, report, counter, future)
    reader = EventReader(state.event_log, state.commit_log, report, future)
    index = IndexCheck(state, reader, report)
    with report.told(Kind.EVENT, "events/", CUT_EVENTS):
        for checked in reader.read(counter):
            index.add_event(checked)
            report.events += 1
        check_offsets(state.event_log, report)
    with report.told(Kind.STORE, "state/", REPAIR_STORE):
        index.check(counter)
    with report.told(Kind.STORE, "state/", REPAIR_STORE):
        VersionCheck(state, last_commit, report).check(counter)
        GroupCheck(state, last_commit, report).check(counter)
        ExpiryCheck(state, last_commit, report).check(counter)
    with report.told(Kind.STORE, "state/", REPAIR_STORE):
        TransactionCheck(state, report).check(counter)
