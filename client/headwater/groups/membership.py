"""Memberships: a share of the events of a consumer group.

    server --deliveries--> feed --async for--> consumer
           <--------------- ack, nack, tx.ack ----'
           <-credit--       <- a delivery was settled

The server hands out as many deliveries as it was granted, and credit is granted again as they
are settled. So a slow consumer holds `credit` deliveries and no more. When the connection is
lost, the member joins again; what it held is delivered again, to any member.
"""

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

from headwater.codecs.codec import Codec
from headwater.errors import HeadwaterError, InvalidArgument
from headwater.feeds.feed import Feed
from headwater.groups.delivery import (
    Acknowledgeable,
    Delivery,
    acknowledge,
    claimed,
    nack_request,
)
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection
from headwater_protocol.limits import DELIVERIES_MAX, REASON_SIZE_MAX
from headwater_protocol.numbers import Position

GROUP_CREDIT_DEFAULT: Final = 16
"""Deliveries that a member may hold at once: enough to hide the round trip to the server, but few
enough that events do not wait long behind a slow one."""


class Membership(Feed[Delivery], AsyncIterator[Delivery]):
    """A consumer of a group. Made by `db.join()`; use it with `async with` and `async for`.

    It has no end, unless `until_caught_up` is set. It raises NoSuchGroup if the group is deleted,
    and ConnectionLost if no server could be reached for `retry_timeout` seconds. If the block
    raises an exception, unsettled deliveries are returned to the group, with the exception as the
    reason.

    Attributes:
        group: the name of the group.
        caught_up: the position of the group if it has nothing to do, or None. Every event up to the
            position is done, is parked, or waits behind a parked one. The value may be out of date
            when it is read.
    """

    def __init__(
        self, channel: Channel, codec: Codec, group: str, *, credit: int, until_caught_up: bool
    ) -> None:
        if not 1 <= credit <= DELIVERIES_MAX:
            raise InvalidArgument(f"join: credit: {credit}; allowed are 1 to {DELIVERIES_MAX}")
        super().__init__(channel, word="membership", credit=credit)
        self._leading = True
        self.group = group
        self.caught_up: Position | None = None
        self._codec = codec
        self._until_caught_up = until_caught_up
        self._taken: dict[int, Delivery] = {}
        self._lost_count = 0

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        connection, self._connection = self._connection, None
        self._notice()
        if connection is None or connection.closed:
            return
        requests: list[tuple[Any, ...]] = []
        taken = list(self._taken.values())
        if taken and isinstance(error, Exception):
            requests.append(nack_request(taken, None, _reason_of(error), park=False))
        requests.append(("group_leave", self._identity))
        connection.forget(self._identity)
        try:
            replies = connection.post(requests)
            if error is None or isinstance(error, Exception):
                # Wait for the answers. If the connection were closed first, the server would treat
                # this as the failure of a consumer.
                connection.wait_with_timeout(self._channel.options.request_timeout)
                for reply in replies:
                    if not reply.done:
                        await connection.wait(reply)
        except HeadwaterError:
            pass  # The connection is lost, and the server returns the deliveries by itself.
        finally:
            if not self._channel.runtime.shares_connections:
                connection.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        self._check_alone()
        # A consumer that asks for more is alive, and no longer works on what it lost.
        count, self._lost_count = self._lost_count, 0
        self._grant(count)
        delivery = await self._take()
        self._taken[delivery.token] = delivery
        return delivery

    async def ack(self, *deliveries: Acknowledgeable) -> None:
        """Acknowledge several deliveries together. If there is an error, none is acknowledged.

        Raises:
            DeliveryLost: this consumer no longer holds one of them.
        """
        await acknowledge(self._channel, claimed(deliveries, "ack"))

    async def ack_up_to(self, delivery: Acknowledgeable) -> None:
        """Acknowledge all unsettled deliveries up to the position of *delivery*.

        Raises:
            DeliveryLost: this consumer no longer holds one of them.
        """
        [to] = claimed([delivery], "ack_up_to")
        taken = [one for one in self._taken.values() if one.position <= to.position]
        await acknowledge(self._channel, taken)

    # Called by the feed.

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._channel.runtime.shares_connections:
                connection.unsubscribe(self._identity, operation="group_leave")
            else:
                connection.close()
        self._notice()

    async def _request(self, connection: Connection) -> int:
        return await connection.subscribe(self, self.group, self._credit, operation="group_join")

    def _reset(self) -> None:
        self._lose_all()
        self.caught_up = None

    def _is_finished(self) -> bool:
        return self._until_caught_up and self.caught_up is not None and not self._taken

    def _accept(self, payload: list[Any]) -> bool:
        match payload:
            case ["deliveries", [*rows], *_]:
                self.caught_up = None
                for row in rows:
                    self._channel.note_seen(row[2][3])
                self._queue += [self._delivery(row) for row in rows]
            case ["lost", [*tokens], *_]:
                self._note_lost(set(tokens))
            case ["caught_up", int(position), *_]:
                self.caught_up = Position(position)
            case _:
                return False
        return True

    def _delivery(self, row: list[Any]) -> Delivery:
        return Delivery(self._channel, self._codec, self.group, row[:3], self._note_settled)

    def lose(self) -> None:
        """Note that the connection is closed. Held events are delivered again, to any member."""
        self._lose_all()
        super().lose()

    def _lose_all(self) -> None:
        for delivery in (*self._taken.values(), *self._queue):
            delivery.lost = True
        self._taken.clear()
        self._queue.clear()
        self._lost_count = 0

    def _note_lost(self, tokens: set[int]) -> None:
        for token in tokens & self._taken.keys():
            self._taken.pop(token).lost = True
            self._lost_count += 1
        kept = [delivery for delivery in self._queue if delivery.token not in tokens]
        self._grant(len(self._queue) - len(kept))
        self._queue = deque(kept)

    def _note_settled(self, delivery: Delivery) -> None:
        if self._taken.pop(delivery.token, None) is not None:
            self._grant(1)
            self._notice()


def _reason_of(error: Exception) -> str:
    """An exception, as the reason why an event is returned."""
    reason = f"{type(error).__name__}: {error}".replace("\0", "")
    return reason.encode(errors="replace")[:REASON_SIZE_MAX].decode(errors="ignore")
