"""Who leads: promotions that race, crash or fail, nodes of other databases, and what is fenced."""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from headwater_protocol.errors import (
    CommitNotReached,
    CommitUnknown,
    InvalidArgument,
    NotLeader,
    ReadOnly,
)
from headwater_protocol.numbers import term_of
from headwater_server.storage.files.node_file import read_node
from headwater_server.storage.wal.interface import WalIndex
from tests.engine.replication.test_applier import assert_equal
from tests.replication.nodes import ENGINE, cluster
from tests.replication.test_following import fill
from tests.replication.test_promotion import promote


async def test_two_promoted_nodes_alarm_both_and_neither_counts_as_follower(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        first = await nodes.start("b", follows="a")
        second = await nodes.start("c", follows="a")
        await second.reaches(10)
        await leader.crash()
        await promote(first)
        await promote(second)
        # Somebody notices, and lets the second one follow the first one.
        await second.crash()
        await nodes.start("c", follows="b")
        await second.until(lambda: second.figures()["replication_problem"] is not None)
        assert "both promoted" in second.figures()["replication_problem"]
        assert first.figures()["followers"] == []
        assert first.figures()["role"] == "leader"


async def test_a_leader_deposes_itself_if_its_former_leader_was_promoted_later(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a")
        await second.reaches(10)
        await leader.crash()
        await promote(second)
        await nodes.start("a", follows="b")
        await leader.until(lambda: leader.engine.leadership.epoch == second.engine.leadership.epoch)
        await nodes.disconnect("a", "b", for_good=True)
        nodes.cut.add(("b", "a"))
        await promote(leader)
        await fill(second, 6, 6)
        nodes.cut.discard(("b", "a"))
        # It follows, as its option says, and names what is in the way.
        await second.until(lambda: second.figures()["replication_problem"] is not None)
        assert "commits 11 to 12" in second.figures()["replication_problem"]
        assert second.figures()["role"] == "follower"
        assert leader.figures()["role"] == "leader"


async def test_a_leader_that_was_promoted_once_follows_a_later_one(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a")
        await second.reaches(10)
        await leader.crash()
        await promote(second)
        third = await nodes.start("c", follows="b")
        await third.until(lambda: third.engine.leadership.end == second.engine.leadership.end)
        await second.crash()
        await promote(third)
        await fill(third, 6, 7)
        # Its NODE says that it leads.
        await nodes.start("b", follows="c")
        await second.reaches(14)
        assert second.figures()["role"] == "follower"
        assert_equal(third.engine, second.engine)


async def test_a_follower_of_the_promoted_node_fences_the_old_leader(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a")
        third = await nodes.start("c", follows="a")
        await second.reaches(10)
        await third.reaches(10)
        await nodes.disconnect("b", "a", for_good=True)
        await promote(second)
        await third.crash()
        await nodes.start("c", follows="b")
        await fill(second, 6, 6)
        await third.reaches(12)
        assert leader.figures()["role"] == "leader"
        # The third one is sent back to the old leader by mistake.
        await third.crash()
        await nodes.start("c", follows="a")
        await leader.until(lambda: leader.figures()["role"] == "deposed")
        assert third.engine.published == 12


async def test_a_node_with_another_database_does_not_follow_and_keeps_its_data(
    autojump_clock: MockClock,
) -> None:
    small = replace(ENGINE, log_kept_size_max=1, memtable_commits_max=20)
    async with cluster() as nodes:
        leader = await nodes.start("a", engine=small)
        other = await nodes.start("b")
        await fill(other, 1, 2)
        client = await leader.client()
        for _ in range(40):
            await leader.put(client, b"large", bytes(8000))
        await trio.sleep(30)
        assert leader.engine.log_reader.first_index > other.engine.log_reader.last_index
        await other.crash()
        await nodes.start("b", follows="a")
        await other.until(lambda: other.figures()["replication_problem"] is not None)
        assert "another database" in other.figures()["replication_problem"]
        await trio.sleep(60)
        assert (other.engine.published, other.reopened) == (4, 0)


async def test_an_old_leader_with_commits_of_its_own_is_not_replaced_by_a_copy(
    autojump_clock: MockClock,
) -> None:
    small = replace(ENGINE, log_kept_size_max=1, memtable_commits_max=20)
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a", engine=small)
        await second.reaches(10)
        await nodes.disconnect("b", "a", for_good=True)
        await fill(leader, 6, 7)
        await leader.crash()
        await promote(second)
        # The new leader trims its log beyond what both have.
        client = await second.client()
        for _ in range(24):
            await second.put(client, b"large", bytes(1_000_000))
        await trio.sleep(30)
        assert second.engine.log_reader.first_index > leader.engine.log_reader.last_index
        await nodes.start("a", follows="b")
        await leader.until(lambda: leader.figures()["replication_problem"] is not None)
        await trio.sleep(60)
        assert (leader.engine.published, leader.reopened) == (14, 0)


async def test_an_old_leader_without_commits_of_its_own_is_copied_again_by_itself(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a")
        await second.until(lambda: second.engine.leadership.end == leader.engine.leadership.end)
        await leader.crash()
        await promote(second)
        await fill(second, 6, 7)
        # It comes back as a leader, is told, and then follows.
        await nodes.start("a")
        await leader.until(lambda: leader.figures()["role"] == "deposed")
        await leader.crash()
        await nodes.start("a", follows="b")
        await leader.reaches(14)
        assert_equal(second.engine, leader.engine)
        assert leader.reopened == 1


async def test_a_deposed_leader_answers_nothing_that_the_new_leader_may_lack(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 1)
        client = await leader.client()
        assert leader.server is not None
        group_commit = leader.server.service.group_commit
        # The disk is slow: the commit is on its way when the node is deposed.
        group_commit.hold_while(lambda: True)
        request = await client.send("execute", leader.new_id(), [], [], [["put", b"k", b"v"]])
        await trio.sleep(1)
        teller = await leader.client()
        with pytest.raises(NotLeader):
            await teller.ask("replicate", "x", 1 << 32, 3, bytes(16), "at x", None, "leader")
        group_commit.hold_while(lambda: False)
        group_commit.wake()
        with pytest.raises(CommitUnknown):
            await client.result(request)


async def test_a_promotion_for_which_there_is_no_room_is_refused_and_following_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        follower = await nodes.start("b", follows="a")
        client = await follower.client()
        follower.files.faults.capacity = 1
        with pytest.raises(ReadOnly):
            await client.ask("promote")
        follower.files.faults.capacity = None
        await fill(leader, 6, 7)
        await follower.reaches(14)
        assert await promote(follower) == 14


@pytest.mark.parametrize("call", range(1, 14))
async def test_a_promotion_survives_a_power_loss_at_each_call(
    call: int, autojump_clock: MockClock
) -> None:
    async with cluster(call) as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        follower = await nodes.start("b", follows="a")
        await leader.crash()
        await trio.sleep(5)
        client = await follower.client()
        follower.files.faults.crash_at = follower.files.calls + call
        answered = False
        # Either nothing comes, or the server says goodbye.
        with trio.move_on_after(5), suppress(AssertionError, trio.EndOfChannel):
            await client.ask("promote")
            answered = True
        follower.files.faults.crash_at = None
        await follower.crash()
        state = read_node(follower.files, "data")
        assert state is not None
        assert state.state == "leading" or not answered
        await nodes.start("b", follows="a")
        if follower.figures()["role"] == "follower":
            await promote(follower)
        assert follower.figures()["role"] == "leader"
        assert term_of(follower.engine.leadership.epoch) == 1
        client = await follower.client()
        assert await follower.put(client, b"new", b"1") == 11
        await nodes.start("a")
        await leader.until(lambda: leader.figures()["role"] == "deposed")


async def test_entries_are_confirmed_by_followers_that_are_here_and_only_if_there_are_such(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        nodes.synchronous = 1
        leader = await nodes.start("a")
        writer, liar = await leader.client(), await leader.client()
        request = await writer.send("execute", leader.new_id(), [], [], [["put", b"k", b"v"]])
        with pytest.raises(InvalidArgument, match="replicate"):
            await liar.ask("log_read", "liar", 1)
        end = leader.engine.log_reader.end_at(WalIndex(1))
        await liar.ask("replicate", "liar", end.epoch, 1, end.hash)
        with pytest.raises(InvalidArgument, match="not in this log"):
            await liar.ask("log_read", "liar", 10**9)
        # A copy that is not complete cannot be promoted, so it confirms nothing.
        await liar.ask("replicate", "liar", end.epoch, 1, end.hash, None, None, "copy")
        await liar.ask("log_read", "liar", leader.engine.log_reader.last_index, 1000, 0)
        await trio.sleep(1)
        assert leader.engine.published == 0
        # A follower that came back with less does not count for what it had.
        await liar.ask("replicate", "liar", end.epoch, 1, end.hash)
        await trio.sleep(1)
        assert leader.engine.published == 0
        await liar.ask("log_read", "liar", leader.engine.log_reader.last_index, 1000, 0)
        assert (await writer.result(request))[0][0] == 1


async def test_commits_that_no_follower_has_are_not_shown_while_the_leader_stops(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        nodes.synchronous = 1
        leader = await nodes.start("a")
        writer = await leader.client()
        request = await writer.send("execute", leader.new_id(), [], [], [["put", b"k", b"v"]])
        await trio.sleep(1)
        server, engine = leader.server, leader.engine
        assert server is not None
        nodes.nursery.start_soon(server.stop)
        with pytest.raises(CommitUnknown):
            await writer.result(request)
        assert engine.published == 0


async def test_keys_expire_at_a_follower_by_the_time_of_its_leader_and_after_a_promotion(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        client = await leader.client()
        for key, ttl_us in ((b"soon", 5_000_000), (b"later", 60_000_000)):
            writes = [["put", key, b"v"], ["expire", key, ttl_us, None]]
            await client.ask("execute", leader.new_id(), [], [], writes)
        follower = await nodes.start("b", follows="a")
        # The follower's clock is an hour ahead: what it shows depends on the log alone.
        follower.clock_off_us = 3_600_000_000
        reader = await follower.client()
        assert await reader.ask("get", None, b"soon") == b"v"
        await trio.sleep(10)
        await follower.reaches(leader.engine.published)
        assert await reader.ask("get", None, b"soon") is None
        assert await reader.ask("get", None, b"later") == b"v"
        follower.clock_off_us = 0
        await leader.crash()
        await promote(follower)
        assert await reader.ask("get", None, b"later") == b"v"
        await trio.sleep(60)
        assert await reader.ask("get", None, b"later") is None


async def test_a_node_that_may_have_commits_of_its_own_tells_no_session_that_it_has_a_commit(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a")
        await second.reaches(10)
        await nodes.disconnect("b", "a", for_good=True)
        await fill(leader, 6, 7)
        await promote(second)
        await fill(second, 6, 8)
        nodes.cut.clear()
        await leader.until(lambda: leader.figures()["role"] == "deposed")
        for _ in range(2):
            client = await leader.client()
            with pytest.raises(CommitNotReached):
                await client.ask("read_at_least", 12, ["get", b"k7", None], 0)
            with pytest.raises(CommitNotReached):
                await client.ask("wait_commit", 12, 0)
            # What it has can still be looked at.
            assert await client.ask("get", None, b"k7") == b"7"
            await leader.crash()
            await nodes.start("a", follows="b")


async def test_a_node_that_follows_keeps_no_log_for_its_own_former_followers(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        second = await nodes.start("b", follows="a")
        await second.until(lambda: second.engine.leadership.end == leader.engine.leadership.end)
        assert leader.engine.checkpoints.readers.any()
        await leader.crash()
        await promote(second)
        await nodes.start("a", follows="b")
        await fill(second, 6, 7)
        await leader.reaches(14)
        assert not leader.engine.checkpoints.readers.any()
