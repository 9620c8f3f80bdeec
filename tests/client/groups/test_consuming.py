"""Consumers as services, on trio, asyncio and in threads."""

import uuid
from pathlib import Path
from typing import Any

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import run_on

ASYNC = ("trio", "asyncio", "uvloop")


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize("face", ASYNC)
def test_each_event_takes_effect_once_and_failures_are_tried_again_and_parked(
    face: str, real_server: ServerProcess, name: str
) -> None:
    tried: list[int] = []

    async def handle(tx: headwater.Transaction, event: headwater.RecordedEvent) -> None:
        tx.add((name, event.stream), event.data)
        await tx.get((name, "another"))
        if event.data == 0:
            tried.append(event.version)
            if event.type == "Hopeless" or len(tried) == 1:
                raise ValueError("not this one")

    async def scenario(db: headwater.Database) -> None:
        assert await db.groups.ensure(
            name, category=name, attempts=2, retry_delay=0, parked_stream="continue"
        )
        for stream in range(5):
            events = [Event("Counted", number) for number in (1, 2, 4)]
            await db.append(f"{name}-{stream}", events)
        await db.append(f"{name}-0", Event("Flaky", 0))
        await db.consume(name, handle, concurrency=3, until_caught_up=True)
        assert [await db.get((name, f"{name}-{n}")) for n in range(5)] == [7] * 5
        assert tried == [4, 4]
        await db.append(f"{name}-0", Event("Hopeless", 0))
        await db.consume(name, handle, concurrency=3, until_caught_up=True)
        parked = [each async for each in db.groups.parked(name)]
        assert [(each.attempts, each.reason[:24]) for each in parked] == [
            (2, "ValueError: not this one")
        ]
        with pytest.raises(headwater.NoSuchGroup):
            await db.consume(name + "x", handle)
        with pytest.raises(headwater.InvalidArgument, match="concurrency: 0"):
            await db.consume(name, handle, concurrency=0)

    run_on(face, real_server.url, scenario)


def test_threads_consume_until_all_is_done(real_server: ServerProcess, name: str) -> None:
    def handle(tx: headwater.BlockingTransaction, event: headwater.RecordedEvent) -> None:
        tx.add((name, "total"), event.data)

    with headwater.connect_blocking(real_server.url) as db:
        db.groups.ensure(name, category=name)
        for stream in range(6):
            db.append(f"{name}-{stream}", [Event("Counted", 1)] * 5)
        db.consume(name, handle, concurrency=3, until_caught_up=True)
        assert db.get((name, "total")) == 30
        assert db.groups.info(name).lag == 0
        db.groups.delete(name)
        with pytest.raises(headwater.NoSuchGroup):
            db.consume(name, handle, concurrency=2)


@pytest.mark.parametrize("face", [*ASYNC, "blocking"])
def test_a_group_can_be_ensured_again_and_again(
    face: str, real_server: ServerProcess, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        wanted: dict[str, Any] = {"category": name, "types": ["Paid"], "lease": 7.5}
        assert await db.groups.ensure(name, after=None, **wanted)
        before = (await db.ping()).commit
        position = (await db.groups.info(name)).position
        assert not await db.groups.ensure(name, **wanted)
        assert (await db.ping()).commit == before
        assert not await db.groups.ensure(name, category=name, attempts=3)
        info = await db.groups.info(name)
        assert (info.filter, info.lease, info.attempts) == ({"category": name}, 7.5, 3)
        assert not await db.groups.ensure(name)
        assert (await db.groups.info(name)).filter == {}
        assert (await db.groups.info(name)).position >= position

    run_on(face, real_server.url, scenario)


def test_a_restart_of_the_server_only_interrupts_consuming(tmp_path: Path, name: str) -> None:
    """The server is killed from inside of a handler, twice."""
    kills = iter((3, 7))
    due = next(kills)
    calls = 0
    with ServerProcess(tmp_path) as server, headwater.connect_blocking(server.url) as db:

        def handle(tx: headwater.BlockingTransaction, event: headwater.RecordedEvent) -> None:
            nonlocal calls, due
            calls += 1
            tx.add((name,), event.data)
            if calls >= due:
                due = next(kills, 1_000)
                server.kill()
                server.start()

        db.groups.ensure(name, category=name, retry_delay=0)
        for number in range(10):
            db.append(f"{name}-{number}", Event("Counted", 2**number))
        db.consume(name, handle, until_caught_up=True)
        assert db.get((name,)) == 2**10 - 1
        assert calls > 10
