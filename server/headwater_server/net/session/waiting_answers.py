"""Waiting answers: a session sends them once a commit group is durable, or has failed."""

from collections.abc import Callable
from typing import Protocol

from headwater_protocol.connection import ServerConnection

Encode = Callable[[ServerConnection], bytes]
"""Makes the frame of an answer once it may be sent."""

Answer = Encode | bytes
"""A function that makes the answer's frame, or an encoded payload, or a whole frame."""


class AnswersOwner(Protocol):
    """The session that sends the answers."""

    def release(self, waiting: "WaitingAnswers", /) -> None:
        """Send answers whose sync is done."""
        ...

    def fail(self, waiting: "WaitingAnswers", /) -> None:
        """Tell the client that the outcome of these commits is unknown."""
        ...


class WaitingAnswers:
    """The answers of one session that wait for the same sync, in the order of their requests.

    Attributes:
        owner: the session that sends them.
        answers: request id, transaction and answer of each. The id is 0 for a whole frame, which
            waits only so that it does not overtake its transaction's commit.
        sequence: they may be sent once this sequence is durable.
        size: about how many received bytes they keep in memory.
        taken: the sync has begun, so later commits wait for the next one.
    """

    __slots__ = ("answers", "owner", "sequence", "size", "taken")

    def __init__(self, owner: AnswersOwner, sequence: int, size: int) -> None:
        self.owner = owner
        self.sequence = sequence
        self.size = size
        self.taken = False
        self.answers: list[tuple[int, bytes, Answer]] = []


def last_with(waiting: list[WaitingAnswers], transaction: bytes) -> WaitingAnswers | None:
    """The last of a session's waiting answers that contains one of the transaction."""
    for answers in reversed(waiting):
        for each in answers.answers:
            if each[1] == transaction:
                return answers
    return None
