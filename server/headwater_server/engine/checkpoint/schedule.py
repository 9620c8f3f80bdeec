"""The checkpoint schedule: when a checkpoint is due, and the steps of one.

    begin     freeze the memtable, fix the horizon       on the thread that reads
    run       write it to the files                      anywhere; see checkpoint.py
    finish    readers turn to the files                  on the thread that reads
    trim      the log goes that is not needed any more   anywhere
    free      the memtable goes, piece by piece          anywhere

`checkpoint_steps` takes these steps in order and tries again after a full disk; it yields what its
driver has to do in between. The recovery takes them one after the other (`run_to_end`), the server
awaits the thread that writes.

One runs at a time. What is committed meanwhile gathers in the next memtable. Both together may be
three times as much as makes a checkpoint due:

    frozen    |=======|                     a checkpoint was due at 1
    active    |=======:=======|             writers wait at 2

A checkpoint is due when the memtable is full. One is also due in quiet times, so that a server
that nobody writes to does not keep a log to replay, keys in two layers, and old versions whose
time in the history window is over.
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
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog

FILLS_MAX: Final = 3.0
"""Full memtables that the frozen and the active one may hold together. Beyond, writers wait for the
checkpoint. Two would make them wait at nearly every checkpoint that they keep up with."""

QUIET_US: Final = 2 * SECOND_US
"""How long nothing must have been committed for the times to be quiet."""

QUIET_INTERVAL_US: Final = 10 * SECOND_US
"""Time between two checkpoints of quiet times: each is a file of the state store, however small."""


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint between its begin and its finish.

    `run` may be called once everything up to `last_sequence` is durable: what is not in the
    log for good must not get into the files. It may be called again after it raised DiskFull.

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
    result: CheckpointResult | None = None

    @property
    def last_commit(self) -> int:
        """The newest commit that it writes."""
        return self.frozen.last_commit

    def run(self, yield_gil: YieldGil = unpaced) -> None:
        """Write the frozen memtable to the files; blocks, and may run in another thread.

        *yield_gil* is called every few hundred microseconds of work.
        """
        self.result = write_checkpoint(
            self.frozen,
            self.state.files,
            horizon=self.horizon,
            views=self.views,
            garbage_entries_max=self.garbage_entries_max,
            forget_before=self.forget_before,
            # As of now: at the beginning, the last of its commits were not durable yet.
            log_index=int(self.log.last_index),
            yield_gil=yield_gil,
        )

    def start_over(self) -> None:
        """Get the files ready for another `run` after one that met a full disk.

        Called by the thread that reads, since the state store is opened anew.
        """
        self.state.files.reopen()

    def free(self, yield_gil: YieldGil = unpaced) -> None:
        """Free the frozen memtable, after `finish`; may run in another thread.

        All readers run on the thread that finished the checkpoint, and none keeps a memtable
        after it has answered. So nobody has this one any more.
        """
        assert self.state.frozen is not self.frozen, "it was finished"
        self.frozen.take_apart(yield_gil)


@dataclass(frozen=True, slots=True)
class WaitDurable:
    """Wait until everything up to a sequence number is durable."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Write:
    """Make a call that blocks, in any thread; throw in what it raises."""

    call: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Trim:
    """As Write; the files are written, and writers need not be held up any more."""

    call: Callable[[], None]


@dataclass(frozen=True, slots=True)
class WaitForRoom:
    """The disk is full: wait a while and go on, or give the checkpoint up."""

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
        """Remove of the log what the files have; blocks."""
        ...


def checkpoint_steps(
    engine: CheckpointEngine, *, tidy: bool = False, pacing: Pacing = UNPACED
) -> Generator[CheckpointStep, None, CheckpointResult | None]:
    """Make a checkpoint; return its result, or None if there was nothing to write.

    Everything but Write and Trim runs on the thread that reads. The last step frees the frozen
    memtable. A checkpoint that was given up, by closing the generator, stays begun: the process
    ends with it.
    """
    checkpoint = engine.begin_checkpoint(tidy=tidy)
    if checkpoint is None:
        yield Trim(engine.trim_log)
        return None
    # What is not in the log for good must not get into the files.
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
    """Let go of what the files have now, in the log and in memory: no reader should wait for it."""
    # Files are removed and a directory is synced.
    engine.trim_log()
    checkpoint.free(pacing)
    pacing.end(checkpoint.fill)


