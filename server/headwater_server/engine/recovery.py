"""Recovery: opens the files of a directory and makes a running engine.

    1  lock the directory                                   storage/files/directory.py
    2  read from the state store what the last checkpoint applied
    3  cut event log and commit log there; the rest was never part of a checkpoint
    4  verify the write-ahead log and cut its torn tail; refuse to start if the event log or the
       commit log is ahead of it                             engine/later_files.py
    5  plan and apply the records after the applied commit, in order, as for new commits
    6  mark a directory of an older format with the current format
    7  claim the right to write, unless the node follows another one

Time and memory depend on the length of the log's tail, which checkpoints keep short, and not on the
amount of data. If checkpoints could not keep up before the crash, the replay makes them as needed.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import starmap
from typing import Final, Protocol

from headwater_protocol.limits import MIB
from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.backup import unstage
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.engine import Engine
from headwater_server.engine.later_files import Newest, refuse_later_logs
from headwater_server.engine.replication.applier import Applier
from headwater_server.engine.replication.leadership import Leadership
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.stored_state import (
    StoredState,
    oldest_needed,
    read_applied,
)
from headwater_server.engine.transactions.sequencer import Sequencer
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.errors import DiskFull, NoRoomToStart
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.directory import FORMAT, DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.store.interface import StateStore
from headwater_server.storage.wal.interface import FIRST_EPOCH, Epoch, WalIndex, WriteAheadLog

LogRecords = Iterable[tuple[WalIndex, list[bytes]]]
"""Records of the log, with the index of the entry that completes them."""

PROGRESS_RECORDS = 10_000
"""The approximate number of records between two calls of the progress callback."""


class OpenStore(Protocol):
    """Opens the state store in a directory, or makes an empty one."""

    def __call__(self, path: str) -> StateStore:
        """The store at *path*."""
        ...


class OpenLog(Protocol):
    """Opens the write-ahead log of a directory, or makes an empty one."""

    def __call__(
        self,
        file_system: FileSystem,
        path: str,
        *,
        database_id: bytes,
        random: random.Random,
        known_durable: WalIndex,
    ) -> WriteAheadLog:
        """The log at *path*, verified, with its torn tail cut."""
        ...


START_SIZE_MIN: Final = MIB
"""The least free space that NoRoomToStart asks for, so that each file can grow a little."""


def open_engine(
    file_system: FileSystem,
    path: str,
    *,
    open_store: OpenStore,
    open_log: OpenLog,
    settings: EngineSettings,
    clock: Callable[[], int],
    source: random.Random,
    monotonic: Callable[[], int] | None = None,
    leads: bool = True,
    epoch: Epoch = FIRST_EPOCH,
    on_progress: Callable[[int], None] = lambda _: None,
    on_upgrade: Callable[[int, int], None] = lambda _old, _new: None,
    directory: DataDirectory | None = None,
    records: LogRecords | None = None,
) -> Engine:
    """Open or create the database in a directory, and replay its log.

    Args:
        clock: the wall clock, in microseconds since 1970-01-01 UTC.
        monotonic: a monotonic clock in microseconds, to check the wall clock. None: the wall clock
            is always accepted.
        source: for ids that only need to be unique.
        leads: whether to claim the right to write; else the engine follows another node.
        epoch: the claim has this epoch or a later one.
        on_progress: called with the count of records replayed so far.
        on_upgrade: called with the old and the new format, before a directory of an older format
            is marked with the current one. Older versions refuse it from then on.
        directory: the directory, if the caller has opened it.
        records: records to replay instead of the log's; a restore passes them.

    Raises:
        DirectoryInUse, FormatTooNew, DamagedFile, NoRoomToStart: the message says what to do.
    """
    try:
        return _open(
            file_system,
            path,
            open_store,
            open_log,
            settings,
            clock,
            clock if monotonic is None else monotonic,
            source,
            leads,
            epoch,
            on_progress,
            on_upgrade,
            directory,
            records,
        )
    except DiskFull as error:
        size = settings.disk_reserve_size - file_system.free_bytes(path)
        raise NoRoomToStart(path, max(size, error.size, START_SIZE_MIN)) from error


def _open(
    file_system: FileSystem,
    path: str,
    open_store: OpenStore,
    open_log: OpenLog,
    settings: EngineSettings,
    clock: Callable[[], int],
    monotonic: Callable[[], int],
    source: random.Random,
    leads: bool,
    epoch: Epoch,
    on_progress: Callable[[int], None],
    on_upgrade: Callable[[int, int], None],
    directory: DataDirectory | None,
    records: LogRecords | None,
) -> Engine:
    with ExitStack() as opened:
        if directory is None:
            directory = DataDirectory.open(file_system, path, source=source, now=clock())
        opened.callback(directory.close)
        unstage(file_system, path)
        store = open_store(directory.state)
        opened.callback(store.close)
        applied = read_applied(store)
        event_log, commit_log = _open_logs(opened, file_system, directory, store, settings)
        log = open_log(
            file_system,
            directory.wal,
            database_id=directory.database_id,
            random=source,
            known_durable=WalIndex(applied.log_index),
        )
        opened.callback(log.close)
        refuse_later_logs(event_log, commit_log, Newest(applied.commit, applied.position), log)
        state = State(StoredState(store, event_log, commit_log))
        state.load_retention()
        sequencer = Sequencer(state, log, settings)
        engine = Engine(
            path=path,
            file_system=file_system,
            database_id=directory.database_id,
            created=directory.created,
            state=state,
            log=log,
            sequencer=sequencer,
            applier=Applier(state, sequencer, log, path=directory.wal),
            leadership=Leadership(log, sequencer, clock, monotonic),
            settings=settings,
            clock=clock,
            source=source,
        )
        applier = engine.applier
        if records is None:
            entries = log.read(WalIndex(log.first_index - 1))
            _replay(engine, map(applier.apply, entries), on_progress)
        else:
            _replay(engine, starmap(applier.apply_records, records), on_progress)
        if directory.is_older:
            # After the replay, so that an older version can still open a log that cannot be
            # replayed. Before the claim, so that the log has no record yet that it cannot read.
            on_upgrade(directory.format, FORMAT)
            directory.upgrade(file_system)
        if leads:
            engine.leadership.lead(at_least=epoch)
        engine.files = opened.pop_all()
    return engine


def _open_logs(
    opened: ExitStack,
    file_system: FileSystem,
    directory: DataDirectory,
    store: StateStore,
    settings: EngineSettings,
) -> tuple[EventLog, CommitLog]:
    """Open the event log and the commit log as of the last checkpoint."""
    applied = read_applied(store)
    event_log = EventLog.open(
        file_system,
        directory.events,
        Position(applied.position),
        database_id=directory.database_id,
        segment_size=settings.event_segment_size,
    )
    opened.callback(event_log.close)
    commit_log = CommitLog.open(
        file_system,
        directory.commits,
        CommitNumber(applied.commit),
        first=oldest_needed(store),
        database_id=directory.database_id,
    )
    opened.callback(commit_log.close)
    return event_log, commit_log


def _replay(engine: Engine, applied: Iterator[int], on_progress: Callable[[int], None]) -> None:
    """Apply the records of the log that no checkpoint has applied.

    Each step of *applied* applies the records of one entry and returns their number.
    """
    count = 0
    while True:
        # Make checkpoints only between entries: the checkpoint may trim the log up to this entry,
        # so all of the entry's commits must be in it.
        if engine.checkpoints.overdue:
            run_to_end(checkpoint_steps(engine))
        records = next(applied, None)
        if records is None:
            break
        told = count // PROGRESS_RECORDS
        count += records
        if count // PROGRESS_RECORDS > told:
            on_progress(count)
    if count:
        on_progress(count)
