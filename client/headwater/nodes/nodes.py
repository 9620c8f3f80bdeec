"""The nodes of a database: which one leads, and how it is found.

    listed in the URL                    a b c
    a: refused, or not there             b: "I follow; the leader is d"          hop to d
    d: "I lead", in no earlier term than is known --> the leader

One round asks each node once, one after the other, first those that are likely to lead; a node that
a follower names is asked next, for a few hops. All tasks share a round and its result. If no node
leads, rounds are separated by growing random pauses, no matter how many requests wait.
"""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from headwater.errors import (
    AuthenticationFailed,
    ConnectionLost,
    HeadwaterError,
    InvalidArgument,
    NotLeader,
    ProtocolError,
)
from headwater.nodes.node import LEADER, Node
from headwater.nodes.seen import Seen
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.runtime import Options, Runtime
from headwater.transport.stopping import closed_by_user
from headwater_protocol.address import NODES_MAX, Address, parse_address

log = logging.getLogger("headwater")

HOPS_MAX: Final = 3
"""Nodes that one round asks because another one named them. Nodes that name each other in a circle
must not keep a round going."""

CONNECT_S_MIN: Final = 1.0
"""Seconds that connecting to one of several nodes may take at least. All of them together may take
about as long as one server may."""


class Nodes:
    """The nodes that are known.

    Attributes:
        seen: what this database object has seen.
        leader: the node that leads, as far as is known.
    """

    def __init__(self, runtime: Runtime, options: Options) -> None:
        self.runtime = runtime
        self.seen = Seen()
        self.leader: Node | None = None
        self._listed = options.nodes
        timeout = max(options.connect_timeout / len(self._listed), CONNECT_S_MIN)
        self._options = replace(
            options, connect_timeout=min(timeout, options.connect_timeout), nodes=(), read=None
        )
        self._nodes = {str(address): self._new(address) for address in self._listed}
        # The newest term that any node has told of.
        self._term = 0
        self._named: str | None = None
        self._finding = runtime.lock()
        self._backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        self._not_before = 0.0
        self._failures = 0
        self._failure: HeadwaterError | None = None

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self._nodes.values()))

    def _new(self, address: Address) -> Node:
        return Node(self.runtime, address, self._options, self._note_told, self._note_refused)

    # What nodes say.

    def _note_told(self, node: Node) -> None:
        self._term = max(self._term, node.term)
        if self.leader is not None and not self._leads(self.leader):
            self.leader = None
        if self._leads(node) and (self.leader is None or node.epoch > self.leader.epoch):
            self._follow(node)

    def _note_refused(self, node: Node, error: NotLeader) -> None:  # noqa: ARG002
        """A node has said that it does not lead, and perhaps who does."""
        if self.leader is node:
            self.leader = None
        self._named = node.leader

    def _leads(self, node: Node) -> bool:
        # A node of an earlier term was replaced, and has not heard of it.
        return node.role == LEADER and node.term >= max(self._term, self.seen.term)

    def _follow(self, node: Node) -> None:
        lost = self.seen.lead(node.term, node.commit)
        if lost is not None:
            log.warning(
                "commits %d to %d, which this client has seen, are lost: %s leads without them",
                node.commit + 1,
                lost,
                node.address,
            )
        self.leader = node
        self._named = None

    def lose(self, node: Node) -> None:
        """A node that led cannot be reached."""
        if self.leader is node:
            self.leader = None

    # Finding the leader.

    async def find_leader(self) -> Node:
        """The leader; if it is not known, ask all nodes once.

        Raises:
            ConnectionLost: no node says that it leads. The message has what each of them said.
            AuthenticationFailed, ProtocolError: a node refused this client, and none leads.
        """
        return await self._finding.run(partial(self._find_alone, self._failures))

    async def _find_alone(self, failures: int) -> Node:
        if self.leader is not None:
            return self.leader
        if self._failures != failures and self._failure is not None:
            # While this task waited, another one asked all nodes in vain.
            error = HeadwaterError.from_payload(self._failure.as_payload())
            raise error from self._failure
        self._check_open()
        pause = self._not_before - self.runtime.now()
        if pause > 0:
            await self.runtime.sleep(pause)
            self._check_open()
        try:
            leader = await self._ask_round()
        except HeadwaterError as error:
            if error.retryable:
                self._failures += 1
                self._failure = error
                self._not_before = self.runtime.now() + self._backoff.next()
            raise
        self._backoff.reset()
        return leader

    async def _ask_round(self) -> Node:
        asked: list[Node] = []
        problems: list[str] = []
        refusal: HeadwaterError | None = None
        hops = 0
        waiting = deque(self._in_order())
        while waiting:
            node = waiting.popleft()
            if any(node is other for other in asked):
                continue
            asked.append(node)
            if not node.is_resting:
                try:
                    await node.look()
                except (AuthenticationFailed, ProtocolError) as error:
                    refusal = refusal or error
                    continue
                except HeadwaterError as error:
                    self._check_open()
                    problems.append(error.message)
                    continue
                if self.leader is not None:
                    return self.leader
            problems.append(node.problem)
            named = self._by_url(node.leader)
            if named is not None and hops < HOPS_MAX:
                hops += 1
                waiting.appendleft(named)
        if refusal is not None:
            raise refusal
        raise ConnectionLost(f"no node leads: {'; '.join(problems)}")

    def _in_order(self) -> list[Node]:
        """The nodes to ask: the one that was named, those that led, the others."""
        named = self._by_url(self._named)
        first = [] if named is None else [named]
        return first + sorted(self, key=lambda node: node.role != LEADER)

    def _by_url(self, url: str | None) -> Node | None:
        """The node that another one named; None: it named none, or too many are known."""
        if url is None:
            return None
        try:
            found = parse_address(url)
        except InvalidArgument:
            return None
        own = self._listed[0]
        # Users and certificates are those of this client, and TLS is never left out.
        address = replace(found, user=own.user, password=own.password, tls=own.tls or found.tls)
        node = self._nodes.get(str(address))
        if node is None and len(self._nodes) < NODES_MAX:
            node = self._new(address)
            # Replaced as a whole, so threads need no lock to look through it.
            self._nodes = {**self._nodes, str(address): node}
        return node

    def abandon(self) -> None:
        """Forget in a child process what a thread of the parent may hold."""
        self._finding = self.runtime.lock()
        self.seen.abandon()

    def _check_open(self) -> None:
        if self.runtime.closing.stopped:
            raise closed_by_user()
