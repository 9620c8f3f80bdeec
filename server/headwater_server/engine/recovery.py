"""Recovery: from the files of a directory to a running engine.

    1  the directory is ours, and nobody else's            storage/files/directory.py
    2  the state store says what the last checkpoint applied
    3  event log and commit log are cut there: what lies beyond was never part of a checkpoint
    4  the write-ahead log is verified, its torn tail cut
    5  records after the applied commit are planned and applied, in order, as commits are
    6  a directory of an older format is marked as one of the present format
    7  the right to write is claimed

Time and memory are those of the log's tail, which checkpoints keep short, not of the data. If
checkpoints could not keep up before the crash, the replay makes them on its way.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Protocol

from headwater_protocol.limits import MIB
from headwater_protocol.numbers import CommitNumber, Position
from headwater_server.engine.backup import unstage
from headwater_server.engine.checkpoint.schedule import checkpoint_steps, run_to_end
from headwater_server.engine.engine import Engine
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.stored_state import (
    StoredState,
    oldest_needed,
    read_applied,
)
from headwater_server.engine.transactions.replaying import plan_entry
from headwater_server.engine.transactions.sequencer import Sequencer
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.errors import DiskFull, NoRoomToStart
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files.directory import FORMAT, DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.store.interface import StateStore
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog, records_by_entry

PROGRESS_RECORDS = 10_000
"""Records between two calls of the progress callback, about: it is called between entries."""


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
"""Bytes that we ask for at least when a start found no room: some for each of the files."""


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
    on_progress: Callable[[int], None] = lambda _: None,
    on_upgrade: Callable[[int, int], None] = lambda _old, _new: None,
) -> Engine:
    """Open the database in a directory, or make one there, and bring it to its newest commit.

    Args:
        clock: the wall clock, in microseconds since 1970-01-01 UTC.
        monotonic: a clock that nobody sets, in microseconds, to check the wall clock by. None:
            the wall clock is believed.
        source: of ids that need only be unique.
        on_progress: called with the count of records replayed so far.
        on_upgrade: called with the old format and the new one, before a directory of an older
            format is marked as one of the present format. Older versions refuse it from then on.

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
            on_progress,
            on_upgrade,
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
    on_progress: Callable[[int], None],
    on_upgrade: Callable[[int, int], None],
) -> Engine:
    with ExitStack() as opened:
        directory = DataDirectory.open(file_system, path, source=source, now=clock())
        opened.callback(directory.close)
        unstage(file_system, path)
        store = open_store(directory.state)
        opened.callback(store.close)
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
        log = open_log(
            file_system,
            directory.wal,
            database_id=directory.database_id,
            random=source,
            known_durable=WalIndex(applied.log_index),
        )
        opened.callback(log.close)
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
            settings=settings,
            clock=clock,
            source=source,
        )
        _replay(engine, state, sequencer, log, directory.wal, on_progress)
        if directory.format < FORMAT:
            # After the replay, so that a log that cannot be replayed is still the older version's.
            # Before the claim, so that it never has a record that the older version cannot read.
            on_upgrade(directory.format, FORMAT)
            directory.upgrade(file_system)
        log.claim(log.last_index)
        sequencer.start(clock, monotonic)
        engine.keep_open(opened.pop_all())
    return engine


def _replay(
    engine: Engine,
    state: State,
    sequencer: Sequencer,
    log: WriteAheadLog,
    path: str,
    on_progress: Callable[[int], None],
) -> None:
    """Install what the log has and the files have not."""
    count = 0
    for index, encoded in records_by_entry(log.read(WalIndex(log.first_index - 1))):
        # Between two entries only: a checkpoint lets those go that it has come to, and within
        # one that would take commits along that it has not.
        if engine.checkpoints.overdue:
            run_to_end(checkpoint_steps(engine))
        state.apply(plan_entry(state, encoded, path=path, index=index))
        sequencer.replayed(index, len(encoded))
        told = count // PROGRESS_RECORDS
        count += len(encoded)
        if count // PROGRESS_RECORDS > told:
            on_progress(count)
    state.retention.publish(state.last_commit)
    if count:
        on_progress(count)
