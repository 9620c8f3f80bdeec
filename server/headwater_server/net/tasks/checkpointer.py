"""The checkpointer: the one task that makes checkpoints and trims the log.

    due --> freeze --> wait until the frozen commits are durable --> write the files --> trim
                                                                   (in a thread)

Readers and writers continue meanwhile. If writers are so fast that the next memtable reaches twice
this one's size before this one is written, group commit is held back until it is. That bounds the
memory, and the replay after a crash.

If the disk is full, the checkpointer waits; the data is safe in the log. Any other failure ends the
process, as a failed sync does. The restart begins with what is known to be on the disk.
"""

from collections.abc import Callable, Generator
from typing import TypeVar, assert_never

import structlog
import trio

from headwater_protocol.errors import DamagedFile, ShuttingDown
from headwater_server.engine.backup import Staged
from headwater_server.engine.checkpoint.checkpoint import CheckpointResult
from headwater_server.engine.checkpoint.schedule import (
    CheckpointStep,
    Trim,
    WaitDurable,
    WaitForRoom,
    Write,
    checkpoint_steps,
)
from headwater_server.engine.engine import Engine
from headwater_server.engine.pacing import UNPACED, Pacing
from headwater_server.net.histograms import durations
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.errors import DiskFull

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class CheckpointFailed(Exception):
    """Writing the files failed. The process must end; the log has everything."""


class Checkpointer:
    """Makes checkpoints when they are due.

    Attributes:
        durations: of the checkpoints that had something to write, in nanoseconds.
    """

    def __init__(
        self,
        engine: Engine,
        group_commit: GroupCommit,
        run_blocking: RunBlocking,
        *,
        disk_retry_ms: int,
        pacing: Pacing = UNPACED,
    ) -> None:
        self._engine = engine
        self._group_commit = group_commit
        self._run_blocking = run_blocking
        self._disk_retry_s = disk_retry_ms / 1000
        self._pacing = pacing
        self._due = trio.lowlevel.ParkingLot()
        self._one_at_a_time = trio.Lock()
        self._writing = False
        self._tidy = False
        self.durations = durations()
        group_commit.hold_while(self._is_behind)

    def published(self) -> None:
        """Check whether a checkpoint is due, after each publish."""
        if self._engine.checkpoints.due:
            self._due.unpark()

    def tick(self) -> None:
        """Check whether one is due by time, about once a second."""
        if self._engine.checkpoints.due_in_time():
            self._tidy = True
            self._due.unpark()
        elif self._engine.checkpoints.may_trim:
            self._due.unpark()

    async def run(self) -> None:
        """Make checkpoints until cancelled.

        Raises:
            CheckpointFailed: a checkpoint failed, and not because the disk is full.
        """
        while True:
            if self._engine.checkpoints.due or self._tidy:
                tidy, self._tidy = self._tidy, False
                await self.checkpoint(tidy=tidy)
            elif self._engine.checkpoints.may_trim:
                await self._trim()
                await self._due.park()
            else:
                await self._due.park()

    async def checkpoint(self, *, wait_for_room: bool = True, tidy: bool = False) -> None:
        """Make a checkpoint if anything was committed since the last; with *tidy*, in any case.

        Unless *wait_for_room*, a full disk aborts it.

        Raises:
            CheckpointFailed: see the class.
        """
        async with self._one_at_a_time:
            await self._checkpoint(wait_for_room=wait_for_room, tidy=tidy)

    async def _trim(self) -> None:
        """Make room: remove a part of the log that is kept for readers."""
        async with self._one_at_a_time:
            try:
                await self._run_blocking(self._engine.checkpoints.trim)
            except Exception as error:
                raise CheckpointFailed(f"the log could not be trimmed: {error}") from error

    async def stage_backup(self) -> Staged:
        """Make a checkpoint of all commits, and keep its files for a backup."""
        return await self.stage(self._engine.stage_backup)

    async def stage(self, keep: Callable[[], T]) -> T:
        """Make a checkpoint of all commits, and keep its files by a call that blocks.

        Raises:
            BackupFailed, DamagedFile: the files could not be kept.
            ShuttingDown: the server is shutting down.
            CheckpointFailed: see the class.
        """
        async with self._one_at_a_time:
            await self._checkpoint(wait_for_room=True, tidy=False)
            if self._engine.checkpoints.running:
                # We hold the turn, so the checkpoint was aborted: the server is shutting down.
                raise ShuttingDown("backup: the server is shutting down")
            return await self._run_blocking(keep)

    async def _checkpoint(self, *, wait_for_room: bool, tidy: bool) -> None:
        began = trio.current_time()
        steps = checkpoint_steps(self._engine, tidy=tidy, pacing=self._pacing)
        try:
            result = await self._take(steps, wait_for_room=wait_for_room)
        finally:
            self._hold_writers(held=False)
        if result is not None:
            seconds = trio.current_time() - began
            self.durations.add(round(seconds * 1_000_000_000))
            _log.info(
                "checkpoint",
                commit=result.applied.commit,
                commits=result.commits,
                events=result.events,
                seconds=round(seconds, 3),
            )

    async def _take(
        self,
        steps: Generator[CheckpointStep, None, CheckpointResult | None],
        *,
        wait_for_room: bool,
    ) -> CheckpointResult | None:
        """Run the steps of a checkpoint; None if there was nothing to do, or it was aborted."""
        try:
            step = next(steps)
            while True:
                match step:
                    case WaitDurable(sequence):
                        await self._group_commit.wait_durable(sequence)
                    case WaitForRoom(error):
                        _log.error("no room for a checkpoint", reason=str(error))
                        if not wait_for_room:
                            steps.close()
                            return None
                        await trio.sleep(self._disk_retry_s)
                    case Write(call) | Trim(call):
                        self._hold_writers(held=isinstance(step, Write))
                        try:
                            await self._run_blocking(call)
                        except DiskFull as error:
                            step = steps.throw(error)
                            continue
                        except Exception as error:
                            raise CheckpointFailed(f"a checkpoint failed: {error}") from error
                    case _:
                        assert_never(step)
                step = next(steps)
        except StopIteration as end:
            result: CheckpointResult | None = end.value
            return result

    def _hold_writers(self, *, held: bool) -> None:
        if self._writing != held:
            self._writing = held
            self._group_commit.wake()

    async def rewrite(self) -> bool:
        """Rewrite some segments without hidden and erased events; return whether that was all.

        Raises:
            DiskFull, DamagedFile: the segment stays as it is.
            CheckpointFailed: the disk failed.
        """
        async with self._one_at_a_time:
            if self._engine.checkpoints.running:
                # We hold the turn, so the checkpoint was aborted: the server is shutting down.
                return False
            rewrite = self._engine.rewriting.begin()
            if rewrite is None:
                return True
            try:
                await self._run_blocking(rewrite.run)
            except (DiskFull, DamagedFile):
                raise
            except Exception as error:
                raise CheckpointFailed(f"a rewrite of the event log failed: {error}") from error
            finally:
                self._engine.rewriting.finish(rewrite)
            return rewrite.complete

    def _is_behind(self) -> bool:
        # Not while the checkpoint waits for its own commits: they may be in a group held back.
        return self._writing and self._engine.checkpoints.behind
