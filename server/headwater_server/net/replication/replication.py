"""The replication of a node: its role, its followers or its leader, and changes of both.

    Replication
      shipping, copies     what it does for followers, while it leads
      following            what it does while it follows
      commit_waits         reads that wait for a commit, in every role

A promotion stops following, applies what is here, claims the log with a higher epoch, and tells the
former leader as soon as that can be reached.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

import structlog
import trio

from headwater_protocol.errors import (
    CommitNotReached,
    DamagedFile,
    HeadwaterError,
    InvalidArgument,
    NotLeader,
    ProtocolError,
    ReadOnly,
)
from headwater_protocol.numbers import term_of
from headwater_server.engine.engine import Engine
from headwater_server.net.failures import Reopen
from headwater_server.net.replication.bootstrap import Bootstrap, OpenCopiedLog
from headwater_server.net.replication.commit_waits import CommitWaits
from headwater_server.net.replication.copies import Copies
from headwater_server.net.replication.following import Following, beyond
from headwater_server.net.replication.shipping import LEADS, Shipping
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.session.peer import Peer
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.net.turns import Turn
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.files.node_file import (
    CLUSTERED,
    DEPOSED,
    FOLLOWING,
    LEADING,
    NodeState,
    write_node,
)
from headwater_server.storage.wal.interface import Epoch, LogEnd, WalIndex

_log = structlog.get_logger(__name__)

TELL_S: Final = 5.0
"""Seconds between two attempts to tell a former leader that it was deposed."""


@dataclass(frozen=True, slots=True)
class NodeSetup:
    """What a node needs to take part in replication.

    Attributes:
        state: what its file NODE says.
        upstream: the leader that it follows, or followed; None: it has none.
        open_log: opens the log of a copy; None without an upstream.
        advertised: the address at which others reach this node; None: unknown.
        synchronous: how many followers must have a commit before it is answered.
    """

    file_system: FileSystem
    data: str
    state: NodeState
    upstream: Upstream | None
    open_log: OpenCopiedLog | None
    advertised: str | None = None
    synchronous: int = 0


class ClusterRole(Protocol):
    """The part of a cluster's node that is asked for its role."""

    @property
    def lag_commits(self) -> int:
        """How many commits the leader has that are not applied here, as far as is known."""
        ...

    @property
    def lag_us(self) -> int | None:
        """About how old what readers see may be, in microseconds; None: unknown."""
        ...

    @property
    def problem(self) -> str | None:
        """Why nothing is applied any more; None: all is well."""
        ...


def lone_node(engine: Engine, state: NodeState | None = None) -> NodeSetup:
    """A node that follows nobody; by default one that leads, and that nobody promoted."""
    state = state or NodeState(LEADING, "lone")
    return NodeSetup(engine.file_system, engine.path, state, None, None)


def _fork_of(state: NodeState) -> LogEnd | None:
    """The last entry that a promoted or deposed node has in common with the other leader."""
    if not state.hash:
        return None
    return LogEnd(WalIndex(state.index), Epoch(state.epoch), bytes.fromhex(state.hash))


