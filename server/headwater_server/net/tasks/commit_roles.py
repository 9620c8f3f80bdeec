"""What group commit works with: the engine, the answers that wait, and the followers."""

from typing import Any, Protocol

from headwater_server.engine.transactions.sequencer import Group


class CommitEngine(Protocol):
    """The part of the engine that this module drives."""

    @property
    def published(self) -> int:
        """The newest commit that readers see."""
        ...

    @property
    def durable_sequence(self) -> int:
        """Answers up to this sequence may be sent."""
        ...

    def take_group(self) -> Group | None:
        """The commits sequenced since the last group, or None."""
        ...

    def make_durable(self, group: Group) -> None:
        """Write and sync the group; blocks."""
        ...

    def publish(self, group: Group) -> None:
        """Make the group visible to every reader that starts from now on."""
        ...


class Waiter(Protocol):
    """An answer that waits for a sync."""

    @property
    def sequence(self) -> int:
        """The sequence that must be durable before it may be sent."""
        ...

    @property
    def size(self) -> int:
        """About how many bytes it keeps in memory."""
        ...

    @property
    def owner(self) -> "WaiterOwner":
        """The sender of the answer."""
        ...

    taken: bool
    """Its sync has begun; set by this module."""


class WaiterOwner(Protocol):
    """Sends answers that wait."""

    def release(self, waiter: Any, /) -> None:
        """The commit is durable: send the answer."""
        ...

    def fail(self, waiter: Any, /) -> None:
        """Tell the client that the outcome is unknown."""
        ...


class Ship(Protocol):
    """The followers of this node (net/replication/shipping.py)."""

    @property
    def synchronous(self) -> int:
        """How many followers must have a group before it is published."""
        ...

    def logged(self) -> None:
        """New entries are durable in this node's log."""
        ...

    async def wait_confirmed(self, index: int, /) -> bool:
        """Wait until enough followers have the log up to an index; False: we stop first."""
        ...
