"""A lease lasts for as long as a handler works on its event, on trio, asyncio and in threads."""

import uuid
from datetime import timedelta

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on

LEASE_S = 1.0
LONG = timedelta(seconds=2.5 * LEASE_S)


@pytest.mark.parametrize("face", FACES[:3])
def test_a_handler_may_work_for_longer_than_the_lease(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex
    calls: list[int] = []

    async def scenario(db: headwater.Database) -> None:
        async def handle(tx: headwater.Transaction, event: headwater.RecordedEvent) -> None:
            calls.append(event.version)
            until = (await db.ping()).time + LONG
            while (await db.ping()).time < until:
                pass
            tx.add((name, "done"), 1)

        await db.groups.create(name, stream=name, lease=LEASE_S)
        await db.append(name, Event("A"))
        await db.consume(name, handle, concurrency=2, until_caught_up=True)
        assert calls == [1]
        assert await db.get((name, "done")) == 1

    run_on(face, real_server.url, scenario)


def test_a_thread_may_work_for_longer_than_the_lease(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    calls: list[int] = []
    with headwater.connect_blocking(real_server.url) as db:

        def handle(tx: headwater.BlockingTransaction, event: headwater.RecordedEvent) -> None:
            calls.append(event.version)
            until = db.ping().time + LONG
            while db.ping().time < until:
                pass
            tx.add((name, "done"), 1)

        db.groups.create(name, stream=name, lease=LEASE_S)
        db.append(name, Event("A"))
        db.consume(name, handle, concurrency=2, until_caught_up=True)
        assert calls == [1]
        assert db.get((name, "done")) == 1


@pytest.mark.parametrize("face", FACES)
def test_a_delivery_is_extended_until_it_is_lost(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.groups.create(name, stream=name, lease=5)
        await db.append(name, [Event("A"), Event("B")])
        async with db.join(name, until_caught_up=True) as group:
            delivery = await anext(group)
            assert await delivery.extend() == 5.0
            await delivery.ack()
            with pytest.raises(headwater.DeliveryLost, match="already settled"):
                await delivery.extend()
            delivery = await anext(group)
            # A change of the group takes back what was delivered.
            await db.groups.update(name, lease=6)
            with pytest.raises(headwater.DeliveryLost):
                await delivery.extend()
            assert delivery.lost
            delivery = await anext(group)
            assert await delivery.extend() == 6.0
            await delivery.ack()

    run_on(face, real_server.url, scenario)
