"""The task of a node in a cluster.

    follow: take entries, apply them, and wait for one to be missing for too long
      |  claim                                               ^
      v                                                      |  opened again
    lead: an entry at least every 0.5 s  -- another's claim, or resigned

A leader that finds another one's claim in the log has commits in its memory that are in no log. So
the engine is closed and opened again, in the same process, and the node follows.

What is wrong stops here and nothing else: reads go on, and say how old they are.

    the stream does not answer          wait; nobody claims
    it lacks an entry                   alarm; take it from another node
    it was trimmed beyond this node     the same, or copy the leader again, then reopen
    it has other entries                alarm; apply nothing more
"""

import random as random_module
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import DamagedFile, InvalidArgument
from headwater_server.engine.engine import Engine
from headwater_server.net.cluster.election import Election
from headwater_server.net.cluster.nodes import TELL_S, NodeReport, Nodes
from headwater_server.net.cluster.tailing import Tailing
from headwater_server.net.cluster.watching import Watching
from headwater_server.net.failures import Reopen
from headwater_server.net.replication.applying import Applying
from headwater_server.net.replication.bootstrap import Bootstrap
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.net.turns import Turn
from headwater_server.storage.errors import (
    DiskFull,
    Diverged,
    LogGoesOn,
    Truncated,
    Unavailable,
)
from headwater_server.storage.jetstream.cluster_log import HEARTBEAT_S, ClusterLog
from headwater_server.storage.jetstream.settings import nodes_subject_of
from headwater_server.storage.wal.interface import WalIndex

_log = structlog.get_logger(__name__)

LOOK_S: Final = 0.05
"""Seconds between two checks for new entries, if no leader has announced one."""

RETRY_S: Final = 0.2
"""Seconds before a stream that did not answer is asked again."""

ALARM_RETRY_S: Final = 2.0
"""Seconds before what could not be used is asked for again."""

HEARD_S: Final = 0.25
"""Seconds for which a thread waits for messages of other nodes."""

READER: Final = "the nodes of the cluster"
"""The name of the reader for whom this node keeps its copy of the log."""


@dataclass(frozen=True, slots=True)
class ClusterSetup:
    """What a node needs to take part in a cluster.

    Attributes:
        name: identifies the node.
        log: of the open engine.
        clock: seconds, also while the machine is suspended.
        random: for the wait before a claim.
        advertised: the URL at which others reach this node; None: unknown.
        upstream: makes the way to the node at a URL.
        bootstrap: makes the copying of the node at a URL into the data directory.
        resigned: it gave the lease back, and lets others claim first.
        kept_size_max: bytes of the stream above which it is trimmed even if nodes need entries.
    """

    name: str
    log: ClusterLog
    clock: Callable[[], float]
    random: random_module.Random
    advertised: str | None
    upstream: Callable[[str], Upstream]
    bootstrap: Callable[[str, RunBlocking], Bootstrap]
    kept_size_max: int
    resigned: bool = False


