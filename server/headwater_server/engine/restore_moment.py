"""Restoring to a moment: a backup and the archive, or the archive alone, up to a commit or time.

    backup of commit 700    archive                                        target
    [ files             ] + [ 1 .. 650 | 651 .. 900 | 901 .. 1200 ]   -->  commit 1000
                                    replayed: 651 to 1000

    1  find the history that leads to the commit, and the backup's place in it
    2  copy the files of the backup, or begin with empty ones
    3  begin a log behind the last entry that is replayed, in a new epoch
    4  replay the records of the archive, as a start replays its log, and make a checkpoint
    5  write FORMAT, which marks the target as complete

Memory is bounded as in a start: the replay makes checkpoints as it goes on. The archive may be
written to meanwhile. On failure the target is left as it was, missing or empty.

The restored database goes on in an epoch that is later than all in the archive. Its log does not
have the entries that the archive has behind the commit, so its own entries become a new timeline.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from headwater_protocol.errors import DamagedFile, InvalidArgument
from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.archive.history import History
from headwater_server.engine.check.findings import Progress
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.format.index_keys import Applied
from headwater_server.engine.format.transaction_ids import told_time
from headwater_server.engine.recovery import OpenLog, OpenStore, open_engine
from headwater_server.engine.restore import check_target, clear_target, copy_parts
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.stored_state import oldest_needed, read_applied
from headwater_server.storage.archive.directory import ArchiveDirectory
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.files.directory import (
    FEATURES,
    FORMAT,
    LOCK_NAME,
    PARTS,
    DataDirectory,
)
from headwater_server.storage.files.file_system import FileSystem, join, parent
from headwater_server.storage.wal.interface import FIRST_HASH, Epoch, LogEnd, WalIndex


class BeginLog(Protocol):
    """Creates the write-ahead log of a restored database; implemented by the log."""

    def __call__(
        self,
        file_system: FileSystem,
        directory: str,
        *,
        database_id: bytes,
        after: WalIndex,
        end: LogEnd | None = None,
    ) -> None:
        """Create an empty, durable log that goes on after an entry."""
        ...


@dataclass(frozen=True, slots=True)
class Moment:
    """What to restore.

    Attributes:
        commit: this commit; None: another member says, or the newest.
        time: the newest commit at this time, in microseconds since 1970-01-01 UTC.
        timeline: of this timeline; None: the newest.
    """

    commit: int | None = None
    time: int | None = None
    timeline: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored database.

    Attributes:
        commit, position: its newest commit and event.
        time: of that commit, in microseconds since 1970-01-01 UTC; 0 if there is no commit.
        timeline: the timeline of the archive that it was taken from.
    """

    commit: int
    position: int
    time: int
    timeline: int


@dataclass(frozen=True, slots=True)
class Opening:
    """How the parts of a database are opened, and what a database needs from its surroundings."""

    open_store: OpenStore
    open_store_to_read: OpenStore
    open_log: OpenLog
    begin_log: BeginLog
    settings: EngineSettings
    clock: Callable[[], int]
    source: random.Random


@dataclass(frozen=True, slots=True)
class _Base:
    """What the replay begins with: a backup, or nothing."""

    path: str | None
    applied: Applied
    transaction: bytes | None


_EMPTY = _Base(None, Applied(0, 0, 0, 0), None)


def restore_moment(
    file_system: FileSystem,
    target: str,
    *,
    archive: str,
    backup: str | None,
    moment: Moment,
    opening: Opening,
    on_progress: Progress = lambda _done, _total: None,
) -> Restored:
    """Make the data directory *target*, which must be missing or empty, as of a moment.

    Args:
        backup: a backup of that moment or an earlier one; None: the archive has the first entry.
        on_progress: called with how many commits are replayed, and how many there are.

    Raises:
        InvalidArgument: archive and backup do not lead to that moment, or the target cannot be
            made.
        DirectoryInUse: a server runs on the backup.
        DamagedFile: a piece or a file of the backup is damaged or missing.
        FormatTooNew: a newer version made them.
        DiskFull, OSError: nothing is left of the target.
    """
    check_target(file_system, target)
    with ExitStack() as opened:
        found = ArchiveDirectory.look_at(file_system, archive)
        base = _EMPTY if backup is None else _look_at(file_system, backup, found, opening, opened)
        history = History(found, moment.timeline)
        goal = _goal(history, moment)
        _check_base(history, base, goal)
        was_there = file_system.exists(target)
        try:
            file_system.make_directory(target)
            lock = file_system.lock(join(target, LOCK_NAME))
            opened.callback(lock.close)
            if base.path is not None:
                copy_parts(file_system, base.path, target, tuple(PARTS[1:]), lambda _a, _b: None)
            for part in PARTS:
                file_system.make_directory(join(target, part))
            file_system.sync_directory(target)
            directory = DataDirectory(
                target, found.database_id, found.created, FORMAT, FEATURES, lock
            )
            restored = _replay(file_system, directory, history, base, goal, opening, on_progress)
            directory.upgrade(file_system)
            file_system.sync_directory(parent(target))
        except BaseException:
            clear_target(file_system, target, was_there=was_there)
            raise
    return restored


