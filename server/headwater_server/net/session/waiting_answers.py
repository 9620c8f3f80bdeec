"""Waiting answers: what a session sends once a group of commits is durable, or has failed."""

from collections.abc import Callable
from typing import Protocol

from headwater_protocol.connection import ServerConnection

Encode = Callable[[ServerConnection], bytes]
"""Makes the frame of an answer when its time has come."""

Answer = Encode | bytes
"""The answer to a request that waits, or a whole frame that is known before its time."""


class AnswersOwner(Protocol):
    """The session that the answers are of."""

    def release(self, waiting: "WaitingAnswers", /) -> None:
        """Send answers whose sync is done."""
        ...

    def fail(self, waiting: "WaitingAnswers", /) -> None:
        """Say of commits that their outcome is unknown."""
        ...


class WaitingAnswers:
    """The answers of one session that wait for the same sync, in the order of their requests.

    Attributes:
        owner: the session that sends them.
        answers: request id, transaction and answer of each. The id is 0 for a whole frame that is
            known already, and that only must not overtake its transaction's commit.
        sequence: what must be durable before they may go out.
        size: about the bytes that were received for them, all of which they keep in memory.
        taken: the sync has begun, so what is committed from now on waits for the next.
    """

    __slots__ = ("answers", "owner", "sequence", "size", "taken")

    def __init__(self, owner: AnswersOwner, sequence: int, size: int) -> None:
        self.owner = owner
        self.sequence = sequence
        self.size = size
        self.taken = False
        self.answers: list[tuple[int, bytes, Answer]] = []


def last_with(waiting: list[WaitingAnswers], transaction: bytes) -> WaitingAnswers | None:
    """The last of a session's waiting answers in which there is one of the transaction."""
    for answers in reversed(waiting):
        for each in answers.answers:
            if each[1] == transaction:
                return answers
    return None
