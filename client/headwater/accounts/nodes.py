"""What a node says of itself: its role, and how far it is behind its leader."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from headwater.records import time_of
from headwater_protocol.numbers import CommitNumber


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of a database.

    Attributes:
        role: "leader", "follower" or "deposed".
        leader: the address of the leader, if this node does not lead and knows it.
        commit: the newest that readers see here.
        epoch: of the newest entry of its log; a promotion makes it greater by at least 2^32.
        lag_commits: how many commits the leader has, as far as is known, that are not here.
        lag: about how old what readers see is; None if the leader was not heard since the start.
    """

    role: str
    leader: str | None
    commit: int
    epoch: int
    lag_commits: int
    lag: timedelta | None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping.

    Attributes:
        commit: the newest that readers see.
        time: of the server's clock.
        node: what the server is; None: it is older than followers are, and leads.
    """

    commit: CommitNumber
    time: datetime
    node: NodeInfo | None = None


def pong_of(commit: CommitNumber, time: int, node: list[Any] | None = None, *_: Any) -> Pong:
    """The record of an answer to `ping`."""
    return Pong(commit, time_of(time), None if node is None else node_of(*node))


def node_of(
    role: str,
    leader: str | None,
    commit: int,
    epoch: int,
    lag_commits: int,
    lag_us: int | None,
    *_: Any,
) -> NodeInfo:
    """The record of an answer to `node`."""
    lag = None if lag_us is None else timedelta(microseconds=lag_us)
    return NodeInfo(role, leader, commit, epoch, lag_commits, lag)