def _look_at(
    file_system: FileSystem,
    backup: str,
    archive: ArchiveDirectory,
    opening: Opening,
    opened: ExitStack,
) -> _Base:
    """The backup's commit, and the transaction of that commit."""
    source = DataDirectory.look_at(file_system, backup)
    opened.callback(source.close)
    if source.database_id != archive.database_id:
        raise InvalidArgument(f"{archive.path} is not the archive of the database of {backup}")
    store = opening.open_store_to_read(source.state)
    try:
        applied = read_applied(store)
        oldest = oldest_needed(store)
    finally:
        store.close()
    if not applied.commit:
        return _Base(backup, applied, None)
    commit_log = CommitLog.open(
        file_system,
        source.commits,
        CommitNumber(applied.commit),
        first=oldest,
        database_id=source.database_id,
        writable=False,
    )
    try:
        transaction = None
        if applied.commit >= commit_log.first_commit:
            transaction = commit_log.read(CommitNumber(applied.commit)).transaction
    finally:
        commit_log.close()
    return _Base(backup, applied, transaction)


def _goal(history: History, moment: Moment) -> int | None:
    """The commit to restore; None: all that there is."""
    where = f"{history.archive.path}, timeline {history.number}"
    if moment.time is not None:
        commit = history.commit_at(moment.time)
        if commit is None:
            raise InvalidArgument(
                f"{where}: all commits are later than {told_time(moment.time)}; restore a backup "
                "of that time"
            )
        return None if commit == history.last_commit else commit
    if moment.commit is not None and moment.commit > history.last_commit:
        raise InvalidArgument(
            f"{where}: it ends with commit {history.last_commit}, of "
            f"{told_time(history.last_time)}; commit {moment.commit} is not in it"
        )
    return moment.commit


def _check_base(history: History, base: _Base, goal: int | None) -> None:
    """Refuse a base from which the archive does not lead to the goal."""
    where = f"{history.archive.path}, timeline {history.number}"
    commit = base.applied.commit
    if base.path is None:
        if not history.is_complete:
            raise InvalidArgument(
                f"{where}: it begins with commit {history.first_commit}; give a backup of commit "
                f"{history.first_commit - 1} or a later one"
            )
        return
    if goal is not None and goal < commit:
        raise InvalidArgument(
            f"{base.path} is of commit {commit}, which is later than commit {goal}; take an "
            "earlier backup"
        )
    if commit > history.last_commit:
        raise InvalidArgument(
            f"{where}: it ends with commit {history.last_commit}, and {base.path} is of the later "
            f"commit {commit}; restore the backup alone"
        )
    if history.stretch_of(commit) is None:
        raise InvalidArgument(
            f"{where}: it begins with commit {history.first_commit}, and {base.path} is of commit "
            f"{commit}: those between are missing"
        )
    expected = history.id_of(commit) if commit else None
    if expected is not None and base.transaction not in (None, expected):
        raise InvalidArgument(
            f"{base.path} is of another history: its commit {commit} is not that of {where}. The "
            f"timelines are {', '.join(map(str, history.archive.timelines()))}"
        )


def _replay(
    file_system: FileSystem,
    directory: DataDirectory,
    history: History,
    base: _Base,
    goal: int | None,
    opening: Opening,
    on_progress: Progress,
) -> Restored:
    after = max(history.index_of(goal), base.applied.log_index)
    opening.begin_log(
        file_system,
        directory.wal,
        database_id=directory.database_id,
        after=WalIndex(after),
        # A later epoch than any in the archive. The entries do not continue a chain of its own.
        end=LogEnd(WalIndex(after), Epoch(history.newest_epoch()), FIRST_HASH),
    )
    first = base.applied.commit
    last = history.last_commit if goal is None else goal
    engine = open_engine(
        file_system,
        directory.path,
        open_store=opening.open_store,
        open_log=opening.open_log,
        settings=opening.settings,
        clock=opening.clock,
        source=opening.source,
        on_progress=lambda count: on_progress(min(count, last - first), max(last - first, 1)),
        directory=directory,
        records=history.records(first, goal),
    )
    try:
        run_to_end(checkpoint_steps(engine))
        if engine.published != last:
            raise DamagedFile(
                f"{history.archive.path}: the replay ended with commit {engine.published} in place "
                f"of {last}",
                details={"file": history.archive.path, "offset": 0},
            )
        record = engine.archived.files.commit_record(last) if last else None
        return Restored(
            last,
            engine.published_position,
            0 if record is None else record.time,
            history.number,
        )
    finally:
        engine.close()