class Cluster:
    """The part of a server that makes it a node of a cluster.

    Attributes:
        nodes: the others.
        watching: knows how the stream is.
        problem: why nothing is applied any more; None: all is well.
    """

    def __init__(
        self,
        engine: Engine,
        setup: ClusterSetup,
        *,
        group_commit: GroupCommit,
        worker: Callable[[str], RunBlocking],
        turn: Turn,
        on_published: Callable[[], None],
    ) -> None:
        """*on_published* is called after entries of others were applied and published."""
        self.problem: str | None = None
        self._engine = engine
        self._setup = setup
        self._log = setup.log
        self._group_commit = group_commit
        self._run_blocking = worker("cluster")
        self._run_listening = worker("cluster-news")
        stream = setup.log.stream
        subject = nodes_subject_of(stream.stream.name)
        self.nodes = Nodes(stream.stream.service, subject, setup.name, setup.clock)
        self.election = Election(setup.clock, setup.random)
        if setup.resigned:
            self.election.hold_back()
        self._tailing = Tailing(
            engine,
            stream,
            Applying(engine, turn, on_published),
            self._run_blocking,
            node=setup.name,
            upstream=setup.upstream,
        )
        self.watching = Watching(
            engine,
            setup.log,
            self.nodes,
            worker("cluster-watch"),
            on_silence=self.election.silent,
            kept_size_max=setup.kept_size_max,
        )
        self._told_news = 0
        self._news = trio.lowlevel.ParkingLot()
        self._caught_up_at: float | None = None
        self._resigning = trio.Event()
        self._stopping = False

    @property
    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The tasks that the server runs, by what they are."""
        return {
            "the cluster": self.run,
            "the messages of the nodes": self._listen,
            "the watch over the stream": self.watching.run,
        }

    async def run(self) -> None:
        """Follow and lead until cancelled.

        Raises:
            Reopen: this node led and resigned, or has a new copy of the leader.
        """
        await self._follow()
        await self._lead()

    # Following.

    async def _follow(self) -> None:
        """Follow until this node has claimed the log."""
        checked = False
        await self._tailing.apply()
        while True:
            try:
                if not checked:
                    await self._tailing.check_end()
                    checked = True
                if await self._tailing.take():
                    self._note_caught_up(self._engine.log_reader.last_index >= self.nodes.news)
                    self.election.seen()
                    continue
                self._note_caught_up(now=True)
                if await self._claim():
                    return
                with trio.move_on_after(LOOK_S):
                    await self._news.park()
            except Unavailable:
                self.election.silent()
                await trio.sleep(RETRY_S)
            except (Truncated, DamagedFile) as error:
                await self._mend(error)
            except (Diverged, DiskFull) as error:
                self._alarm(str(error))
                await trio.sleep(ALARM_RETRY_S)

    def _note_caught_up(self, now: bool) -> None:
        if now:
            self._caught_up_at = self._setup.clock()
        if self.problem is not None:
            _log.info("following again")
            self.problem = None

    def _alarm(self, reason: str) -> None:
        if reason != self.problem:
            _log.critical("this node applies nothing more", reason=reason)
        self.problem = reason
        self.election.seen()

    async def _mend(self, error: Exception) -> None:
        """The stream lacks the next entry: take it from another node, or copy the leader."""
        self._alarm(f"the stream lacks entries: {error}")
        present = [each for each in self.nodes.present if each.address is not None]
        ahead = [
            each.address
            for each in present
            if each.address is not None and each.index > self._engine.log_reader.last_index
        ]
        if await self._tailing.mend(ahead):
            return
        leader = self.nodes.leader
        if isinstance(error, Truncated) and leader is not None and leader.address is not None:
            await self._setup.bootstrap(leader.address, self._run_blocking).run()
            raise Reopen("the new copy of the leader takes the place of the old data")
        await trio.sleep(ALARM_RETRY_S)

    async def _claim(self) -> bool:
        """Claim the log if it is time; return whether this node leads now."""
        resigned = self.nodes.resigned
        end = self._engine.leadership.end
        if resigned is not None and resigned == (end.epoch, end.index):
            self.nodes.resigned = None
            self.election.resigned()
        if self._stopping or not self.election.is_due or not self.watching.is_sound:
            return False
        if self.nodes.furthest_index > end.index:
            # The stream ends before what another node has: it has lost entries.
            return False
        try:
            await self._run_blocking(self._engine.leadership.lead)
        except (LogGoesOn, Unavailable) as error:
            _log.info("a claim of the log failed", reason=str(error))
            self.election.seen()
            return False
        _log.warning(
            "this node leads",
            epoch=self._engine.leadership.epoch,
            commit=self._engine.published,
        )
        return True

    # Leading.

    async def _lead(self) -> None:
        """Send heartbeats until this node resigns. A deposed one hears of it in group commit."""
        while not self._resigning.is_set():
            self._group_commit.seal(always=True)
            with trio.move_on_after(HEARTBEAT_S):
                await self._resigning.wait()
        await self._give_back()
        raise Reopen("this node has resigned", resigned=True)

    async def _give_back(self) -> None:
        """Let another node lead. Nothing is written any more."""
        self._engine.leadership.resign()
        await self._group_commit.drain()
        end = self._engine.leadership.end
        self._log.release()
        self.nodes.tell_resigned(end.epoch, end.index)
        _log.info("this node has resigned", epoch=end.epoch, index=end.index)

    def resign(self) -> None:
        """Give the lease back, and follow.

        Raises:
            InvalidArgument: this node does not lead.
        """
        self._engine.leadership.check_leads()
        if not self.others_present:
            raise InvalidArgument("cluster_resign: no other node is there to lead")
        self._resigning.set()

    @property
    def others_present(self) -> bool:
        """Whether another node was heard lately."""
        return bool(self.nodes.present)

    def stop(self) -> None:
        """The server stops: claim nothing any more."""
        self._stopping = True

    async def finish(self) -> None:
        """All is written: give the lease back, if this node has it."""
        if self._engine.leadership.leads:
            await self._give_back()

    # The other nodes.

    async def _listen(self) -> None:
        told_at = float("-inf")
        while True:
            now = self._setup.clock()
            if now - told_at >= TELL_S:
                told_at = now
                self.nodes.tell(self.report())
                self._note_needed()
            messages = await self._run_listening(partial(self.nodes.receive, HEARD_S))
            for message in messages:
                self.nodes.note(message)
            if messages:
                self._news.unpark_all()
            else:
                await trio.sleep(LOOK_S)
            if not self._engine.leadership.leads:
                leader = self.nodes.leader
                self._engine.leadership.leader = None if leader is None else leader.address

    def _note_needed(self) -> None:
        """Keep the copy of the log for nodes that are behind."""
        readers = self._engine.checkpoints.readers
        slowest = self.nodes.slowest_index
        if slowest is None:
            readers.forget(READER)
        else:
            readers.note(READER, WalIndex(min(slowest, self._log.last_index)))

    def published(self) -> None:
        """Commits were published."""
        last = self._log.last_index
        if self._engine.leadership.leads and last > self._told_news:
            self._told_news = last
            self.nodes.tell_news(last)

    def report(self) -> NodeReport:
        """What this node says of itself."""
        leadership = self._engine.leadership
        end = leadership.end
        return NodeReport(
            self._setup.name,
            self._setup.advertised,
            "leader" if leadership.leads else "follower",
            int(end.epoch),
            int(end.index),
            self._engine.published,
            self._engine.sequencer.published_time.time,
            leadership.leads and self._log.has_lease,
        )

    # What others want to know.

    @property
    def has_lease(self) -> bool:
        """Whether this node leads, and no other one can."""
        return self._log.has_lease

    @property
    def unready(self) -> str | None:
        """Why clients should go to another node; None: they need not."""
        if self.problem is not None:
            return self.problem
        if self._engine.leadership.leads:
            return None if self._log.has_lease else "the lease has run out: the log is silent"
        return "this node has not caught up with the log" if self._caught_up_at is None else None

    @property
    def lag_commits(self) -> int:
        """How many commits the leader has, as far as is known, that are not applied here."""
        leader = self.nodes.leader
        return 0 if leader is None else max(0, leader.commit - self._engine.published)

    @property
    def lag_us(self) -> int | None:
        """About how old what readers see may be, in microseconds; None: it was never current."""
        if self._engine.leadership.leads:
            late_s = self._setup.clock() - self._log.lease_until
            return max(0, round(late_s * 1_000_000)) if late_s < float("inf") else None
        if self._caught_up_at is None:
            return None
        return round((self._setup.clock() - self._caught_up_at) * 1_000_000)

    def figures(self) -> dict[str, Any]:
        """Figures for `stats`, by name."""
        return {
            "cluster_lease": self._log.has_lease,
            "cluster_problem": self.problem or self.watching.problem,
            "stream_answers": self.watching.answers,
        }

    def status(self) -> dict[str, Any]:
        """The answer to cluster_status: this node, the others, and the stream."""
        now = self._setup.clock()
        nodes = [(self.report(), 0.0)]
        nodes += [(known.report, now - known.heard) for known in self.nodes.all]
        return {
            "node": self._setup.name,
            "problem": self.problem or self.watching.problem,
            "nodes": [
                {
                    **{name: getattr(report, name) for name in NodeReport.__slots__},
                    "heard_ms": round(silent_s * 1000),
                }
                for report, silent_s in sorted(nodes, key=lambda item: item[0].name)
            ],
            "stream": self.watching.figures(),
        }
