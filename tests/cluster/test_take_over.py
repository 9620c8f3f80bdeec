"""Three nodes on a simulated stream: who leads, and what happens when it dies, hangs or is cut."""

import pytest
import trio
from trio.testing import MockClock

from headwater_protocol.errors import HeadwaterError, InvalidArgument, NotLeader, Unavailable
from headwater_server.net.cluster.election import CLAIM_AFTER_S, CLAIM_SPREAD_S
from headwater_server.net.monitoring.readiness import Readiness
from headwater_server.net.tasks.group_commit import LOG_PATIENCE_S
from headwater_server.storage.jetstream.cluster_log import LEASE_S
from headwater_server.testing.memory_jetstream import Fate
from tests.cluster.nodes import ClusterNode, MemoryCluster, memory_cluster
from tests.engine.replication.test_applier import assert_equal

TAKE_OVER_S = CLAIM_AFTER_S + CLAIM_SPREAD_S + 0.5
"""Seconds in which another node leads: the wait, and some polls."""


def lost(_subject: str) -> Fate:
    return Fate.LOST


def others(cluster: MemoryCluster, node: ClusterNode) -> list[ClusterNode]:
    return [each for each in cluster.nodes.values() if each is not node]


async def equal_at_the_end(cluster: MemoryCluster, commit: int) -> None:
    await cluster.until(lambda: all(cluster.shows(name, commit) for name in cluster.nodes))
    first, *rest = cluster.nodes.values()
    for node in rest:
        assert_equal(first.engine, node.engine)


