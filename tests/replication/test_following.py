"""A follower: copies its leader, applies its log, serves reads, and copes with what goes wrong."""

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from headwater_protocol.errors import AuthenticationFailed, CommitNotReached, NotLeader
from headwater_server.engine.settings import SECOND_US
from headwater_server.net.tasks.rewriter import ERASED_KEPT_S
from tests.engine.replication.test_applier import assert_equal
from tests.net.session.test_authentication import add_user, end_of, login
from tests.replication.nodes import ENGINE, Node, cluster


async def fill(node: Node, first: int, last: int) -> None:
    client = await node.client()
    for number in range(first, last + 1):
        await node.put(client, b"k%d" % (number % 10), b"%d" % number)
        events = [[None, "T", b"%d" % number, b""]]
        await client.ask("execute", node.new_id(), [], [], [["append", "s-1", -1, events]])
    await client.close()


async def test_a_follower_copies_the_leader_and_then_follows_each_commit(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 50)
        follower = await nodes.start("b", follows="a")
        assert follower.engine.published == 100
        await fill(leader, 51, 80)
        await follower.reaches(160)
        assert_equal(leader.engine, follower.engine)
        assert follower.figures()["lag_commits"] == 0
        assert leader.figures()["followers"][0]["behind_entries"] == 0


