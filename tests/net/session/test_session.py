"""A session as a client sees it: answers, their order, and errors that affect one request only."""

import itertools
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Answer, Failure
from headwater_protocol.errors import (
    InvalidArgument,
    ProtocolError,
    ShuttingDown,
    TooLarge,
    TooMany,
    TransactionGone,
    UnknownOperation,
)
from headwater_protocol.frames import encode_frame
from headwater_protocol.messages import encode
from headwater_server.net.session.session import open_session
from tests.net.serving import serving, settings
from tests.test_costs import Costs, frame


async def test_hello_says_who_the_server_is_and_that_no_user_is_needed() -> None:
    async with serving() as server:
        client = await server.connect(hello=False)
        version, name, features, mechanisms, database = await client.hello()
        assert version == 1
        assert name.startswith("headwater")
        assert features == []
        assert mechanisms == []
        assert database == server.engine.database_id


async def test_after_the_answer_every_connection_sees_a_put() -> None:
    async with serving() as server:
        writer, reader = await server.connect(), await server.connect()
        await server.put(writer, b"k", b"v")
        assert await reader.ask("get", None, b"k") == b"v"


async def test_reads_in_an_execute_answer_like_single_reads() -> None:
    async with serving() as server:
        client = await server.connect()
        await server.put(client, b"k", b"v")
        await server.append(client, "account-1", b"one", b"two")
        await client.ask(
            "execute", server.new_id(), [], [], [["save_snapshot", "account-1", "a", 1, 2, b"s"]]
        )
        reads: list[list[Any]] = [
            ["get", b"k"],
            ["scan", b"", None, 10, False],
            ["read_stream", "account-1", 0, 10, False],
            ["read_all", 0, {"category": "account"}, 10, False],
            ["load", "account-1", "a", 1, None],
        ]
        _, results = await client.ask("execute", server.new_id(), [], reads, [])
        for (name, *arguments), result in zip(reads, results, strict=True):
            assert result == await client.ask(name, None, *arguments)


async def test_a_read_after_the_commit_of_its_transaction_is_answered_after_it() -> None:
    async with serving() as server:
        client = await server.connect()
        transaction = server.new_id()
        await client.ask("begin", transaction)
        server.disk.hold()
        commit = await client.send("commit", transaction, [["put", b"k", b"v"]])
        behind = await client.send("get", transaction, b"k")
        other = await client.send("get", None, b"k")
        first = await client.receive()
        assert isinstance(first, Answer)
        assert (first.request_id, first.payload) == (other, None), (
            "reads outside the transaction must continue"
        )
        server.disk.release()
        second, third = await client.receive(), await client.receive()
        assert isinstance(second, Answer)
        assert second.request_id == commit
        assert isinstance(third, Failure)
        assert third.request_id == behind
        assert isinstance(third.error, TransactionGone)


async def test_a_commit_sent_again_waits_for_the_same_sync_and_answers_the_same() -> None:
    async with serving() as server:
        one, two = await server.connect(), await server.connect()
        transaction = server.new_id()
        server.disk.hold()
        writes = [["append", "s-1", 0, [[None, "T", b"", b""]]]]
        first = await one.send("execute", transaction, [], [], writes)
        await wait_all_tasks_blocked()
        again = await one.send("execute", transaction, [], [], writes)
        elsewhere = await two.send("execute", transaction, [], [], writes)
        await wait_all_tasks_blocked()
        assert server.engine.published == 0
        server.disk.release()
        committed = await one.result(first)
        assert await one.result(again) == committed
        assert await two.result(elsewhere) == committed


async def test_reads_are_answered_during_a_slow_sync() -> None:
    async with serving() as server:
        writer, reader = await server.connect(), await server.connect()
        await server.put(writer, b"k", b"old")
        server.disk.hold()
        slow = await writer.send("execute", server.new_id(), [], [], [["put", b"k", b"new"]])
        await wait_all_tasks_blocked()
        assert await reader.ask("get", None, b"k") == b"old", (
            "a commit must not be seen before it is durable"
        )
        server.disk.release()
        await writer.result(slow)
        assert await reader.ask("get", None, b"k") == b"new"