class Replication:
    """The part of a server that other nodes talk to.

    Attributes:
        problem: why this node should perhaps not lead, or None.
    """

    def __init__(
        self,
        engine: Engine,
        setup: NodeSetup,
        *,
        group_commit: GroupCommit,
        checkpointer: Checkpointer,
        worker: Callable[[str], RunBlocking],
        turn: Turn,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        on_applied: Callable[[], None],
    ) -> None:
        """*on_applied* is called after entries of the leader were applied and published."""
        self._engine = engine
        self._setup = setup
        self._state = setup.state
        self._group_commit = group_commit
        self._on_applied = on_applied
        self._run_blocking = worker("replication")
        self.commit_waits = CommitWaits(engine, monotonic)
        engine.applier.watches_accounts = not engine.leadership.leads
        self.copies = Copies(engine, checkpointer, worker("copy"), monotonic)
        self.shipping = Shipping(
            engine,
            clock=clock,
            monotonic=monotonic,
            synchronous=setup.synchronous,
            depose=self._depose,
            begin=group_commit.ship,
            any_node=setup.state.state == CLUSTERED,
        )
        if setup.synchronous:
            group_commit.ship(self.shipping)
            if engine.leadership.leads:
                self._hold_recovered()
        if self._state.state == LEADING and self._state.epoch:
            self.shipping.common = _fork_of(self._state)
        self.following: Following | None = None
        self.cluster: ClusterRole | None = None
        self._parting: NotLeader | None = None
        self._promotions: list[tuple[Peer, int]] = []
        self._wanted = trio.Event()
        self.problem: str | None = None
        if not engine.leadership.leads:
            # It may have led before. Nobody reads its log now.
            engine.checkpoints.readers.forget_remembered()
        leads = engine.leadership.leads or engine.leadership.deposed
        if not leads and self._state.state != CLUSTERED:
            assert setup.upstream is not None, "a node that does not lead follows"
            self.following = Following(
                engine,
                setup.upstream,
                self.bootstrap(setup, self._run_blocking),
                self._run_blocking,
                node=self._state.node,
                joined=self._state.state == FOLLOWING,
                fork=_fork_of(self._state),
                turn=turn,
                clock=clock,
                monotonic=monotonic,
                on_published=on_applied,
                on_following=self._note_following,
            )

    @staticmethod
    def bootstrap(setup: NodeSetup, run_blocking: RunBlocking) -> Bootstrap:
        """The copying of the leader into the data directory of this node."""
        assert setup.upstream is not None
        assert setup.open_log is not None
        return Bootstrap(
            setup.file_system,
            setup.data,
            setup.state.node,
            setup.upstream,
            setup.open_log,
            run_blocking,
        )

    # Tasks.

    @property
    def tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """The tasks that the server runs, by what they are."""
        tasks: dict[str, Callable[[], Awaitable[None]]]
        tasks = {"the copies for followers": self.copies.run, "the promotion": self._lead_later}
        if self.following is not None:
            tasks["the following"] = self.following.run
        return tasks

    async def _lead_later(self) -> None:
        """Wait for a promotion, if this node follows; then tell the former leader."""
        if self._state.state == CLUSTERED:
            return
        while self.following is not None:
            await self._wanted.wait()
            await self._lead(self.following)
        if self._engine.leadership.leads and self._state.epoch:
            await self._tell_former_leader()

    async def _lead(self, following: Following) -> None:
        leadership = self._engine.leadership
        before = self._state
        try:
            await following.stop()
            fork = leadership.end
            # First NODE, then the claim: a node that was promoted never follows its former leader
            # again, and no node learns an epoch that no log has.
            state = replace(
                before,
                state=LEADING,
                leader=None,
                index=int(fork.index),
                hash=fork.hash.hex(),
                epoch=int(leadership.next_term),
            )
            await self._run_blocking(partial(self._write_state, state))
            await self._run_blocking(partial(leadership.claim, at_least=leadership.next_term))
        except (DiskFull, DamagedFile) as error:
            _log.error("this node was not promoted", reason=str(error))
            if self._state is not before:
                await self._run_blocking(partial(self._write_state, before))
            self._refuse_promotions(error)
            following.resume()
            return
        # On the event loop and in one go: no write comes between.
        leadership.begin()
        if self.shipping.synchronous:
            self._hold_recovered()
        self.following = None
        self.shipping.common = fork
        _log.warning(
            "promoted: this node leads", epoch=leadership.epoch, commit=self._engine.published
        )
        self._answer_promotions()

    def _hold_recovered(self) -> None:
        self._group_commit.hold_recovered(self._engine.leadership.recovered())

    def _refuse_promotions(self, reason: Exception) -> None:
        self._wanted = trio.Event()
        error = ReadOnly(f"promote: this node cannot lead now: {reason}")
        for session, request_id in self._promotions:
            if not session.closing:
                session.send(session.connection.error(request_id, error))
        self._promotions.clear()

    async def _tell_former_leader(self) -> None:
        """Tell a former leader that comes back that it must not write any more.

        It may be restored from a backup at any later time, so this goes on for ever.

        Raises:
            Reopen: the other one was promoted later; this node was deposed, and is to follow.
        """
        upstream = self._setup.upstream
        if upstream is None:
            return
        told = ""
        while self._engine.leadership.leads:
            try:
                told = self._note_told(told, await self._tell(upstream))
            except (HeadwaterError, OSError) as error:
                _log.debug("the former leader is away", reason=str(error))
            await trio.sleep(TELL_S)

    async def _tell(self, upstream: Upstream) -> str:
        """Tell the former leader; return what is to be logged."""
        state = self._state
        async with upstream.connect() as link:
            try:
                answer: Any = await link.ask(
                    "replicate",
                    state.node,
                    state.epoch,
                    state.index,
                    bytes.fromhex(state.hash),
                    self._setup.advertised,
                    self._engine.database_id,
                    LEADS,
                )
            except (NotLeader, InvalidArgument) as error:
                self.problem = None
                return error.message
        match answer:
            case [int(epoch), *_] if term_of(epoch) > term_of(state.epoch):
                # That node was promoted after this one.
                self._depose(upstream.url, epoch, None)
                raise Reopen(f"{upstream.url} was promoted later, so this node follows it")
            case [int(epoch), *_] if term_of(epoch) == term_of(state.epoch):
                self.problem = (
                    f"this node and {upstream.url} were both promoted, and both take writes: stop "
                    "one of them, and start it again with an empty directory and --follow"
                )
                return self.problem
        raise ProtocolError("the answer to replicate is not of its form")

    def _note_told(self, before: str, told: str) -> str:
        if told and told != before:
            log = _log.critical if self.problem is not None else _log.warning
            log("the former leader was told that this node leads", answer=told)
        return told

    # Changes of the role.

    def promote(self, session: Peer, request_id: int) -> bytes | None:
        """Make this node the leader; the request is answered once it is.

        Raises:
            InvalidArgument: it was deposed, or is a node of a cluster.
        """
        leadership = self._engine.leadership
        if self._state.state == CLUSTERED:
            raise InvalidArgument(
                "promote: the nodes of a cluster decide themselves; cluster_resign makes a leader "
                "step down"
            )
        if leadership.deposed:
            raise InvalidArgument(
                "promote: this node was deposed and may have commits that its leader lacks; "
                "start it again with --follow"
            )
        if self.following is None:
            return self._promoted(session, request_id)
        self._promotions.append((session, request_id))
        self._wanted.set()
        return None

    def _promoted(self, session: Peer, request_id: int) -> bytes:
        payload = [self._engine.leadership.epoch, self._engine.published]
        return session.connection.answer(request_id, payload)

    def _answer_promotions(self) -> None:
        for session, request_id in self._promotions:
            if not session.closing:
                session.send(self._promoted(session, request_id))
        self._promotions.clear()

    def _depose(self, leader: str | None, epoch: int, common: LogEnd | None) -> str:
        engine = self._engine
        engine.leadership.depose(leader)
        index, end = (0, "") if common is None else (int(common.index), common.hash.hex())
        self._write_state(NodeState(DEPOSED, self._state.node, leader, index, end, epoch))
        # Answers that wait for the disk are not given: the new leader may lack these commits.
        self._group_commit.depose()
        self.shipping.stop()
        engine.checkpoints.readers.forget_remembered()
        self._parting = NotLeader(
            "this node was deposed; connect again, to the node that leads",
            details={"leader": leader},
        )
        what = beyond(engine, common)
        _log.critical("deposed: another node leads, and this one writes no more", beyond=what)
        return what

    def _note_following(self) -> None:
        if self._state.state != FOLLOWING:
            assert self._setup.upstream is not None
            self._write_state(NodeState(FOLLOWING, self._state.node, self._setup.upstream.url))

    def _write_state(self, state: NodeState) -> None:
        write_node(self._setup.file_system, self._setup.data, state)
        self._state = state

    # The rest of the server.

    def published(self) -> None:
        """Commits were published."""
        if self.commit_waits.waits:
            self.commit_waits.published()

    def tick(self) -> None:
        """Called about once a second."""
        self.commit_waits.tick()
        self.copies.tick()
        if self.shipping.followers or self.shipping.synchronous:
            self.shipping.tick()

    def parting(self) -> NotLeader | None:
        """Once after this node was deposed: the error with which its connections end.

        Its clients would read here for ever what no other node has, and wait for events that come
        no more.
        """
        parting, self._parting = self._parting, None
        return parting

    def lost(self, session: Peer) -> None:
        """A session was closed."""
        self.commit_waits.lost(session)
        self.shipping.lost(session)

    def stop(self) -> None:
        """The server stops."""
        self.shipping.stop()

    @property
    def role(self) -> str:
        """What this node is: leader, follower or deposed."""
        leadership = self._engine.leadership
        if leadership.deposed:
            return "deposed"
        return "leader" if leadership.leads else "follower"

    @property
    def epoch(self) -> int:
        """The epoch of the newest entry of the log."""
        return self._engine.leadership.epoch

    def check_shared(self) -> None:
        """Raise CommitNotReached if this node may have commits that its leader lacks.

        Then its commits have the numbers of others, and comparing them tells nothing.
        """
        if self._engine.leadership.deposed or (self.following and not self.following.joined):
            raise CommitNotReached(
                "this node led, and may have commits that its leader lacks: read at another one",
                details={"newest": self._engine.published},
            )

    def node(self) -> list[Any]:
        """The answer to `node`, and a part of the answers to `hello` and `ping`."""
        following = self.cluster or self.following
        return [
            self.role,
            self._engine.leadership.leader,
            self._engine.published,
            self._engine.leadership.epoch,
            0 if following is None else following.lag_commits,
            0 if following is None else following.lag_us,
        ]

    def figures(self) -> dict[str, Any]:
        """Figures for `stats`, by name."""
        role, leader, _, epoch, lag_commits, lag_us = self.node()
        following = self.cluster or self.following
        return {
            "role": role,
            "leader": leader,
            "epoch": epoch,
            "lag_commits": lag_commits,
            "lag": lag_us / 1_000_000,
            "replication_problem": self.problem if following is None else following.problem,
            "followers": self.shipping.figures(),
        }
