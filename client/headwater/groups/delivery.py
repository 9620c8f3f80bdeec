"""A delivery: an event that a consumer group has handed to this consumer, until it is settled.

await delivery.ack()                       the event is done
tx.ack(delivery)                           it is done if, and only if, the transaction commits
await delivery.nack(delay=…, reason=…)     deliver it again later
await delivery.park(reason)                set it aside, until it is replayed or discarded
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from headwater.codecs.codec import Codec
from headwater.codecs.events import recorded_event
from headwater.errors import DeliveryLost, InvalidArgument
from headwater.identifiers import new_transaction_id
from headwater.records import RecordedEvent
from headwater.transport.channel import Channel
from headwater_protocol.numbers import Position
from headwater_protocol.vocabulary.groups import REASON, RETRY_MS

_MS: float = 1000


class Acknowledgeable(Protocol):
    """Anything that a transaction can acknowledge: a Delivery or a BlockingDelivery."""

    def claimed(self) -> "Delivery":
        """The delivery itself."""
        ...


class Delivery:
    """An event of a consumer group that this consumer holds.

    Attributes:
        group: the name of the group.
        token: identifies this delivery for the server.
        attempt: how often the event was delivered, including this time.
        settled: whether this consumer has acknowledged, returned or parked it.
        lost: whether this consumer no longer holds it, and cannot settle it. Its lease expired,
            the connection was lost, or the group was changed.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        group: str,
        row: list[Any],
        on_settled: Callable[["Delivery"], None],
    ) -> None:
        self.group = group
        self.token: int = row[0]
        self.attempt: int = row[1]
        self._event_row: list[Any] = row[2]
        self.settled = False
        self.lost = False
        self._channel = channel
        self._codec = codec
        self._on_settled = on_settled
        self._event: RecordedEvent | None = None

    @property
    def event(self) -> RecordedEvent:
        """The event. If the codec cannot decode it, its data raises Undecodable: park it then."""
        if self._event is None:
            self._event = recorded_event(self._event_row, self._codec)
        return self._event

    @property
    def position(self) -> Position:
        """The position of the event."""
        position: Position = self._event_row[0]
        return position

    @property
    def stream(self) -> str:
        """The stream of the event."""
        stream: str = self._event_row[1]
        return stream

    def __repr__(self) -> str:
        return f"Delivery({self.group!r}, {self.stream!r} at {self.position}, #{self.attempt})"

    async def ack(self) -> None:
        """Acknowledge the event, exactly once, even if the connection is lost meanwhile.

        Raises:
            DeliveryLost: this consumer no longer holds the event.
        """
        self.check_mine()
        await acknowledge(self._channel, [self])

    async def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        """Return the event, to be delivered again. After the last attempt it is parked.

        Args:
            delay: seconds until the next delivery. None: the delay of the group, which grows with
                each attempt.
            reason: why. It is stored with the event if the event is parked.

        Raises:
            DeliveryLost: this consumer no longer holds the event.
        """
        await self._give_back(delay, reason, park=False)

    async def extend(self) -> float:
        """Restart the lease, because the work on the event takes longer.

        Returns:
            How long it lasts from now on, in seconds.

        Raises:
            DeliveryLost: this consumer no longer holds the event.
        """
        self.check_mine()
        lease_ms, lost = (await self._channel.read("group_extend", self.group, [self.claim]))[:2]
        if lost:
            self.lost = True
            self.check_mine()
        return float(lease_ms) / _MS

    async def park(self, reason: str = "") -> None:
        """Set the event aside, until it is replayed or discarded.

        Args:
            reason: why. It is stored with the event.

        Raises:
            DeliveryLost: this consumer no longer holds the event.
        """
        await self._give_back(None, reason, park=True)

    async def _give_back(self, delay: float | None, reason: str, *, park: bool) -> None:
        self.check_mine()
        # If the answer is lost and this was not done, the delivery is lost as well.
        await self._channel.administer(*nack_request([self], delay, reason, park=park))
        self.settle()

    def claimed(self) -> "Delivery":
        """The delivery itself."""
        return self

    @property
    def claim(self) -> list[int]:
        """Position and token, in the form of the protocol."""
        return [self.position, self.token]

    def check_mine(self) -> None:
        """Raise DeliveryLost if the delivery is known to be settled or lost."""
        if self.settled:
            raise DeliveryLost(f"{self!r} is already settled")
        if self.lost:
            raise DeliveryLost(
                f"{self!r} was lost: its lease expired, the connection was lost, or the group "
                "was changed; the event is delivered again"
            )

    def settle(self) -> None:
        """Mark the delivery as settled. The server has confirmed it."""
        if not self.settled:
            self.settled = True
            self._on_settled(self)


def claimed(deliveries: Iterable[Acknowledgeable], place: str) -> list[Delivery]:
    """The Delivery objects behind deliveries of either face.

    Raises:
        InvalidArgument: one of them is not a delivery.
    """
    found = []
    for one in deliveries:
        if not hasattr(one, "claimed"):
            raise InvalidArgument(f"{place}: expected a delivery, got {one!r:.60}")
        found.append(one.claimed())
    return found


async def acknowledge(channel: Channel, deliveries: list[Delivery]) -> None:
    """Acknowledge deliveries in a transaction of their own."""
    if not deliveries:
        return
    transaction = new_transaction_id()
    writes = ack_writes(deliveries)
    await channel.persist(transaction, "execute", transaction, [], [], writes)
    for delivery in deliveries:
        delivery.settle()


def ack_writes(deliveries: list[Delivery]) -> list[list[Any]]:
    """The writes that acknowledge deliveries: one for each group."""
    claims: dict[str, list[list[int]]] = {}
    for delivery in deliveries:
        claims.setdefault(delivery.group, []).append(delivery.claim)
    return [["ack", group, claimed] for group, claimed in claims.items()]


def nack_request(
    deliveries: list[Delivery], delay: float | None, reason: str, *, park: bool
) -> tuple[Any, ...]:
    """The request that returns deliveries of one group."""
    delay_ms = None if delay is None else round(delay * _MS)
    if delay_ms is not None:
        RETRY_MS(delay_ms, "nack: delay in milliseconds")
    REASON(reason, "nack: reason")
    claims = [delivery.claim for delivery in deliveries]
    if not claims:
        raise InvalidArgument("nack: no deliveries are given")
    return ("nack", deliveries[0].group, claims, delay_ms, reason, park)
