"""Consumer groups without an event loop; see headwater.groups."""

from collections.abc import Iterator, Sequence
from types import TracebackType

from headwater.blocking.pages import BlockingPages
from headwater.groups.administration import GroupInfo, Groups, ParkedEvent, Summaries
from headwater.groups.delivery import Acknowledgeable, Delivery
from headwater.groups.membership import Membership
from headwater.reads.query import Query
from headwater.records import RecordedEvent
from headwater.transport.stepping import step
from headwater_protocol.numbers import Position


class BlockingDelivery:
    """An event of a consumer group that is with this consumer; see Delivery."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    @property
    def group(self) -> str:
        return self._delivery.group

    @property
    def token(self) -> int:
        return self._delivery.token

    @property
    def attempt(self) -> int:
        return self._delivery.attempt

    @property
    def settled(self) -> bool:
        return self._delivery.settled

    @property
    def lost(self) -> bool:
        return self._delivery.lost

    @property
    def event(self) -> RecordedEvent:
        return self._delivery.event

    @property
    def position(self) -> Position:
        return self._delivery.position

    @property
    def stream(self) -> str:
        return self._delivery.stream

    def __repr__(self) -> str:
        return repr(self._delivery)

    def ack(self) -> None:
        step(self._delivery.ack())

    def nack(self, *, delay: float | None = None, reason: str = "") -> None:
        step(self._delivery.nack(delay=delay, reason=reason))

    def park(self, reason: str = "") -> None:
        step(self._delivery.park(reason))

    def claimed(self) -> Delivery:
        return self._delivery


class BlockingMembership(Iterator[BlockingDelivery]):
    """A share of the events of a group; see Membership. It has a connection of its own."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership

    def __enter__(self) -> "BlockingMembership":
        step(self._membership.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        step(self._membership.__aexit__(kind, error, trace))

    def __next__(self) -> BlockingDelivery:
        try:
            return BlockingDelivery(step(self._membership.__anext__()))
        except StopAsyncIteration:
            raise StopIteration from None

    @property
    def group(self) -> str:
        return self._membership.group

    @property
    def caught_up(self) -> Position | None:
        return self._membership.caught_up

    def ack(self, *deliveries: Acknowledgeable) -> None:
        step(self._membership.ack(*deliveries))

    def ack_up_to(self, delivery: Acknowledgeable) -> None:
        step(self._membership.ack_up_to(delivery))


class BlockingGroups:
    """The consumer groups of a database; see Groups."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def create(
        self,
        name: str,
        *,
        after: int | None = 0,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        lease: float | None = None,
        attempts: int | None = None,
        retry_delay: float | None = None,
        parked_stream: str | None = None,
    ) -> Position:
        return step(
            self._groups.create(
                name,
                after=after,
                stream=stream,
                category=category,
                prefix=prefix,
                types=types,
                tags=tags,
                query=query,
                lease=lease,
                attempts=attempts,
                retry_delay=retry_delay,
                parked_stream=parked_stream,
            )
        )

    def update(
        self,
        name: str,
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        everything: bool = False,
        lease: float | None = None,
        attempts: int | None = None,
        retry_delay: float | None = None,
        parked_stream: str | None = None,
    ) -> None:
        step(
            self._groups.update(
                name,
                after=after,
                stream=stream,
                category=category,
                prefix=prefix,
                types=types,
                tags=tags,
                query=query,
                everything=everything,
                lease=lease,
                attempts=attempts,
                retry_delay=retry_delay,
                parked_stream=parked_stream,
            )
        )

    def delete(self, name: str) -> None:
        step(self._groups.delete(name))

    def list(self) -> Summaries:
        return step(self._groups.list())

    def info(self, name: str) -> GroupInfo:
        return step(self._groups.info(name))

    def parked(self, name: str, *, limit: int | None = None) -> BlockingPages[ParkedEvent]:
        return BlockingPages(self._groups.parked(name, limit=limit))

    def replay(self, name: str, positions: Sequence[int] | None = None) -> int:
        return step(self._groups.replay(name, positions))

    def discard(self, name: str, positions: Sequence[int] | None = None) -> int:
        return step(self._groups.discard(name, positions))
