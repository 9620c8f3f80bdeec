"""The client on a real server, with the same scenarios on all three faces."""

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
import trio

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on

T = TypeVar("T")

Play = Callable[[Callable[[headwater.Database], Awaitable[T]]], T]


@pytest.fixture(params=FACES)
def play(request: pytest.FixtureRequest, real_server: ServerProcess) -> Play[None]:
    """Run a scenario on one face."""
    return lambda scenario: run_on(request.param, real_server.url, scenario)


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return uuid.uuid4().hex


def test_a_transaction_reads_its_own_writes_and_commits_all_of_them(
    play: Play[None], name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.put((name, "ann"), 100)
        async with db.transaction() as tx:
            assert await tx.get((name, "ann")) == 100
            tx.put((name, "ann"), 90)
            assert await tx.get((name, "ann")) == 90
            tx.append(f"account-{name}", [headwater.Event("Withdrawn", {"amount": 10})])
            events = [event async for event in tx.read(f"account-{name}")]
            assert [event.data for event in events] == [{"amount": 10}]
        assert tx.committed.first_position == tx.committed.last_position is not None
        assert tx.committed.versions == {f"account-{name}": 1}
        assert abs(datetime.now(UTC) - tx.committed.time) < timedelta(minutes=5)
        assert await db.get((name, "ann")) == 90
        assert (await db.status(tx.id)).committed == tx.committed

    play(scenario)


def test_an_exception_rolls_back_all_writes_of_a_transaction(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as tx:
                assert await tx.get(name) is None
                tx.put(name, 1)
                await tx.get(name)
                raise ZeroDivisionError
        assert await db.get(name, default="nothing") == "nothing"

    play(scenario)


def test_a_conflict_names_the_key_and_the_winner(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.Conflict) as caught:
            async with db.transaction() as tx:
                await tx.get((name, 1))
                won = await db.put((name, 1), "first")
                tx.put((name, 2), "second")
        (conflict,) = caught.value.conflicts
        assert conflict["commit"] == won.commit
        assert caught.value.retryable
        assert await db.get((name, 2)) is None

    play(scenario)


def test_run_repeats_a_function_until_it_does_not_conflict(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        calls = 0

        async def increment(tx: headwater.Transaction, by: int) -> int:
            nonlocal calls
            calls += 1
            seen = await tx.get(name, default=0)
            if calls < 3:
                await db.put(name, seen + 100)
            tx.put(name, seen + by)
            return int(seen + by)

        assert await db.run(increment, 5) == 205
        assert calls == 3
        assert await db.get(name) == 205

    play(scenario)


def test_run_gives_up_after_its_attempts_and_raises_the_last_error(
    play: Play[None], name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        async def loses(tx: headwater.Transaction) -> None:
            await tx.get(name)
            await db.add(name, 1)
            tx.put(name, 0)

        with pytest.raises(headwater.Conflict):
            await db.run(loses, attempts=2)
        assert await db.get(name) == 2

    play(scenario)


def test_a_scan_goes_through_pages_in_both_directions(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            for number in range(1500):
                tx.put((name, number), number)
        everything = [((name, number), number) for number in range(1500)]
        assert [item async for item in db.scan((name,))] == everything
        assert [item async for item in db.scan((name,), reverse=True)] == everything[::-1]
        some = [item async for item in db.scan((name,), limit=700)]
        assert some == everything[:700]
        part = db.scan(start=(name, 10), end=(name, 1000))
        assert [item async for item in part] == everything[10:1000]
        async with db.transaction() as tx:
            tx.delete_range(start=(name, 3), end=(name, 1499))
            tx.put((name, 2), "two")
            assert [value async for _, value in tx.scan((name,))] == [0, 1, "two", 1499]
            back = tx.scan((name,), reverse=True, limit=2)
            assert [value async for _, value in back] == [1499, "two"]

    play(scenario)


def test_a_scan_stays_at_the_commit_of_its_first_page(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            for number in range(1000):
                tx.put((name, number), "old")
        seen: list[str] = []
        async for _, value in db.scan((name,)):
            if not seen:
                async with db.transaction() as tx:
                    for number in range(1000):
                        tx.put((name, number), "new")
            seen.append(value)
        assert seen == ["old"] * 1000

    play(scenario)


def test_a_read_returns_the_events_that_existed_when_it_began(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = f"many-{name}"
        await db.append(stream, [headwater.Event("Counted", number) for number in range(1000)])
        seen: list[int] = []
        async for event in db.read(stream):
            if not seen:
                await db.append(stream, headwater.Event("Late"))
            seen.append(event.data)
        assert seen == [*range(1000)]
        last = [event async for event in db.read(stream, reverse=True, limit=2)]
        assert [event.type for event in last] == ["Late", "Counted"]
        assert [event.version async for event in db.read(stream, after=999)] == [1000, 1001]
        before = [event.version async for event in db.read(stream, after=3, reverse=True)]
        assert before == [2, 1]

    play(scenario)


def test_events_of_all_streams_can_be_filtered(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        for stream in ("a", "b"):
            events = [headwater.Event("Odd", 1), headwater.Event("Even", 2, {"by": "test"})]
            await db.append(f"{name}-{stream}", events)
        by_category = [event async for event in db.read_all(category=name)]
        assert [event.data for event in by_category] == [1, 2, 1, 2]
        assert [event.metadata for event in by_category[:2]] == [None, {"by": "test"}]
        even = db.read_all(category=name, types=["Even"])
        assert [event.stream async for event in even] == [f"{name}-a", f"{name}-b"]
        back = [event async for event in db.read_all(prefix=f"{name}-", reverse=True, limit=3)]
        assert back == by_category[:0:-1]
        one = db.read_all(stream=f"{name}-b", after=by_category[2].position)
        assert [event.data async for event in one] == [2]

    play(scenario)


def test_an_append_that_expects_another_version_changes_nothing(
    play: Play[None], name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        first = await db.append(name, headwater.Event("A"), expect=headwater.NO_STREAM)
        assert first.versions == {name: 1}
        with pytest.raises(headwater.WrongVersion):
            await db.append(name, headwater.Event("B"), expect=headwater.NO_STREAM)
        await db.append(name, headwater.Event("B"), expect=headwater.STREAM_EXISTS)
        assert [event.type async for event in db.read(name)] == ["A", "B"]

    play(scenario)


def test_an_event_with_an_id_is_appended_once(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        event = headwater.Event("Paid", 5, id=uuid.uuid4())
        first = await db.append(name, event)
        assert await db.append(name, event) == first
        (recorded,) = [event async for event in db.read(name)]
        assert recorded.id == event.id
        with pytest.raises(headwater.DuplicateEvent):
            await db.append(name, headwater.Event("Paid", 6, id=event.id))

    play(scenario)


def test_load_gives_the_newest_snapshot_and_the_events_after_it(
    play: Play[None], name: str
) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.append(name, [headwater.Event("Added", 1) for _ in range(300)])
        loaded = await db.load(name, schema=1)
        assert (loaded.version, loaded.snapshot, len(loaded.events)) == (300, None, 300)
        async with db.transaction() as tx:
            tx.append(name, headwater.Event("Added", 1), expect=300)
            tx.save_snapshot(name, version=301, state={"sum": 301}, schema=1)
        await db.append(name, headwater.Event("Added", 2))
        loaded = await db.load(name, schema=1)
        assert loaded.snapshot == headwater.Snapshot(headwater.StreamVersion(301), {"sum": 301})
        assert [event.version for event in loaded.events] == [302]
        assert (await db.load(name, schema=2)).snapshot is None
        assert (await db.load("nothing-" + name)).version == 0

    play(scenario)


def test_numbers_are_added_and_compared_on_the_server(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.add((name, "hits"), 2)
        await db.add((name, "hits"), 3)
        await db.min((name, "low"), 5)
        await db.min((name, "low"), 4)
        await db.max((name, "high"), 1.5)
        await db.max((name, "high"), 0.5)
        assert [value async for _, value in db.scan((name,))] == [1.5, 5, 4]
        await db.put((name, "text"), "no number")
        with pytest.raises(headwater.NotANumber):
            await db.add((name, "text"), 1)

    play(scenario)


def test_the_past_can_be_read_by_commit_and_by_time(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        first = await db.put(name, "first")
        await db.append(name, headwater.Event("A"))
        await db.put(name, "second")
        past = db.at(commit=first.commit)
        assert await past.get(name) == "first"
        assert [event async for event in past.read(name)] == []
        assert [value async for _, value in past.scan((name,))] == ["first"]
        assert await db.at(time=first.time).commit() >= first.commit
        with pytest.raises(headwater.NoSuchCommit):
            await db.at(commit=2**60).get(name)
        with pytest.raises(headwater.InvalidArgument, match="datetime with a time zone"):
            db.at(time=datetime(2020, 1, 1))  # noqa: DTZ001 - the point of the test

    play(scenario)


def test_a_batch_is_a_transaction_in_one_round_trip(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.put((name, 1), "one")
        await db.append(name, headwater.Event("A", 1))
        batch = db.batch()
        batch.require((name, 1), "one")
        batch.require_absent((name, 2))
        batch.require_stream(name, 1)
        value, scan = batch.get((name, 1)), batch.scan((name,))
        absent, events = batch.get((name, 9), default="?"), batch.read(name)
        batch.put((name, 2), "two")
        done = await db.execute(batch)
        assert done.results[value] == "one"
        assert done.results[scan] == [((name, 1), "one")]
        assert done.results[absent] == "?"
        assert [event.data for event in done.results[events]] == [1]
        with pytest.raises(headwater.ConditionFailed):
            await db.execute(batch)
        unchanged = db.batch()
        unchanged.require_unchanged((name,), commit=done.committed.commit)
        unchanged.put((name, 3), "three")
        await db.execute(unchanged)
        with pytest.raises(headwater.ConditionFailed):
            await db.execute(unchanged)

    play(scenario)


def test_a_subscription_goes_from_history_into_live(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.append(f"{name}-1", [headwater.Event("Old", number) for number in range(500)])
        seen: list[int] = []
        async with db.subscribe(category=name, window=16) as feed:
            async for item in feed:
                if isinstance(item, headwater.EventBatch):
                    seen += [event.data for event in item]
                    assert feed.position == item.position
                if isinstance(item, headwater.CaughtUp):
                    break
            assert seen == [*range(500)]
            await db.append(f"{name}-2", headwater.Event("New", "live"))
            async for event in feed.events():
                assert event.data == "live"
                break
            position = feed.position
        async with db.subscribe(after=position, category=name) as feed:
            await db.append(f"{name}-3", headwater.Event("New", "later"))
            assert (await anext(feed.events())).data == "later"

    play(scenario)


def test_a_fenced_transaction_can_never_commit(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        tx = db.transaction()
        await tx.get(name)
        tx.put(name, 1)
        assert (await db.status(tx.id)).state == "open"
        assert (await db.status(tx.id, resolve=True)).state == "aborted"
        with pytest.raises(headwater.HeadwaterError) as caught:
            await tx.commit()
        assert caught.value.retryable
        assert await db.get(name) is None

    play(scenario)


def test_the_commit_log_says_who_committed_what(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        before = (await db.ping()).commit
        async with db.transaction() as tx:
            tx.append(name, [headwater.Event("A"), headwater.Event("B")])
        lines = [line async for line in db.commits(after=before)]
        (line,) = [line for line in lines if line.transaction == tx.id]
        assert (line.commit, line.time) == (tx.committed.commit, tx.committed.time)
        assert (line.events, line.first_position) == (2, tx.committed.first_position)
        assert line.user is None

    play(scenario)


def test_a_large_transaction_is_sent_in_parts(play: Play[None], name: str) -> None:
    async def scenario(db: headwater.Database) -> None:
        blob = bytes(6 * 1024 * 1024)
        async with db.transaction() as tx:
            for number in range(4):
                tx.put((name, number), blob)
        assert len(await db.get((name, 3))) == len(blob)
        with pytest.raises(headwater.TooLarge):
            await db.put(name, bytes(9 * 1024 * 1024))

    play(scenario)


def test_stats_and_ping_answer(play: Play[None]) -> None:
    async def scenario(db: headwater.Database) -> None:
        assert isinstance(await db.stats(), dict)
        assert (await db.ping()).commit >= 0

    play(scenario)


def test_a_connection_knows_itself_and_lists_the_others(play: Play[None]) -> None:
    async def scenario(db: headwater.Database) -> None:
        own = await db.connections.whoami()
        (listed,) = [each for each in await db.connections.list() if each.id == own.id]
        assert (listed.address, listed.user) == (own.address, own.user)
        assert listed.client.startswith("headwater")
        assert listed.age.total_seconds() >= 0
        with pytest.raises(headwater.InvalidArgument, match="no connection"):
            await db.connections.close(own.id + 1_000_000)

    play(scenario)


def test_the_blocking_face_has_all_operations(real_server: ServerProcess, name: str) -> None:
    def move(tx: headwater.BlockingTransaction, amount: int) -> int:
        balance: int = tx.get((name, "ann"), 0)
        tx.put((name, "ann"), balance + amount)
        return balance + amount

    with headwater.connect_blocking(real_server.url) as db:
        assert db.run(move, 5) == 5
        with db.transaction() as tx:
            tx.append(f"{name}-x", headwater.Event("A", 1))
            assert [event.data for event in tx.read(f"{name}-x")] == [1]
        assert tx.committed.versions == {f"{name}-x": 1}
        assert [*db.scan((name,))] == [((name, "ann"), 5)]
        assert db.at(commit=tx.committed.commit).get((name, "ann")) == 5
        with db.subscribe(category=name) as feed:
            assert [event.data for event in next(feed)] == [1]  # type: ignore[union-attr]
            db.append(f"{name}-x", headwater.Event("A", 2))
            assert next(feed.events()).data == 2
        with pytest.raises(ZeroDivisionError), db.transaction() as tx:
            tx.put(name, 1 // 0)
        assert db.status(tx.id).state == "open"


def test_threads_share_a_blocking_database(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:

        def work(number: int) -> None:
            for _ in range(20):
                db.add(name, 1)
                assert db.get((name, number), number) == number

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert db.get(name) == 80


async def test_many_tasks_share_one_connection(real_server: ServerProcess, name: str) -> None:
    async with headwater.connect(real_server.url) as db:

        async def increment(tx: headwater.Transaction) -> None:
            tx.put(name, await tx.get(name, 0) + 1)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(db.run, increment)
        assert await db.get(name) == 10


def test_asyncio_tasks_share_one_connection(real_server: ServerProcess, name: str) -> None:
    async def main() -> None:
        async with headwater.connect(real_server.url) as db, asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(db.put((name, number), number))
        async with headwater.connect(real_server.url) as db:
            assert [value async for _, value in db.scan((name,))] == [*range(50)]

    asyncio.run(main())
