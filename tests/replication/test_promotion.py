"""Promotion: a follower becomes the leader, and the former leader writes no more."""

import pytest
import trio
from trio.testing import MockClock

from headwater_protocol.errors import CommitUnknown, InvalidArgument, NotLeader
from headwater_protocol.numbers import term_of
from tests.engine.replication.test_applier import assert_equal
from tests.replication.nodes import Node, cluster
from tests.replication.test_following import fill


async def promote(node: Node) -> int:
    client = await node.client()
    epoch, commit = await client.ask("promote")
    await client.close()
    assert term_of(epoch)
    found: int = commit
    return found


async def test_a_promoted_follower_takes_writes_without_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 10)
        follower = await nodes.start("b", follows="a")
        await leader.crash()
        reader = await follower.client()
        assert await promote(follower) == 20
        assert await follower.put(reader, b"new", b"1") == 21
        assert (await reader.ask("node"))[:3] == ["leader", None, 21]
        # Asked again, it says that it leads.
        assert await promote(follower) == 21
        await follower.crash()
        await nodes.start("b", follows="a")
        client = await follower.client()
        assert await follower.put(client, b"new", b"2") == 22


async def test_a_former_leader_that_comes_back_is_deposed_and_names_what_it_has_beyond(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 10)
        follower = await nodes.start("b", follows="a")
        await nodes.disconnect("b", "a", for_good=True)
        await fill(leader, 11, 12)
        await leader.crash()
        assert await promote(follower) == 20
        nodes.cut.clear()
        # It was restarted more often than the other was promoted, and still has the lower epoch.
        for _ in range(3):
            await nodes.start("a")
            await leader.crash()
        await nodes.start("a")
        client = await leader.client()
        await leader.until(lambda: leader.figures()["role"] == "deposed")
        with pytest.raises(NotLeader) as raised:
            await leader.put(client, b"k", b"lost")
        assert raised.value.details == {"leader": "at b"}
        assert await client.ask("get", None, b"k2") == b"12"
        with pytest.raises(InvalidArgument, match="deposed"):
            await client.ask("promote")
        # It stays deposed, also when nobody tells it again.
        nodes.cut.add(("b", "a"))
        await leader.crash()
        await nodes.start("a")
        assert leader.figures()["role"] == "deposed"
        # As a follower it says what it has that its leader lacks, and keeps it.
        await leader.crash()
        await nodes.start("a", follows="b")
        await leader.until(lambda: leader.figures()["replication_problem"] is not None)
        assert "commits 21 to 24" in leader.figures()["replication_problem"]
        assert leader.engine.published == 24


async def test_a_former_leader_that_has_nothing_beyond_follows_the_new_one(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 10)
        follower = await nodes.start("b", follows="a")
        await follower.until(lambda: follower.engine.leadership.end == leader.engine.leadership.end)
        await leader.crash()
        await promote(follower)
        await fill(follower, 11, 20)
        await nodes.start("a", follows="b")
        await leader.reaches(40)
        assert_equal(follower.engine, leader.engine)
        assert leader.figures()["role"] == "follower"


async def test_another_follower_goes_on_at_the_promoted_node(autojump_clock: MockClock) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        first = await nodes.start("b", follows="a")
        second = await nodes.start("c", follows="a")
        await fill(leader, 6, 8)
        await first.reaches(16)
        await second.reaches(16)
        await leader.crash()
        await promote(first)
        await fill(first, 9, 12)
        await second.crash()
        await nodes.start("c", follows="b")
        await second.reaches(24)
        assert_equal(first.engine, second.engine)


