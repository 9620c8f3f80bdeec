"""A leader that is lost, and a follower that is promoted: nothing is done twice, nothing is missed.

Synchronous followers, so that nothing that was answered is lost with the leader.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import headwater
from headwater.database import Database
from headwater.transactions.transaction import Transaction
from tests.client.nodes.memory_nodes import (
    connected,
    drop_connections,
    fail_over,
    promote,
    route_at_random,
    seconds,
    three,
)
from tests.replication.nodes import Node, Nodes, cluster

SEEDS = range(8)
WORKERS = 4
ROUNDS = 25
MODES = ("leader", "nearest", "follower")


async def trouble(nodes: Nodes, leader: Node, followers: list[Node], source: random.Random) -> None:
    """Lose connections, let followers fall behind, restart the leader; then lose it for good."""
    for _ in range(4):
        await trio.sleep(seconds(source, 2.0))
        follower = source.choice(followers)
        match source.randrange(3):
            case 0:
                await nodes.disconnect(follower.name, leader.name)
            case 1:
                nodes.cut.add((follower.name, leader.name))
                await nodes.disconnect(follower.name, leader.name)
                await trio.sleep(seconds(source, 3.0))
                nodes.cut.clear()
            case _:
                await leader.crash()
                await trio.sleep(seconds(source, 1.0))
                await nodes.start(leader.name)
    await trio.sleep(seconds(source, 2.0))
    # The last leader has one follower, which confirms what it writes.
    await fail_over(nodes, leader, followers)


@asynccontextmanager
async def in_trouble(
    nodes: Nodes, source: random.Random, clients: list[Database]
) -> AsyncIterator[None]:
    """Let all of `trouble` happen while the block runs, and wait for its end."""
    leader, *followers = nodes.by_name["a"], nodes.by_name["b"], nodes.by_name["c"]
    done = trio.Event()

    async def run() -> None:
        await trouble(nodes, leader, followers, source)
        done.set()

    async def shake() -> None:
        while not done.is_set():
            await trio.sleep(seconds(source, 1.5))
            for client in clients:
                route_at_random(client, source)
                if source.random() < 0.3:
                    drop_connections(client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        nursery.start_soon(shake)
        yield
        await done.wait()


async def work(db: Database, worker: int, source: random.Random) -> dict[str, int]:
    """Writes of all kinds; how many of each were answered."""
    made = {"added": 0, "counted": 0, "appended": 0}

    async def count(tx: Transaction) -> None:
        tx.put("counted", await tx.get("counted", 0) + 1)

    for number in range(ROUNDS):
        await trio.sleep(seconds(source, 0.8))
        match source.randrange(3):
            case 0:
                await db.add("added", 1)
                made["added"] += 1
            case 1:
                await db.run(count, deadline=3600.0)
                made["counted"] += 1
            case _:
                event = headwater.Event("Happened", [worker, number])
                await db.append(f"worker-{worker}", event)
                made["appended"] += 1
                # What it wrote is there for its next read, wherever that goes.
                assert await db.version(f"worker-{worker}") >= 1
    return made


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", MODES)
async def test_each_write_takes_effect_once_across_restarts_and_a_promotion(
    mode: str, seed: int, autojump_clock: MockClock
) -> None:
    source = random.Random(seed)
    async with cluster(seed) as nodes:
        await three(nodes, synchronous=1)
        async with connected(nodes, "abc", read=mode) as db:
            made: list[dict[str, int]] = []

            async def one(worker: int) -> None:
                made.append(await work(db, worker, random.Random(f"{seed} {worker}")))

            async with in_trouble(nodes, source, [db]), trio.open_nursery() as nursery:
                for worker in range(WORKERS):
                    nursery.start_soon(one, worker)
            expected = {name: sum(each[name] for each in made) for name in made[0]}
            found = {
                "added": await db.get("added", 0),
                "counted": await db.get("counted", 0),
                "appended": len([event async for event in db.read_all()]),
            }
            assert found == expected


async def events(db: Database, received: list[int], count: int) -> None:
    async with db.subscribe() as feed:
        while len(received) < count:
            event = await feed.next_event()
            received.append(event.data)
            assert event.position == len(received)


async def changes(db: Database, received: list[int], count: int) -> None:
    async with db.subscribe(keys=("k",)) as feed:
        async for item in feed:
            if isinstance(item, headwater.Changes):
                received += [change.new for change in item.changes]
                if len(received) >= count:
                    return


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("receive", [events, changes])
async def test_a_feed_that_moves_between_nodes_has_neither_gap_nor_repeat(
    receive: Callable[[Database, list[int], int], Awaitable[None]],
    mode: str,
    seed: int,
    autojump_clock: MockClock,
) -> None:
    source = random.Random(seed)
    count = 60
    received: list[int] = []
    async with cluster(seed) as nodes:
        await three(nodes, synchronous=1)
        async with (
            connected(nodes, "abc", read=mode) as db,
            connected(nodes, "abc") as writer,
        ):

            async def write() -> None:
                for number in range(1, count + 1):
                    batch = writer.batch()
                    batch.append("s", headwater.Event("Happened", number))
                    batch.put(("k",), number)
                    await writer.execute(batch)
                    await trio.sleep(seconds(source, 0.3))

            with trio.fail_after(3600):
                async with in_trouble(nodes, source, [db]), trio.open_nursery() as nursery:
                    nursery.start_soon(write)
                    nursery.start_soon(receive, db, received, count)
    assert received == [*range(1, count + 1)]


async def test_a_consumer_goes_on_at_the_new_leader_and_handles_each_event(
    autojump_clock: MockClock,
) -> None:
    source = random.Random(1)
    count = 40
    async with cluster() as nodes:
        await three(nodes, synchronous=1)
        async with connected(nodes, "abc", read="nearest") as db:
            await db.groups.create("g", prefix="s")
            handled: list[int] = []

            async def handle(delivery: headwater.Delivery) -> None:
                async def note(tx: Transaction) -> None:
                    tx.add(("handled", int(delivery.event.data)), 1)
                    tx.ack(delivery)

                await db.run(note, deadline=600.0)
                handled.append(delivery.event.data)

            async def consume() -> None:
                while True:
                    try:
                        async with db.join("g") as group:
                            async for delivery in group:
                                await handle(delivery)
                    except headwater.DeliveryLost:
                        continue

            with trio.fail_after(7200):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(consume)
                    async with in_trouble(nodes, source, [db]):
                        for number in range(count):
                            await db.append(f"s-{number % 3}", headwater.Event("E", number))
                            await trio.sleep(seconds(source, 0.4))
                    while (await db.groups.info("g")).position < count:  # noqa: ASYNC110
                        await trio.sleep(0.5)
                    nursery.cancel_scope.cancel()
            counts = {key[1]: value async for key, value in db.scan(("handled",))}
            assert counts == dict.fromkeys(range(count), 1)


async def test_a_projection_and_a_lock_go_on_at_the_new_leader(autojump_clock: MockClock) -> None:
    source = random.Random(2)
    count = 40
    async with cluster() as nodes:
        await three(nodes, synchronous=1)
        async with connected(nodes, "abc", read="nearest") as db:

            @db.projection("totals", prefix="s")
            async def total(
                tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent
            ) -> None:
                tx.model.put("sum", await tx.model.get("sum", 0) + event.data)

            held: list[int] = []

            async def hold(worker: int) -> None:
                for _ in range(5):
                    try:
                        async with db.lock("one", ttl=600.0):
                            assert not held, "two hold the lock"
                            held.append(worker)
                            await trio.sleep(seconds(source, 0.2))
                            held.clear()
                    except headwater.LockLost:
                        held.clear()

            with trio.fail_after(7200):
                async with db.run_projections(), in_trouble(nodes, source, [db]):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(hold, 1)
                        nursery.start_soon(hold, 2)
                        for number in range(count):
                            await db.append("s-1", headwater.Event("E", number))
                            await trio.sleep(seconds(source, 0.4))
                    made = await db.append("s-1", headwater.Event("E", 0))
                    await db.projections.wait_for("totals", made, timeout=600.0)
                    assert await db.model("totals").get("sum") == sum(range(count))


@pytest.mark.parametrize("mode", MODES)
async def test_a_leader_that_was_replaced_while_it_ran_is_left_by_readers_and_subscribers(
    mode: str, autojump_clock: MockClock
) -> None:
    async with cluster() as nodes:
        leader, second, _ = await three(nodes)
        async with connected(nodes, "abc", read=mode) as db, db.subscribe() as feed:
            await db.append("s", headwater.Event("Happened", 1))
            assert (await feed.next_event()).data == 1
            await second.reaches(1)
            await promote(second)
            async with connected(nodes, "b") as writer:
                await writer.append("s", headwater.Event("Happened", 2))
            # Nothing is asked of a, and nothing is written there: it is told by b alone.
            await leader.until(lambda: leader.figures()["role"] == "deposed")
            with trio.fail_after(600):
                if mode == "leader":
                    assert (await feed.next_event()).data == 2
                while await db.version("s") < 2:  # noqa: ASYNC110
                    await trio.sleep(1.0)
