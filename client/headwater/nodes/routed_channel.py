"""The channel to several nodes: writes go to the leader, reads where `read` says.

    write, transaction, group, lock   the leader; after not_leader, or if it is lost, it is found
                                      again, and the request is sent again as after any lost
                                      connection: with the same transaction id
    read, subscription                with read=leader the leader; otherwise a node of picking.py

A read at another node than the leader says which commit it must see (seen.py). A node that does not
show it in time is left for the next one, so a follower that is behind costs a short wait. The
leader is the last resort: it has every commit that was answered.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from headwater.errors import (
    CommitNotReached,
    CommitUnknown,
    ConnectionLost,
    HeadwaterError,
    NoSuchCommit,
    NotLeader,
    ShuttingDown,
    TimedOut,
    TooMany,
)
from headwater.nodes.node import Node
from headwater.nodes.nodes import Nodes
from headwater.nodes.picking import LEADER, picked
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection
from headwater.transport.runtime import Options, Runtime
from headwater_protocol.address import Address
from headwater_protocol.operations import IN_TRANSACTION, OPERATIONS
from headwater_protocol.vocabulary.replication import READS

T = TypeVar("T")

WAIT_MS_FIRST: Final = 200
"""Milliseconds that a read waits for its commit at a node while there are others."""

WAIT_MS_MAX: Final = 2000
"""The same, once all nodes were tried."""


class RoutedChannel(Channel):
    """The connections to several nodes, as one channel.

    Attributes:
        nodes: all that are known.
        mode: where to read, one of READ_MODES.
    """

    RESENT: ClassVar[tuple[type[HeadwaterError], ...]] = (ConnectionLost, ShuttingDown, NotLeader)
    UNANSWERED: ClassVar[tuple[type[HeadwaterError], ...]] = (*RESENT, CommitUnknown)

    def __init__(
        self,
        runtime: Runtime,
        address: Address,
        options: Options,
        *,
        nodes: Nodes | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__(runtime, address, options)
        self.nodes = Nodes(runtime, options) if nodes is None else nodes
        self.mode = mode or options.read or LEADER
        self._at_leader: RoutedChannel | None = None

    @property
    def at_leader(self) -> Channel:
        """The same nodes, but all that is read here is read at the leader."""
        if self.mode == LEADER:
            return self
        if self._at_leader is None:
            self._at_leader = RoutedChannel(
                self.runtime, self.address, self.options, nodes=self.nodes, mode=LEADER
            )
            self._at_leader.turns = self.turns
        return self._at_leader

    def note_seen(self, commit: int) -> None:
        self.nodes.seen.note(commit)

    # Connections.

    def _free(self) -> Connection | None:
        leader = self.nodes.leader
        return None if leader is None else leader.free()

    async def enter(self, until: float | None) -> None:
        await self.reading_connection(until)

    async def connection(self, until: float | None = None) -> Connection:
        """A connection to the leader.

        Raises:
            ConnectionLost: no node leads, or the channel is closed.
            AuthenticationFailed: the nodes refused the user.
        """
        connection = self._free()
        if connection is not None:
            return connection
        return await self._persistently(self._reach_leader, until)

    async def own_connection(
        self, until: float | None = None, *, leading: bool = True
    ) -> Connection:
        reach = partial(self._reach_leader if leading else self._reach_reading, own=True)
        return await self._persistently(reach, until)

    async def reading_connection(self, until: float | None = None) -> Connection:
        return await self._persistently(self._reach_reading, until)

    async def _reach_leader(self, *, own: bool = False) -> Connection:
        node = self.nodes.leader or await self.nodes.find_leader()
        try:
            connection = await node.reach(own=own)
        except HeadwaterError:
            self.nodes.lose(node)
            raise
        if self.nodes.leader is not node:
            # A new connection has just told that the node was deposed, or restarted as a follower.
            if own and not self.runtime.shares_connections:
                connection.close()
            raise ConnectionLost(f"{node.address} does not lead any more")
        return connection

    async def _reach_reading(self, *, own: bool = False) -> Connection:
        """A connection to a node that shows what was seen."""
        if self.mode == LEADER:
            return await self._reach_leader(own=own)
        avoided: list[Node] = []
        wait_ms = WAIT_MS_FIRST
        while True:
            node = await self._pick(avoided)
            try:
                connection = await node.reach(own=own)
                await self._bring_up(node, connection, wait_ms, own=own)
            except HeadwaterError as error:
                if not error.retryable:
                    raise
                avoided.append(node)
                if len(avoided) == len([*self.nodes]):
                    raise
            else:
                return connection

    async def _bring_up(
        self, node: Node, connection: Connection, wait_ms: int, *, own: bool
    ) -> None:
        """Let a node catch up with what was seen.

        Raises:
            CommitNotReached: it did not in time.
        """
        seen = self.nodes.seen
        if seen.commit <= node.commit and not seen.is_older(node.term):
            return
        try:
            newest = await connection.ask("wait_commit", seen.commit, wait_ms)
            node.note_answer(newest, node.epoch)
            if seen.is_older(node.term):
                await node.ping(connection)
            if seen.is_older(node.term):
                raise _of_earlier_term(node)
        except HeadwaterError as error:
            if isinstance(error, CommitNotReached):
                node.note_behind()
            if own and not self.runtime.shares_connections:
                connection.close()
            raise

    async def _pick(self, avoided: Sequence[Node]) -> Node:
        """A node to read at; it may be asked what it is first.

        Raises:
            ConnectionLost: no node that may be read is known.
        """
        found = picked(self.nodes, self.mode, avoided)
        # One of them each time, so that a read is not held up by all.
        due = next((node for node in self.nodes if node.is_due), None)
        while due is not None:
            try:
                await due.look()
            except HeadwaterError:
                self._check_open()
            found = picked(self.nodes, self.mode, avoided)
            if found:
                break
            due = next((node for node in self.nodes if node.is_due), None)
        if not found:
            # Nobody is known to follow. Whoever leads can be read, or nobody can.
            return await self.nodes.find_leader()
        return found[0]

    async def _persistently(self, attempt: Callable[[], Awaitable[T]], until: float | None) -> T:
        """Repeat *attempt*, with growing pauses, until it succeeds or *until* is near."""
        if until is None:
            until = self.runtime.now() + self.options.retry_timeout
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                return await attempt()
            except HeadwaterError as error:
                pause = backoff.next()
                if not error.retryable or self.runtime.now() + pause >= until:
                    raise
            await self.runtime.sleep(pause)

    # Requests.

    async def persist(self, transaction: bytes, name: str, *arguments: Any) -> Any:
        payload = await super().persist(transaction, name, *arguments)
        if name == "execute":
            self.note_seen(payload[0][0])
        return payload

    async def read(self, name: str, *arguments: Any) -> Any:
        """Send a request that changes nothing; reads of the database where `mode` says."""
        if self.mode == LEADER or name not in READS:
            return await super().read(name, *arguments)
        [answer] = await self._read_at_nodes([(name, *arguments)])
        return answer

    async def read_together(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self.mode == LEADER:
            return await super().read_together(requests)
        return await self._read_at_nodes(requests)

    async def _read_at_nodes(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        reads = [_request(name, arguments) for name, *arguments in requests]
        until = self.runtime.now() + self.options.retry_timeout
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        avoided: list[Node] = []
        wait_ms = WAIT_MS_FIRST
        timeouts = 0
        while True:
            connection: Connection | None = None
            node: Node | None = None
            try:
                node = await self._pick(avoided)
                connection = node.free() or await node.reach()
                return await self._read_at(node, connection, reads, wait_ms)
            except (CommitNotReached, ConnectionLost, ShuttingDown, TooMany) as error:
                failed: HeadwaterError = error
            except NoSuchCommit as error:
                # A follower may lack a commit that the leader has.
                if node is None or node is self.nodes.leader:
                    raise
                failed = error
            # As in Channel.read: a slow request would be slow again.
            timeouts += isinstance(failed, TimedOut)
            is_slow = connection is not None and not connection.closed
            if timeouts > (0 if is_slow else 1):
                raise failed
            if isinstance(failed, CommitNotReached) and node is not None:
                node.note_behind()
            self._check_open()
            if node is not None:
                avoided.append(node)
            if picked(self.nodes, self.mode, avoided):
                continue
            # All were tried: again, after a pause, and now there is nothing but to wait.
            avoided.clear()
            wait_ms = WAIT_MS_MAX
            pause = backoff.next()
            if self.runtime.now() + pause >= until:
                raise failed
            await self.runtime.sleep(pause)

    async def _read_at(
        self, node: Node, connection: Connection, reads: list[list[Any]], wait_ms: int
    ) -> list[Any]:
        seen = self.nodes.seen
        if node.told is None:
            # A server from before there were followers has no read_at_least.
            return await connection.exchange([_alone(read) for read in reads])
        least = seen.commit
        answers = await connection.exchange(
            [("read_at_least", least, read, wait_ms) for read in reads]
        )
        for commit, epoch, _ in answers:
            node.note_answer(commit, epoch)
        if seen.is_older(node.term):
            raise _of_earlier_term(node)
        for commit, _, _ in answers:
            seen.note(commit, node.term)
        return [answer for _, _, answer in answers]

    async def survey(self) -> list[tuple[Address, Any]]:
        rows: list[tuple[Address, Any]] = []
        for node in self.nodes:
            try:
                await node.look()
            except HeadwaterError:
                self._check_open()
                rows.append((node.address, None))
            else:
                rows.append((node.address, node.told))
        return rows

    def abandon(self) -> None:
        super().abandon()
        self.nodes.abandon()


def _request(name: str, arguments: list[Any]) -> list[Any]:
    """A read as read_at_least takes it: with all its arguments, but no transaction."""
    completed = OPERATIONS[name].arguments.complete(arguments, name)
    return [name, *completed[1:]] if name in IN_TRANSACTION else [name, *completed]


def _alone(read: list[Any]) -> tuple[Any, ...]:
    """The same read as a request of its own."""
    name, *arguments = read
    return (name, None, *arguments) if name in IN_TRANSACTION else (name, *arguments)


def _of_earlier_term(node: Node) -> CommitNotReached:
    return CommitNotReached(
        f"{node.address} follows a leader that was replaced; its newest commit is {node.commit}",
        details={"newest": node.commit},
    )


def open_channel(runtime: Runtime, address: Address, options: Options) -> Channel:
    """The channel that options ask for: to one server, or to several nodes."""
    if options.read is None:
        return Channel(runtime, address, options)
    return RoutedChannel(runtime, address, options)
