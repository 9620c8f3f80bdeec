"""Waiting answers: what a session sends once a commit is durable, or once it has failed."""

from collections.abc import Callable
from typing import Protocol

from headwater_protocol.connection import ServerConnection
from headwater_server.engine.transactions.sequencer import Ticket

Encode = Callable[[ServerConnection], bytes]
"""Makes the frame of an answer when its time has come."""

Answer = Encode | bytes
"""The answer to a request that waits, or a whole frame that is known before its time."""


class Answers(Protocol):
    """The session that the answers are of."""

    def release(self, waiting: "WaitingAnswers", /) -> None:
        """Send answers whose sync is done."""
        ...

    def fail(self, waiting: "WaitingAnswers", /) -> None:
        """Say of commits that their outcome is unknown."""
        ...


class WaitingAnswers:
    """The answer of a commit that waits for its sync, and those that must come behind it.

    Attributes:
        owner: the session that sends them.
        answers: frames that may go out, and requests with their answers, which a failed sync can
            still turn into another answer.
        size: about the bytes that were received for it, all of which it keeps in memory.
    """

    __slots__ = ("answers", "owner", "sequence", "size", "transaction")

    def __init__(
        self, session: Answers, request_id: int, ticket: Ticket, answer: Answer, size: int
    ) -> None:
        self.owner = session
        self.sequence = ticket.sequence
        self.transaction = ticket.transaction
        self.answers: list[bytes | tuple[int, Answer]] = [(request_id, answer)]
        self.size = size
