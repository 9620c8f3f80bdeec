"""Picking: which nodes a read may go to, the best one first.

    read=leader      the leader
    read=nearest     every node, by its round trip
    read=follower    the followers by their round trips; after them the leader

A node that was deposed is never read: its newest commits may be in no other log. Nodes that cannot
be reached, or that just now lacked a commit, come last, so that they are tried if nothing else is
there. Nothing waits here, so a test is a list of nodes in and a list of nodes out.
"""

from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

NEAREST: Final = "nearest"
LEADER: Final = "leader"
FOLLOWER: Final = "follower"


class Pickable(Protocol):
    """What is known of a node."""

    role: str | None
    round_trip: float | None

    @property
    def is_resting(self) -> bool:
        """Connecting has failed, and the pause after it is not over."""
        ...

    @property
    def is_behind(self) -> bool:
        """Just now it did not have a commit in time."""
        ...


P = TypeVar("P", bound=Pickable)


def picked(nodes: Iterable[P], mode: str, avoided: Iterable[P] = ()) -> list[P]:
    """The nodes that a read may go to, the best one first, without those that are *avoided*."""
    left = [
        node
        for node in nodes
        if node.role in (LEADER, FOLLOWER)
        and (mode != LEADER or node.role == LEADER)
        and all(node is not other for other in avoided)
    ]

    def rank(node: P) -> tuple[bool, bool, bool, float]:
        far = float("inf") if node.round_trip is None else node.round_trip
        return node.is_resting, node.is_behind, mode == FOLLOWER and node.role == LEADER, far

    return sorted(left, key=rank)