async def test_a_follower_of_an_empty_leader_gets_everything(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        await fill(leader, 1, 5)
        await follower.reaches(10)
        assert_equal(leader.engine, follower.engine)


async def test_a_follower_serves_reads_subscriptions_and_listings_and_refuses_writes(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 3)
        follower = await nodes.start("b", follows="a")
        client = await follower.client()
        assert await client.ask("get", None, b"k3") is not None
        assert (await client.ask("list_streams"))[1]
        await client.ask("subscribe", 0, {}, 100)
        seen = 0
        while seen < 3:
            word, payload = await client.pushed()
            seen += len(payload) if word == "events" else 0
        await fill(leader, 4, 6)
        while seen < 6:
            word, payload = await client.pushed()
            seen += len(payload) if word == "events" else 0
        other = await follower.client()
        refusals: list[tuple[Any, ...]] = [
            ("execute", follower.new_id(), [], [], [["put", b"x", b"1"]]),
            ("begin", follower.new_id()),
            ("group_join", "g", 1),
            ("hold_clock", None),
            ("status", follower.new_id(), True),
        ]
        for refused in refusals:
            with pytest.raises(NotLeader) as raised:
                await other.ask(*refused)
            assert raised.value.details == {"leader": "headwater://a:4323"}
        role, at, commit, _, lag, _ = await other.ask("node")
        assert (role, at, commit, lag) == ("follower", "headwater://a:4323", 12, 0)


async def test_a_client_that_wrote_at_the_leader_waits_for_its_commit_at_a_follower(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        nodes.cut.add(("b", "a"))
        await nodes.disconnect("b", "a")
        writer, reader = await leader.client(), await follower.client()
        commit = await leader.put(writer, b"k", b"mine")
        with pytest.raises(CommitNotReached):
            await reader.ask("wait_commit", commit, 0)
        with pytest.raises(CommitNotReached):
            await reader.ask("wait_commit", commit, 1500)
        request = await reader.send("wait_commit", commit, 30_000)
        nodes.cut.clear()
        assert await reader.result(request) == commit
        assert await reader.ask("get", None, b"k") == b"mine"


async def test_a_follower_goes_on_after_lost_connections_and_crashes_of_both(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        for step in range(1, 9):
            await fill(leader, 10 * step - 9, 10 * step)
            if step % 4 == 1:
                await nodes.disconnect("b", "a")
            elif step % 4 == 2:
                await follower.crash()
                await nodes.start("b", follows="a")
            elif step % 4 == 3:
                await leader.crash()
                await nodes.start("a")
        await follower.reaches(160)
        assert_equal(leader.engine, follower.engine)
        assert (follower.reopened, follower.copied) == (0, 1)


async def test_a_follower_without_its_leader_serves_reads_and_tells_how_old_they_are(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        follower = await nodes.start("b", follows="a")
        await leader.crash()
        await trio.sleep(20)
        await follower.crash()
        await nodes.start("b", follows="a")
        client = await follower.client()
        assert await client.ask("get", None, b"k5") is not None
        assert 20_000_000 <= (await client.ask("node"))[5] <= 30_000_000
        await nodes.start("a")
        await follower.until(lambda: follower.figures()["lag"] < 2)
        await nodes.disconnect("b", "a", for_good=True)
        await trio.sleep(20)
        assert 20 <= follower.figures()["lag"] <= 23


async def test_a_follower_behind_the_trim_copies_the_leader_again_by_itself(
    autojump_clock: MockClock,
) -> None:
    small = replace(ENGINE, log_kept_size_max=1, memtable_commits_max=20)
    async with cluster() as nodes:
        leader = await nodes.start("a", engine=small)
        await fill(leader, 1, 10)
        follower = await nodes.start("b", follows="a")
        await nodes.disconnect("b", "a", for_good=True)
        # More than a segment of the log, so that something can be trimmed.
        client = await leader.client()
        for _ in range(40):
            await leader.put(client, b"large", bytes(8000))
        await fill(leader, 11, 60)
        await trio.sleep(60)
        reader = await follower.client()
        assert await reader.ask("get", None, b"large") is None
        nodes.cut.clear()
        await follower.reaches(160)
        assert follower.reopened == 1
        assert_equal(leader.engine, follower.engine)
        await fill(leader, 61, 62)
        await follower.reaches(164)


async def test_a_damaged_entry_stops_a_follower_which_alarms_and_goes_on_serving(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        follower = await nodes.start("b", follows="a")
        await nodes.disconnect("b", "a", for_good=True)
        await fill(leader, 6, 10)
        name = sorted(leader.files.list("data/wal"))[0]
        file = leader.files.open(f"data/wal/{name}")
        at = file.read_at(0, file.size()).rindex(b"k9")
        file.write_at(at, b"\xff")
        nodes.cut.clear()
        await follower.until(lambda: follower.figures()["replication_problem"] is not None)
        assert "checks" in follower.figures()["replication_problem"]
        client = await follower.client()
        assert await client.ask("get", None, b"k5") is not None
        assert follower.engine.published < 20
        file.write_at(at, b"k")
        await follower.reaches(20)
        await follower.until(lambda: follower.figures()["replication_problem"] is None)
        assert_equal(leader.engine, follower.engine)


async def test_a_damaged_entry_in_the_middle_of_an_answer_skips_none_of_those_before_it(
    autojump_clock: MockClock,
) -> None:
    damaged = 0

    def damage(data: bytes) -> bytes:
        nonlocal damaged
        if b"k9" in data and not damaged:
            damaged += 1
            return data.replace(b"k9", b"k\xff")
        return data

    async with cluster() as nodes:
        leader = await nodes.start("a")
        await fill(leader, 1, 5)
        follower = await nodes.start("b", follows="a")
        await nodes.disconnect("b", "a", for_good=True)
        await fill(leader, 6, 15)
        nodes.damages = damage
        nodes.cut.clear()
        await follower.until(lambda: follower.figures()["replication_problem"] is not None)
        await follower.reaches(30)
        assert damaged
        assert_equal(leader.engine, follower.engine)


async def test_erased_data_and_retention_reach_the_disk_of_a_follower(
    autojump_clock: MockClock,
) -> None:
    secret = b"a secret of thirty-two characters"
    async with cluster() as nodes:
        leader = await nodes.start("a")
        client = await leader.client()
        events = [[None, "T", secret, b""]]
        await client.ask("execute", leader.new_id(), [], [], [["append", "s-1", -1, events]])
        follower = await nodes.start("b", follows="a")
        await client.ask("execute", leader.new_id(), [], [], [["erase", "s-1", [1]]])
        await follower.reaches(2)
        await trio.sleep(30)
        for node in (leader, follower):
            assert not node.engine.rewriting.erasing
            for directory in ("data/wal", "data/events"):
                for name in node.files.list(directory):
                    file = node.files.open(f"{directory}/{name}", writable=False)
                    assert secret not in file.read_at(0, file.size()), (node.name, name)
                    file.close()


async def test_a_follower_without_a_user_says_why_it_is_let_in_no_more(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        await add_user(await leader.client(), "ann", "secret")
        await follower.until(lambda: follower.figures()["replication_problem"] is not None)
        await trio.sleep(20)
        assert "replicate" in follower.figures()["replication_problem"]


async def test_a_user_that_the_leader_removes_is_out_at_the_follower(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        nodes.user = ("ann", "secret")
        leader = await nodes.start("a")
        await add_user(await leader.client(), "ann", "secret")
        admin = await leader.client()
        await login(admin, "ann", "secret")
        await add_user(admin, "bob", "hidden")
        follower = await nodes.start("b", follows="a")
        reader = await follower.client()
        await login(reader, "bob", "hidden")
        assert await reader.ask("get", None, b"k") is None
        await admin.ask("user_remove", "bob")
        assert await end_of(reader) == "authentication_failed"
        again = await follower.client()
        with pytest.raises(AuthenticationFailed):
            await login(again, "bob", "hidden")


async def test_the_log_time_of_a_follower_follows_its_leader(
    autojump_clock: MockClock,
) -> None:
    async with cluster() as nodes:
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        await fill(leader, 1, 2)
        await trio.sleep(30)
        await follower.reaches(4)
        assert follower.engine.sequencer.published_time == leader.engine.sequencer.published_time
        assert follower.engine.sequencer.published_time.time > SECOND_US


async def test_a_restarted_leader_keeps_its_log_for_a_follower_that_is_away(
    autojump_clock: MockClock,
) -> None:
    small = replace(ENGINE, memtable_commits_max=20)
    async with cluster() as nodes:
        leader = await nodes.start("a", engine=small)
        await fill(leader, 1, 5)
        follower = await nodes.start("b", follows="a")
        await fill(leader, 6, 7)
        await follower.crash()
        for step in range(1, 4):
            await leader.crash()
            await nodes.start("a")
            client = await leader.client()
            for _ in range(40):
                await leader.put(client, b"large", bytes(8000))
            await fill(leader, 10 * step, 10 * step + 9)
            await trio.sleep(10)
        await nodes.start("b", follows="a")
        await follower.reaches(leader.engine.published)
        assert (follower.reopened, follower.copied) == (0, 1)
        assert_equal(leader.engine, follower.engine)
        # Once it is here, the log goes.
        await fill(leader, 50, 70)
        await trio.sleep(20)
        assert leader.engine.log_reader.first_index > 100


async def test_a_follower_that_stays_away_after_an_erasure_is_let_go_after_an_hour(
    autojump_clock: MockClock,
) -> None:
    secret = b"a secret of thirty-two characters"
    async with cluster() as nodes:
        leader = await nodes.start("a")
        client = await leader.client()
        events = [[None, "T", secret, b""]]
        follower = await nodes.start("b", follows="a")
        await client.ask("execute", leader.new_id(), [], [], [["append", "s-1", -1, events]])
        await follower.reaches(1)
        await follower.crash()
        await leader.put(client, b"k", b"v")
        await client.ask("execute", leader.new_id(), [], [], [["erase", "s-1", [1]]])
        await trio.sleep(ERASED_KEPT_S / 2)
        assert leader.engine.rewriting.erasing
        await leader.crash()
        await nodes.start("a")
        await trio.sleep(ERASED_KEPT_S / 2)
        assert leader.engine.rewriting.erasing
        await trio.sleep(ERASED_KEPT_S / 2 + 60)
        assert not leader.engine.rewriting.erasing
        for name in leader.files.list("data/wal"):
            file = leader.files.open(f"data/wal/{name}", writable=False)
            assert secret not in file.read_at(0, file.size()), name
        await nodes.start("b", follows="a")
        await follower.reaches(3)
        assert follower.reopened == 1
        assert_equal(leader.engine, follower.engine)


async def test_a_log_that_is_kept_for_a_follower_makes_room_when_the_disk_is_nearly_full(
    autojump_clock: MockClock,
) -> None:
    small = replace(ENGINE, memtable_commits_max=20, disk_reserve_size=1_000_000)
    async with cluster() as nodes:
        leader = await nodes.start("a", engine=small)
        follower = await nodes.start("b", follows="a")
        await fill(leader, 1, 5)
        await follower.reaches(10)
        await follower.crash()
        client = await leader.client()
        for _ in range(80):
            await leader.put(client, b"large", bytes(8000))
        await trio.sleep(60)
        before = leader.engine.log_reader.first_index
        leader.files.faults.capacity = leader.files.used + 900_000
        await trio.sleep(60)
        assert leader.engine.log_reader.first_index > before + 50
        assert leader.engine.read_only_reason is None
        await nodes.start("b", follows="a")
        await follower.reaches(90)
        assert follower.reopened == 1
