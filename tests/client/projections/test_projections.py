"""Projections on a real server: every event is handled exactly once, whatever fails."""

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from headwater.codecs.codec import MsgpackCodec, RawCodec
from headwater.codecs.event_types import EventTypes, TypedCodec
from headwater.projections.follower import Follower, PositionMismatch
from headwater.projections.rebuilding import opened
from headwater.projections.runners import look_ahead
from tests.client.faces import run_on

numbers = itertools.count(random.randrange(1 << 40))


@pytest.fixture(params=["trio", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name() -> str:
    """A new name for a projection and its category. All tests share a server."""
    return f"p{next(numbers)}"


async def fill(db: headwater.Database, category: str, count: int = 30, streams: int = 3) -> int:
    """Append events 1, 2, 3 … to some streams in turn; return the position of the last."""
    position = 0
    for number in range(1, count + 1):
        done = await db.append(f"{category}-{number % streams}", Event("Counted", number))
        position = done.last_position or 0
    return position


def total(count: int) -> int:
    return count * (count + 1) // 2


async def count(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
    tx.model.add("total", event.data)
    tx.model.add(("of", event.stream), event.data)
    # The result depends on the order of the events, and on every event being handled once.
    chain = await tx.model.get("chain", 0)
    tx.model.put("chain", (chain * 31 + event.position) % 1_000_003)


async def chained(db: headwater.Database, category: str) -> int:
    chain = 0
    async for event in db.read_all(category=category):
        chain = (chain * 31 + event.position) % 1_000_003
    return chain


async def model_of(db: headwater.Database, name: str) -> dict[Any, Any]:
    return {key: value async for key, value in db.model(name).scan()}


# Following.


def test_a_model_follows_the_events_and_can_be_waited_for(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        position = await fill(db, name)
        db.projection(name, category=name)(count)
        async with db.run_projections():
            await db.wait_for(name, position)
            model = db.model(name)
            assert await model.get("total") == total(30)
            assert await model.get(("of", f"{name}-1")) == sum(range(1, 31, 3))
            for number in range(1, 6):
                done = await db.append(f"{name}-1", Event("Counted", number))
                await db.wait_for(name, done.last_position or 0)
                assert await model.get("total") == total(30) + total(number)
        assert await model.get("chain") == await chained(db, name)
        assert [key async for key, _ in model.scan("of", reverse=True)] == [
            ("of", f"{name}-{number}") for number in (2, 1, 0)
        ]
        assert await model.get("nothing", default=7) == 7

    run_on(face, real_server.url, scenario)


def test_a_second_run_continues_where_the_first_ended(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        for _ in range(3):
            async with db.run_projections(name):
                await db.wait_for(name, await fill(db, name, 10))
        assert await db.model(name).get("total") == 3 * total(10)

    run_on(face, real_server.url, scenario)


def test_events_that_do_not_match_are_skipped_without_a_wait(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        counted = await fill(db, name, 3)
        db.projection(name, category=name)(count)
        async with db.run_projections():
            await db.wait_for(name, counted)
            done = await db.append(f"other{name}-1", Event("Counted", 1))
            assert done.last_position is not None
            await db.wait_for(name, done.last_position, timeout=5)
            assert (await db.projection_status(name)).lag_events == 0
            await look_ahead(db._host(), *db.projections.defined(name))
            assert (await db.projection_status(name)).position >= done.last_position
        assert await db.model(name).get("total") == total(3)

    run_on(face, real_server.url, scenario)


def test_no_matching_event_is_skipped(face: str, name: str, real_server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 3))
        await db.append(f"other{name}-1", Event("Counted", 1))
        last = await fill(db, name, 3)
        await db.append(f"other{name}-1", Event("Counted", 1))
        await look_ahead(db._host(), *db.projections.defined(name))
        assert (await db.projection_status(name)).position < last
        with pytest.raises(headwater.ProjectionBehind):
            await db.wait_for(name, last, timeout=0.02)
        async with db.run_projections():
            await db.wait_for(name, last)
        assert await db.model(name).get("total") == 2 * total(3)

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("which", ["stream", "prefix", "types", "tags", "query"])
def test_a_projection_has_the_same_filters_as_a_subscription(
    which: str, name: str, real_server: ServerProcess
) -> None:
    filters: dict[str, Any] = {
        "stream": {"stream": f"{name}-1"},
        "prefix": {"prefix": f"{name}-1"},
        "types": {"category": name, "types": ["Wanted"]},
        "tags": {"tags": [f"tag:{name}"]},
        "query": {"query": headwater.Query(types=["Wanted"], tags=[f"tag:{name}"])},
    }

    async def scenario(db: headwater.Database) -> None:
        await db.append(f"{name}-0", Event("Unwanted", 100))
        await db.append(f"{name}-1", Event("Wanted", 7, tags=[f"tag:{name}"]))
        done = await db.append(f"{name}-0", Event("Unwanted", 100))
        db.projection(name, **filters[which])(count)
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
        assert await db.model(name).get("total") == 7

    run_on("trio", real_server.url, scenario)


def test_the_status_says_how_far_behind_a_projection_is(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 3))
            level = await db.projection_status(name)
        assert (level.lag_events, level.lag_seconds, level.parked) == (0, 0.0, 0)
        await fill(db, name, 4)
        behind = await db.projection_status(name)
        assert behind.position == level.position
        assert behind.lag_events >= 4
        assert behind.lag_seconds >= 0
        assert name in await db.projections.names()

    run_on(face, real_server.url, scenario)


def test_two_processes_that_run_one_projection_do_no_harm(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with headwater.connect(real_server.url) as other:
            for each in (db, other):
                each.projection(name, category=name, batch_size=5)(count)
            await fill(db, name, 50)
            async with db.run_projections(), other.run_projections():
                await db.wait_for(name, await fill(db, name, 50))
        assert await db.model(name).get("total") == 2 * total(50)
        assert await db.model(name).get("chain") == await chained(db, name)

    run_on(face, real_server.url, scenario)


def test_events_that_another_process_has_handled_are_skipped(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        projection = db.projections.define(name, count, category=name, batch_size=4)
        await fill(db, name, 10)
        build = await opened(db._host(), projection)
        assert build is not None
        first, second = (Follower(db._host(), projection, build.number) for _ in range(2))
        rows = await first.run(lambda tx: tx.events(projection.wanted, 0, 10**9, 100))
        await first.project(rows[:6])
        await second.project(rows[:8])
        await first.project(rows[6:])
        await second.project(rows[8:])
        assert await db.model(name).get("total") == total(10)
        assert await db.model(name).get("chain") == await chained(db, name)
        # A follower whose position is ahead of the stored one would skip events.
        ahead = Follower(db._host(), projection, build.number)
        ahead.position = 1 << 60
        with pytest.raises(PositionMismatch):
            await ahead.project(rows)

    run_on("trio", real_server.url, scenario)


def test_two_processes_that_park_the_same_event_park_it_once(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        projection = db.projections.define(name, Broken(2), category=name, attempts=1)
        await fill(db, name, 9)
        build = await opened(db._host(), projection)
        assert build is not None
        followers = [Follower(db._host(), projection, build.number) for _ in range(2)]
        rows = await followers[0].run(lambda tx: tx.events(projection.wanted, 0, 10**9, 100))
        async with trio.open_nursery() as nursery:
            for follower in followers:
                nursery.start_soon(follower.project, rows)
        (parked,) = await db.projections.parked(name)
        assert (parked.stream, parked.held) == (f"{name}-2", 2)
        assert (await db.projection_status(name)).parked == 1
        assert await db.model(name).get("total") == total(9) - 2 - 5 - 8

    run_on("trio", real_server.url, scenario)


def test_a_projection_whose_connection_is_lost_repeatedly_misses_no_event(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with headwater.connect(real_server.url) as other:

            @other.projection(name, category=name, batch_size=7)
            async def counting(tx: headwater.ProjectionTransaction, event: Any) -> None:
                await count(tx, event)
                if event.data % 10 == 0 and tx.id.int % 2:
                    (connection,) = other._channel._connections
                    connection.close()

            async with other.run_projections():
                await db.wait_for(name, await fill(db, name, 60))
        assert await db.model(name).get("total") == total(60)
        assert await db.model(name).get("chain") == await chained(db, name)

    run_on(face, real_server.url, scenario)


# Batches.


async def transactions(db: headwater.Database, name: str, **options: Any) -> list[list[int]]:
    """The events that a projection handles in each of its transactions."""
    position = await fill(db, name, 20)
    given: dict[Any, list[int]] = {}

    @db.projection(name, category=name, **options)
    async def noting(tx: headwater.ProjectionTransaction, event: Any) -> None:
        events = event if isinstance(event, list) else [event]
        given.setdefault(tx.id, []).extend(one.data for one in events)

    async with db.run_projections():
        await db.wait_for(name, position)
    return [*given.values()]


@pytest.mark.parametrize("batched", [False, True])
def test_a_transaction_has_a_full_batch_of_events_if_there_are_enough(
    batched: bool, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        given = await transactions(db, name, batch_size=8, batched=batched)
        assert given == [[*range(1, 9)], [*range(9, 17)], [*range(17, 21)]]

    run_on("trio", real_server.url, scenario)


def test_a_slow_handler_gets_few_events_in_each_transaction(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        given = await transactions(db, name, batch_seconds=1e-9)
        assert given == [[number] for number in range(1, 21)]

    run_on("trio", real_server.url, scenario)


# Failures.


class Broken:
    """A handler that fails at some numbers, which a test can change."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = set(numbers)
        self.tried: Counter[int] = Counter()

    async def __call__(self, tx: headwater.ProjectionTransaction, given: Any) -> None:
        for event in given if isinstance(given, list) else [given]:
            tx.model.put(("partial", event.data), True)
            self.tried[event.data] += 1
            if event.data in self.numbers:
                raise ValueError(f"number {event.data} is broken")
            await count(tx, event)
            tx.model.delete(("partial", event.data))


@pytest.mark.parametrize("batched", [False, True])
def test_an_event_that_fails_parks_its_stream_and_no_other(
    face: str, batched: bool, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        broken = Broken(4, 11)
        db.projection(name, category=name, batched=batched, attempts=2)(broken)
        position = await fill(db, name, 30, streams=3)
        async with db.run_projections():
            await db.wait_for(name, position)
            model = await model_of(db, name)
            assert model[("of", f"{name}-0")] == sum(range(3, 31, 3))
            assert model[("of", f"{name}-1")] == 1
            assert model[("of", f"{name}-2")] == 2 + 5 + 8
            assert not [key for key in model if key[0] == "partial"]
            one, two = await db.projections.parked(name)
            assert (one.stream, one.version, one.type, one.attempts) == (
                f"{name}-1",
                2,
                "Counted",
                2,
            )
            assert one.reason.startswith("ValueError: number 4 is broken (at ")
            assert "test_projections.py" in one.reason
            assert (one.held, two.held) == (8, 6)
            assert (await db.projection_status(name)).parked == 2

            # Later events of these streams are held too.
            done = await db.append(f"{name}-1", Event("Counted", 100))
            await db.wait_for(name, done.last_position or 0)
            assert (await db.model(name).get(("of", f"{name}-1"))) == 1
            assert (await db.projections.parked(name))[0].held == 9

            broken.numbers.remove(4)
            broken.numbers.add(16)
            (again,) = await db.projections.retry(name, f"{name}-1")
            assert (again.version, again.attempts, again.held) == (6, 1, 5)
            assert "number 16" in again.reason
            assert len(await db.projections.parked(name)) == 2
            assert await db.projections.skip(name, f"{name}-1") == []
            broken.numbers.clear()
            assert await db.projections.retry(name) == []
            assert await db.projections.parked(name) == []
            assert await db.model(name).get("total") == total(30) + 100 - 16
            assert (await db.projection_status(name)).parked == 0

            done = await db.append(f"{name}-1", Event("Counted", 1))
            await db.wait_for(name, done.last_position or 0)
            assert await db.model(name).get("total") == total(30) + 101 - 16
        assert not [key async for key, _ in db.scan(("$parked", name))]

    run_on(face, real_server.url, scenario)


def test_events_that_are_held_during_a_retry_are_handled_once(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        broken = Broken(1)
        db.projection(name, category=name, attempts=1, batch_size=3)(broken)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 20, streams=1))
            broken.numbers.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill, db, name, 200, 1)
                while await db.projections.retry(name):
                    await trio.lowlevel.checkpoint()
            await db.wait_for(name, await fill(db, name, 1, streams=1))
            assert await db.projections.parked(name) == []
        assert await db.model(name).get("total") == total(20) + total(200) + 1
        assert await db.model(name).get("chain") == await chained(db, name)

    run_on("trio", real_server.url, scenario)


def test_a_temporary_error_parks_nothing(face: str, name: str, real_server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        failures = iter([ConnectionError("elsewhere"), TimeoutError("elsewhere")])

        @db.projection(name, category=name)
        async def counting(tx: headwater.ProjectionTransaction, event: Any) -> None:
            await count(tx, event)
            if event.data == 2 and (error := next(failures, None)):
                raise error

        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 5))
        assert await db.projections.parked(name) == []
        assert await db.model(name).get("total") == total(5)

    run_on(face, real_server.url, scenario)


def test_an_event_that_cannot_be_decoded_parks_its_stream(
    face: str, name: str, real_server: ServerProcess
) -> None:
    types = EventTypes()
    types.upcaster("Counted", 1, lambda data: data["number"])

    async def writing(db: headwater.Database) -> None:
        await db.append(f"{name}-1", [Event("Counted", {"number": 1}), Event("Counted", "wild")])
        await db.append(f"{name}-2", Event("Counted", {"number": 2}))

    async def reading(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        async with db.run_projections():
            done = await db.append(f"{name}-2", Event("Counted", 4))
            await db.wait_for(name, done.last_position or 0)
        (parked,) = await db.projections.parked(name)
        assert (parked.stream, parked.version) == (f"{name}-1", 2)
        assert "upcaster to schema 2 failed" in parked.reason
        assert await db.model(name).get("total") == 7

    run_on(face, real_server.url, writing)
    run_on(face, real_server.url, reading, codec=TypedCodec(types))


def test_an_error_at_the_commit_parks_the_stream_of_the_event_that_caused_it(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=1)
        async def adding(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if event.data == 7:
                tx.model.put("text", "no number")
                tx.model.add("text", 1)
            tx.model.add("total", event.data)

        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 12, streams=4))
        (parked,) = await db.projections.parked(name)
        assert (parked.stream, parked.version) == (f"{name}-3", 2)
        assert parked.reason.startswith("NotANumber")
        assert await db.model(name).get("total") == total(12) - 7 - 11

    run_on(face, real_server.url, scenario)


# Rebuilds.


@asynccontextmanager
async def gate(
    handler: Callable[..., Awaitable[None]], at: int
) -> AsyncIterator[tuple[Callable[..., Awaitable[None]], trio.Event, trio.Event]]:
    """A handler that waits at one event until it is released."""
    reached, free = trio.Event(), trio.Event()

    async def waiting(tx: headwater.ProjectionTransaction, event: Any) -> None:
        if event.data == at:
            reached.set()
            await free.wait()
        await handler(tx, event)

    yield waiting, reached, free


async def tripled(tx: headwater.ProjectionTransaction, event: Any) -> None:
    tx.model.add("total", 3 * event.data)


def test_readers_see_the_old_model_until_the_new_one_has_caught_up(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        position = await fill(db, name, 20)
        async with headwater.connect(real_server.url) as newer, gate(tripled, 15) as parts:
            waiting, reached, free = parts
            db.projection(name, category=name)(count)
            newer.projection(name, category=name, version=2, batch_size=4)(waiting)
            async with db.run_projections():
                await db.wait_for(name, position)
                async with newer.run_projections():
                    await reached.wait()
                    # Meanwhile the old version continues.
                    position = await fill(db, name, 1)
                    await db.wait_for(name, position)
                    assert await db.model(name).get("total") == total(20) + 1
                    status = await db.projection_status(name)
                    assert (status.build, status.version, status.next_build) == (1, 1, 2)
                    free.set()
                    while (await db.projection_status(name)).build == 1:
                        await trio.lowlevel.checkpoint()
                    assert await db.model(name).get("total") == 3 * (total(20) + 1)
                    # The runner of the old version has ended, and does not write to the new model.
                    await db.wait_for(name, await fill(db, name, 1))
            status = await db.projection_status(name)
            assert (status.build, status.version, status.next_build) == (2, 2, None)
            assert await model_of(newer, name) == {("total",): 3 * (total(20) + 2)}
            # The keys of the old model are removed.
            async with newer.run_projections():
                await db.wait_for(name, await fill(db, name, 1))
            assert {key[2] async for key, _ in db.scan(("$model", name))} == {2}

    run_on("trio", real_server.url, scenario)


def test_a_reader_that_has_seen_an_old_build_switches_to_the_new_one(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 5))
        model, scanned = db.model(name), db.model(name)
        assert await model.get("total") == total(5)
        await db.projections.rebuild(name)
        assert await model.get("total") == total(5)

        # The same if the model is replaced between the read of the head and the first page.
        current = scanned.current
        rebuilds = iter([1])

        async def replaced() -> int:
            build = await current()
            if next(rebuilds, None):
                await db.projections.rebuild(name)
            return build

        scanned.current = replaced  # type: ignore[method-assign]
        assert ("total",) in {key async for key, _ in scanned.scan()}

    run_on(face, real_server.url, scenario)


def test_a_cancelled_rebuild_continues_and_readers_never_see_a_part_of_it(
    name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name, batch_size=3)(count)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 40))
        whole = await model_of(db, name)
        builds = set()
        for _ in range(3):
            for cut in (0.005, 0.01, 0.02, 0.04):
                async with trio.open_nursery() as nursery:

                    async def read(nursery: trio.Nursery = nursery) -> None:
                        while not nursery.cancel_scope.cancel_called:
                            assert await db.model(name).get("total") == total(40)
                            assert await model_of(db, name) == whole

                    nursery.start_soon(read)
                    with trio.move_on_after(cut):
                        await db.projections.rebuild(name)
                    nursery.cancel_scope.cancel()
            await db.projections.rebuild(name)
            builds.add((await db.projection_status(name)).build)
            assert await model_of(db, name) == whole
        assert len(builds) == 3

    run_on("trio", real_server.url, scenario)


def test_a_rebuild_with_new_failures_keeps_the_old_model(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        broken = Broken()
        db.projection(name, category=name, attempts=1)(broken)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 9))
        broken.numbers.add(4)
        with pytest.raises(headwater.RebuildRefused, match="number 4 is broken") as refused:
            await db.projections.rebuild(name)
        assert refused.value.details["parked"][0][0] == f"{name}-1"
        assert (await db.projection_status(name)).build == 1
        assert await db.model(name).get("total") == total(9)
        broken.numbers.clear()
        await db.projections.rebuild(name)
        assert (await db.projection_status(name)).build == 2
        assert await db.model(name).get("total") == total(9)
        broken.numbers.add(4)
        await db.projections.rebuild(name, even_if_parked=True)
        assert await db.model(name).get("total") == total(9) - 4 - 7

    run_on(face, real_server.url, scenario)


def test_a_changed_filter_needs_a_higher_version(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 3))
        async with headwater.connect(real_server.url) as other:
            other.projection(name, category="another")(count)
            with pytest.raises(headwater.InvalidArgument, match="give it a higher version="):
                async with other.run_projections():
                    await other.wait_for(name, 1 << 60)

    run_on(face, real_server.url, scenario)


# Reading a model.


def test_a_model_can_be_read_in_a_range_and_as_it_was(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        seen: list[Any] = []

        @db.projection(name, category=name)
        async def listing(tx: headwater.ProjectionTransaction, event: Any) -> None:
            tx.model.put(("n", event.data), event.type)
            tx.model.max("highest", event.data)
            tx.model.min("lowest", event.data)
            seen[:] = [key async for key, _ in tx.model.scan("n", limit=2)]
            if event.data == 5:
                tx.model.delete_range("n")

        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 9))
            model = db.model(name)
            assert [key async for key, _ in model.scan()] == [
                ("highest",),
                ("lowest",),
                *(("n", number) for number in range(6, 10)),
            ]
            wanted = [("n", 7), ("n", 8)]
            assert [key async for key, _ in model.scan(start=("n", 7), end=("n", 9))] == wanted
            assert [key async for key, _ in model.scan("n", reverse=True, limit=1)] == [("n", 9)]
            assert seen == [("n", 6), ("n", 7)]
            with pytest.raises(headwater.InvalidArgument, match="give either"):
                model.scan("n", start=1)

    run_on(face, real_server.url, scenario)


def test_a_projection_works_with_any_codec_of_the_application(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        @db.projection(name, category=name, attempts=1)
        async def copying(tx: headwater.ProjectionTransaction, event: Any) -> None:
            if event.data == b"bad":
                raise ValueError
            tx.model.put("last", event.data)

        await db.append(f"{name}-1", [Event("A", b"one"), Event("A", b"two")])
        done = await db.append(f"{name}-2", Event("A", b"bad"))
        async with db.run_projections():
            await db.wait_for(name, done.last_position or 0)
        assert await db.model(name).get("last") == b"two"
        assert len(await db.projections.parked(name)) == 1

    run_on(face, real_server.url, scenario, codec=RawCodec())


# Wrong use.


def test_a_wait_that_times_out_says_how_far_the_projection_is(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.ProjectionBehind, match="never ran"):
            await db.wait_for(name, 1, timeout=0.05)
        db.projection(name, category=name)(count)
        async with db.run_projections():
            last = await fill(db, name, 3)
            await db.wait_for(name, last)
            with pytest.raises(headwater.ProjectionBehind, match=r"at position \d+; "):
                await db.wait_for(name, 1 << 60, timeout=0.05)

    run_on(face, real_server.url, scenario)


def test_unknown_projections_and_invalid_arguments_are_refused(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        def plain(tx: Any, event: Any) -> None: ...

        refusals: list[tuple[Callable[[], Any], str]] = [
            (lambda: db.projection(""), "name"),
            (lambda: db.projection(name, version=0), "version: 0"),
            (lambda: db.projection(name, batch_size=0), "batch_size: 0"),
            (lambda: db.projection(name, batch_seconds=0), "batch_seconds: 0"),
            (lambda: db.projection(name, attempts=0), "attempts: 0"),
            (lambda: db.projection(name, types="Counted"), "types"),
        ]
        for define, message in refusals:
            with pytest.raises(headwater.InvalidArgument, match=message):
                define()(count)
        with pytest.raises(headwater.InvalidArgument, match="async def"):
            db.projection(name)(plain)
        with pytest.raises(headwater.InvalidArgument, match="no projections are defined"):
            db.run_projections()
        db.projection(name, category=name)(count)
        with pytest.raises(headwater.InvalidArgument, match="already defined"):
            db.projection(name, category=name)(count)
        with pytest.raises(headwater.InvalidArgument, match="is not defined here"):
            db.run_projections("unheard")
        for call in (db.projection_status, db.projections.parked, db.projections.retry):
            with pytest.raises(headwater.InvalidArgument, match="never ran"):
                await call(name)
        with pytest.raises(headwater.InvalidArgument, match="never ran"):
            await db.projections.rebuild(name)
        with pytest.raises(headwater.InvalidArgument, match="never ran"):
            await db.projections.remove(name)
        assert await model_of(db, name) == {}
        async with db.run_projections():
            await db.wait_for(name, await fill(db, name, 1))
        with pytest.raises(headwater.InvalidArgument, match="is not parked"):
            await db.projections.skip(name, "some-stream")
        await db.projections.remove(name)
        assert name not in await db.projections.names()
        assert await db.model(name).get("total") is None

    run_on(face, real_server.url, scenario)


def test_an_error_in_the_block_is_raised_unchanged(
    face: str, name: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        with pytest.raises(ZeroDivisionError):
            async with db.run_projections():
                raise ZeroDivisionError

    run_on(face, real_server.url, scenario)


def test_stored_records_have_the_documented_form(name: str, real_server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        db.projection(name, category=name)(count)
        async with db.run_projections():
            last = await fill(db, name, 1)
            await db.wait_for(name, last)
        head = await db.get(("$projection", name))
        assert head == {
            "build": [1, 1, {"category": name}],
            "next": None,
            "last": 1,
            "retired": [],
        }
        build = await db.get(("$projection", name, 1))
        assert build.keys() == {"position", "time", "parked", "parkings"}
        assert build["position"] >= last
        assert MsgpackCodec().encode(head)

    run_on("trio", real_server.url, scenario)