def run_to_end(
    steps: Generator[CheckpointStep, None, CheckpointResult | None],
) -> CheckpointResult | None:
    """Take every step here and now: nobody reads or writes yet, and all is durable.

    Raises:
        DiskFull: the checkpoint is given up.
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
    """

    def __init__(
        self,
        state: State,
        sequencer: Sequencer,
        log: WriteAheadLog,
        settings: EngineSettings,
        clock: Callable[[], int],
    ) -> None:
        self._state = state
        self._sequencer = sequencer
        self._log = log
        self._settings = settings
        self._clock = clock
        self._current: Checkpoint | None = None
        self._trim_below = 0
        self._garbage_left = False
        self._collected = state.files.horizon
        # What the newest record was when we last looked, and since when it is that.
        self._newest_seen = (0, 0)
        self._quiet_again_from = 0
        self.count = 0

    @property
    def running(self) -> bool:
        """Whether one was begun and is not finished."""
        return self._current is not None

    @property
    def due(self) -> bool:
        """Whether the memtable has grown enough for a checkpoint, and none is running."""
        return self._current is None and self._full

    @property
    def behind(self) -> bool:
        """Whether one is running, and as much was committed since as memory and restart allow.

        Writers must wait then. One full memtable is always allowed: after a replay, the frozen
        one may hold FILLS_MAX by itself.
        """
        current = self._current
        return current is not None and self.fill >= max(FILLS_MAX - current.fill, 1.0)

    @property
    def overdue(self) -> bool:
        """Whether a replay must stop for one: the memtable holds more than a crash leaves.

        Before that it is sooner done with the log, and the checkpoint runs beside the readers.
        """
        return self._current is None and self.fill >= FILLS_MAX

    def due_in_quiet(self) -> bool:
        """Whether it is quiet and there is something to tidy up. To be asked about once a second.

        That is what memtables hold, or versions that have left the history window.
        """
        now = self._clock()
        sequence, since = self._newest_seen
        if sequence != self._sequencer.commits_and_fences or now < since:
            self._newest_seen = (self._sequencer.commits_and_fences, now)
            return False
        if self._quiet_again_from > now + QUIET_INTERVAL_US:
            # The clock was set back, which must not keep us from it for as long.
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
    def _full(self) -> bool:
        return self.fill >= 1.0

    @property
    def fill(self) -> float:
        """How full the active memtable is; from 1 on it is to be written to the files."""
        active, settings = self._state.active, self._settings
        return max(
            active.size / settings.memtable_size_max,
            len(active.commits) / settings.memtable_commits_max,
        )

    def begin(
        self, *, published: int, views: list[int], forget_before: int, tidy: bool = False
    ) -> Checkpoint | None:
        """Freeze the memtable; None if one is under way, or there is nothing in it.

        *tidy* makes one of an empty memtable too, which collects garbage.
        """
        active = self._state.active
        if self._current is not None:
            return None
        # Ticks of the clock alone are worth one when they fill it: then the log may let them go.
        if not (tidy or active.commits or active.aborted or self._full):
            # The files have all that the log has, and nothing is on its way there.
            self._note_needless(self._sequencer.durable_sequence)
            self._trim_below = int(self._log.last_index) + 1
            return None
        fill = self.fill
        self._current = Checkpoint(
            frozen=self._state.freeze(),
            fill=fill,
            last_sequence=self._sequencer.sequence,
            state=self._state,
            # It was published, so nobody begins to read what the checkpoint may collect.
            horizon=min(self._state.files.horizon, published),
            views=views,
            garbage_entries_max=self._settings.garbage_entries_max,
            forget_before=forget_before,
            log=self._log,
        )
        return self._current

    def finish(self, checkpoint: Checkpoint) -> CheckpointResult:
        """Let readers use the files; `trim` then lets the log go that is not needed any more."""
        assert checkpoint is self._current, "one checkpoint at a time"
        assert checkpoint.result is not None, "it has run"
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

    def trim(self) -> None:
        """Remove what the finished checkpoints made needless of the log; blocks."""
        self._log.trim(WalIndex(self._trim_below))
