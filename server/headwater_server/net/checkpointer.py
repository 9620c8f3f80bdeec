"""The checkpointer: the one task that owns checkpoints and the trimming of the log.

    due --> freeze --> wait until all that is frozen is durable --> write the files --> trim
                                                                   (in a thread)

Readers and writers go on beside it. Only if they write so fast that the next memtable grows to
several times its size before this one is written, the group commit is held back until it is:
memory is bounded, and so is the replay after a crash.

A full disk is waited out; the data is safe in the log meanwhile. Any other failure ends the
process, as a failed sync does: the restart starts from what is known to be on the disk.
"""

from typing import Final

import structlog
import trio

from headwater_server.engine.checkpointing import Checkpoint
from headwater_server.engine.engine import Engine
from headwater_server.net.group_commit import GroupCommit
from headwater_server.net.worker_thread import RunBlocking
from headwater_server.storage.errors import DiskFull

_log = structlog.get_logger(__name__)

BEHIND_FACTOR: Final = 2
"""Memtables' worth of commits during one checkpoint, above which commits are held back."""


class CheckpointFailed(Exception):
    """The files could not be written. The process must end; the log has everything."""


class Checkpointer:
    """Makes checkpoints when they are due."""

    def __init__(
        self,
        engine: Engine,
        group_commit: GroupCommit,
        run_blocking: RunBlocking,
        *,
        disk_retry_ms: int,
    ) -> None:
        self._engine = engine
        self._group_commit = group_commit
        self._run_blocking = run_blocking
        self._disk_retry_s = disk_retry_ms / 1000
        self._due = trio.lowlevel.ParkingLot()
        self._one_at_a_time = trio.Lock()
        # What had been written when the checkpoint that runs was begun; None: none runs.
        self._began: tuple[int, int] | None = None
        group_commit.hold_while(self._is_behind)

    def published(self) -> None:
        """Look whether a checkpoint is due, after each publish."""
        if self._engine.checkpoint_due:
            self._due.unpark()

    async def run(self) -> None:
        """Make checkpoints until cancelled.

        Raises:
            CheckpointFailed: one failed for another reason than a full disk.
        """
        while True:
            if self._engine.checkpoint_due:
                await self.checkpoint()
            else:
                await self._due.park()

    async def checkpoint(self, *, wait_for_room: bool = True) -> None:
        """Make a checkpoint of all that was committed, if anything was.

        With *wait_for_room* false it is given up if the disk is full.

        Raises:
            CheckpointFailed: see the class.
        """
        async with self._one_at_a_time:
            checkpoint = self._engine.begin_checkpoint()
            if checkpoint is None:
                return
            began = trio.current_time()
            await self._group_commit.wait_durable(checkpoint.last_sequence)
            self._began = self._written()
            try:
                done = await self._write(checkpoint, wait_for_room=wait_for_room)
            finally:
                self._began = None
                self._group_commit.wake()
            if not done:
                return
            result = self._engine.finish_checkpoint(checkpoint)
            _log.info(
                "checkpoint",
                commit=result.applied.commit,
                commits=result.commits,
                events=result.events,
                seconds=round(trio.current_time() - began, 3),
            )

    async def _write(self, checkpoint: Checkpoint, *, wait_for_room: bool) -> bool:
        while True:
            try:
                await self._run_blocking(checkpoint.run)
            except DiskFull as error:
                _log.error("no room for a checkpoint", reason=str(error))
                if not wait_for_room:
                    return False
                await self._start_over(checkpoint)
            except Exception as error:
                raise CheckpointFailed(f"a checkpoint failed: {error}") from error
            else:
                return True

    async def _start_over(self, checkpoint: Checkpoint) -> None:
        while True:
            await trio.sleep(self._disk_retry_s)
            try:
                checkpoint.start_over()
            except DiskFull as error:
                _log.error("no room to open the state store again", reason=str(error))
            else:
                return

    def _written(self) -> tuple[int, int]:
        return self._engine.published, self._group_commit.written_size

    def _is_behind(self) -> bool:
        if self._began is None:
            return False
        commit, size = self._written()
        settings = self._engine.settings
        return (
            commit - self._began[0] > BEHIND_FACTOR * settings.memtable_commits_max
            or size - self._began[1] > BEHIND_FACTOR * settings.memtable_size_max
        )
