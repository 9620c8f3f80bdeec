"""Memberships: a share of the events of a consumer group.

    server --deliveries--> link --deliver--> queue --async for--> consumer
           <----------------- ack, nack, tx.ack ----------------------'
           <-credit--         <- a delivery was settled

The server hands out as many deliveries as it was granted, and credit is granted again as they are
settled, so a slow consumer holds `credit` of them and no more. When the link is lost, the member
joins again: what it had is delivered again, to whomever.
"""

from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final

from headwater.codecs.codec import Codec
from headwater.errors import ConnectionLost, HeadwaterError, InvalidArgument
from headwater.groups.delivery import Acknowledgeable, Delivery, acknowledge, claimed, nack_request
from headwater.transport.channel import PAUSE_FIRST, PAUSE_MAX, Channel, Pauses
from headwater.transport.connection import Link, Reply
from headwater_protocol.limits import DELIVERIES_MAX, REASON_SIZE_MAX
from headwater_protocol.numbers import Position

GROUP_CREDIT_DEFAULT: Final = 16
"""Deliveries that a member may have at once: enough to hide the way to the server and back, few
enough that what waits behind a slow one is not late."""


class Membership(AsyncIterator[Delivery]):
    """Made by `db.join()`; use it with `async with` and `async for`.

    It ends only with an error: NoSuchGroup if the group was deleted, ConnectionLost if no server
    could be found for `retry_timeout` seconds. If the block ends with an exception, what the
    consumer has taken and not settled is given back with it as the reason.

    Attributes:
        group: the group's name.
        caught_up: a position up to which every event is done, parked, or waits behind a parked
            one; None while the group has work. It is news of the past when it is read.
    """

    def __init__(
        self, channel: Channel, codec: Codec, group: str, *, credit: int, until_caught_up: bool
    ) -> None:
        if not 1 <= credit <= DELIVERIES_MAX:
            raise InvalidArgument(f"join: credit: {credit}; allowed are 1 to {DELIVERIES_MAX}")
        self.group = group
        self.caught_up: Position | None = None
        self._channel = channel
        self._codec = codec
        self._credit = credit
        self._until_caught_up = until_caught_up
        self._link: Link | None = None
        self._identity = 0
        self._queue: deque[Delivery] = deque()
        self._taken: dict[int, Delivery] = {}
        self._lost_count = 0
        self._owed = 0
        self._arrival: Reply | None = None
        self._ended: HeadwaterError | None = None

    async def __aenter__(self) -> "Membership":
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        link, self._link = self._link, None
        if link is None or link.closed:
            return
        requests: list[tuple[Any, ...]] = []
        taken = list(self._taken.values())
        if taken and isinstance(error, Exception):
            requests.append(nack_request(taken, None, _reason_of(error), park=False))
        requests.append(("group_leave", self._identity))
        link.forget(self._identity)
        try:
            replies = link.post(requests)
            if error is None or isinstance(error, Exception):
                # A connection that is closed behind us must not look like our death.
                link.wait_for_answers(self._channel.options.request_timeout)
                for reply in replies:
                    if not reply.done:
                        await link.wait(reply)
        except HeadwaterError:
            pass  # The connection is lost, and the server knows what that means.
        finally:
            if not self._channel.runtime.shares_links:
                link.close()

    def __aiter__(self) -> "Membership":
        return self

    async def __anext__(self) -> Delivery:
        if self._arrival is not None:
            raise InvalidArgument("a membership is for one task; another waits on this one")
        # Who asks for more is alive, and has done with what it lost.
        self._owe(self._lost_count)
        self._lost_count = 0
        while not self._queue:
            if self._ended is not None and not self._ended.retryable:
                raise self._ended
            if self._link is None:
                raise InvalidArgument("a membership is used with `async with`")
            if self._until_caught_up and self.caught_up is not None and not self._taken:
                raise StopAsyncIteration
            if self._ended is not None or self._link.closed:
                await self._reopen()
                continue
            self._arrival = self._link.new_reply()
            try:
                await self._link.wait(self._arrival)
            finally:
                self._arrival = None
        delivery = self._queue.popleft()
        self._taken[delivery.token] = delivery
        return delivery

    async def ack(self, *deliveries: Acknowledgeable) -> None:
        """Acknowledge several deliveries together: all of them, or with an error none.

        Raises:
            DeliveryLost: one of them is not this consumer's any more.
        """
        await acknowledge(self._channel, claimed(deliveries, "ack"))

    async def ack_up_to(self, delivery: Acknowledgeable) -> None:
        """Acknowledge all that was taken and not settled, up to the position of a delivery.

        Raises:
            DeliveryLost: one of them is not this consumer's any more.
        """
        [to] = claimed([delivery], "ack_up_to")
        taken = [one for one in self._taken.values() if one.position <= to.position]
        await acknowledge(self._channel, taken)

    # What the link calls.

    def deliver(self, payload: list[Any]) -> None:
        """A push came."""
        match payload:
            case ["deliveries", [*rows], *_]:
                self.caught_up = None
                for row in rows:
                    self._queue.append(
                        Delivery(
                            self._channel, self._codec, self.group, row[:3], self._note_settled
                        )
                    )
            case ["lost", [*tokens], *_]:
                self._note_lost(set(tokens))
            case ["caught_up", int(position), *_]:
                self.caught_up = Position(position)
            case ["ended", error, *_]:
                self._ended = HeadwaterError.from_payload(error)
            case _:
                # A newer server may have more to say than we understand.
                return
        self._notice()

    def lose(self) -> None:
        """The link is closed: what we have is delivered again, to whomever."""
        self._lose_all()
        self._notice()

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
        self._owe(len(self._queue) - len(kept))
        self._queue = deque(kept)

    def _note_settled(self, delivery: Delivery) -> None:
        if self._taken.pop(delivery.token, None) is not None:
            self._owe(1)
            self._notice()

    def _notice(self) -> None:
        if self._arrival is not None and not self._arrival.done and self._link is not None:
            self._link.wake(self._arrival)

    def _owe(self, count: int) -> None:
        """So many deliveries are dealt with: let the server send as many more, now and then."""
        self._owed += count
        # Half of the credit at a time: the server never waits for us, and hears of us seldom.
        if not count or self._owed * 2 < self._credit or self._link is None or self._link.closed:
            return
        try:
            self._link.post([("credit", self._identity, self._owed)])
        except ConnectionLost:
            return  # It is noticed where the next delivery is waited for.
        self._owed = 0

    # Joining, and joining again.

    async def _open(self) -> None:
        link = await self._channel.own_link()
        self._ended = None
        self._lose_all()
        self._owed = 0
        self.caught_up = None
        try:
            self._identity = await link.subscribe(
                self, self.group, self._credit, operation="group_join"
            )
        except BaseException:
            if not self._channel.runtime.shares_links:
                link.close()
            raise
        link.wait_for_ever()
        self._link = link

    async def _reopen(self) -> None:
        runtime = self._channel.runtime
        deadline = runtime.now() + self._channel.options.retry_timeout
        pauses = Pauses(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                await self._open()
                return
            except HeadwaterError as error:
                pause = pauses.next()
                if not error.retryable or runtime.now() + pause >= deadline:
                    raise
            await runtime.sleep(pause)


def _reason_of(error: Exception) -> str:
    """An exception as the reason why an event was given back."""
    reason = f"{type(error).__name__}: {error}".replace("\0", "")
    return reason.encode(errors="replace")[:REASON_SIZE_MAX].decode(errors="ignore")
