"""What the nodes of a cluster tell each other through NATS, and what this one knows of the others.

    ["node", name, address, role, epoch, index, commit, time, lease]     twice a second
    ["news", index]              the leader has stored an entry
    ["resigned", epoch, index]   the leader gave its lease back after this entry

Messages may be lost. Nothing that must be right depends on them: the claim of a node is an entry
of the log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from headwater_server.storage.jetstream.service import StreamService

TELL_S: Final = 0.5
"""Seconds between two messages of a node about itself."""

AWAY_S: Final = 3.0
"""Seconds without a message after which a node counts as away."""

FORGOTTEN_S: Final = 24 * 3600.0
"""Seconds after which a node that is away is forgotten."""

NODES_MAX: Final = 100
"""Nodes that are remembered; those that were silent for the longest time are forgotten first."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node says of itself.

    Attributes:
        name: identifies it.
        address: its URL, for clients and other nodes; None: it does not know it.
        role: leader or follower.
        epoch, index: of the newest entry of its copy of the log.
        commit: the newest that it shows.
        time: of that commit, in microseconds since 1970.
        lease: whether it leads and holds the lease.
    """

    name: str
    address: str | None
    role: str
    epoch: int
    index: int
    commit: int
    time: int
    lease: bool


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node, and when it was heard, in seconds of the clock."""

    report: NodeReport
    heard: float


class Nodes:
    """The other nodes, as far as is known.

    Attributes:
        news: the newest entry of which a leader has told.
        resigned: epoch and index that a leader has given back; None: nobody has, lately.
    """

    def __init__(
        self, service: StreamService, subject: str, name: str, clock: Callable[[], float]
    ) -> None:
        self.news = 0
        self.resigned: tuple[int, int] | None = None
        self._service = service
        self._subject = subject
        self._name = name
        self._clock = clock
        self._known: dict[str, KnownNode] = {}
        service.listen(subject)

    def tell(self, report: NodeReport) -> None:
        """Tell the others of this node."""
        fields = [getattr(report, name) for name in NodeReport.__slots__]
        self._send(["node", *fields])

    def tell_news(self, index: int) -> None:
        """This node leads, and has stored an entry."""
        self._send(["news", index])

    def tell_resigned(self, epoch: int, index: int) -> None:
        """This node led, and gives the lease back."""
        self._send(["resigned", epoch, index])

    def _send(self, fields: list[Any]) -> None:
        self._service.tell(self._subject, msgpack.packb(fields))

    def receive(self, seconds: float) -> list[bytes]:
        """Wait for messages; blocks, and is to be called in a thread. `note` takes them."""
        return self._service.heard(self._subject, seconds)

    def note(self, message: bytes) -> None:
        """Take a message. One of another form is of a newer version, and is ignored."""
        try:
            fields = msgpack.unpackb(message)
        except ValueError:
            return
        match fields:
            case ["node", str(name), str() | None, str(), int(), int(), int(), int(), bool(), *_]:
                if name != self._name:
                    report = NodeReport(*fields[1 : len(NodeReport.__slots__) + 1])
                    self._known[name] = KnownNode(report, self._clock())
                    self._forget()
            case ["news", int(index)]:
                self.news = max(self.news, index)
            case ["resigned", int(epoch), int(index)]:
                self.resigned = epoch, index
            case _:
                return

    def _forget(self) -> None:
        now = self._clock()
        by_age = sorted(self._known.items(), key=lambda item: item[1].heard)
        for name, known in by_age:
            if len(self._known) > NODES_MAX or now - known.heard > FORGOTTEN_S:
                del self._known[name]

    @property
    def all(self) -> list[KnownNode]:
        """All that are known, by name."""
        return sorted(self._known.values(), key=lambda known: known.report.name)

    @property
    def present(self) -> list[NodeReport]:
        """Those that were heard lately."""
        now = self._clock()
        return [known.report for known in self.all if now - known.heard < AWAY_S]

    @property
    def leader(self) -> NodeReport | None:
        """The one that leads, with the highest epoch."""
        leaders = [report for report in self.present if report.role == "leader"]
        return max(leaders, key=lambda report: report.epoch, default=None)

    @property
    def furthest_index(self) -> int:
        """The newest entry that a node which is present has."""
        return max((report.index for report in self.present), default=0)

    @property
    def slowest_index(self) -> int | None:
        """The newest entry that every known node has, also those that are away; None: no nodes."""
        return min((known.report.index for known in self._known.values()), default=None)