async def test_commits_during_a_sync_share_the_next_group() -> None:
    async with serving() as server:
        clients = [await server.connect() for _ in range(8)]
        server.disk.hold()
        before = server.disk.syncs
        first = await clients[0].send("execute", server.new_id(), [], [], [["put", b"0", b""]])
        await wait_all_tasks_blocked()
        requests = [
            await client.send("execute", server.new_id(), [], [], [["put", b"%d" % n, b""]])
            for n, client in enumerate(clients[1:], start=1)
        ]
        await wait_all_tasks_blocked()
        server.disk.release()
        await clients[0].result(first)
        for client, request in zip(clients[1:], requests, strict=True):
            await client.result(request)
        assert server.disk.syncs - before == 2


async def test_an_unknown_operation_fails_alone() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.stream.send_all(encode_frame(encode([99, "frobnicate"])))
        client.connection.in_flight[99] = "ping"
        with pytest.raises(UnknownOperation):
            await client.result(99)
        await client.ask("ping")


async def test_a_wrong_argument_rolls_its_transaction_back() -> None:
    async with serving() as server:
        client = await server.connect()
        transaction = server.new_id()
        await client.ask("begin", transaction)
        await client.stream.send_all(encode_frame(encode([99, "write", transaction, "nonsense"])))
        client.connection.in_flight[99] = "write"
        with pytest.raises(InvalidArgument):
            await client.result(99)
        with pytest.raises(TransactionGone):
            await client.ask("commit", transaction)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x92\xc0"],
)
async def test_malformed_bytes_end_their_connection_and_no_other(garbage: bytes) -> None:
    async with serving() as server:
        vandal, other = await server.connect(hello=False), await server.connect()
        await vandal.stream.send_all(garbage)
        item = await vandal.receive()
        assert isinstance(item, Failure)
        assert isinstance(item.error, ProtocolError)
        with pytest.raises(trio.EndOfChannel):
            await vandal.receive()
        await other.ask("ping")
        assert len(server.server.service.sessions) == 1


async def test_requests_before_malformed_bytes_are_answered_first() -> None:
    async with serving() as server:
        client = await server.connect()
        server.disk.hold()
        commit = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        await client.stream.send_all(b"\0\0\0\0")
        await wait_all_tasks_blocked()
        server.disk.release()
        await client.result(commit)
        last = await client.receive()
        assert isinstance(last, Failure)
        assert last.request_id == 0
        with pytest.raises(trio.EndOfChannel):
            await client.receive()


async def test_transactions_end_with_their_connection() -> None:
    async with serving() as server:
        client, other = await server.connect(), await server.connect()
        for _ in range(3):
            await client.ask("begin", server.new_id())
        assert (await other.ask("stats"))["open_transactions"] == 3
        await client.close()
        await wait_all_tasks_blocked()
        stats = await other.ask("stats")
        assert stats["open_transactions"] == 0
        assert stats["connections"] == 1