async def test_with_a_synchronous_follower_nothing_is_answered_before_it_has_it(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        nodes.synchronous = 1
        leader = await nodes.start("a")
        client = await leader.client()
        request = await client.send("execute", leader.new_id(), [], [], [["put", b"k", b"before"]])
        await trio.sleep(5)
        assert leader.engine.published == 0
        follower = await nodes.start("b", follows="a")
        assert (await client.result(request))[0][0] == 1
        await nodes.disconnect("b", "a", for_good=True)
        request = await client.send("execute", leader.new_id(), [], [], [["put", b"k", b"lonely"]])
        await trio.sleep(30)
        # Nobody reads what could be lost.
        assert await client_get(leader, b"k") == b"before"
        nodes.cut.clear()
        assert (await client.result(request))[0][0] == 2
        await follower.reaches(2)


async def client_get(node: Node, key: bytes) -> bytes | None:
    client = await node.client()
    value: bytes | None = await client.ask("get", None, key)
    await client.close()
    return value


async def test_a_leader_that_stops_without_its_synchronous_follower_calls_the_outcome_unknown(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        nodes.synchronous = 1
        leader = await nodes.start("a")
        client = await leader.client()
        request = await client.send("execute", leader.new_id(), [], [], [["put", b"k", b"v"]])
        await trio.sleep(1)
        assert leader.server is not None
        nodes.nursery.start_soon(leader.server.stop)
        with pytest.raises(CommitUnknown):
            await client.result(request)


async def test_a_leader_answers_what_it_recovered_once_its_synchronous_follower_has_it(
    autojump_clock: MockClock,
) -> None:
    """A commit that no follower has is in the log of a leader that is restarted.

    Its client sends it again, or asks for its status. An answer would promise what is lost with
    this leader.
    """
    async with cluster() as nodes:
        nodes.synchronous = 1
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        await leader.put(await leader.client(), b"k", b"before")
        await nodes.disconnect("b", "a", for_good=True)
        again = [leader.new_id(), [], [], [["put", b"k", b"lonely"]]]
        await (await leader.client()).send("execute", *again)
        await trio.sleep(1)
        await leader.crash()
        leader = await nodes.start("a")
        repeated, asked = await leader.client(), await leader.client()
        answers = [
            (repeated, await repeated.send("execute", *again)),
            (asked, await asked.send("status", again[0], True)),
        ]
        with trio.move_on_after(60) as waited:
            await answers[0][0].result(answers[0][1])
        assert waited.cancelled_caught
        with trio.move_on_after(60) as waited:
            await answers[1][0].result(answers[1][1])
        assert waited.cancelled_caught
        # Reads do not wait: like those of any restarted server, they see its whole log.
        assert await client_get(leader, b"k") == b"lonely"
        other = await leader.client()
        reading = leader.new_id()
        await other.ask("begin", reading, "serializable", False)
        assert await other.ask("get", reading, b"k") == b"lonely"
        await other.ask("commit", reading, [])
        nodes.cut.clear()
        await follower.reaches(2)
        answered = await leader.client()
        assert (await answered.ask("execute", *again))[0][0] == 2
        assert (await answered.ask("status", again[0], True))[0] == "committed"


async def test_a_promoted_node_answers_what_it_recovered_once_its_synchronous_follower_has_it(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        nodes.synchronous = 1
        second = await nodes.start("b", follows="a")
        again = [leader.new_id(), [], [], [["put", b"k", b"v"]]]
        await (await leader.client()).ask("execute", *again)
        await second.reaches(1)
        await leader.crash()
        await (await second.client()).ask("promote")
        client = await second.client()
        request = await client.send("execute", *again)
        with trio.move_on_after(60) as waited:
            await client.result(request)
        assert waited.cancelled_caught
        await nodes.start("c", follows="b")
        with trio.fail_after(60):
            assert (await (await second.client()).ask("execute", *again))[0][0] == 1


async def test_a_node_takes_no_write_between_its_claim_and_holding_what_it_recovered(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        await nodes.start("a")
        nodes.synchronous = 1
        second = await nodes.start("b", follows="a")
        asking, writing = await second.client(), await second.client()
        nodes.late_s = 1.0
        promotion = await asking.send("promote")
        refused = 0
        # Two calls in the thread: the file NODE, and the claim.
        for _ in range(19):
            request = await writing.send(
                "execute", second.new_id(), [], [], [["put", b"k", b"too early"]]
            )
            with trio.move_on_after(0.05), pytest.raises(NotLeader):
                await writing.result(request)
            refused += not second.engine.leadership.leads
            await trio.sleep(0.1)
        assert refused == 19
        await asking.result(promotion)
        nodes.late_s = 0.0
        await nodes.start("c", follows="b")
        with trio.fail_after(60):
            assert await second.put(writing, b"k", b"v") == 1
