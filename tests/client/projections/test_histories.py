"""Random histories of a projection whose handler fails, compared with a model.

The data of each event says how often the handler fails. In the model, a stream is parked at the
first event that fails in all its attempts. `retry` tries that event again and then continues, and
`skip` excludes the event from this build and all later ones. The law: a read model has the events
of each stream in order and once.
"""

import itertools
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from tests.client.faces import run_on

names = itertools.count(random.randrange(1 << 40))

STREAMS = 3

LIVE_MAX = 5000
"""Live events of a retry's own stream, so that a retry that never ends fails."""


@dataclass
class Expected:
    """The expected result of a build for one stream."""

    handled: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    attempts: int = 0


class History:
    """A projection, the failures that its events have left, and the model of its streams."""

    def __init__(self, db: headwater.Database, name: str, seed: int) -> None:
        self.db = db
        self.name = name
        self.source = random.Random(seed)
        self.attempts = self.source.choice((1, 2, 3))
        self.left: dict[int, int] = {}
        self.calls: dict[int, int] = defaultdict(int)
        self.events: dict[str, list[int]] = {f"{name}-{n}": [] for n in range(STREAMS)}
        self.skipped: set[int] = set()
        self.streams = {stream: Expected() for stream in self.events}
        db.projection(
            name, category=name, attempts=self.attempts, batch_size=self.source.choice((1, 3, 50))
        )(self.handle)

    async def handle(self, tx: headwater.ProjectionTransaction, event: Any) -> None:
        self.calls[event.data] += 1
        if self.left[event.data] > 0:
            self.left[event.data] -= 1
            raise ValueError(f"event {event.data}")
        tx.model.put(event.stream, [*await tx.model.get(event.stream, []), event.data])

    async def append(self) -> None:
        batch = self.db.batch()
        fresh: list[tuple[str, int]] = []
        for _ in range(self.source.randint(1, 12)):
            stream = self.source.choice(list(self.events))
            number = len(self.left)
            self.left[number] = self.source.choice((0, 0, 0, 0, 1, 2, 5))
            batch.append(stream, Event("A", number))
            fresh.append((stream, number))
        # Copy the numbers of failures for the model, before the handler decreases them.
        for stream, number in fresh:
            self.events[stream].append(number)
            self._arrive(self.streams[stream], number)
        done = await self.db.execute(batch)
        await self.db.wait_for(self.name, done.committed.last_position or 0)

    def _arrive(self, stream: Expected, number: int) -> None:
        if stream.waiting:
            stream.waiting.append(number)
        elif self.left[number] >= self.attempts:
            stream.waiting.append(number)
            stream.attempts = self.attempts
        else:
            stream.handled.append(number)

    def _try_held(self, stream: Expected) -> None:
        """Try each held event once, until one fails."""
        left = dict(self.left)
        while stream.waiting:
            number = stream.waiting[0]
            if number in self.skipped:
                stream.waiting.pop(0)
                stream.attempts = 0
                continue
            if left[number]:
                stream.attempts += 1
                return
            stream.handled.append(stream.waiting.pop(0))
            stream.attempts = 0

    async def retry(self) -> None:
        for stream in self.streams.values():
            self._try_held(stream)
        still = await self.db.projections.retry(self.name)
        assert {one.stream for one in still} == {s for s, e in self.streams.items() if e.waiting}

    async def skip(self) -> None:
        parked = [stream for stream, expected in self.streams.items() if expected.waiting]
        if not parked:
            return
        chosen = self.source.choice(parked)
        self.skipped.add(self.streams[chosen].waiting[0])
        self._try_held(self.streams[chosen])
        await self.db.projections.skip(self.name, chosen)

    async def rebuild(self) -> None:
        self.streams = {stream: Expected() for stream in self.events}
        for stream, numbers in self.events.items():
            for number in numbers:
                if number not in self.skipped:
                    self._arrive(self.streams[stream], number)
        await self.db.projections.rebuild(self.name, even_if_parked=True)

    async def check(self) -> None:
        model = self.db.model(self.name)
        parked = {one.stream: one for one in await self.db.projections.parked(self.name)}
        for stream, expected in self.streams.items():
            assert await model.get(stream, []) == expected.handled, stream
            if not expected.waiting:
                assert stream not in parked
                continue
            one = parked[stream]
            number = expected.waiting[0]
            assert one.version == self.events[stream].index(number) + 1
            assert one.held == len(expected.waiting) - 1, stream
            assert one.attempts == expected.attempts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_model_has_the_events_of_each_stream_in_order_and_once(
    seed: int, real_server: ServerProcess
) -> None:
    name = f"h{next(names)}"

    async def scenario(db: headwater.Database) -> None:
        history = History(db, name, seed)
        async with db.run_projections():
            await history.append()
            for _ in range(15):
                act = history.source.choice(
                    (history.append, history.append, history.retry, history.skip, history.rebuild)
                )
                await act()
                await history.check()

    run_on("trio" if seed % 2 else "asyncio", real_server.url, scenario)


