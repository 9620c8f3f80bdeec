"""A node: the connections to one address, and what is known of who answers there."""

import random
from collections.abc import Callable
from typing import Any, Final

from headwater.errors import HeadwaterError, NotLeader, ProtocolError
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection
from headwater.transport.runtime import Options, Runtime
from headwater_protocol.address import Address
from headwater_protocol.numbers import term_of

LEADER: Final = "leader"
FOLLOWER: Final = "follower"

REVIEW_S: Final = 10.0
"""Seconds after which a node is asked again what it is and how far away, if reads may go there."""

SMOOTHING: Final = 0.3
"""The weight of a new round trip in the mean: one slow answer does not move all reads."""

BEHIND_S: Final = 1.0
"""Seconds for which reads avoid a node that did not have a commit in time."""


class Node(Channel):
    """The connections to a node.

    Attributes:
        role: "leader", "follower" or "deposed", as it last said; None: it never answered.
        leader: the URL of the leader, as it last said.
        commit: the newest that it is known to show to readers.
        epoch: of the newest entry of its log.
        told: its last answer to `node`, or None.
        round_trip: the smoothed time of a ping, in seconds; None: it was never measured.
    """

    def __init__(
        self,
        runtime: Runtime,
        address: Address,
        options: Options,
        on_told: Callable[["Node"], None],
        on_refused: Callable[["Node", NotLeader], None],
    ) -> None:
        super().__init__(runtime, address, options)
        self.role: str | None = None
        self.leader: str | None = None
        self.commit = 0
        self.epoch = 0
        self.told: list[Any] | None = None
        self.round_trip: float | None = None
        self._on_told = on_told
        self._on_refused = on_refused
        self._review_at = 0.0
        self._looking = False
        self._behind_until = 0.0

    @property
    def term(self) -> int:
        """How many promotions there were before the newest entry of its log."""
        return term_of(self.epoch)

    @property
    def is_resting(self) -> bool:
        """Connecting has failed, and the pause after it is not over."""
        return self._not_before > self.runtime.now()

    @property
    def is_behind(self) -> bool:
        """Just now it did not have a commit in time."""
        return self._behind_until > self.runtime.now()

    @property
    def is_due(self) -> bool:
        """It is time to ask it again what it is, and nobody does."""
        return not self._looking and not self.is_resting and self._review_at <= self.runtime.now()

    @property
    def problem(self) -> str:
        """Why the last attempt to connect failed, or what the node is."""
        if self.is_resting and self._failure is not None:
            return self._failure.message
        return f"{self.address} is {'unknown' if self.role is None else f'a {self.role}'}"

    def note_behind(self) -> None:
        """It did not have a commit in time."""
        self._behind_until = self.runtime.now() + BEHIND_S

    def note_answer(self, commit: int, epoch: int) -> None:
        """A read was answered at this commit and epoch."""
        self.commit = max(self.commit, commit)
        self.epoch = max(self.epoch, epoch)

    def free(self) -> Connection | None:
        """An open connection that the caller can use now."""
        return self._free()

    async def reach(self, *, own: bool = False) -> Connection:
        """An open connection, or a new one at the first attempt; *own*: to wait on.

        Raises:
            HeadwaterError: connecting has failed.
        """
        now = self.runtime.now()
        return await (self.own_connection(now) if own else self.connection(now))

    async def look(self) -> None:
        """Ask the node what it is, and measure the round trip.

        Raises:
            HeadwaterError: it did not answer.
        """
        self._looking = True
        # Also after a failure: a dead address must not cost every read an attempt.
        self._review_at = self.runtime.now() + REVIEW_S * random.uniform(0.5, 1.5)
        try:
            await self.ping(await self.reach())
        finally:
            self._looking = False

    async def _greet(self, connection: Connection) -> None:
        await super()._greet(connection)
        connection.on_refusal = self._note_refusal
        await self.ping(connection)

    async def ping(self, connection: Connection) -> None:
        """Ask on a connection what the node is, and measure the round trip."""
        began = self.runtime.now()
        answer = await connection.ask("ping")
        took = self.runtime.now() - began
        before = self.round_trip
        self.round_trip = took if before is None else before + SMOOTHING * (took - before)
        self._note(answer)

    def _note(self, answer: Any) -> None:
        match answer:
            case [int(commit), int()]:
                # A server from before there were followers: it leads.
                self.role, self.leader, self.told = LEADER, None, None
                self.commit = commit
            case [int(), int(), [str(role), str() | None as leader, int(commit), int(epoch), *_]]:
                self.role, self.leader, self.told = role, leader, answer[2]
                self.commit, self.epoch = commit, epoch
            case _:
                raise ProtocolError(f"{self.address}: an answer to ping that is not of its form")
        self._on_told(self)

    def _note_refusal(self, error: HeadwaterError) -> None:
        if isinstance(error, NotLeader):
            if self.role == LEADER:
                self.role = FOLLOWER
            leader = error.details.get("leader")
            self.leader = leader if isinstance(leader, str) else None
            self._on_refused(self, error)
