"""Consumers: members of a group that count the events of each stream.

In one transaction a consumer
    reads the count of the stream,
    writes the event's version as the new count, and under a key of its own that it was consumed,
    and acknowledges the event.

The history includes these transactions. The checker requires that each one that committed increased
the count by one. An event that is lost, consumed twice or out of order violates this. At the end
each count must be the version of its stream.

If the streams are truncated and deleted meanwhile, the count only has to increase, and each event
that is left at the end must have been consumed.

If the group holds streams behind parked events, consumers park some events, and replay them later.
That must keep the order too. A parked event that is hidden holds nothing: what comes after it, in
the next life of its stream too, is consumed without a replay.
"""

from collections.abc import Iterator
from typing import Final

import trio

import headwater
from tests.simulation.history import Dump, Get, History, Outcome, Put
from tests.simulation.recorder import Recorder

GROUP: Final = "counters"
CATEGORIES: Final = ("order", "list", "kept")
WORKLOAD: Final = "consumers"
PARKED_SHARE: Final = 0.2
"""Of the events of a group that holds streams. With fewer, hardly any is hidden while parked."""

LOOKED_S: Final = 3.0
"""Seconds after which a group has looked at all its parked events."""


async def create_group(recorder: Recorder) -> None:
    """Create the group, unless an earlier attempt did."""
    dice = recorder.dice
    category = dice.choice(CATEGORIES)
    lease = dice.choice((0.1, 1.0, 30.0))
    retry_delay = dice.choice((0, 0.05))
    parked_stream = dice.choice(("hold", "continue"))
    while True:
        try:
            await recorder.database.groups.create(
                GROUP,
                category=category,
                lease=lease,
                attempts=0,
                retry_delay=retry_delay,
                parked_stream=parked_stream,
            )
        except headwater.CommitUnknown:
            # The server is ending. Another attempt finds out whether the group exists.
            await trio.sleep(0.1)
        except headwater.GroupExists:
            return  # It exists: the answer to the creation was lost.
        else:
            return


async def consume(recorder: Recorder, *, to_the_end: bool = False) -> None:
    """Consume for some time, or until everything is done.

    Raises:
        headwater.HeadwaterError: the connection is lost permanently.
    """
    dice = recorder.dice
    patience = dice.randint(1, 40)
    credit = dice.choice((1, 3, 16))
    holds = (await recorder.database.groups.info(GROUP)).parked_stream == "hold"
    if holds and not to_the_end and dice.random() < 0.5:
        await _replay(recorder)
    async with recorder.database.join(GROUP, credit=credit, until_caught_up=to_the_end) as group:
        async for delivery in group:
            if dice.random() < 0.1 and not to_the_end:
                await _give_back(delivery, dice.choice((0, 0.05, None)))
            elif holds and dice.random() < PARKED_SHARE and not to_the_end:
                await _park(delivery)
            else:
                await _count(recorder, delivery)
            patience -= 1
            if patience <= 0 and not to_the_end:
                return


async def consume_all(recorder: Recorder) -> None:
    """Consume everything: first what no parked event holds, then the parked events too.

    Raises:
        headwater.HeadwaterError: the connection is lost permanently.
    """
    groups = recorder.database.groups
    await consume(recorder, to_the_end=True)
    # A group with members looks for hidden events among the parked ones about once a second.
    async with recorder.database.join(GROUP):
        await trio.sleep(LOOKED_S)
    await consume(recorder, to_the_end=True)
    async for parked in groups.parked(GROUP):
        if parked.event is None:
            recorder.surprises.append(f"a hidden event stays parked: {parked}")
    if (await groups.info(GROUP)).parked_stream == "hold":
        await _replay(recorder)
        await consume(recorder, to_the_end=True)


async def _give_back(delivery: headwater.Delivery, delay: float | None) -> None:
    try:
        await delivery.nack(delay=delay)
    except (headwater.CommitUnknown, headwater.DeliveryLost, headwater.ReadOnly):
        pass  # The event is delivered again in any case.


async def _park(delivery: headwater.Delivery) -> None:
    try:
        await delivery.park("later")
    except (headwater.CommitUnknown, headwater.DeliveryLost, headwater.ReadOnly):
        pass  # It is parked, or delivered again.


async def _replay(recorder: Recorder) -> None:
    """Replay all parked events. Another client may be replaying or parking some."""
    try:
        await recorder.database.groups.replay(GROUP)
    except (headwater.CommitUnknown, headwater.ReadOnly):
        pass  # A later call does it.


async def _count(recorder: Recorder, delivery: headwater.Delivery) -> None:
    key = ("seen", delivery.stream)
    async with recorder.transaction(WORKLOAD) as transaction:
        await transaction.get(key)
        transaction.put(key, delivery.event.version)
        transaction.put(("taken", delivery.stream, delivery.event.version), True)
        transaction.ack(delivery)


def consumed_out_of_turn(history: History) -> Iterator[str]:
    """Committed transactions that did not increase the count by one."""
    for attempt in history.attempts:
        if attempt.name != WORKLOAD or attempt.outcome is not Outcome.COMMITTED:
            continue
        reads = [each for each in attempt.operations if isinstance(each, Get)]
        writes = [
            each for each in attempt.operations if isinstance(each, Put) and each.key[0] == "seen"
        ]
        for read, write in zip(reads, writes, strict=True):
            is_thinned = str(read.key[1]).startswith("kept")
            least = (read.value or 0) + 1
            if write.value < least or (write.value > least and not is_thinned):
                yield f"{attempt} consumed an event out of order: {attempt.operations}"


def not_consumed(history: History, dump: Dump) -> Iterator[str]:
    """Streams that were not consumed completely, although the group has caught up."""
    if not history.consumed:
        return
    taken = {(str(key[1]), key[2]) for key, _ in dump.keys if key[0] == "taken"}
    for stream, events in dump.streams.items():
        if stream.partition("-")[0] != history.consumed:
            continue
        left = [event.version for event in events if (stream, event.version) not in taken]
        if left:
            yield (
                f"{stream} has {len(events)} events, of which {left} were not consumed, though the "
                "group has caught up"
            )
