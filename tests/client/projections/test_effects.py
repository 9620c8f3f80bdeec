"""Effects of a projection: each event has one, however often the model is rebuilt."""

import uuid
from typing import Any

import pytest
import trio

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import run_on

ASYNC = ("trio", "asyncio")


async def model(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
    tx.model.add("total", event.data)


async def effects_of(db: headwater.Database, name: str) -> dict[int, int]:
    return {int(str(key[2])): value async for key, value in db.scan((name, "effect"))}


def effect(name: str) -> Any:
    async def effects(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
        tx.add((name, "effect", event.position), 1)

    return effects


@pytest.mark.parametrize("face", ASYNC)
@pytest.mark.parametrize("batched", [False, True])
def test_a_rebuild_leaves_out_the_effects(
    face: str, batched: bool, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def each(tx: headwater.ProjectionTransaction, given: Any) -> None:
        for event in given if batched else [given]:
            await model(tx, event)

    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name, batched=batched, effects=effect(name))(each)
        async with db.run_projections():
            for number in range(30):
                done = await db.append(f"{name}-{number % 3}", Event("A", number))
                if number in (10, 20):
                    await db.projections.rebuild(name)
            await db.wait_for(name, done)
        events = [event.position async for event in db.read_all(category=name)]
        assert await effects_of(db, name) == dict.fromkeys(events, 1)
        assert await db.model(name).get("total") == sum(range(30))

    run_on(face, real_server.url, scenario)


async def test_of_two_builds_side_by_side_one_has_the_effect(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    async with headwater.connect(real_server.url) as old, headwater.connect(real_server.url) as new:
        old.projection(name, category=name, effects=effect(name))(model)
        new.projection(name, category=name, effects=effect(name), version=2)(model)

        async def append() -> None:
            for number in range(120):
                await old.append(f"{name}-{number % 3}", Event("A", number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append)
            async with old.run_projections():
                await old.wait_for(name, await old.append(f"{name}-9", Event("A", 0)))
                # The new version builds its model while the old one goes on.
                async with new.run_projections():
                    while (await new.projection_status(name)).version < 2:
                        await trio.lowlevel.checkpoint()
                    done = await old.append(f"{name}-9", Event("A", 0))
                    await new.wait_for(name, done)
        async with new.run_projections():
            await new.wait_for(name, await new.append(f"{name}-9", Event("A", 0)))
        events = [event.position async for event in new.read_all(category=name)]
        assert await effects_of(new, name) == dict.fromkeys(events, 1)


@pytest.mark.parametrize("face", ASYNC)
def test_what_was_parked_has_its_effect_in_the_build_that_handles_it(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def failing(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
        if event.data == 2 and event.stream.endswith("-1"):
            raise ValueError
        await model(tx, event)

    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name, attempts=1, effects=effect(name))(failing)
        for number in range(4):
            await db.append(f"{name}-1", Event("A", number))
            done = await db.append(f"{name}-2", Event("A", number))
        async with db.run_projections():
            await db.wait_for(name, done)
        events = [event async for event in db.read_all(category=name)]
        dealt = [e.position for e in events if e.stream.endswith("-2") or e.data < 2]
        assert await effects_of(db, name) == dict.fromkeys(dealt, 1)

    async def again(db: headwater.Database) -> None:
        db.projection(name, category=name, version=2, effects=effect(name))(model)
        async with db.run_projections():
            await db.wait_for(name, (await db.append(f"{name}-2", Event("A", 9))))
        events = [event.position async for event in db.read_all(category=name)]
        assert await effects_of(db, name) == dict.fromkeys(events, 1)

    run_on(face, real_server.url, scenario)
    run_on(face, real_server.url, again)


def test_the_blocking_face_has_effects_and_can_ask(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    asked: list[bool] = []
    with headwater.connect_blocking(real_server.url) as db:

        def effects(
            tx: headwater.BlockingProjectionTransaction, event: headwater.RecordedEvent
        ) -> None:
            tx.add((name, "effects"), 1)

        @db.projection(name, stream=name, effects=effects)
        def handle(
            tx: headwater.BlockingProjectionTransaction, event: headwater.RecordedEvent
        ) -> None:
            asked.append(tx.seen_before(event))

        done = db.append(name, [Event("A"), Event("B")])
        with db.run_projections():
            db.wait_for(name, done)
        db.projections.rebuild(name)
        assert asked == [False, False, True, True]
        assert db.get((name, "effects")) == 2

        async def wrong(tx: Any, event: Any) -> None: ...

        with pytest.raises(headwater.InvalidArgument):
            db.projection(name + "x", effects=wrong)
