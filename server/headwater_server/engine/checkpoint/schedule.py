"""The checkpoint schedule: when a checkpoint is due, and its steps.

    begin     freeze the memtable, fix the horizon       reading thread
    run       write it to the files                      any thread; see checkpoint.py
    finish    let readers use the files                  reading thread
    trim      remove log segments that are not needed    any thread
    free      free the memtable, piece by piece          any thread

`checkpoint_steps` performs these steps in order and retries after a full disk. It yields the work
that its driver must do in between. Recovery runs the steps directly (`run_to_end`); the server
awaits a worker thread.

Only one checkpoint runs at a time. Meanwhile, commits go to the next memtable. Together the two
memtables may hold three times the amount that makes a checkpoint due:

    frozen    |=======|                     a checkpoint was due at 1
    active    |=======:=======|             writers wait at 2

A checkpoint is due when the memtable is full. One is also due in quiet times, so that a server
without writes does not keep a log to replay, keys in two layers, and old versions that have left
the history window. With a commit every second, times are never quiet and the memtable takes hours
to fill. So one is also due when the memtable's oldest record is a minute old.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, assert_never

from headwater_server.engine.checkpoint.checkpoint import CheckpointResult, write_checkpoint
from headwater_server.engine.pacing import UNPACED, Pacing, YieldGil, unpaced
from headwater_server.engine.settings import SECOND_US, EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.memtable import MemTable
from headwater_server.engine.transactions.sequencer import Sequencer
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog
from headwater_server.storage.wal.readers import LogReaders

FILLS_MAX: Final = 3.0
"""Full memtables that the frozen and the active one may hold together. Above this, writers wait for
the checkpoint. With two, writers would wait in nearly every checkpoint under load."""

QUIET_US: Final = 2 * SECOND_US
"""How long there must be no commit before a checkpoint counts as one in quiet times."""

QUIET_INTERVAL_US: Final = 10 * SECOND_US
"""Time between two checkpoints in quiet times: each adds a file to the state store."""


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint that has begun and is not finished.

    `run` may be called once everything up to `last_sequence` is durable, because the files must
    not get ahead of the durable log. It may be called again after it raised DiskFull.

    Attributes:
        fill: how full the frozen memtable is; 1 made the checkpoint due.
    """

    frozen: MemTable
    fill: float
    last_sequence: int
    state: State
    horizon: int
    views: list[int]
    garbage_entries_max: int
    forget_before: int
    log: WriteAheadLog
    interrupt_plan: Callable[[], None]
    result: CheckpointResult | None = None

    @property
    def last_commit(self) -> int:
        """The newest commit that this checkpoint writes."""
        return self.frozen.last_commit

    def run(self, yield_gil: YieldGil = unpaced) -> None:
        """Write the frozen memtable to the files. Blocks; may run in another thread.

        *yield_gil* is called after every few hundred microseconds of work.
        """
        self.result = write_checkpoint(
            self.frozen,
            self.state.files,
            horizon=self.horizon,
            views=self.views,
            garbage_entries_max=self.garbage_entries_max,
            forget_before=self.forget_before,
            # Read it only now: at the beginning, the last commits were not durable yet.
            log_index=int(self.log.last_index),
            yield_gil=yield_gil,
        )

    def start_over(self) -> None:
        """Prepare the files for another `run` after DiskFull.

        Called on the reading thread, because this reopens the state store.
        """
        self.interrupt_plan()
        self.state.files.reopen()

    def free(self, yield_gil: YieldGil = unpaced) -> None:
        """Free the frozen memtable after `finish`; may run in another thread.

        This is safe because all reads run on the thread that finished the checkpoint, and none
        keeps a reference to a memtable after it has answered.
        """
        assert self.state.frozen is not self.frozen, "it was finished"
        self.frozen.take_apart(yield_gil)


