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

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import (
    AuthenticationFailed,
    DamagedFile,
    HeadwaterError,
    InvalidArgument,
    LogDiverged,
    LogTrimmed,
    NotLeader,
    TooMany,
)
from headwater_protocol.limits import KIB
from headwater_server.engine.engine import Engine
from headwater_server.net.failures import Reopen
from headwater_server.net.replication.applying import Applying
from headwater_server.net.replication.bootstrap import Bootstrap, entries_of
from headwater_server.net.replication.upstream import Link, Upstream
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.net.turns import Turn
from headwater_server.storage.errors import DiskFull, Diverged, Truncated
from headwater_server.storage.wal.interface import Epoch, LogEnd, WalIndex

_log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 256 * KIB
"""Bytes of entries that are asked for at once, and held in memory."""

RETRY_S: Final = 0.5
"""Seconds before a leader that is away is tried again."""

ALARM_RETRY_S: Final = 10.0
"""Seconds before an entry that could not be used is asked for again."""


class Following:
    """A follower's task.

    Attributes:
        problem: why nothing is applied any more; None: all is well, or the leader is away.
        leader_commit: the newest commit of the leader, as far as is known.
        joined: all that this node has came from a leader.
    """

    def __init__(
        self,
        engine: Engine,
        upstream: Upstream,
        bootstrap: Bootstrap,
        run_blocking: RunBlocking,
        *,
        node: str,
        joined: bool,
        fork: LogEnd | None,
        turn: Turn,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        on_published: Callable[[], None],
        on_following: Callable[[], None],
    ) -> None:
        """*on_published* is called after each batch; *on_following* when the leader agrees.

        *joined*: all that this node has came from a leader. Otherwise it may have commits of its
        own, after *fork* if that is known.
        """
        self.problem: str | None = None
        self.leader_commit = engine.published
        self.upstream = upstream
        self._engine = engine
        self._bootstrap = bootstrap
        self._run_blocking = run_blocking
        self._node = node
        self.joined = joined
        self._fork = fork
        self._clock = clock
        self._monotonic = monotonic
        self._on_following = on_following
        self._applying = Applying(engine, turn, on_published)
        self._scope: trio.CancelScope | None = None
        self._stopped = False
        self._idle = trio.Event()
        self._resumed = trio.Event()
        self._heard: float | None = None
        self._leader_time = 0
        engine.leadership.leader = upstream.url

    # What is known of the leader.

    @property
    def lag_commits(self) -> int:
        """How many commits the leader has, as far as is known, that are not applied here."""
        return max(0, self.leader_commit - self._engine.published)

    @property
    def lag_us(self) -> int:
        """About how old what readers see is, in microseconds.

        Before the leader was heard, that is the age of the newest record, by the clock of this
        machine: it may be newer than that if nothing was written.
        """
        if self._heard is None:
            return max(0, self._clock() - self._engine.sequencer.published_time.time)
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
        while True:
            while not self._stopped:
                with trio.CancelScope() as self._scope:
                    await trio.sleep(await self._follow_once())
            self._idle.set()
            await self._resumed.wait()

    async def _follow_once(self) -> float:
        """Follow until that ends; return after how many seconds it is tried again."""
        try:
            await self._follow()
        except LogDiverged as error:
            common = _common_of(error.details)
            if self._has_no_commits_after(common):
                # For example an old leader that was restarted once more.
                await self._copy_again("its log ends with entries that have no commits")
            self._alarm(f"{error}; {beyond(self._engine, common)}")
        except LogTrimmed as error:
            if self.joined or self._has_no_commits_after(self._fork):
                await self._copy_again(error.message)
            self._alarm(
                f"{error.message}; this node may have commits of its own, so it is not replaced by "
                "a copy: give it an empty directory, or start it without --follow"
            )
        except (DamagedFile, Diverged, AuthenticationFailed, DiskFull, InvalidArgument) as error:
            self._alarm(str(error))
        except HeadwaterError as error:
            self._note_away(error)
            return RETRY_S
        return ALARM_RETRY_S

    async def stop(self) -> None:
        """Take no more entries, and apply those that are here: this node will lead."""
        self._stopped = True
        if self._scope is not None:
            self._scope.cancel()
        await self._idle.wait()
        await self._applying.run_logged()

    def resume(self) -> None:
        """Follow again: this node will not lead."""
        self._stopped = False
        self._idle = trio.Event()
        resumed, self._resumed = self._resumed, trio.Event()
        resumed.set()

    def _has_no_commits_after(self, common: LogEnd | None) -> bool:
        """Whether nothing is lost if this node is replaced by a copy of its leader."""
        reader = self._engine.log_reader
        if common is None or common.index > reader.last_index:
            return False
        try:
            if reader.end_at(common.index).hash != common.hash:
                return False
        except (Truncated, DamagedFile):
            return False
        return self._engine.applier.commits_after(common.index) == (0, 0)

    async def _follow(self) -> None:
        """Follow over one connection."""
        engine = self._engine
        await self._applying.run_logged()
        async with self.upstream.connect() as link:
            end = engine.leadership.end
            identity = engine.database_id
            greeting = (self._node, end.epoch, end.index, end.hash, None, identity)
            await link.ask("replicate", *greeting)
            self.joined = True
            self._on_following()
            request = await self._ask(link)
            while True:
                answer = entries_of(await link.result(request))
                entries, _, self.leader_commit, _, self._leader_time = answer
                self._heard = self._monotonic()
                roll_at = engine.rewriting.roll_at
                if entries or roll_at is not None:
                    take = partial(engine.applier.ingest, entries, roll_at=roll_at)
                    self._applying.waiting.extend(await self._run_blocking(take))
                request = await self._ask(link)
                if self.problem is not None:
                    _log.info("following again", leader=self.upstream.url)
                    self.problem = None
                await self._applying.run()

    async def _ask(self, link: Link) -> int:
        after: WalIndex = self._engine.log_reader.last_index
        return await link.send("log_read", self._node, after, BATCH_SIZE)

    async def _copy_again(self, why: str) -> None:
        """Copy the database again, beside serving what is here.

        Raises:
            Reopen: the copy is complete.
        """
        _log.warning("this follower begins again from a copy of its leader", why=why)
        self.problem = f"copying the leader again: {why}"
        await self._bootstrap.run()
        raise Reopen("the new copy of the leader takes the place of the old data")

    def _alarm(self, reason: str) -> None:
        if reason != self.problem:
            _log.error("this follower applies nothing more", reason=reason)
        self.problem = reason

    def _note_away(self, error: HeadwaterError) -> None:
        if isinstance(error, NotLeader):
            # It follows another node, or was deposed: somebody has to say where to go.
            self._alarm(str(error))
        elif isinstance(error, TooMany):
            _log.warning("the leader is busy", reason=error.message)
        else:
            _log.debug("the leader is away", reason=error.message)


def _common_of(details: dict[str, Any]) -> LogEnd | None:
    """The entry that the details of LogDiverged name."""
    match details:
        case {"common": int(index), "hash": str(end)}:
            with contextlib.suppress(ValueError):
                return LogEnd(WalIndex(index), Epoch(0), bytes.fromhex(end))
    return None


def beyond(engine: Engine, common: LogEnd | None) -> str:
    """What this node has after the last entry that it has in common with another."""
    if common is None:
        return "it is not known how much"
    reader = engine.log_reader
    if common.index >= reader.last_index:
        return "nothing is lost with this node"
    commits = engine.applier.commits_after(common.index)
    entries = f"entries {common.index + 1} to {reader.last_index} are in the log of this node alone"
    if commits is None:
        return entries
    first, last = commits
    return f"{entries}: commits {first} to {last}" if first else f"{entries}; they have no commits"
