"""A consumer group whose members end at random, while the server is killed with SIGKILL.

Each event is consumed in a transaction that counts the events of its stream and acknowledges the
delivery:

    seen = count of the stream          the event's version must be seen + 1
    count of the stream = seen + 1
    ack

An event that is lost, delivered twice or too early causes a wrong count. Members end by losing
their connection, without leaving the group, and new members replace them. The plan of kills depends
on the number of consumed events, so a seed gives the same plan on every machine.

HEADWATER_GROUPS=whole runs 20 members, 1,000 streams and 100,000 events. HEADWATER_GROUPS_SEED sets
the seed.
"""

import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import trio

import headwater
from headwater.cli.server_process import ServerProcess
from tests.sound_files import check_files

GROUP: Final = "counters"
LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a run."""

    members: int
    streams: int
    events: int
    member_kills: int
    server_kills: int


SMALL: Final = Size(members=4, streams=50, events=2_000, member_kills=12, server_kills=2)
WHOLE: Final = Size(members=20, streams=1_000, events=100_000, member_kills=300, server_kills=10)


@dataclass(slots=True)
class Play:
    """A run: its plan, and its results so far.

    Attributes:
        plan: what to kill, by the number of consumed events at that moment.
        consumed: acknowledged commits of consumers.
        wrong: events that were consumed out of order.
    """

    server: ServerProcess
    size: Size
    random: random.Random
    nursery: trio.Nursery
    plan: dict[int, list[str]] = field(default_factory=dict)
    members: dict[int, "Member"] = field(default_factory=dict)
    started: int = 0
    consumed: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)
    struck: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class Member:
    """A consumer, with the objects that are needed to kill it."""

    db: headwater.Database
    scope: trio.CancelScope


async def produce(server: ServerProcess, size: Size, source: random.Random) -> Counter[str]:
    """Append events to random streams; return the number of events in each."""
    counts: Counter[str] = Counter()
    async with headwater.connect(server.url) as db:
        left = size.events
        while left:
            async with db.transaction() as tx:
                for _ in range(min(left, 200)):
                    stream = f"counter-{source.randrange(size.streams)}"
                    tx.append(stream, headwater.Event("Happened"))
                    counts[stream] += 1
                    left -= 1
    return counts


async def consume_one(tx: headwater.Transaction, delivery: headwater.Delivery) -> bool:
    """Count and acknowledge an event; return whether it was in order."""
    seen: int = await tx.get(("seen", delivery.stream), 0)
    tx.put(("seen", delivery.stream), seen + 1)
    tx.ack(delivery)
    return delivery.event.version == seen + 1


async def consume(play: Play, group: headwater.Membership, db: headwater.Database) -> None:
    async for delivery in group:
        try:
            in_order = await db.run(consume_one, delivery)
        except headwater.DeliveryLost:
            play.lost += 1
            continue
        except headwater.ConnectionLost:
            continue  # The lease ends too, and the event is delivered again.
        play.consumed += 1
        if not in_order:
            play.wrong.append(f"{delivery!r}, version {delivery.event.version}")
        if play.consumed in play.plan:
            play.struck.set()


async def member(play: Play, number: int) -> None:
    """Consume until killed. While there is no server, try to connect again."""
    with trio.CancelScope() as scope:
        while True:
            try:
                async with headwater.connect(play.server.url) as db:
                    play.members[number] = Member(db, scope)
                    async with db.join(GROUP, credit=play.random.choice((1, 4, 16))) as group:
                        await consume(play, group, db)
            except headwater.ConnectionLost:
                await trio.sleep(LOOK_S)


def start_member(play: Play) -> None:
    play.started += 1
    play.nursery.start_soon(member, play, play.started)


async def kill_member(play: Play) -> None:
    """Close a consumer's connection and cancel the consumer; start another one."""
    if not play.members:
        return
    number = play.random.choice(sorted(play.members))
    killed = play.members.pop(number)
    await killed.db.close()
    killed.scope.cancel()
    start_member(play)


async def kill_server(play: Play) -> None:
    play.server.kill()
    await trio.to_thread.run_sync(play.server.start)


async def strike(play: Play) -> None:
    """Carry out the plan."""
    while play.plan:
        await play.struck.wait()
        play.struck = trio.Event()
        for due in sorted(number for number in play.plan if number <= play.consumed):
            for what in play.plan.pop(due):
                await (kill_server(play) if what == "server" else kill_member(play))


def make_plan(size: Size, source: random.Random) -> dict[int, list[str]]:
    plan: dict[int, list[str]] = {}
    # No kills in the last tenth of the events, so that every planned kill happens.
    latest = size.events * 9 // 10
    victims = ["server"] * size.server_kills + ["member"] * size.member_kills
    for victim in victims:
        plan.setdefault(source.randint(1, latest), []).append(victim)
    return plan


@asynccontextmanager
async def playing(server: ServerProcess, size: Size, source: random.Random) -> AsyncIterator[Play]:
    async with trio.open_nursery() as nursery:
        yield Play(server, size, source, nursery, make_plan(size, source))
        nursery.cancel_scope.cancel()


async def play_and_check(server: ServerProcess, size: Size, source: random.Random) -> None:
    counts = await produce(server, size, source)
    async with headwater.connect(server.url) as db:
        await db.groups.create(GROUP, category="counter", retry_delay=0.05)
    async with playing(server, size, source) as play:
        for _ in range(size.members):
            start_member(play)
        await strike(play)
        # This member leaves the group when it has caught up.
        async with headwater.connect(server.url) as db:
            async with db.join(GROUP, until_caught_up=True) as group:
                await consume(play, group, db)
            await check(db, play, counts)


async def check(db: headwater.Database, play: Play, counts: Counter[str]) -> None:
    """Check that every event was consumed once and in order, and that no work is left."""
    assert play.wrong == []
    seen = {str(key[1]): value async for key, value in db.scan(("seen",))}
    assert seen == counts
    info = await db.groups.info(GROUP)
    assert (info.parked, info.in_flight, info.retrying) == (0, 0, 0)
    assert info.position == play.size.events
    print(
        f"{play.consumed} events consumed by {play.started} members, {play.lost} deliveries lost, "
        f"{play.size.server_kills} kills of the server"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_do_not_change_that_each_event_is_consumed_once_and_in_order(tmp_path: Path) -> None:
    size = WHOLE if os.environ.get("HEADWATER_GROUPS") == "whole" else SMALL
    seed = int(os.environ.get("HEADWATER_GROUPS_SEED", time.time_ns() % 2**32))
    print(f"\nHEADWATER_GROUPS_SEED={seed} {size}")
    server = ServerProcess(tmp_path)
    server.start()
    trio.run(play_and_check, server, size, random.Random(seed))
    server.stop()
    check_files(server)
