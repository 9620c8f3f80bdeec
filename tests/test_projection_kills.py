"""A projection that is killed at random moments has the same result as an undisturbed one.

The projection runs in processes that get SIGKILL, in tasks that are cancelled, and over connections
that break. Sometimes the server is killed too. Meanwhile events are appended, some of which always
fail. At the end, another projection with the same handler reads all events undisturbed. Both must
have the same model and the same parked streams.

HEADWATER_PROJECTION_KILLS sets the number of kills, and HEADWATER_KILL_SEED the seed.
"""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import trio

import headwater
from headwater.cli.server_process import ServerProcess
from tests.projection_worker import BROKEN, CATEGORY, chain, define
from tests.sound_files import check_files

KILLS: Final = int(os.environ.get("HEADWATER_PROJECTION_KILLS", "3"))
CANCELLATIONS: Final = 5
STREAMS: Final = 20
BROKEN_STREAMS: Final = (3, 11)
EVENTS_A_ROUND: Final = 60
ROOT: Final = Path(__file__).parent.parent


async def append_some(db: headwater.Database, source: random.Random) -> int:
    """Append events to random streams; return the position of the last one."""
    position = 0
    left = EVENTS_A_ROUND
    while left:
        count = min(left, source.randint(1, 6))
        left -= count
        stream = source.randrange(STREAMS)
        events = [headwater.Event("Counted", source.randrange(BROKEN)) for _ in range(count)]
        if stream in BROKEN_STREAMS and source.random() < 0.5:
            events.insert(source.randint(0, count), headwater.Event("Counted", BROKEN))
        done = await db.append(f"{CATEGORY}-{stream}", events)
        position = done.last_position or position
    return position


async def position_of(db: headwater.Database, name: str) -> int:
    try:
        return (await db.projection_status(name)).position
    except headwater.InvalidArgument:
        return 0  # It never ran.


async def killed_process(
    db: headwater.Database, server: ServerProcess, source: random.Random, *, with_server: bool
) -> None:
    """Run the projection in a process, and kill the process after some events."""
    start = await position_of(db, "killed")
    child = subprocess.Popen(  # noqa: ASYNC220 - it blocks only until the process has started
        [sys.executable, "-m", "tests.projection_worker", server.url, "killed"], cwd=ROOT
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_some, db, source)
            goal = start + source.randint(1, EVENTS_A_ROUND)
            while await position_of(db, "killed") < goal:
                assert child.poll() is None, "the process ended by itself"
                await trio.sleep(0.001)
            await trio.sleep(source.uniform(0, 0.01))
            if with_server:
                server.kill()
                await trio.sleep(source.uniform(0, 0.02))
                server.start()
                await trio.sleep(source.uniform(0, 0.1))
    finally:
        child.kill()
        child.wait()


async def cancelled_task(url: str, db: headwater.Database, source: random.Random) -> None:
    """Run the projection in a task; cancel the task, or break its connection, at any moment."""
    async with headwater.connect(url) as other:
        define(other, "killed", batch_size=source.choice([1, 5, 50]))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_some, db, source)
            with trio.move_on_after(source.uniform(0.005, 0.15)):
                async with other.run_projections():
                    while True:
                        await trio.sleep(source.uniform(0.001, 0.05))
                        if source.random() < 0.5:
                            for connection in other._channel._connections:
                                connection.close()


async def whole_model(db: headwater.Database, name: str) -> tuple[dict[Any, Any], list[Any]]:
    model = {key: value async for key, value in db.model(name).scan()}
    parked = [(one.stream, one.position, one.held) for one in await db.projections.parked(name)]
    return model, sorted(parked)


async def check_after_kills(server: ServerProcess, source: random.Random) -> None:
    rounds = ["kill"] * KILLS + ["cancel"] * CANCELLATIONS
    source.shuffle(rounds)
    kills = 0
    async with headwater.connect(server.url) as db:
        position = await append_some(db, source)
        for each in rounds:
            if each == "cancel":
                await cancelled_task(server.url, db, source)
                continue
            kills += 1
            await killed_process(db, server, source, with_server=kills % 3 == 2)
        position = max(position, await append_some(db, source))

        define(db, "killed")
        db.projection("through", category=CATEGORY, attempts=1, batch_size=97)(chain)
        async with db.run_projections():
            for name in ("killed", "through"):
                await db.wait_for(name, position)
        model, parked = await whole_model(db, "through")
        assert await whole_model(db, "killed") == (model, parked)
        # The undisturbed projection is right too, so they are not both wrong in the same way.
        assert {stream for stream, _, _ in parked} <= {
            f"{CATEGORY}-{number}" for number in BROKEN_STREAMS
        }
        held = sum(1 + count for _, _, count in parked)
        events = [event async for event in db.read_all(category=CATEGORY)]
        assert model[("events",)] == len(events) - held
        print(f"{len(events)} events, {held} of them held, {KILLS} kills")


@pytest.mark.timeout(max(60, 5 * KILLS))
def test_a_projection_that_is_killed_at_random_equals_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("HEADWATER_KILL_SEED", random.randrange(1 << 30)))
    print(f"HEADWATER_KILL_SEED={seed}")
    with ServerProcess(tmp_path) as server:
        trio.run(check_after_kills, server, random.Random(seed))
    check_files(server)