@dataclass(frozen=True, slots=True)
class WaitDurable:
    """Wait until everything up to a sequence number is durable."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Write:
    """Make a blocking call, in any thread; throw its exception into the generator."""

    call: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Trim:
    """As Write, but the files are written already, so writers may continue."""

    call: Callable[[], None]


@dataclass(frozen=True, slots=True)
class WaitForRoom:
    """The disk is full: wait and continue, or abandon the checkpoint."""

    error: DiskFull


CheckpointStep = WaitDurable | Write | Trim | WaitForRoom


class CheckpointEngine(Protocol):
    """The part of the engine that the steps need."""

    def begin_checkpoint(self, *, tidy: bool = False) -> Checkpoint | None:
        """Freeze the memtable, if there is anything to write."""
        ...

    def finish_checkpoint(self, checkpoint: Checkpoint, /) -> CheckpointResult:
        """Let readers use the files."""
        ...

    def trim_log(self) -> None:
        """Remove the part of the log that the files have; blocks."""
        ...


def checkpoint_steps(
    engine: CheckpointEngine, *, tidy: bool = False, pacing: Pacing = UNPACED
) -> Generator[CheckpointStep, None, CheckpointResult | None]:
    """Make a checkpoint; return its result, or None if there was nothing to write.

    All steps except Write and Trim run on the reading thread. The last step frees the frozen
    memtable. Closing the generator abandons the checkpoint, and no other can begin in this process.
    """
    checkpoint = engine.begin_checkpoint(tidy=tidy)
    if checkpoint is None:
        yield Trim(engine.trim_log)
        return None
    # The files must not get ahead of the durable log.
    yield WaitDurable(checkpoint.last_sequence)
    while True:
        pacing.begin(checkpoint.fill)
        try:
            yield Write(partial(checkpoint.run, pacing))
            break
        except DiskFull as error:
            full = error
        while True:
            yield WaitForRoom(full)
            try:
                checkpoint.start_over()
                break
            except DiskFull as error:
                full = error
    result = engine.finish_checkpoint(checkpoint)
    yield Trim(partial(_clean_up, engine, checkpoint, pacing))
    return result


def _clean_up(engine: CheckpointEngine, checkpoint: Checkpoint, pacing: Pacing) -> None:
    """Trim the log and free the memtable, off the reading thread so that no reader waits."""
    # This removes files and syncs a directory.
    engine.trim_log()
    checkpoint.free(pacing)
    pacing.end(checkpoint.fill)


def run_to_end(
    steps: Generator[CheckpointStep, None, CheckpointResult | None],
) -> CheckpointResult | None:
    """Run all steps in this thread. There are no readers or writers yet, and all is durable.

    Raises:
        DiskFull: the checkpoint was abandoned.
    """
    try:
        step = next(steps)
        while True:
            match step:
                case WaitForRoom(error):
                    steps.close()
                    raise error
                case Write(call) | Trim(call):
                    try:
                        call()
                    except DiskFull as error:
                        step = steps.throw(error)
                        continue
                case WaitDurable():
                    pass
                case _:
                    assert_never(step)
            step = next(steps)
    except StopIteration as end:
        result: CheckpointResult | None = end.value
        return result


class CheckpointSchedule:
    """Begins and finishes checkpoints, one at a time.

    Attributes:
        count: how many were finished.
        readers: who needs entries of the log that a restart does not.
    """

    def __init__(
        self,
        state: State,
        sequencer: Sequencer,
        log: WriteAheadLog,
        settings: EngineSettings,
        clock: Callable[[], int],
        file_system: FileSystem,
        path: str,
        is_scarce: Callable[[], bool],
    ) -> None:
        """*path* is the data directory, which remembers the readers of the log.

        *is_scarce*: whether the disk has no room for a log that is kept for them.
        """
        self._state = state
        self._sequencer = sequencer
        self._log = log
        self._is_scarce = is_scarce
        self._settings = settings
        self._clock = clock
        self._current: Checkpoint | None = None
        self._trim_below = 0
        self._garbage_left = False
        self._collected = state.files.horizon
        # The newest record at the last check, and since when it has been the newest.
        self._newest_seen = (0, 0)
        self._quiet_again_from = 0
        # The base commit of the memtable that had records at the last check, and since when.
        self._filled_since: tuple[int, int] | None = None
        self.count = 0
        self.readers = LogReaders(settings.log_kept_size_max, file_system, path)
        self.readers.load(log.first_index)

    @property
    def running(self) -> bool:
        """Whether a checkpoint was begun and is not finished."""
        return self._current is not None

    @property
    def due(self) -> bool:
        """Whether the memtable has grown enough for a checkpoint, and none is running."""
        return self._current is None and self.fill >= 1.0

    @property
    def behind(self) -> bool:
        """Whether writers must wait, because the running checkpoint is too far behind.

        This bounds memory and restart time. One full active memtable is always allowed: after a
        replay, the frozen one alone may hold FILLS_MAX.
        """
        current = self._current
        return current is not None and self.fill >= max(FILLS_MAX - current.fill, 1.0)

    @property
    def overdue(self) -> bool:
        """Whether a replay must pause for a checkpoint, because the memtable is too large.

        Below that it is faster to finish the replay first and run the checkpoint beside readers.
        """
        return self._current is None and self.fill >= FILLS_MAX

    def due_in_time(self) -> bool:
        """Whether one is due in quiet times, or by the memtable's age. Call this once a second."""
        # Both note the time, so ask both.
        in_quiet, by_age = self.due_in_quiet(), self._due_by_age()
        return in_quiet or by_age

    def _due_by_age(self) -> bool:
        active = self._state.active
        if not (active.commits or active.aborted):
            self._filled_since = None
            return False
        now = self._clock()
        if (
            self._filled_since is None
            or self._filled_since[0] != active.base_commit
            # The clock was set back, which must not delay the checkpoint by as much.
            or now < self._filled_since[1]
        ):
            self._filled_since = active.base_commit, now
        age_us = now - self._filled_since[1]
        return self._current is None and age_us >= self._settings.checkpoint_age_us_max

    def due_in_quiet(self) -> bool:
        """Whether times are quiet and there is work for a checkpoint. Call this once a second.

        Work is a non-empty memtable, or versions that have left the history window.
        """
        now = self._clock()
        sequence, since = self._newest_seen
        if sequence != self._sequencer.commits_and_fences or now < since:
            self._newest_seen = (self._sequencer.commits_and_fences, now)
            return False
        if self._quiet_again_from > now + QUIET_INTERVAL_US:
            # The clock was set back, which must not delay the next checkpoint by as much.
            self._quiet_again_from = now
        if now - since < QUIET_US or now < self._quiet_again_from or self._current is not None:
            return False
        active = self._state.active
        files = self._state.files
        horizon = min(files.horizon, files.applied_commit)
        return bool(
            active.commits or active.aborted or self._garbage_left or horizon > self._collected
        )

    @property
    def fill(self) -> float:
        """How full the active memtable is; from 1 on a checkpoint is due."""
        active, settings = self._state.active, self._settings
        return max(
            active.size / settings.memtable_size_max,
            len(active.commits) / settings.memtable_commits_max,
        )

    def begin(
        self, *, published: int, views: list[int], forget_before: int, tidy: bool = False
    ) -> Checkpoint | None:
        """Freeze the memtable; None if a checkpoint is running or the memtable is empty.

        Ticks count too. With *tidy*, an empty memtable is accepted too, to collect garbage.
        """
        active = self._state.active
        if self._current is not None:
            return None
        # Ticks alone make no checkpoint due unless they fill the memtable. But the log is trimmed
        # after this, so what they say must be in the files, or a restart would go back in time.
        ticked = active.time != self._state.files.time
        # A replay may fill the memtable with records that the files have. It has to be freed too.
        filled = self.fill >= 1.0
        if not (tidy or active.commits or active.aborted or ticked or filled):
            # The files have everything that was applied. During a replay, the log has more.
            self._note_needless(self._sequencer.durable_sequence)
            if self._sequencer.started:
                self._trim_below = int(self._log.last_index) + 1
            return None
        fill = self.fill
        # What the log says is too late after a repair of times in the future, or if the retention
        # was shorter before. Then more is remembered than the log promises.
        now = self._sequencer.published_time.time
        remembered_from = now - self._settings.transaction_retention_us
        self._sequencer.interrupt_plan()
        self._current = Checkpoint(
            frozen=self._state.freeze(),
            fill=fill,
            last_sequence=self._sequencer.sequence,
            state=self._state,
            # This horizon is published, so no read begins below it.
            horizon=min(self._state.files.horizon, published),
            views=views,
            garbage_entries_max=self._settings.garbage_entries_max,
            forget_before=min(forget_before, remembered_from),
            log=self._log,
            interrupt_plan=self._sequencer.interrupt_plan,
        )
        return self._current

    def finish(self, checkpoint: Checkpoint) -> CheckpointResult:
        """Let readers use the files; `trim` can then remove the part of the log that they have."""
        assert checkpoint is self._current, "one checkpoint at a time"
        assert checkpoint.result is not None, "it has run"
        self._sequencer.interrupt_plan()
        self._state.files.advance(checkpoint.result.applied, checkpoint.result.time)
        self._state.thaw()
        self._current = None
        self._collected = min(checkpoint.horizon, checkpoint.last_commit)
        self._garbage_left = not checkpoint.result.garbage.complete
        self._quiet_again_from = self._clock() + QUIET_INTERVAL_US
        self.count += 1
        self._note_needless(checkpoint.last_sequence)
        return checkpoint.result

    def _note_needless(self, sequence: int) -> None:
        below = self._sequencer.log_needed_from(sequence)
        if below is not None:
            self._trim_below = below

    @property
    def files_end(self) -> WalIndex:
        """The files have all records of the entries up to this index."""
        return WalIndex(max(self._trim_below, int(self._log.first_index)) - 1)

    def trim(self) -> None:
        """Remove the part of the log that finished checkpoints have made redundant; blocks."""
        log = self._log
        floor = self.readers.floor(
            WalIndex(self._trim_below), log.size, is_scarce=self._is_scarce()
        )
        self.readers.save()
        log.trim(floor)

    @property
    def may_trim(self) -> bool:
        """Whether the disk has no room, and the log is longer than a restart needs."""
        kept = int(self._log.first_index) < self._trim_below
        return self._is_scarce() and kept and self.readers.any()
