"""Consumer groups on a real server, with the same scenarios on all three faces."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on

Scenario = Callable[[headwater.Database], Awaitable[None]]
Play = Callable[[Scenario], None]


@pytest.fixture(params=FACES)
def play(request: pytest.FixtureRequest, real_server: ServerProcess) -> Play:
    """Run a scenario on one face."""
    return lambda scenario: run_on(request.param, real_server.url, scenario)


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return "g" + uuid.uuid4().hex


def event(data: object) -> headwater.Event:
    return headwater.Event("Happened", data)


async def fill(db: headwater.Database, name: str, streams: int = 2, events: int = 3) -> None:
    for n in range(events):
        for stream in range(streams):
            await db.append(f"{name}-{stream}", event(n))


async def consume(db: headwater.Database, name: str) -> list[tuple[str, object]]:
    """Acknowledge all available events."""
    seen: list[tuple[str, object]] = []
    async with db.join(name, until_caught_up=True) as group:
        async for delivery in group:
            seen.append((delivery.stream, delivery.event.data))
            await delivery.ack()
    return seen


def test_a_consumer_gets_every_event_once_in_stream_order(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name)
        assert await db.groups.create(name, category=name) == 0
        seen = await consume(db, name)
        assert len(seen) == 6
        for stream in (f"{name}-0", f"{name}-1"):
            assert [data for where, data in seen if where == stream] == [0, 1, 2]
        assert await consume(db, name) == []

    play(scenario)


def test_an_acknowledgement_in_a_transaction_commits_with_it_or_not_at_all(
    play: Play, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=1, events=2)
        await db.groups.create(name, category=name, retry_delay=0)
        attempts = []
        async with db.join(name, until_caught_up=True) as group:
            async for delivery in group:
                attempts.append(delivery.attempt)
                try:
                    async with db.transaction() as tx:
                        tx.add((name, "count"), 1)
                        tx.ack(delivery)
                        if len(attempts) == 1:
                            raise ZeroDivisionError
                except ZeroDivisionError:
                    assert not delivery.settled
                    await delivery.nack()
                else:
                    assert delivery.settled
        assert attempts == [1, 2, 1]
        assert await db.get((name, "count")) == 2

    play(scenario)


def test_a_batch_can_acknowledge_too(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=3, events=1)
        await db.groups.create(name, category=name)
        async with db.join(name) as group:
            taken = [await group.__anext__() for _ in range(3)]
            batch = db.batch()
            batch.add((name, "count"), 3)
            batch.ack(*taken)
            await db.execute(batch)
            assert all(delivery.settled for delivery in taken)
        assert await consume(db, name) == []

    play(scenario)


def test_deliveries_are_acknowledged_together_or_up_to_one_of_them(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=5, events=1)
        await db.groups.create(name, category=name)
        async with db.join(name) as group:
            taken = [await group.__anext__() for _ in range(5)]
            await group.ack(taken[0], taken[1])
            await group.ack_up_to(taken[3])
            assert [delivery.settled for delivery in taken] == [True] * 4 + [False]
        assert await consume(db, name) == [(f"{name}-4", 0)]

    play(scenario)


def test_parked_events_are_listed_replayed_and_discarded(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=3, events=2)
        await db.groups.create(name, category=name)
        async with db.join(name, until_caught_up=True) as group:
            async for delivery in group:
                await delivery.park(f"no {delivery.stream}")
        parked = [one async for one in db.groups.parked(name)]
        assert [one.reason for one in parked] == [f"no {name}-{n}" for n in range(3)]
        assert parked[0].event is not None
        assert parked[0].event.stream == f"{name}-0"
        assert parked[0].attempts == 1
        assert abs(datetime.now(UTC) - parked[0].time) < timedelta(minutes=5)
        assert (await db.groups.info(name)).parked == 3
        assert await db.groups.replay(name, [parked[0].position]) == 1
        assert await consume(db, name) == [(f"{name}-0", 0), (f"{name}-0", 1)]
        assert await db.groups.discard(name) == 2
        assert sorted(await consume(db, name)) == [(f"{name}-1", 1), (f"{name}-2", 1)]
        assert [one async for one in db.groups.parked(name)] == []

    play(scenario)


def test_a_block_that_fails_returns_its_delivery_with_the_exception_as_the_reason(
    play: Play, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=4, events=1)
        await db.groups.create(name, category=name, attempts=1)
        with pytest.raises(ZeroDivisionError):
            async with db.join(name) as group:
                async for delivery in group:
                    assert delivery.position
                    raise ZeroDivisionError("by zero")
        [parked] = [one async for one in db.groups.parked(name)]
        assert parked.reason == "ZeroDivisionError: by zero"
        # The deliveries that were sent, but never taken from the queue, do not count as attempts.
        seen = await consume(db, name)
        assert len(seen) == 3

    play(scenario)


def test_leaving_returns_unsettled_deliveries_without_counting_an_attempt(
    play: Play, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=2, events=1)
        await db.groups.create(name, category=name)
        async with db.join(name) as group:
            await group.__anext__()
        async with db.join(name) as group:
            assert [(await group.__anext__()).attempt for _ in range(2)] == [1, 1]

    play(scenario)


def test_groups_are_created_listed_changed_and_deleted(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name)
        newest = await db.groups.create(name, after=None, types=["Happened"], lease=5, attempts=3)
        info = await db.groups.info(name)
        assert (info.lease, info.attempts, info.position) == (5.0, 3, newest)
        assert info.filter == {"types": ["Happened"]}
        assert info.parked_stream == "hold"
        await db.groups.update(name, category=name, parked_stream="continue", after=0)
        info = await db.groups.info(name)
        assert (info.filter, info.parked_stream, info.attempts) == (
            {"category": name},
            "continue",
            3,
        )
        assert name in [summary.name for summary in await db.groups.list()]
        assert len(await consume(db, name)) == 6
        assert (await db.groups.info(name)).lag == 0
        await db.groups.update(name, everything=True)
        assert (await db.groups.info(name)).filter == {}
        await db.groups.delete(name)
        assert name not in [summary.name for summary in await db.groups.list()]

    play(scenario)


def test_wrong_use_is_refused_with_a_precise_error(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.NoSuchGroup, match=f"there is no group '{name}'"):
            async with db.join(name):
                pass
        for act in (
            db.groups.info(name),
            db.groups.delete(name),
            db.groups.update(name, attempts=1),
            db.groups.replay(name),
            db.groups.discard(name),
        ):
            with pytest.raises(headwater.NoSuchGroup):
                await act
        with pytest.raises(headwater.NoSuchGroup):
            assert [one async for one in db.groups.parked(name)]
        await db.groups.create(name, category=name)
        with pytest.raises(headwater.GroupExists, match="there is a group"):
            await db.groups.create(name)
        with pytest.raises(headwater.InvalidArgument, match="event 7 is not parked"):
            await db.groups.replay(name, [7])
        with pytest.raises(headwater.InvalidArgument, match="lease_ms: 1; allowed are 100"):
            await db.groups.update(name, lease=0.001)
        with pytest.raises(headwater.InvalidArgument, match="credit: 0; allowed are 1 to 10000"):
            db.join(name, credit=0)
        with pytest.raises(headwater.InvalidArgument, match="give either"):
            await db.groups.update(name, category="a", everything=True)
        with pytest.raises(headwater.InvalidArgument, match="used with `async with`"):
            await db.join(name).__anext__()

    play(scenario)


def test_a_delivery_is_settled_only_once_and_only_by_its_consumer(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=2, events=1)
        await db.groups.create(name, category=name)
        async with db.join(name) as group:
            first, second = await group.__anext__(), await group.__anext__()
            await first.ack()
            for act in (first.ack(), first.nack(), first.park(), group.ack(first)):
                with pytest.raises(headwater.DeliveryLost, match="settled"):
                    await act
            with pytest.raises(headwater.DeliveryLost, match="is already settled"):
                async with db.transaction() as tx:
                    tx.ack(first)
            first.settled, first.token = False, second.token
            with pytest.raises(headwater.DeliveryLost, match="the token is of a delivery of event"):
                await first.ack()
            await second.ack()
            with pytest.raises(headwater.InvalidArgument, match="ack: expected a delivery, got 5"):
                await group.ack(5)  # type: ignore[arg-type]

    play(scenario)


def test_a_deleted_group_ends_its_consumers(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.groups.create(name, category=name)
        async with db.join(name) as group:
            await db.groups.delete(name)
            with pytest.raises(headwater.NoSuchGroup, match="was deleted"):
                await group.__anext__()

    play(scenario)


def test_after_its_lease_a_delivery_is_lost_and_the_event_is_delivered_again(
    play: Play, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await fill(db, name, streams=1, events=1)
        await db.groups.create(name, category=name, lease=0.1)
        async with db.join(name, credit=2) as group:
            first = await group.__anext__()
            again = await group.__anext__()
            assert (first.lost, again.attempt) == (True, 2)
            with pytest.raises(headwater.DeliveryLost, match="was lost"):
                await first.ack()
            await again.ack()

    play(scenario)


def test_a_consumer_works_with_the_blocking_face(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        db.append(f"{name}-1", [event(1), event(2)])
        db.groups.create(name, category=name)
        seen = []
        with db.join(name, until_caught_up=True) as group:
            for delivery in group:
                with db.transaction() as tx:
                    tx.put((name, delivery.position), delivery.event.data)
                    tx.ack(delivery)
                assert delivery.settled
                seen.append((delivery.event.data, delivery.attempt, delivery.group))
        assert seen == [(1, 1, name), (2, 1, name)]
        assert [value for _, value in db.scan((name,))] == [1, 2]
        assert list(db.groups.parked(name)) == []
