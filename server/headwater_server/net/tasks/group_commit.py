"""Group commit: what was numbered while the last sync ran goes out in one write and one sync.

    sessions          commit 7   commit 8  9  10          commit 11
                          |          |  |  |                  |
    committer       [ take: 7 | sync ][ take: 8 9 10 | sync ][ take: 11 | sync ] …
                               publish, answer 7       publish, answer 8 9 10

One task, so groups are made durable and published in order. The sync runs in a thread, and
reads go on meanwhile; they see what is published, never what is only numbered. The order is
fixed: sync, then publish, then answer and wake subscribers. Nothing is acknowledged before its
sync, and whoever reads after an answer sees what was answered.

While fsync is fast (adaptive_fsync.py), a driver that serves many connections in a turn calls it
on the event loop at the end of the turn: no task switch, no thread. The task then finds nothing
to do, and takes over again when fsync becomes slow.

A sync that fails is fatal. What the disk holds then is unknown, so every client that waits is
told "unknown" with its transaction's id, and the process ends; the restart reads the log and
decides. It is never tried again: after a failed fsync the kernel may have dropped the pages
and report success the next time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
import trio

from headwater_server.engine.transactions.sequencer import Group
from headwater_server.net.failures import SHUTDOWN_NOTICE_S, CommitFailed
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.errors import DiskFull

_log = structlog.get_logger(__name__)


class CommitEngine(Protocol):
    """The part of the engine that this module drives."""

    @property
    def published(self) -> int:
        """The newest commit that readers see."""
        ...

    @property
    def durable_sequence(self) -> int:
        """Answers up to this sequence may go out."""
        ...

    def take_group(self) -> Group | None:
        """What was numbered since the last group, or None."""
        ...

    def make_durable(self, group: Group) -> None:
        """Write and sync; blocks."""
        ...

    def publish(self, group: Group) -> None:
        """Show the group to every reader that begins from now on."""
        ...


class Waiter(Protocol):
    """An answer that waits for a sync."""

    @property
    def sequence(self) -> int:
        """What must be durable before it may go out."""
        ...

    @property
    def size(self) -> int:
        """About how many bytes are kept in memory for it."""
        ...

    @property
    def owner(self) -> "WaiterOwner":
        """Who sends it."""
        ...

    taken: bool
    """Its sync has begun; set here."""


class WaiterOwner(Protocol):
    """Who sends answers that wait."""

    def release(self, waiter: Any, /) -> None:
        """It is durable: send the answer."""
        ...

    def fail(self, waiter: Any, /) -> None:
        """Its outcome is unknown: say so."""
        ...


class GroupCommit:
    """Owns the order of syncs, and the answers that wait for them.

    Attributes:
        groups: how many were made durable.
        written_size: bytes of records in all of them.
        overloaded: so much waits for the disk that who has commits waiting must send no more.
    """

    def __init__(
        self,
        engine: CommitEngine,
        run_blocking: RunBlocking,
        *,
        seal_log: Callable[[], None],
        after_publish: Callable[[], None],
        waiting_size_max: int,
        disk_retry_ms: int,
        adaptive_fsync: AdaptiveFsync | None = None,
    ) -> None:
        self._engine = engine
        self._seal_log = seal_log
        self._adaptive_fsync = adaptive_fsync
        self._run_blocking = run_blocking
        self._after_publish = after_publish
        self._waiting_size_max = waiting_size_max
        self._waiting_size = 0
        self._disk_retry_s = disk_retry_ms / 1000
        self._gathering: list[Waiter] = []
        self._syncing: list[Waiter] = []
        self._taken_sequence = 0
        self._sleeping = trio.lowlevel.ParkingLot()
        self._published = trio.lowlevel.ParkingLot()
        self._asleep = False
        self._busy = False
        self._in_turn = False
        self._handed_over: tuple[Group, Exception] | None = None
        self._failed = False
        self._held: Callable[[], bool] = lambda: False
        self._seal_wanted = False
        self._sealed_groups = 0
        self.groups = 0
        self.written_size = 0
        self.overloaded = False

    def wait_for(self, waiter: Waiter) -> None:
        """Hold the answer until its sequence is durable, then release it.

        The committer is woken, and runs when the present wake-up of the loop is over, so all
        that this wake-up commits goes into one group.
        """
        if self._failed:
            waiter.owner.fail(waiter)
            return
        self._waiting_size += waiter.size
        self.overloaded = self._waiting_size > self._waiting_size_max
        if waiter.sequence <= self._taken_sequence:
            # A repeated commit whose first answer is on its way to the disk already.
            waiter.taken = True
            self._syncing.append(waiter)
        else:
            self._gathering.append(waiter)
            if self._asleep and not self._in_turn:
                self.wake()

    def grow(self, size: int) -> None:
        """An answer that waits has become so much larger."""
        self._waiting_size += size
        self.overloaded = self._waiting_size > self._waiting_size_max

    @property
    def busy(self) -> bool:
        """Whether the committer has work, or waits for the disk."""
        return self._busy or bool(self._gathering)

    @property
    def gathering(self) -> bool:
        """Whether commits wait for the sync at the end of the turn."""
        return bool(self._gathering)

    def begin_turn(self) -> None:
        """Requests of several connections are going to be served, up to `end_turn`."""
        self._in_turn = True

    def end_turn(self) -> None:
        """Make durable what the turn committed: here and now, or in the task."""
        self._in_turn = False
        if not self._gathering:
            return
        adaptive = self._adaptive_fsync
        if (
            adaptive is None
            or not adaptive.on_event_loop
            or self._busy
            or self._failed
            or self._held()
        ):
            self.wake()
            return
        group = self._engine.take_group()
        if group is None:
            return
        self._begin(group)
        try:
            self._engine.make_durable(group)
        except Exception as error:
            # To wait until there is room, or for the end, is the task's part.
            self._handed_over = group, error
            self.wake()
            return
        self._finish(group)
        self._busy = False

    def hold_while(self, held: Callable[[], bool]) -> None:
        """Begin no group while *held* says so; call `wake` once it does not any more."""
        self._held = held

    def seal(self, *, always: bool = False) -> None:
        """Vouch for the end of the log, if it is quiet and was not done since the last group.

        *always* even if it was: the log is to begin a new segment.
        """
        if not self._busy and (always or self.groups != self._sealed_groups):
            self._seal_wanted = True
            self.wake()

    def wake(self) -> None:
        """Let the committer look for work, if it sleeps."""
        # Asked for every commit, and of two thousand in a row only the first finds it asleep.
        if self._asleep:
            self._asleep = False
            self._sleeping.unpark()

    async def run(self) -> None:
        """Make groups durable until cancelled, or until `abandon` was called.

        Raises:
            CommitFailed: a write or sync of the log failed.
        """
        while not self._failed:
            if self._handed_over is not None:
                (group, error), self._handed_over = self._handed_over, None
                await self._meet(error)
            else:
                taken = None if self._held() else self._engine.take_group()
                if taken is None:
                    await self._pause()
                    continue
                group = taken
                self._begin(group)
            await self._make_durable(group)
            if not self._failed:
                self._finish(group)

    def _begin(self, group: Group) -> None:
        self._busy = True
        self._taken_sequence = last_sequence = group.last_sequence
        assert not self._syncing, "the last group released its waiters"
        gathered, self._gathering = self._gathering, []
        for waiter in gathered:
            assert waiter.sequence <= last_sequence, "a group takes all that was numbered"
            waiter.taken = True
        self._syncing = gathered

    def _finish(self, group: Group) -> None:
        """The group is durable: publish it, and answer."""
        self._engine.publish(group)
        self.groups += 1
        self.written_size += sum(map(len, group.records))
        waiters, self._syncing = self._syncing, []
        for waiter in waiters:
            assert waiter.sequence <= group.last_sequence, "nothing is answered before its sync"
            self._waiting_size -= waiter.size
            waiter.owner.release(waiter)
        self.overloaded = self._waiting_size > self._waiting_size_max
        self._after_publish()
        self._published.unpark_all()

    async def wait_durable(self, sequence: int) -> None:
        """Return once everything up to *sequence* is durable and published; after a failure, never.

        A checkpoint begins with this wait, so none is made of a memtable that may be wrong.
        """
        while self._failed or self._engine.durable_sequence < sequence:
            self.wake()
            await self._published.park()

    async def drain(self) -> None:
        """Return once nothing waits for a sync, nor for the seal."""
        self.wake()
        while self._busy or self._gathering or self._syncing or self._seal_wanted:
            await self._published.park()

    async def _pause(self) -> None:
        """There is nothing to write; put the log in order if that is wanted, or sleep."""
        self._busy = False
        self._published.unpark_all()
        if not self._seal_wanted:
            self._asleep = True
            await self._sleeping.park()
            return
        self._busy = True
        self._seal_wanted = False
        self._sealed_groups = self.groups
        try:
            await self._run_blocking(self._seal_log)
        except DiskFull:
            # Nothing was written, and nobody waits for it.
            return
        except Exception as error:
            raise await self._fail(error) from error

    async def _make_durable(self, group: Group) -> None:
        while True:
            try:
                await self._run_blocking(partial(self._engine.make_durable, group))
            except Exception as error:
                await self._meet(error)
            else:
                return

    async def _meet(self, error: Exception) -> None:
        """Wait until a group can be written again, or raise that it never can."""
        if not isinstance(error, DiskFull):
            raise await self._fail(error) from error
        # Met before a byte was written, at preallocation: the group is whole, and may be
        # written later. The engine refuses new writes meanwhile.
        _log.error("no room for the write-ahead log", reason=str(error))
        await trio.sleep(self._disk_retry_s)

    def abandon(self) -> None:
        """Write no more groups, and tell everybody who waits that the outcome is unknown."""
        self._failed = True
        waiters = [*self._syncing, *self._gathering]
        self._syncing, self._gathering = [], []
        for waiter in waiters:
            waiter.owner.fail(waiter)

    async def _fail(self, error: Exception) -> CommitFailed:
        _log.critical(
            "the write-ahead log failed; the process ends, the restart decides",
            error=repr(error),
            unknown_commits=len(self._syncing) + len(self._gathering),
        )
        self.abandon()
        # A moment for the drivers to send that, since nobody will ever be able to again.
        with trio.CancelScope(shield=True):
            await trio.sleep(SHUTDOWN_NOTICE_S)
        return CommitFailed(f"the write-ahead log failed: {error}")