@pytest.mark.parametrize("own", [False, True], ids=["another stream", "the same stream"])
def test_a_retry_ends_while_new_events_arrive(own: bool, real_server: ServerProcess) -> None:
    """A retry used to conflict with each batch of a busy projection, until its deadline."""
    name = f"h{next(names)}"
    broken = True

    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=1)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if broken and event.data == 0:
                raise ValueError("broken")
            tx.model.add((event.stream, event.data), 1)

        total = 150

        async def live(count: int) -> None:
            nonlocal total
            for _ in range(count):
                await db.append(f"{name}-{1 if own else 2}", Event("A", total))
                total += own

        nonlocal broken
        async with db.run_projections():
            done = await db.append(f"{name}-1", [Event("A", number) for number in range(150)])
            await db.wait_for(name, done.last_position or 0)
            broken = False
            async with trio.open_nursery() as nursery:
                released = trio.Event()

                async def busy() -> None:
                    while not released.is_set() and total < LIVE_MAX:
                        await live(10)

                nursery.start_soon(busy)
                assert await db.projections.retry(name) == []
                released.set()
            done = await db.append(f"{name}-3", Event("A", 1))
            await db.wait_for(name, done.last_position or 0)
            assert await db.projections.parked(name) == []
        model = [item async for item in db.model(name).scan(f"{name}-1")]
        assert model == [((f"{name}-1", number), 1) for number in range(total)]

    run_on("trio", real_server.url, scenario)


def test_an_event_that_is_skipped_during_a_rebuild_is_excluded_from_the_new_build(
    real_server: ServerProcess,
) -> None:
    name = f"h{next(names)}"

    async def scenario(db: headwater.Database) -> None:
        reached, free = trio.Event(), trio.Event()
        building = False

        @db.projection(name, category=name, attempts=1, batch_size=1)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if building and event.data == "first" and not free.is_set():
                reached.set()
                await free.wait()
            if event.data == "bad":
                raise ValueError("broken")
            tx.model.add(event.data, 1)

        await db.append(f"{name}-1", [Event("A", data) for data in ("first", "bad", "last")])
        done = await db.append(f"{name}-2", Event("A", "other"))
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
            building = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(db.projections.rebuild, name)
                await reached.wait()
                assert await db.projections.skip(name, f"{name}-1") == []
                free.set()
            assert await db.projections.parked(name) == []
            assert {key: value async for key, value in db.model(name).scan()} == {
                ("first",): 1,
                ("last",): 1,
                ("other",): 1,
            }

    run_on("trio", real_server.url, scenario)


def test_a_rebuild_of_truncated_streams_needs_an_option(
    real_server: ServerProcess,
) -> None:
    name = f"h{next(names)}"

    async def scenario(db: headwater.Database) -> None:
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            tx.model.add("total", event.data)

        db.projection(name, category=name)(handler)
        await db.append(f"{name}-1", [Event("A", 1), Event("A", 2)])
        await db.append(f"{name}x-1", [Event("A", 1), Event("A", 2)])
        done = await db.append(f"{name}-2", Event("A", 4))
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
            # A stream of another category does not matter, nor does one that begins later.
            await db.truncate(f"{name}x-1", before=2)
            await db.projections.rebuild(name)
            await db.truncate(f"{name}-1", before=2)
            with pytest.raises(headwater.RebuildRefused, match=f"{name}-1") as refused:
                await db.projections.rebuild(name)
            assert refused.value.details == {"truncated": [[f"{name}-1", 2, 1]]}
            assert await db.model(name).get("total") == 7

        async with headwater.connect(real_server.url) as newer:
            newer.projection(name, category=name, version=2)(handler)
            with pytest.raises(headwater.RebuildRefused):
                async with newer.run_projections():
                    await newer.wait_for(name, 1 << 60)
            assert await db.model(name).get("total") == 7
            await newer.projections.rebuild(name, even_if_truncated=True)
            assert await db.model(name).get("total") == 6
            async with newer.run_projections():
                await newer.wait_for(name, done.last_position or 0)

    run_on("trio", real_server.url, scenario)


@pytest.mark.slow
def test_events_behind_many_hidden_ones_are_handled(real_server: ServerProcess) -> None:
    # The server looks at 20,000 events for a page. An empty page was taken for the end: a retry
    # left out the events behind it, a rebuild replaced the model before it had them, and the
    # status said that nothing was left.
    name = f"h{next(names)}"
    stream, broken = f"{name}-1", True

    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=1)
        async def handler(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if broken and event.data == 0:
                raise ValueError("broken")
            tx.model.put((event.version,), event.data)

        nonlocal broken
        await db.append(stream, Event("A", 0))
        await db.append(stream, [Event("A", 1)] * 25_000)
        done = await db.append(stream, Event("A", 2))
        async with db.run_projections():
            await db.wait_for(name, done)
        assert [parked.version for parked in await db.projections.parked(name)] == [1]
        await db.truncate(stream, before=25_002)
        broken = False
        assert await db.projections.retry(name) == []
        assert [item async for item in db.model(name).scan()] == [((25_002,), 2)]
        # Nobody follows the events meanwhile.
        await db.append(stream, [Event("A", 1)] * 25_000)
        await db.append(stream, Event("A", 3))
        await db.truncate(stream, before=50_003)
        assert (await db.projections.status(name)).lag_events == 25_001
        await db.projections.rebuild(name, even_if_truncated=True)
        assert [item async for item in db.model(name).scan()] == [((50_003,), 3)]

    run_on("trio", real_server.url, scenario)
