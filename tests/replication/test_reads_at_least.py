"""Reads that wait for a commit, and what hello and ping say of a node."""

from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from headwater_protocol.errors import CommitNotReached, InvalidArgument, NoSuchCommit, TooMany
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_protocol.vocabulary.replication import NODE_FEATURE, READS
from headwater_server.net.replication import commit_waits
from tests.net.serving import Client, serving
from tests.net.session.test_authorization import users
from tests.replication.nodes import Node, cluster

REQUESTS: dict[str, list[Any]] = {
    "get": [b"k", None],
    "get_entry": [b"k", None],
    "get_expiry": [b"k", None],
    "get_many": [[b"k", b"l"], None],
    "scan": [b"", None, 10, False, None],
    "scan_keys": [b"", None, 10, False, None],
    "count_keys": [b"", None, None],
    "scan_prefixes": [b"", None, 0, b"/", 10, None],
    "scan_expiries": [b"", None, 10, False, None],
    "stream_version": ["a-1", None],
    "read_stream": ["a-1", 0, 10, False, None],
    "read_all": [0, {}, 10, False, None],
    "newest_position": [0, {}, None],
    "load": ["a-1", "", 0, None, None],
    "commit_at": [0],
    "position_before": [0],
    "read_commits": [None, 10, False],
    "read_snapshots": [None, 10, None],
    "list_streams": ["", None, 10, None],
    "list_categories": [None, 10, None],
    "find_event": [bytes(16), None],
    "key_history": [b"k", 0, 10, None],
    "stream_history": ["a-1", 0, 10, None],
    "read_commit": [1],
    "commit_changes": [1, b"", None, 10],
    "count_commits": ["time", None, None, 10],
    "known_span": [],
    "position_at": [1],
    "list_snapshots": ["a-1", None, 10, None],
    "scan_branches": [b"", None, 0, b"/", 100, 10, None],
    "describe_streams": ["", None, 10, None],
}

OUTSIDE: Final = {
    *("commit_at", "position_before", "read_commits", "read_snapshots"),
    *("list_streams", "list_categories", "find_event"),
    *("key_history", "stream_history", "read_commit", "commit_changes", "count_commits"),
    *("known_span", "position_at", "list_snapshots", "scan_branches", "describe_streams"),
}
"""Requests that no transaction may contain."""


async def greeted(client: Client, *features: str) -> Any:
    return await client.ask("hello", PROTOCOL_VERSION, "test", list(features))


async def test_hello_and_ping_tell_the_node_to_those_who_ask_for_it() -> None:
    async with serving() as server:
        old = await server.connect(hello=False)
        assert len(await greeted(old)) == 5
        assert len(await old.ask("ping")) == 2
        new = await server.connect(hello=False)
        node = await new.ask("hello", PROTOCOL_VERSION, "test", [NODE_FEATURE, "later"])
        _, _, features, _, _, told = node
        assert features == [NODE_FEATURE]
        assert told == (await new.ask("ping"))[2] == await new.ask("node")
        assert told[:2] == ["leader", None]


async def test_hello_tells_the_node_to_users_alone() -> None:
    async with users() as known:
        client = await known.server.connect(hello=False)
        *_, mechanisms, _, node = await greeted(client, NODE_FEATURE)
        assert mechanisms
        assert node is None


@pytest.mark.parametrize("name", sorted(READS))
async def test_a_read_that_need_not_wait_answers_as_it_does_alone(name: str) -> None:
    async with serving() as server:
        client = await server.connect()
        await server.put(client, b"k", b"v")
        await server.append(client, "a-1", b"one", b"two")
        arguments = REQUESTS[name]
        in_transaction = name not in OUTSIDE
        alone = await client.ask(name, *([None] if in_transaction else []), *arguments)
        commit, epoch, answer = await client.ask("read_at_least", 2, [name, *arguments], 0)
        assert commit == server.engine.published
        assert epoch == server.engine.leadership.epoch
        assert answer == alone


async def test_a_read_is_refused_with_the_error_that_it_has_alone() -> None:
    async with serving() as server:
        client = await server.connect()
        with pytest.raises(NoSuchCommit):
            await client.ask("read_at_least", 0, ["get", b"k", 99])
        with pytest.raises(InvalidArgument, match=r"read_at_least: request: .* one of commit_at"):
            await client.ask("read_at_least", 0, ["write", b"k"])


async def behind(nodes: Any) -> tuple[Node, Node, Client, int]:
    """A leader, a follower that is cut off, a client of it, and a commit that it lacks."""
    leader = await nodes.start("a")
    follower = await nodes.start("b", follows="a")
    nodes.cut.add(("b", "a"))
    await nodes.disconnect("b", "a")
    commit = await leader.put(await leader.client(), b"k", b"mine")
    return leader, follower, await follower.client(), commit


async def test_a_read_at_a_follower_waits_for_its_commit(autojump_clock: MockClock) -> None:
    async with cluster() as nodes:
        _, follower, client, commit = await behind(nodes)
        request = await client.send("read_at_least", commit, ["get", b"k", None], 30_000)
        assert await client.ask("get", None, b"k") is None
        nodes.cut.clear()
        seen, epoch, value = await client.result(request)
        assert (seen >= commit, value) == (True, b"mine")
        assert epoch == follower.engine.leadership.epoch


@pytest.mark.parametrize("wait_ms", [0, 1500])
async def test_a_commit_that_does_not_come_is_a_retryable_error_that_says_how_far_the_node_is(
    wait_ms: int, autojump_clock: MockClock
) -> None:
    async with cluster() as nodes:
        _, follower, client, commit = await behind(nodes)
        began = trio.current_time()
        with pytest.raises(CommitNotReached) as raised:
            await client.ask("read_at_least", commit, ["get", b"k", None], wait_ms)
        assert raised.value.retryable
        assert raised.value.details == {"newest": follower.engine.published}
        assert trio.current_time() - began <= wait_ms / 1000 + 2


async def test_many_reads_that_waited_are_served_in_their_order(autojump_clock: MockClock) -> None:
    async with cluster() as nodes:
        _, _, client, commit = await behind(nodes)
        requests = [
            await client.send("read_at_least", commit, ["get", b"k", None], 30_000)
            for _ in range(300)
        ]
        nodes.cut.clear()
        for request in requests:
            assert (await client.result(request))[2] == b"mine"


async def test_reads_that_wait_take_bounded_memory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_waits, "WAITING_SIZE_MAX", 1000)
    async with cluster() as nodes:
        _, follower, client, commit = await behind(nodes)
        read = ["get", bytes(300), None]
        for _ in range(3):
            await client.send("read_at_least", commit, read, 30_000)
        other = await follower.client()
        with pytest.raises(TooMany, match="bytes of reads wait for commits; allowed are 1000"):
            await other.ask("read_at_least", commit, read, 30_000)
        await client.close()
        await wait_all_tasks_blocked()
        # Those of the connection that was closed no longer count.
        with pytest.raises(CommitNotReached):
            await other.ask("read_at_least", commit, read, 100)
