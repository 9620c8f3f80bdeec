"""Checkpointing: when a checkpoint is due, and the steps of one.

    begin     freeze the memtable, fix the horizon       on the thread that reads
    run       write it to the files                      anywhere; see checkpoint.py
    finish    readers turn to the files                  on the thread that reads
    trim      the log goes that is not needed any more   anywhere

One runs at a time. What is committed meanwhile gathers in the next memtable.
"""

from collections.abc import Callable
from dataclasses import dataclass

from headwater_server.engine.checkpoint import CheckpointResult, write_checkpoint
from headwater_server.engine.memtable import MemTable
from headwater_server.engine.sequencer import Sequencer
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state import State
from headwater_server.storage.write_ahead_log import WalIndex, WriteAheadLog


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint between its begin and its finish.

    `run` may be called once everything up to `last_sequence` is durable: what is not in the
    log for good must not get into the files. It may be called again after it raised DiskFull.
    """

    frozen: MemTable
    last_sequence: int
    state: State
    horizon: int
    views: list[int]
    garbage_entries_max: int
    forget_before: int
    log_index: int
    result: CheckpointResult | None = None

    @property
    def last_commit(self) -> int:
        """The newest commit that it writes."""
        return self.frozen.last_commit

    def run(self) -> None:
        """Write the frozen memtable to the files; blocks, and may run in another thread."""
        self.result = write_checkpoint(
            self.frozen,
            self.state.files,
            horizon=self.horizon,
            views=self.views,
            garbage_entries_max=self.garbage_entries_max,
            forget_before=self.forget_before,
            log_index=self.log_index,
        )

    def start_over(self) -> None:
        """Get the files ready for another `run` after one that met a full disk.

        Called by the thread that reads, since the state store is opened anew.
        """
        self.state.files.reopen()


class Checkpointing:
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
        """Whether one is running, and as much was committed since as would make another due.

        Writers must wait then: two memtables are what the memory and a restart are bounded for.
        """
        return self._current is not None and self._full

    @property
    def overdue(self) -> bool:
        """Whether a replay must stop for one: the memtable holds more than two may.

        Before that it is sooner done with the log, and the checkpoint runs beside the readers.
        """
        return self._current is None and self._filled(2)

    @property
    def _full(self) -> bool:
        return self._filled(1)

    def _filled(self, memtables: int) -> bool:
        active = self._state.active
        return (
            active.size >= memtables * self._settings.memtable_size_max
            or len(active.commits) >= memtables * self._settings.memtable_commits_max
        )

    def begin(self, *, published: int, views: list[int], forget_before: int) -> Checkpoint | None:
        """Freeze the memtable; None if there is nothing in it, or one is under way."""
        active = self._state.active
        if self._current is not None:
            return None
        if not (active.commits or active.aborted):
            # The files have all that the log has, and nothing is on its way there.
            self._note_needless(self._sequencer.durable_sequence)
            self._trim_below = int(self._log.last_index) + 1
            return None
        window_start = self._state.commit_at(self._clock() - self._settings.history_window_us)
        self._current = Checkpoint(
            frozen=self._state.freeze(),
            last_sequence=self._sequencer.sequence,
            state=self._state,
            horizon=min(window_start, published),
            views=views,
            garbage_entries_max=self._settings.garbage_entries_max,
            forget_before=forget_before,
            log_index=int(self._log.last_index),
        )
        # From here on nobody begins to read what the checkpoint may collect.
        self._state.files.horizon = max(self._state.files.horizon, self._current.horizon)
        return self._current

    def finish(self, checkpoint: Checkpoint) -> CheckpointResult:
        """Let readers use the files; `trim` then lets the log go that is not needed any more."""
        assert checkpoint is self._current, "one checkpoint at a time"
        assert checkpoint.result is not None, "it has run"
        self._state.files.advance(checkpoint.result)
        self._state.thaw()
        self._current = None
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
