"""Reads of a batch: pages that say whether more follows, and loads."""

import uuid
from typing import Any

import pytest

import headwater
from headwater import Event, Filter, Page, Query
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_read_of_a_batch_says_whether_more_follows(face: str, real_server: ServerProcess) -> None:
    """A page ends at about 1 MiB. The result used to end there too, without any sign of it."""
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        for number in range(12):
            await db.put((name, number), b"x" * 200_000)
            await db.append(f"{name}-1", Event("A", b"x" * 200_000, tags=[name]))
        batch = db.batch()
        cut = [
            batch.scan((name,)),
            batch.read(f"{name}-1"),
            batch.read_all(tags=[name]),
        ]
        whole = [
            batch.scan((name,), start=None, limit=1),
            batch.scan((name, 11)),
            batch.read(f"{name}-1", after=10),
            batch.read_all(stream=f"{name}-1", after=2**40),
        ]
        results = (await db.execute(batch)).results
        for index in cut:
            assert isinstance(results[index], Page)
            assert 0 < len(results[index]) < 12
            assert results[index].more
        assert [results[index].more for index in whole] == [True, False, False, False]
        assert [len(results[index]) for index in whole] == [1, 1, 2, 0]
        # A page is a list and equals a plain list.
        [last] = results[whole[1]]
        assert results[whole[1]] == [last]

    run_on(face, real_server.url, scenario)


def test_the_next_page_of_all_events_begins_after_the_last_position(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.append(f"{name}-1", [Event("A", n) for n in range(5)])
        await db.append(f"{name}-2", [Event("B", n) for n in range(5)])
        seen: list[Any] = []
        after, more = 0, True
        while more:
            batch = db.batch()
            batch.read_all(category=name, types=["B"], after=after, limit=2)
            [page] = (await db.execute(batch)).results
            seen += [event.data for event in page]
            after, more = page.position, page.more
        assert seen == [*range(5)]

    run_on(face, real_server.url, scenario)


def test_a_batch_loads_an_aggregate(face: str, real_server: ServerProcess) -> None:
    stream = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.append(stream, [Event("A", n) for n in range(1, 6)])
        await db.save_snapshot(stream, version=3, state="three", name="n", schema=2)
        batch = db.batch()
        with_snapshot = batch.load(stream, name="n", schema=2)
        without = batch.load(stream)
        absent = batch.load(f"{stream}-absent")
        results = (await db.execute(batch)).results
        assert results[with_snapshot] == await db.load(stream, name="n", schema=2)
        assert results[with_snapshot].snapshot.state == "three"
        assert results[without] == await db.load(stream)
        assert [event.data for event in results[without].events] == [1, 2, 3, 4, 5]
        assert (results[absent].version, results[absent].events) == (0, [])
        assert not any(loaded.more for loaded in results)

        await db.append(stream, [Event("A", b"x" * 500_000) for _ in range(4)])
        batch = db.batch()
        batch.load(stream)
        [loaded] = (await db.execute(batch)).results
        assert loaded.more
        assert not loaded.is_whole
        assert (loaded.version, len(loaded.events) < 9) == (9, True)

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize(
    ("unless", "fails"),
    [
        (lambda name: Query(tags=[name]), True),
        (lambda name: Query(tags=[f"{name} other"]), False),
        (lambda name: Filter(stream=f"{name}-1"), True),
        (lambda name: Filter(stream=f"{name}-2"), False),
        (lambda name: Filter(category=name), True),
        (lambda name: Filter(category=f"{name}x"), False),
        (lambda name: Filter(prefix=f"{name}-"), True),
        (lambda name: Filter(category=name, types=["B"]), False),
        (lambda name: Filter(category=name, types=["A"], tags=[name]), True),
        (lambda name: Filter(category=name, query=Query(types=["B"], tags=[name])), False),
        (lambda name: Filter(), True),
    ],
)
def test_a_condition_is_a_query_or_any_filter(
    real_server: ServerProcess, unless: Any, fails: bool
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        first = await db.append(f"{name}-1", Event("A", tags=[name]))
        assert first.last_position is not None
        before = first.last_position - 1

        async def appended(after: int) -> bool:
            try:
                await db.append(f"{name}-9", Event("C"), unless=unless(name), after=after)
            except headwater.ConditionFailed:
                return False
            return True

        async def in_a_batch(after: int) -> bool:
            batch = db.batch()
            batch.require_no_events(unless(name), after=after)
            try:
                await db.execute(batch)
            except headwater.ConditionFailed:
                return False
            return True

        assert await in_a_batch(first.last_position)
        assert await in_a_batch(before) is not fails
        assert await appended(before) is not fails
        if fails:
            # No other test may append meanwhile, because the last case matches every event.
            newest = await anext(db.read_all(reverse=True, limit=1))
            assert await appended(newest.position)

    run_on("trio", real_server.url, scenario)


def test_an_invalid_filter_is_refused_when_it_is_made() -> None:
    with pytest.raises(headwater.InvalidArgument, match="stream"):
        Filter(stream="")
    with pytest.raises(headwater.InvalidArgument, match="filter: types: expected a list"):
        Filter(types="A")
    with pytest.raises(headwater.InvalidArgument, match="filter: tags: the list is empty"):
        Filter(tags=[])