async def test_stats_name_commit_groups_unlike_consumer_groups() -> None:
    async with serving() as server:
        client = await server.connect()
        await client.ask("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        stats = await client.ask("stats")
        assert stats["commit_groups"] == 1
        assert "groups" not in stats


async def test_open_transactions_are_counted_for_each_connection() -> None:
    async with serving(settings(transactions_max=2)) as server:
        client, other = await server.connect(), await server.connect()
        transactions = [server.new_id() for _ in range(2)]
        for transaction in transactions:
            await client.ask("begin", transaction)
        with pytest.raises(TooMany):
            await client.ask("begin", server.new_id())
        await other.ask("begin", server.new_id())
        await client.ask("rollback", transactions[0])
        await client.ask("begin", server.new_id())


async def test_too_much_output_is_bounded_while_the_client_reads_nothing() -> None:
    """A session alone, driven by the test: bytes go in, and no output is taken."""
    given = settings(output_pause_size=50_000, output_resume_size=10_000)
    async with serving(given) as server:
        client = await server.connect()
        await server.put(client, b"k", b"v" * 10_000)
        session = open_session(server.server.service, "by hand", lambda: None)
        session.receive(encode_frame(encode([1, "hello", 1])))
        requests = [encode_frame(encode([n, "get", None, b"k"])) for n in range(2, 102)]
        session.receive(b"".join(requests))
        assert session.output_size < 70_000, (
            "the session must stop when its output exceeds the bound"
        )
        assert not session.wants_input
        assert not session.runnable
        taken = 0
        while output := session.output():
            taken += len(output)
            session.sent(len(output))
            while session.runnable:
                session.run()
            assert session.output_size < 70_000
        assert taken > 100 * 10_000
        assert session.wants_input
        session.close()


async def test_a_connection_with_too_much_unread_output_is_dropped() -> None:
    given = settings(output_pause_size=50_000, output_size_max=200_000)
    async with serving(given) as server:
        client = await server.connect()
        await server.put(client, b"k", b"v" * 300_000)
        session = open_session(server.server.service, "by hand", lambda: None)
        session.receive(encode_frame(encode([1, "hello", 1])))
        session.receive(encode_frame(encode([2, "get", None, b"k"])))
        assert session.aborted
        assert not session.output_size
        session.close()


async def test_requests_wait_unread_while_too_many_commits_wait_for_a_sync() -> None:
    async with serving(settings(requests_waiting_max=4)) as server:
        client = await server.connect()
        server.disk.hold()
        requests = [
            await client.send("execute", server.new_id(), [], [], [["put", b"%d" % n, b""]])
            for n in range(20)
        ]
        await wait_all_tasks_blocked()
        assert server.engine.stats()["memtable_commits"] == 4
        server.disk.release()
        for request in requests:
            await client.result(request)


async def test_a_result_too_large_for_one_answer_commits_nothing() -> None:
    async with serving() as server:
        client = await server.connect()
        for n in range(3):
            await server.put(client, b"big-%d" % n, b"v" * 8_000_000)
        reads = [["get", b"big-%d" % n] for n in range(3)]
        with pytest.raises(TooLarge):
            await client.ask("execute", server.new_id(), [], reads, [["put", b"k", b"v"]])
        assert await client.ask("get", None, b"k") is None


async def test_a_silent_unauthenticated_connection_is_closed(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving() as server:
        client = await server.connect(hello=False)
        item = await client.receive()
        assert isinstance(item, Failure)
        with pytest.raises(trio.EndOfChannel):
            await client.receive()
        assert trio.current_time() >= 10


async def test_idle_transactions_are_rolled_back(autojump_clock: trio.abc.Clock) -> None:
    async with serving() as server:
        client = await server.connect()
        transaction = server.new_id()
        await client.ask("begin", transaction)
        server.database.now += 61_000_000
        await trio.sleep(2)
        with pytest.raises(TransactionGone):
            await client.ask("get", transaction, b"k")


async def test_a_server_that_stops_lets_transactions_end_and_takes_no_new_ones() -> None:
    async with serving() as server:
        client, idle = await server.connect(), await server.connect()
        transaction = server.new_id()
        await client.ask("begin", transaction)
        async with trio.open_nursery() as stopping:
            stopping.start_soon(server.server.stop)
            await wait_all_tasks_blocked()
            with pytest.raises(ShuttingDown):
                await idle.ask("begin", server.new_id())
            await client.ask("commit", transaction, [["put", b"k", b"v"]])
            for one in (client, idle):
                last = await one.receive()
                assert isinstance(last, Failure)
                assert isinstance(last.error, ShuttingDown)
        assert server.engine.published == 1
        assert server.engine.stats()["checkpoint_commit"] == 1


async def test_a_stopping_server_waits_a_bounded_time_for_open_transactions(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving() as server:
        client = await server.connect()
        await client.ask("begin", server.new_id())
        began = trio.current_time()
        await server.server.stop()
        assert 5 <= trio.current_time() - began < 7


async def test_puts_that_arrive_together_have_one_time_and_the_next_a_later_one() -> None:
    costs = Costs()
    clock = costs.database.engine.sequencer.clock
    times = itertools.count(costs.database.now + 1)
    clock._wall = lambda: next(times)
    for _ in range(2):
        puts = [
            frame(number, "execute", costs.database.new_id(), [], [], [["put", b"k", b"v"]])
            for number in (1, 2, 3)
        ]
        costs.session.receive(b"".join(puts))
        costs.commit()
        assert costs.take()
    found = [record[2] for record in costs.database.engine.looking.read_commits(0, 10)]
    assert found == sorted(found)
    assert [found.count(time) for time in sorted(set(found))] == [3, 3]
