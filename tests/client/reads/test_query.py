"""Queries, conditions on them, and reading from a time: on all three faces, on a real server."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import headwater
from headwater import Criterion, Event, Query
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on

Play = Callable[[Callable[[headwater.Database], Awaitable[None]]], None]


@pytest.fixture(params=FACES)
def play(request: pytest.FixtureRequest, real_server: ServerProcess) -> Play:
    """Run a scenario on one face."""
    return lambda scenario: run_on(request.param, real_server.url, scenario)


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return uuid.uuid4().hex


async def data(pages: AsyncIterator[headwater.RecordedEvent]) -> list[Any]:
    return [event.data async for event in pages]


async def enrol(db: headwater.Database, name: str) -> None:
    """Events 1 to 6 in two streams, with the tags of two courses and two students."""
    tags = {"c1": f"course:{name}1", "c2": f"course:{name}2", "ann": f"student:{name}"}
    for number, (kind, own) in enumerate(
        [
            ("Defined", ["c1"]),
            ("Defined", ["c2"]),
            ("Enrolled", ["c1", "ann"]),
            ("Enrolled", ["c2"]),
            ("Enrolled", ["c2", "ann"]),
            ("Left", ["c1", "ann"]),
        ],
        1,
    ):
        stream = f"{name}-{number % 2}"
        await db.append(stream, Event(kind, number, tags=[tags[tag] for tag in own]))


def test_a_query_finds_events_by_types_and_tags_over_all_streams(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await enrol(db, name)
        c1, c2, ann = f"course:{name}1", f"course:{name}2", f"student:{name}"
        of_c1 = Query(tags=[c1])
        assert await data(db.read_all(query=of_c1)) == [1, 3, 6]
        assert await data(db.read_all(query=of_c1, reverse=True)) == [6, 3, 1]
        assert await data(db.read_all(tags=[c1, ann])) == [3, 6]
        assert await data(db.read_all(tags=[c1], types=["Enrolled", "Left"])) == [3, 6]
        both = Query(types=["Defined"], tags=[c1]) | Query(types=["Enrolled"], tags=[ann])
        assert await data(db.read_all(query=both)) == [1, 3, 5]
        assert await data(db.read_all(query=both, tags=[c2])) == [5]
        assert await data(db.read_all(query=both, stream=f"{name}-1", limit=2)) == [1, 3]
        assert await data(db.read_all(query=both, category="none")) == []
        found = [event async for event in db.read_all(query=of_c1, limit=1)]
        assert found[0].tags == (c1,)
        assert await data(db.read_all(query=of_c1, after=found[0].position)) == [3, 6]
        async with db.transaction() as tx:
            assert await data(tx.read_all(query=both)) == [1, 3, 5]
        assert await data(db.at(commit=found[0].commit).read_all(query=both)) == [1]

    play(scenario)


def test_an_append_with_a_condition_succeeds_once(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        free = Query(types=["Taken"], tags=[name])
        event = Event("Taken", "ann", tags=[name])
        first = await db.append(f"user-{name}", event, unless=free)
        with pytest.raises(headwater.ConditionFailed) as failure:
            await db.append(f"other-{name}", event, unless=free)
        (conflict,) = failure.value.conflicts
        assert conflict["position"] == first.first_position
        assert conflict["commit"] == first.commit
        assert f"position {first.first_position}" in failure.value.message
        assert first.first_position is not None
        await db.append(f"other-{name}", event, unless=free, after=first.first_position)
        batch = db.batch()
        batch.require_no_events(free, after=first.first_position)
        batch.put(name, 1)
        with pytest.raises(headwater.ConditionFailed):
            await db.execute(batch)
        assert await db.get(name) is None
        with pytest.raises(headwater.InvalidArgument, match="needs unless"):
            await db.append(f"other-{name}", event, after=1)

    play(scenario)


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_a_transaction_whose_query_was_invalidated_is_run_again(
    play: Play, name: str, isolation: headwater.Isolation
) -> None:
    async def scenario(db: headwater.Database) -> None:
        numbers = Query(types=["Issued"], tags=[name])
        raced: list[int] = []

        async def issue(tx: headwater.Transaction) -> int:
            last = [event async for event in tx.read_all(query=numbers, reverse=True, limit=1)]
            number = last[0].data + 1 if last else 1
            if not raced:
                raced.append(number)
                await db.append(f"invoice-{name}-x", Event("Issued", number, tags=[name]))
            after = last[0].position if last else 0
            event = Event("Issued", number, tags=[name])
            tx.append(f"invoice-{name}-{number}", event, unless=numbers, after=after)
            return number

        assert [await db.run(issue, isolation=isolation) for _ in range(3)] == [2, 3, 4]
        assert await data(db.read_all(query=numbers)) == [1, 2, 3, 4]

    play(scenario)


def test_a_stream_is_read_by_types_like_a_list_of_its_events(play: Play, name: str) -> None:
    kinds = ["A", "B", "A", "C", "B", "A"]

    async def scenario(db: headwater.Database) -> None:
        await db.append(name, [Event(kind, place) for place, kind in enumerate(kinds, 1)])
        await db.append(f"{name}2", Event("A", 99))
        tx = db.transaction()
        await tx.begin()
        own = db.transaction()
        own.append(name, [Event("A", 7), Event("B", 8)])
        views = ((db, kinds), (tx, kinds), (own, [*kinds, "A", "B"]))
        for view, there in views:
            for types in (["A"], ["B", "C"], ["None"]):
                for after in (0, 1, 3, 6, 7, 9):
                    for reverse in (False, True):
                        expected = [
                            place
                            for place, kind in enumerate(there, 1)
                            if kind in types
                            and (place > after or (reverse and (place < after or not after)))
                            and not (reverse and after and place >= after)
                        ]
                        expected = expected[::-1] if reverse else expected
                        found = view.read(name, types=types, after=after, reverse=reverse)
                        assert await data(found) == expected, (types, after, reverse)
                        first = view.read(name, types=types, after=after, reverse=reverse, limit=1)
                        assert await data(first) == expected[:1]
        await tx.rollback()
        await own.rollback()
        with pytest.raises(headwater.InvalidArgument, match="types: expected a list"):
            db.read(name, types="A")

    play(scenario)


def test_a_read_from_a_time_begins_exactly_at_that_time(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        commits = [
            await db.append(name, [Event("A", [n, 1]), Event("B", [n, 2])]) for n in range(4)
        ]
        for n, committed in enumerate(commits):
            from_here = [[m, k] for m in range(n, 4) for k in (1, 2)]
            # Another test's commit may be of the same microsecond, but not an event of this name.
            assert await data(db.read(name, since=committed.time)) == from_here
            later = committed.time + timedelta(microseconds=1)
            assert await data(db.read(name, since=later)) == from_here[2:]
            assert await data(db.read(name, since=later, reverse=True)) == from_here[:1:-1]
            everything = db.read_all(stream=name, since=committed.time)
            assert await data(everything) == from_here
            assert await data(db.read(name, since=committed.time, types=["B"])) == from_here[1::2]
            async with db.subscribe(stream=name, since=later, after=0) as feed:
                received: list[Any] = []
                async for item in feed:
                    match item:
                        case headwater.EventBatch():
                            received += [event.data for event in item]
                        case headwater.CaughtUp():
                            break
                assert received == from_here[2:]
        assert await data(db.read(name, since=commits[1].time, after=5)) == [[2, 2], [3, 1], [3, 2]]
        assert await data(db.read(name, since=datetime(1969, 1, 1, tzinfo=UTC), limit=1)) == [
            [0, 1]
        ]
        async with db.transaction() as tx:
            tx.append(name, Event("C", "own"))
            found = await data(tx.read(name, since=commits[3].time))
            assert found == [[3, 1], [3, 2], "own"]
        with pytest.raises(headwater.InvalidArgument, match="read: since: expected a datetime"):
            db.read(name, since=datetime(2026, 1, 1))  # noqa: DTZ001

    play(scenario)


def test_a_subscription_to_a_query_goes_from_history_into_live(play: Play, name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await enrol(db, name)
        wanted = Query(types=["Enrolled"], tags=[f"student:{name}"]) | Query(tags=[f"live:{name}"])
        received: list[Any] = []
        async with db.subscribe(query=wanted) as feed:
            async for item in feed:
                match item:
                    case headwater.EventBatch():
                        received += [event.data for event in item]
                        if "last" in received:
                            break
                    case headwater.CaughtUp():
                        await db.append(name, Event("Other", "no"))
                        await db.append(name, Event("Other", "live", tags=[f"live:{name}", "x"]))
                        await db.append(name, Event("Enrolled", "no"))
                        await db.append(name, Event("Other", "last", tags=[f"live:{name}"]))
        assert received == [3, 5, "live", "last"]

    play(scenario)


def test_queries_can_be_combined_and_invalid_ones_are_refused() -> None:
    query = Query(types=["A"], tags=("x", "y")) | Query(tags=["z"])
    assert query.criteria == (Criterion(("A",), ("x", "y")), Criterion((), ("z",)))
    assert query == Query(Criterion(types=["A"], tags=["x", "y"]), Criterion(tags=["z"]))
    assert query | query == query
    assert hash(query) == hash(query | query)
    for call, message in (
        (Query, "query: no criterion"),
        (Criterion, "criterion: give types or tags"),
        (lambda: Query(tags="x"), "query: tags: expected a list, got 'x'"),
        (lambda: Criterion(types="A"), "criterion: types: expected a list, got 'A'"),
        (lambda: Query("x"), "expected a Criterion"),  # type: ignore[arg-type]
    ):
        with pytest.raises(headwater.InvalidArgument, match=message):
            call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "x"}, "read_all: query: expected a Query"),
        ({"tags": "x"}, "read_all: tags: expected a list"),
        ({"tags": []}, "read_all: tags: the list is empty"),
        ({"tags": [""]}, r"read_all: query\[0\]: tags\[0\]: 0 bytes"),
        ({"types": []}, "read_all: types: 0 items"),
    ],
)
def test_a_wrong_filter_is_refused_at_the_call(
    arguments: dict[str, Any], message: str, real_server: ServerProcess
) -> None:
    with (
        headwater.connect_blocking(real_server.url) as db,
        pytest.raises(headwater.InvalidArgument, match=message),
    ):
        db.read_all(**arguments)


def test_a_load_is_complete_even_if_snapshot_and_events_exceed_one_answer(
    real_server: ServerProcess, name: str
) -> None:
    large = b"." * (8 * 1024 * 1024 - 16)
    with headwater.connect_blocking(real_server.url) as db:
        db.append(name, [Event("A", 1), Event("A", 2)])
        db.save_snapshot(name, version=1, state=large)
        db.append(name, Event("Large", large, large[: len(large) // 2]))
        loaded = db.load(name)
        assert loaded.snapshot is not None
        assert loaded.snapshot.state == large
        assert [event.version for event in loaded.events] == [2, 3]
        assert loaded.events[1].data == large


def test_the_newest_position_of_events_that_match_is_told_without_them(
    play: Play, name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        assert await db.newest_position(category=name) == 0
        await enrol(db, name)
        events = [event async for event in db.read_all(category=name)]
        newest = events[-1].position
        assert await db.newest_position(category=name) == newest
        assert await db.newest_position(stream=events[0].stream, types=["Defined"]) == (
            events[0].position
        )
        assert await db.newest_position(tags=[f"course:{name}2"]) == events[4].position
        assert await db.newest_position() >= newest
        before = db.at(commit=events[-1].commit - 1)
        assert await before.newest_position(category=name) == events[-2].position
        # What it found out, it has read: an append that matches is a conflict.
        with pytest.raises(headwater.Conflict):
            async with db.transaction() as tx:
                assert await tx.newest_position(category=name) == newest
                tx.put((name, "seen"), newest)
                await db.append(f"{name}-9", Event("Left"))
        await db.delete_stream(f"{name}-9")
        assert await db.newest_position(category=name) == newest

    play(scenario)