async def test_one_node_leads_and_the_others_show_what_it_wrote(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        assert cluster.leaders == [leader]
        commit = await leader.put(b"k", b"1")
        await equal_at_the_end(cluster, commit)
        await cluster.until(
            lambda: all(each.engine.leadership.leader for each in others(cluster, leader))
        )
        for node in others(cluster, leader):
            assert await node.get(b"k") == b"1"
            with pytest.raises(NotLeader) as refused:
                await node.put(b"k", b"2")
            assert refused.value.details["leader"] == f"headwater://{leader.name}:4323"
        ids = {node.engine.database_id for node in cluster.nodes.values()}
        assert len(ids) == 1
        await equal_at_the_end(cluster, commit)


async def test_a_leader_that_dies_is_replaced_after_its_lease_and_nothing_is_lost(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        for number in range(4):
            leader = await cluster.leader()
            commit = await leader.put(b"%d" % number, b"x")
            await leader.crash()
            died = trio.current_time()
            successor = await cluster.leader()
            assert successor is not leader
            assert trio.current_time() - died < TAKE_OVER_S
            for written in range(number + 1):
                assert await successor.get(b"%d" % written) == b"x"
            cluster.start(leader.name)
            await equal_at_the_end(cluster, commit)


async def test_an_idle_leader_keeps_its_lease_and_is_not_replaced(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        epoch = leader.engine.leadership.epoch
        for _ in range(600):
            await trio.sleep(0.1)
            assert leader.log.has_lease
        assert cluster.leaders == [leader]
        assert leader.engine.leadership.epoch == epoch


async def test_a_leader_that_is_cut_off_answers_no_plain_read_and_follows_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"1")
        leader.deliver = lost
        await trio.sleep(LEASE_S + 0.1)
        with pytest.raises(Unavailable, match="its lease has run out"):
            await leader.get(b"k")
        assert await leader.get(b"k", of_any_age=True) == b"1"
        successor = await cluster.leader()
        assert successor is not leader
        commit = await successor.put(b"k", b"2")
        opened = leader.opened
        leader.deliver = lambda _: Fate.ANSWERED
        await cluster.until(lambda: cluster.shows(leader.name, commit))
        assert leader.opened == opened + 1
        assert await leader.get(b"k") == b"2"
        assert cluster.leaders == [successor]
        await equal_at_the_end(cluster, commit)


async def test_a_leader_that_wakes_after_its_lease_confirms_nothing_before_it_knows(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"1")
        client = await leader.client()
        leader.pause()
        write = [["put", b"k", b"lost"]]
        request = await client.send("execute", leader.new_id(), [], [], write)
        await trio.sleep(LEASE_S)
        successor = await cluster.leader()
        assert successor is not leader
        commit = await successor.put(b"k", b"2")
        leader.go_on()
        with pytest.raises((HeadwaterError, trio.EndOfChannel, trio.BrokenResourceError)):
            await client.result(request)
        await equal_at_the_end(cluster, commit)
        assert await leader.get(b"k") == b"2"


async def test_without_the_stream_writes_are_unavailable_and_nobody_claims(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        first = await leader.put(b"k", b"1")
        await equal_at_the_end(cluster, first)
        epoch = leader.engine.leadership.epoch
        cluster.stream.deliver = lambda _: Fate.NO_LEADER
        client = await leader.client()
        with pytest.raises(HeadwaterError, match="durable"):
            await client.ask("execute", leader.new_id(), [], [], [["put", b"k", b"2"]])
        await trio.sleep(LOG_PATIENCE_S)
        with pytest.raises(Unavailable, match="does not answer"):
            await leader.put(b"k", b"3")
        for node in others(cluster, leader):
            assert await node.get(b"k") == b"1"
        cluster.stream.deliver = lambda _: Fate.ANSWERED
        await cluster.until(lambda: leader.engine.leadership.takes_writes)
        # The commit whose outcome was unknown was stored after all.
        commit = await leader.put(b"k", b"4")
        assert commit == first + 2
        assert (cluster.leaders, leader.engine.leadership.epoch) == ([leader], epoch)
        await equal_at_the_end(cluster, commit)


async def test_a_leader_that_resigns_is_followed_at_once_by_another(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        commit = await leader.put(b"k", b"1")
        await equal_at_the_end(cluster, commit)
        assert leader.server is not None
        assert leader.server.cluster is not None
        asked = trio.current_time()
        leader.server.cluster.resign()
        await cluster.until(lambda: not leader.leads)
        successor = await cluster.leader()
        assert successor is not leader
        assert trio.current_time() - asked < LEASE_S
        await successor.put(b"k", b"2")


async def test_a_leader_without_others_does_not_resign(autojump_clock: MockClock) -> None:
    async with memory_cluster(names="a") as cluster:
        leader = await cluster.leader()
        assert leader.server is not None
        assert leader.server.cluster is not None
        with pytest.raises(InvalidArgument, match="no other node"):
            leader.server.cluster.resign()


async def test_lost_messages_of_the_stream_are_taken_from_another_node(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        behind, current = others(cluster, leader)
        await behind.crash()
        for number in range(20):
            commit = await leader.put(b"%d" % number, b"x")
        await cluster.until(lambda: cluster.shows(current.name, commit))
        for sequence in range(leader.log.last_index - 8, leader.log.last_index - 2):
            cluster.stream.lose(sequence)
        cluster.start(behind.name)
        await equal_at_the_end(cluster, commit)
        # The leader has trimmed the stream behind the gap.
        assert leader.server is not None
        assert leader.server.cluster is not None
        watching = leader.server.cluster.watching
        await cluster.until(lambda: watching.problem is None)
        assert cluster.stream.first > 1
        commit = await leader.put(b"more", b"x")
        await equal_at_the_end(cluster, commit)


async def test_a_stream_that_lost_its_newest_entries_gets_them_back(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        for number in range(20):
            commit = await leader.put(b"%d" % number, b"x")
        await equal_at_the_end(cluster, commit)
        cluster.stream.forget_tail(cluster.stream.last - 7)
        await cluster.until(lambda: cluster.stream.last >= leader.log.last_index)
        commit = await (await cluster.leader()).put(b"more", b"x")
        await equal_at_the_end(cluster, commit)
        assert cluster.stream.messages.keys() == set(range(1, cluster.stream.last + 1))


async def test_a_flipped_bit_is_noticed_and_the_entry_taken_from_another_node(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        behind, current = others(cluster, leader)
        await behind.crash()
        for number in range(10):
            commit = await leader.put(b"%d" % number, b"x")
        await cluster.until(lambda: cluster.shows(current.name, commit))
        cluster.stream.flip(leader.log.last_index - 3, 700)
        cluster.start(behind.name)
        await equal_at_the_end(cluster, commit)
        assert await behind.get(b"9") == b"x"


async def test_a_directory_of_another_database_is_refused(autojump_clock: MockClock) -> None:
    async with memory_cluster() as cluster:
        await cluster.leader()
        assert cluster.stream.config is not None
        node = cluster.nodes["a"]
        await node.crash()
        cluster.stream.config["metadata"]["headwater-database"] = bytes(16).hex()
        with pytest.RaisesGroup(InvalidArgument, flatten_subgroups=True, allow_unwrapped=True):
            await node.run()


async def test_the_status_names_all_nodes_and_the_stream_over_the_wire(
    autojump_clock: MockClock,
) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        await leader.put(b"k", b"1")
        assert leader.server is not None
        known = leader.server.cluster
        assert known is not None
        await cluster.until(lambda: len(known.nodes.present) == 2)
        client = await leader.client()
        found = await client.ask("cluster_status")
        roles = sorted(node["role"] for node in found["nodes"])
        assert roles == ["follower", "follower", "leader"]
        assert found["problem"] is None
        assert (found["stream"]["answers"], found["stream"]["missing"]) == (True, 0)
        follower = await others(cluster, leader)[0].client()
        with pytest.raises(NotLeader):
            await follower.ask("cluster_resign")
        await client.ask("cluster_resign")
        await cluster.until(lambda: bool(cluster.leaders) and leader not in cluster.leaders)


async def test_readiness_says_when_a_leader_has_lost_its_lease(autojump_clock: MockClock) -> None:
    async with memory_cluster() as cluster:
        leader = await cluster.leader()
        assert leader.server is not None
        readiness = Readiness()
        readiness.service = leader.server.service
        assert readiness.ready()[0]
        leader.deliver = lost
        await trio.sleep(LEASE_S + 0.1)
        assert [reason["reason"] for reason in readiness.reasons()] == ["cluster"]
