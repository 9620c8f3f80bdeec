"""What one database object sees never goes back, at whichever nodes it reads."""

import random

import pytest
import trio
from trio.testing import MockClock

import headwater
from headwater.database import Database
from tests.client.nodes.memory_nodes import (
    channel_of,
    connected,
    fail_over,
    promote,
    route_at_random,
    runtime_of,
    three,
)
from tests.replication.nodes import Nodes, cluster

SEEDS = range(12)
STEPS = 60
KEY = ("n",)


async def newest_value(db: Database, source: random.Random) -> int:
    """The newest number that a read of some kind shows."""
    match source.randrange(9):
        case 0:
            return int(await db.get(KEY, 0))
        case 1:
            return int((await db.get_many([KEY], 0))[0])
        case 2:
            return max([int(value) async for _, value in db.scan(("n",))], default=0)
        case 3:
            async with db.transaction(read_only=True) as tx:
                return int(await tx.get(KEY, 0))
        case 4:
            return int((await db.load("s")).version)
        case 5:
            return len([event async for event in db.read("s")])
        case 6:
            found = [info.version async for info in db.streams(prefix="s")]
            return int(max(found, default=headwater.NO_STREAM))
        case 7:
            entry = await db.get_entry(KEY)
            return 0 if entry is None else int(entry.value)
        case _:
            async with db.subscribe(stream="s") as feed:
                newest = 0
                async for item in feed:
                    if isinstance(item, headwater.CaughtUp):
                        return newest
                    assert isinstance(item, headwater.EventBatch)
                    newest = [*item][-1].version
            raise AssertionError


async def write(db: Database, number: int) -> None:
    batch = db.batch()
    batch.put(KEY, number)
    batch.append("s", headwater.Event("Happened", number))
    await db.execute(batch)


async def cut_or_mend(nodes: Nodes, source: random.Random) -> None:
    """Let a follower stay behind, or catch up."""
    link = source.choice("bc"), "a"
    if link in nodes.cut:
        nodes.cut.remove(link)
    elif not nodes.cut:
        nodes.cut.add(link)
        await nodes.disconnect(*link)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", ["leader", "nearest", "follower"])
async def test_no_read_is_older_than_what_was_read_or_written_before(
    mode: str, seed: int, autojump_clock: MockClock
) -> None:
    source = random.Random(seed)
    async with cluster(seed) as nodes:
        await three(nodes)
        async with connected(nodes, "abc", read=mode) as db, connected(nodes, "a") as other:
            seen = written = 0
            for _ in range(STEPS):
                await cut_or_mend(nodes, source)
                route_at_random(db, source)
                match source.randrange(4):
                    case 0:
                        written += 1
                        await write(db, written)
                        seen = written
                    case 1:
                        written += 1
                        await write(other, written)
                    case _:
                        value = await newest_value(db, source)
                        assert seen <= value <= written
                        seen = value


async def test_reads_are_at_followers_and_not_at_the_leader_if_they_can_be(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader, *followers = await three(nodes)
        async with connected(nodes, "abc", read="follower") as db:
            await db.put("k", 1)
            for _ in range(10):
                await db.get("k")
            roles = {node.role for node in channel_of(db).nodes}
            assert roles == {"leader", "follower"}
            await leader.crash()
            # Reads go on without a leader, and show what was there.
            runtime_of(db).opened.clear()
            assert await db.get("k") == 1
            assert "a" not in runtime_of(db).opened
            assert len(followers) == 2


async def test_a_read_says_which_commit_no_node_has(autojump_clock: MockClock) -> None:
    async with cluster() as nodes:
        leader, *_ = await three(nodes)
        async with connected(nodes, "abc", read="nearest", retry_s=20.0) as db:
            await db.get("k")
            for follower in "bc":
                nodes.cut.add((follower, "a"))
                await nodes.disconnect(follower, "a")
            made = await db.put("k", 1)
            await leader.crash()
            began = trio.current_time()
            with pytest.raises(headwater.HeadwaterError) as raised:
                await db.get("k")
            assert raised.value.retryable
            assert trio.current_time() - began < 40
            assert channel_of(db).nodes.seen.commit == made.commit


async def test_a_commit_that_is_late_at_a_follower_is_read_at_the_leader(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        await three(nodes)
        async with connected(nodes, "abc", read="follower") as db:
            for _ in range(5):
                await db.get("k")
            for follower in "bc":
                nodes.cut.add((follower, "a"))
                await nodes.disconnect(follower, "a")
            for number in range(5):
                await db.put("k", number)
                assert await db.get("k") == number
            nodes.cut.clear()


async def test_a_past_commit_and_a_position_that_a_follower_lacks_are_read_at_the_leader(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        await three(nodes)
        async with (
            connected(nodes, "abc", read="follower") as db,
            connected(nodes, "a") as other,
        ):
            for _ in range(5):
                await db.get("k")
            for follower in "bc":
                nodes.cut.add((follower, "a"))
                await nodes.disconnect(follower, "a")
            made = await other.append("s", headwater.Event("Happened", 1))
            assert made.last_position is not None
            later = await other.append("s", headwater.Event("Happened", 2))
            # The number came another way, so this client has seen nothing of it.
            past = db.at(commit=made.commit)
            assert [event.data async for event in past.read("s")] == [1]
            with pytest.raises(headwater.NoSuchCommit):
                await db.at(commit=later.commit + 1).get("k")
            async with connected(nodes, "abc", read="follower") as third:
                for _ in range(5):
                    await third.get("k")
                async with third.subscribe(after=made.last_position) as feed:
                    assert (await feed.next_event()).data == 2


async def test_what_a_subscription_delivered_is_there_for_reads(
    autojump_clock: MockClock,
) -> None:
    source = random.Random(1)
    async with cluster() as nodes:
        await three(nodes)
        async with (
            connected(nodes, "abc", read="nearest") as db,
            connected(nodes, "a") as other,
            db.subscribe(stream="s") as feed,
        ):
            for number in range(1, 20):
                await cut_or_mend(nodes, source)
                await write(other, number)
                nodes.cut.clear()
                assert (await feed.next_event()).data == number
                route_at_random(db, source)
                assert await db.get(KEY) == number


async def test_commits_that_are_lost_with_their_leader_do_not_stop_the_client(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster() as nodes:
        leader, *followers = await three(nodes)
        async with connected(nodes, "abc", read="nearest") as db:
            await db.put("k", "kept")
            for follower in followers:
                await follower.reaches(1)
                nodes.cut.add((follower.name, "a"))
                await nodes.disconnect(follower.name, "a")
            await db.put("k", "lost")
            await fail_over(nodes, leader, followers)
            assert await db.get("k") == "kept"
            assert "commits 2 to 2, which this client has seen, are lost" in caplog.text
            await db.put("k", "new")
            assert await db.get("k") == "new"


async def test_a_node_of_an_earlier_term_is_not_read_after_a_later_one(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader, second, third = await three(nodes)
        async with connected(nodes, "abc", read="nearest") as db:
            await db.put("k", 1)
            await third.reaches(1)
            await leader.crash()
            await promote(second)
            # c still follows a. It has as many commits, of another history.
            await db.put("k", 2)
            for _ in range(5):
                route_at_random(db, random.Random(1))
                assert await db.get("k") == 2
