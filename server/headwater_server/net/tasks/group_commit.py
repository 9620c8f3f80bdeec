"""Group commit: commits sequenced during one sync share the next write and sync.

    sessions          commit 7   commit 8  9  10          commit 11
                          |          |  |  |                  |
    committer       [ take: 7 | sync ][ take: 8 9 10 | sync ][ take: 11 | sync ] …
                               publish, answer 7       publish, answer 8 9 10

A single task, the committer, owns the order: sync, publish, then send answers and wake subscribers.
Nothing is acknowledged before its sync, and a read that follows an answer sees the commit. The sync
runs in a worker thread, and reads continue meanwhile. They see only published commits.

While fsync is fast (adaptive_fsync.py), a driver that serves many connections in a turn calls it
on the event loop at the end of the turn: no task switch, no thread. The committer then finds
nothing to do, and takes over again when fsync becomes slow.

A failed sync is fatal, since nobody knows what the disk holds then. Every waiting client is told
that its outcome is unknown, with its transaction's id, and the process ends. The restart reads the
log and decides. The sync is never retried: after a failed fsync the kernel may have dropped the
pages, and a second fsync would report success.

A log on other machines may not answer. Then its group is confirmed again until it does. Clients
wait for a while, and are then told that the outcome is unknown; the engine takes no more writes
meanwhile. If another node has claimed the log, the engine has to be opened again as a follower.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
import trio

from headwater_server.engine.transactions.sequencer import Group
from headwater_server.net.failures import SHUTDOWN_NOTICE_S, CommitFailed, Reopen
from headwater_server.net.tasks.commit_roles import CommitEngine, Ship, Waiter
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.errors import DiskFull, Fenced, Unavailable

_log = structlog.get_logger(__name__)

LOG_RETRY_S: Final = 0.1
"""Seconds before a log that did not answer is asked again."""

LOG_PATIENCE_S: Final = 5.0
"""Seconds that clients wait for a log that does not answer."""


@dataclass(slots=True)
class _InFlight:
    """A group that is durable here, and on its way to the followers."""

    group: Group
    waiters: list[Waiter]


class GroupCommit:
    """Owns the order of syncs, and the answers that wait for them.

    Attributes:
        groups: number of durable groups.
        written_size: bytes of records in all of them.
        waiting_size: bytes of requests and results that wait for the disk.
        waiting_size_max: above that, it is overloaded.
        overloaded: too many bytes wait for the disk; connections with waiting commits are not
            read from.
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
        note_log: Callable[[str | None], None] = lambda _reason: None,
    ) -> None:
        """*note_log* is told why the log takes no more writes, and None once it does again."""
        self._engine = engine
        self._note_log = note_log
        self._log_silent_since: float | None = None
        self._seal_log = seal_log
        self._adaptive_fsync = adaptive_fsync
        self._run_blocking = run_blocking
        self._after_publish = after_publish
        self.waiting_size_max = waiting_size_max
        self.waiting_size = 0
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
        # None without followers: then a group costs nothing more.
        self._ship: Ship | None = None
        self._in_flight: deque[_InFlight] = deque()
        self._logged_sequence = 0
        self._confirming = trio.lowlevel.ParkingLot()
        self._deposed = False

    def ship(self, ship: Ship) -> None:
        """Tell the followers of each group from now on."""
        self._ship = ship

    def hold_recovered(self, group: Group) -> None:
        """Answer nothing from *group*, all that this node has, before the followers have it.

        To be called when this node begins to lead. Commits that were in flight when it stopped are
        in its log, and perhaps in no other one. Their clients send them again, and an answer from
        this log alone would be lost with it.
        """
        self._hold(group)

    def depose(self) -> None:
        """Another node leads: commits that were not answered may be lost, so none is any more."""
        self._deposed = True

    def wait_for(self, waiter: Waiter) -> None:
        """Hold the answer until its sequence is durable, then release it.

        It wakes the committer, which runs after the event loop's current wake-up. So all commits
        of this wake-up go into one group.
        """
        if self._failed or (self._log_silent_since is not None and self.log_is_unavailable):
            waiter.owner.fail(waiter)
            return
        self.waiting_size += waiter.size
        self.overloaded = self.waiting_size > self.waiting_size_max
        if waiter.sequence <= self._taken_sequence:
            # A repeated commit; the sync of the first attempt is already running.
            waiter.taken = True
            self._waiters_of(waiter.sequence).append(waiter)
        else:
            self._gathering.append(waiter)
            if self._asleep and not self._in_turn:
                self.wake()

    def _waiters_of(self, sequence: int) -> list[Waiter]:
        """Those that wait for the group that has this sequence number; its sync has begun."""
        for flight in self._in_flight:
            if flight.group.last_sequence >= sequence:
                return flight.waiters
        return self._syncing

    @property
    def log_is_silent(self) -> bool:
        """Whether a group waits for a log that does not answer."""
        return self._log_silent_since is not None

    @property
    def log_is_unavailable(self) -> bool:
        """Whether the log has not answered for so long that clients were told."""
        since = self._log_silent_since
        return since is not None and trio.current_time() - since >= LOG_PATIENCE_S

    def grow(self, size: int) -> None:
        """Add *size* to the bytes that waiting answers keep in memory."""
        self.waiting_size += size
        self.overloaded = self.waiting_size > self.waiting_size_max

    @property
    def held(self) -> bool:
        """Whether commits wait until a checkpoint is written."""
        return self._held()

    @property
    def busy(self) -> bool:
        """Whether the committer has work or waits for the disk."""
        return self._busy or bool(self._gathering)

    @property
    def gathering(self) -> bool:
        """Whether commits wait for the sync at the end of the turn."""
        return bool(self._gathering)

    def begin_turn(self) -> None:
        """A turn begins: until `end_turn`, requests of several connections are served."""
        self._in_turn = True

    def end_turn(self) -> None:
        """Make the turn's commits durable: on the event loop, or in the committer."""
        self._in_turn = False
        if not self._gathering:
            return
        adaptive = self._adaptive_fsync
        if (
            adaptive is None
            or not adaptive.on_event_loop
            or self._busy
            or self._failed
            or self._ship is not None
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
            # The committer waits for room on the disk, or ends the process.
            self._handed_over = group, error
            self.wake()
            return
        self._finish(group)
        self._busy = False

    def hold_while(self, held: Callable[[], bool]) -> None:
        """Begin no group while *held* returns True; call `wake` once it no longer does."""
        self._held = held

    def seal(self, *, always: bool = False) -> None:
        """If idle, append an empty entry that marks the previous group as durable.

        Once for each group; with *always* in any case, to make the log begin a new segment.
        """
        if not self._busy and not self._deposed and (always or self.groups != self._sealed_groups):
            self._seal_wanted = True
            self.wake()

    def wake(self) -> None:
        """Wake the committer if it sleeps."""
        # Called for every commit; of two thousand in a row, only the first finds it asleep.
        if self._asleep:
            self._asleep = False
            self._sleeping.unpark()

    async def run(self) -> None:
        """Make groups durable until cancelled, or until `abandon` is called.

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
            if self._failed:
                return
            if self._ship is None:
                self._finish(group)
                continue
            self._ship.logged()
            if self._ship.synchronous:
                self._hold(group)
            else:
                self._finish(group)

    def _hold(self, group: Group) -> None:
        """Keep a group, which is durable here, until its followers have it too."""
        waiters, self._syncing = self._syncing, []
        self._in_flight.append(_InFlight(group, waiters))
        self._logged_sequence = group.last_sequence
        self._published.unpark_all()
        self._confirming.unpark()

    async def confirm(self) -> None:
        """Publish the groups that followers must have, in order, until cancelled."""
        while not self._failed:
            if not self._in_flight:
                await self._confirming.park()
                continue
            flight = self._in_flight[0]
            assert self._ship is not None, "only groups for followers are held"
            known = await self._ship.wait_confirmed(flight.group.log_index)
            if self._failed:
                return
            self._in_flight.popleft()
            if known:
                self._publish(flight.group, flight.waiters)
            else:
                # It is durable here, and may be lost with this node: no reader sees it before the
                # next start.
                self._refuse(flight.waiters)
                self._published.unpark_all()

    def _refuse(self, waiters: list[Waiter]) -> None:
        """Tell clients that the outcome is unknown."""
        for waiter in waiters:
            self.waiting_size -= waiter.size
            waiter.owner.fail(waiter)
        self.overloaded = self.waiting_size > self.waiting_size_max

    def _begin(self, group: Group) -> None:
        self._busy = True
        self._taken_sequence = last_sequence = group.last_sequence
        assert not self._syncing, "the last group released its waiters"
        gathered, self._gathering = self._gathering, []
        for waiter in gathered:
            assert waiter.sequence <= last_sequence, "a group takes all sequenced commits"
            waiter.taken = True
        self._syncing = gathered

    def _finish(self, group: Group) -> None:
        """Publish a durable group, and release its answers."""
        waiters, self._syncing = self._syncing, []
        if self._deposed:
            self._refuse(waiters)
            waiters = []
        self._publish(group, waiters)

    def _publish(self, group: Group, waiters: list[Waiter]) -> None:
        self._engine.publish(group)
        self.groups += 1
        for record in group.records:
            self.written_size += len(record)
        for waiter in waiters:
            assert waiter.sequence <= group.last_sequence, "nothing is answered before its sync"
            self.waiting_size -= waiter.size
            waiter.owner.release(waiter)
        self.overloaded = self.waiting_size > self.waiting_size_max
        self._after_publish()
        self._published.unpark_all()

    async def wait_durable(self, sequence: int) -> None:
        """Return once everything up to *sequence* is durable here; after a failure, never.

        A checkpoint begins with this wait, so it never writes a memtable that may be wrong. It does
        not wait for followers: they may be copying this node, which needs a checkpoint.
        """
        while self._failed or (
            self._engine.durable_sequence < sequence and self._logged_sequence < sequence
        ):
            self.wake()
            await self._published.park()

    @property
    def _is_working(self) -> bool:
        return bool(self._busy or self._gathering or self._syncing or self._in_flight)

    async def drain(self) -> None:
        """Return once nothing waits for a sync or a seal."""
        self.wake()
        while (
            self._busy or self._gathering or self._syncing or self._in_flight or self._seal_wanted
        ):
            await self._published.park()

    async def _pause(self) -> None:
        """Nothing is to be written: seal the log if that was asked for, or sleep."""
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
            if self._ship is not None:
                self._ship.logged()
        except (DiskFull, Unavailable):
            # No client waits for a seal.
            return
        except Exception as error:
            raise await self._fail(error) from error

    async def _make_durable(self, group: Group) -> None:
        while True:
            try:
                await self._run_blocking(partial(self._engine.make_durable, group))
            except Unavailable as error:
                await self._wait_for_log(error)
                if self._failed:
                    return
            except Exception as error:
                await self._meet(error)
            else:
                if self._log_silent_since is not None:
                    self._log_silent_since = None
                    self._note_log(None)
                return

    async def _wait_for_log(self, error: Unavailable) -> None:
        """The log does not answer. If it does not for long, tell the clients."""
        if self._log_silent_since is None:
            self._log_silent_since = trio.current_time()
            _log.warning("the log does not answer; commits wait", reason=str(error))
        elif self.log_is_unavailable:
            self._note_log(f"the log of the cluster does not answer: {error}")
            waiters = [*self._syncing, *self._gathering]
            self._syncing, self._gathering = [], []
            self._refuse(waiters)
        await trio.sleep(LOG_RETRY_S)

    async def _meet(self, error: Exception) -> None:
        """Wait before retrying a full disk; raise CommitFailed or Reopen for any other error."""
        if not isinstance(error, DiskFull):
            raise await self._fail(error) from error
        # Preallocation failed before a byte was written, so the group can be written later. The
        # engine refuses new writes meanwhile.
        _log.error("no room for the write-ahead log", reason=str(error))
        await trio.sleep(self._disk_retry_s)

    def abandon(self) -> None:
        """Write no more groups, and tell all waiting clients that the outcome is unknown."""
        self._failed = True
        waiters = [*self._syncing, *self._gathering]
        for flight in self._in_flight:
            waiters += flight.waiters
        self._in_flight.clear()
        self._syncing, self._gathering = [], []
        for waiter in waiters:
            waiter.owner.fail(waiter)

    async def _fail(self, error: Exception) -> CommitFailed | Reopen:
        deposed = isinstance(error, Fenced)
        what = "the write-ahead log failed; the process ends, and the restart reads what is durable"
        if deposed:
            what = "another node has claimed the log, and this one leads no more"
        _log.critical(
            what,
            error=repr(error),
            unknown_commits=len(self._syncing) + len(self._gathering),
        )
        self.abandon()
        # Give the drivers time to send these answers before the process ends.
        with trio.CancelScope(shield=True):
            await trio.sleep(SHUTDOWN_NOTICE_S)
        if deposed:
            return Reopen(str(error))
        return CommitFailed(f"the write-ahead log failed: {error}")
