"""Following: takes the entries of the leader into this node's log, and applies them.

    log_read --> ingest: write and sync --> log_read, which confirms them --> apply, publish
                 (in a thread)                                               (wakes the feeds)

The next request is sent before the entries are applied, so a leader that waits for this follower
waits for its sync alone. What cannot go on stops here and nothing else: reads go on, and say how
old they are.

    the leader is away             connect again; nothing is lost
    entries were trimmed there     copy the database again beside serving, then reopen
    a damaged or missing entry     apply nothing more, alarm, ask for it again from time to time
    this log has other entries     apply nothing more, alarm, and name them
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import (
    AuthenticationFailed,
    DamagedFile,
    HeadwaterError,
    LogDiverged,
    LogTrimmed,
    NotLeader,
    TooMany,
)
from headwater_protocol.limits import KIB
from headwater_server.engine.engine import Engine
from headwater_server.net.failures import Reopen
from headwater_server.net.replication.bootstrap import Bootstrap, entries_of
from headwater_server.net.replication.upstream import Link, Upstream
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.net.turns import Turn
from headwater_server.storage.errors import DiskFull, Diverged
from headwater_server.storage.wal.interface import WalEntry, WalIndex

_log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 256 * KIB
"""Bytes of entries that are asked for at once, and held in memory."""

RETRY_S: Final = 0.5
"""Seconds before a leader that is away is tried again."""

ALARM_RETRY_S: Final = 10.0
"""Seconds before an entry that could not be used is asked for again."""

_LOOK_S: Final = 0.01


class Following:
    """A follower's task.

    Attributes:
        problem: why nothing is applied any more; None: all is well, or the leader is away.
        leader_commit: the newest commit of the leader, as far as is known.
    """

    def __init__(
        self,
        engine: Engine,
        upstream: Upstream,
        bootstrap: Bootstrap,
        run_blocking: RunBlocking,
        *,
        node: str,
        turn: Turn,
        monotonic: Callable[[], float],
        on_published: Callable[[], None],
        on_following: Callable[[], None],
    ) -> None:
        """*on_published* is called after each batch; *on_following* when the leader agrees."""
        self.problem: str | None = None
        self.leader_commit = engine.published
        self.upstream = upstream
        self._engine = engine
        self._bootstrap = bootstrap
        self._run_blocking = run_blocking
        self._node = node
        self._turn = turn
        self._monotonic = monotonic
        self._on_published = on_published
        self._on_following = on_following
        self._unapplied: deque[WalEntry] = deque()
        self._scope: trio.CancelScope | None = None
        self._stopped = False
        self._idle = trio.Event()
        self._heard: float | None = None
        self._leader_time = 0
        engine.leadership.leader = upstream.url

    # What is known of the leader.

    @property
    def lag_commits(self) -> int:
        """How many commits the leader has, as far as is known, that are not applied here."""
        return max(0, self.leader_commit - self._engine.published)

    @property
    def lag_us(self) -> int | None:
        """About how old what readers see is, in microseconds; None: the leader was never heard."""
        if self._heard is None:
            return None
        silent_us = round((self._monotonic() - self._heard) * 1_000_000)
        if not self.lag_commits:
            return silent_us
        time = self._engine.sequencer.published_time.time
        return max(0, self._leader_time - time) + silent_us

    # The task.

    async def run(self) -> None:
        """Follow until `stop`.

        Raises:
            Reopen: see the class.
        """
        while not self._stopped:
            wait_s = RETRY_S
            with trio.CancelScope() as self._scope:
                try:
                    await self._follow()
                except (DamagedFile, Diverged, LogDiverged, AuthenticationFailed) as error:
                    self._alarm(error)
                    wait_s = ALARM_RETRY_S
                except LogTrimmed as error:
                    await self._copy_again(error.message)
                except DiskFull as error:
                    self._alarm(error)
                    wait_s = ALARM_RETRY_S
                except HeadwaterError as error:
                    self._note_away(error)
                if not self._stopped:
                    await trio.sleep(wait_s)
        self._idle.set()

    async def stop(self) -> None:
        """Take no more entries, and apply those that are here: this node will lead."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()
        await self._idle.wait()
        await self._apply()

    async def _follow(self) -> None:
        """Follow over one connection."""
        engine = self._engine
        await self._apply()
        async with self.upstream.connect() as link:
            end = engine.leadership.end
            await link.ask("replicate", self._node, end.epoch, end.index, end.hash)
            self._on_following()
            request = await self._ask(link)
            while True:
                answer = entries_of(await link.result(request))
                entries, _, self.leader_commit, _, self._leader_time = answer
                self._heard = self._monotonic()
                roll_at = engine.rewriting.roll_at
                if entries or roll_at is not None:
                    take = partial(engine.applier.ingest, entries, roll_at=roll_at)
                    self._unapplied.extend(await self._run_blocking(take))
                request = await self._ask(link)
                if self.problem is not None:
                    _log.info("following again", leader=self.upstream.url)
                    self.problem = None
                await self._apply()

    async def _ask(self, link: Link) -> int:
        after: WalIndex = self._engine.log_reader.last_index
        return await link.send("log_read", self._node, after, BATCH_SIZE)

    async def _apply(self) -> None:
        """Apply the entries that are here, and let others run in between."""
        engine = self._engine
        turn = self._turn
        turn.begin()
        while self._unapplied:
            if turn.over or engine.checkpoints.behind:
                self._on_published()
                await trio.lowlevel.checkpoint()
                # The checkpointer bounds the memtable, as it does for writers.
                while engine.checkpoints.behind:  # noqa: ASYNC110
                    await trio.sleep(_LOOK_S)
                turn.begin()
            engine.applier.apply(self._unapplied[0])
            self._unapplied.popleft()
        self._on_published()

    async def _copy_again(self, why: str) -> None:
        """Copy the database again, beside serving what is here.

        Raises:
            Reopen: the copy is complete.
        """
        _log.warning("this follower begins again from a copy of its leader", why=why)
        self.problem = f"copying the leader again: {why}"
        await self._bootstrap.run()
        raise Reopen

    def _alarm(self, error: Exception) -> None:
        reason = str(error)
        if isinstance(error, LogDiverged):
            reason = f"{reason}; {beyond(self._engine, error.details.get('common'))}"
        if reason != self.problem:
            _log.error("this follower applies nothing more", reason=reason)
        self.problem = reason

    def _note_away(self, error: HeadwaterError) -> None:
        if isinstance(error, NotLeader):
            # It follows another node, or was deposed: somebody has to say where to go.
            self._alarm(error)
        elif isinstance(error, TooMany):
            _log.warning("the leader is busy", reason=error.message)
        else:
            _log.debug("the leader is away", reason=error.message)


def beyond(engine: Engine, common: Any) -> str:
    """What this node has after the last entry that it has in common with another."""
    if not isinstance(common, int):
        return "it is not known how much"
    reader = engine.log_reader
    if common >= reader.last_index:
        return "nothing is lost with this node"
    commits = engine.applier.commits_after(WalIndex(common))
    entries = f"entries {common + 1} to {reader.last_index} are in the log of this node alone"
    if commits is None:
        return entries
    first, last = commits
    return f"{entries}: commits {first} to {last}" if first else f"{entries}; they have no commits"
