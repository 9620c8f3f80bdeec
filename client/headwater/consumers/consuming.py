"""Consuming: a handler is called for each event of a consumer group, until it is cancelled.

    delivery --> transaction: handler(tx, event), acknowledge --> commit     the event is done
                    |                       |
                    |                       '- conflict: the handler is called again
                    '- the handler fails --> returned, delivered again after the group's pause;
                                             after the group's attempts it is parked

    the connection is lost, the server restarts --> join again, with growing pauses

What the handler writes with its transaction happens exactly once. Whatever else it does may be
repeated.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from headwater.causation import cause
from headwater.codecs.codec import Codec
from headwater.errors import (
    CommitUnknown,
    Conflict,
    DeliveryLost,
    HeadwaterError,
    InvalidArgument,
    NoSuchGroup,
)
from headwater.groups.delivery import Delivery
from headwater.groups.extending import Working
from headwater.groups.membership import Membership
from headwater.projections.failures import reason_of
from headwater.records import RecordedEvent
from headwater.transactions import running
from headwater.transactions.transaction import Transaction
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.channel import Channel
from headwater.transport.tasks import beside, ends_the_task
from headwater_protocol.vocabulary.groups import NAME

log = logging.getLogger("headwater")

CONCURRENCY_MAX: Final = 1_000
"""Handlers that one call runs at once. Each is a member of the group."""

_CREDIT: Final = 2
"""Deliveries that a member holds: one in work, and the next one."""

_WAIT_S: Final = 3600.0

Handler = Callable[[Transaction, RecordedEvent], Awaitable[None]]


class Consuming(ABC):
    """The consumers of a database."""

    _codec: Codec

    @property
    @abstractmethod
    def _channel(self) -> Channel:
        """The channel to the server."""

    async def consume(
        self,
        group: str,
        handler: Callable[[Transaction, RecordedEvent], Awaitable[None]],
        *,
        concurrency: int = 1,
        until_caught_up: bool = False,
    ) -> None:
        """Call handler(tx, event) for each event of a consumer group, until cancelled.

        The event is acknowledged in the handler's transaction, so what the handler writes with it
        happens exactly once. If the handler raises an exception, the event is delivered again after
        the pause of the group, and parked after its attempts. Lost connections and restarts of the
        server only interrupt it. The lease of an event is extended while its handler works, for up
        to an hour.

        Args:
            group: the name of the group; `groups.ensure` creates it.
            handler: the work; the first argument is the transaction.
            concurrency: how many events to work on at once. They are of different streams.
            until_caught_up: return once every event is done, parked, or waits behind a parked one.

        Raises:
            NoSuchGroup: there is no group of this name, or it was deleted.
            HeadwaterError: an error that joining again cannot cure.
        """
        check_consume(group, concurrency)
        channel = self._channel
        left = concurrency
        done = channel.runtime.bell()
        working = Working(group)

        async def work() -> None:
            nonlocal left
            await consume_alone(
                channel, self._codec, working, handler, until_caught_up=until_caught_up
            )
            left -= 1
            if not left:
                done.ring()

        async def extend() -> None:
            with suppress(NoSuchGroup):  # The members tell it.
                while True:
                    await working.extend(channel)
                    await channel.runtime.sleep(working.pause_s)

        async with beside([*([work] * concurrency), extend]):
            while left:
                await done.wait(_WAIT_S)


def check_consume(group: str, concurrency: int) -> None:
    """Raise InvalidArgument if one of these arguments of `consume` is wrong."""
    NAME(group, "consume: group")
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise InvalidArgument(
            f"consume: concurrency: {concurrency}; allowed are 1 to {CONCURRENCY_MAX}"
        )


async def consume_alone(
    channel: Channel, codec: Codec, working: Working, handler: Handler, *, until_caught_up: bool
) -> None:
    """Call the handler for one event of a group at a time."""
    group = working.group
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    while True:
        try:
            membership = Membership(
                channel, codec, group, credit=_CREDIT, until_caught_up=until_caught_up
            )
            async with membership:
                async for delivery in membership:
                    with working.on(delivery, channel.runtime.now()):
                        await _handle(channel, codec, delivery, handler)
                    backoff.reset()
            return
        except HeadwaterError as error:
            if not _is_passing(error):
                raise
            log.warning("consumer of group %s: %s; retrying", group, error)
        await channel.runtime.sleep(backoff.next())


async def _handle(channel: Channel, codec: Codec, delivery: Delivery, handler: Handler) -> None:
    async def work(transaction: Transaction) -> None:
        with cause(delivery.event):
            await handler(transaction, delivery.event)
        transaction.ack(delivery)

    run = partial(running.run, channel, lambda: Transaction(channel, codec), work, ())
    try:
        await run(attempts=None, deadline=None)
    except DeliveryLost as error:
        log.warning("consumer of group %s: %s", delivery.group, error)
    except BaseException as error:
        if ends_the_task(error) or (isinstance(error, HeadwaterError) and _is_passing(error)):
            raise
        log.warning(
            "consumer of group %s: event %s of stream %s failed, attempt %s",
            delivery.group,
            delivery.position,
            delivery.stream,
            delivery.attempt,
            exc_info=error,
        )
        with suppress(DeliveryLost):
            await delivery.nack(reason=reason_of(error))


def _is_passing(error: HeadwaterError) -> bool:
    """Whether an error is of the connection or the server, and another attempt may succeed."""
    if isinstance(error, Conflict):
        return False
    return error.retryable or isinstance(error, CommitUnknown)
