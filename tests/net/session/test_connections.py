"""Who is connected, what each connection holds, and the end of one by its number."""

import pytest
import trio
import trio.testing

from headwater_protocol.connection import Failure
from headwater_protocol.errors import ConnectionClosed, InvalidArgument
from headwater_server.net.push.channels import CHANNEL_SIZE
from tests.net.serving import serving


async def test_a_connection_is_listed_with_what_it_holds() -> None:
    async with serving() as server:
        one, other = await server.connect(), await server.connect()
        transaction = server.new_id()
        await one.ask("begin", transaction)
        await one.ask("write", transaction, [["put", b"k", bytes(5_000)]])
        await one.ask("subscribe", 0)
        await one.pushed()
        await one.ask("subscribe_keys", b"", None, 0)
        await one.pushed()
        await other.ask("group_create", "g")
        await other.ask("group_join", "g")
        await other.pushed()
        (first, figures), (second, others) = (await other.ask("connection_list"))[0]
        assert (first, second) == ((await one.ask("whoami"))[0], (await other.ask("whoami"))[0])
        assert figures.pop("age_ms") >= 0
        assert 5_000 + 2 * CHANNEL_SIZE <= figures.pop("memory") <= 6_000 + 2 * CHANNEL_SIZE + 400
        assert figures == {
            "address": "memory",
            "user": None,
            "client": "test",
            "transactions": 1,
            "subscriptions": 2,
            "memberships": 0,
        }
        assert (others["subscriptions"], others["memberships"], others["memory"]) == (
            0,
            1,
            CHANNEL_SIZE,
        )


async def test_connections_are_listed_in_pages_in_the_order_of_their_numbers() -> None:
    async with serving() as server:
        clients = [await server.connect() for _ in range(7)]
        numbers = [(await client.ask("whoami"))[0] for client in clients]
        assert numbers == sorted(set(numbers))
        found: list[int] = []
        more = True
        while more:
            rows, more = await clients[0].ask("connection_list", found[-1] if found else 0, 3)
            assert len(rows) <= 3
            found += [number for number, _ in rows]
        assert found == numbers


async def test_a_closed_connection_is_told_why_and_frees_what_it_held() -> None:
    async with serving() as server:
        one, other = await server.connect(), await server.connect()
        await one.ask("begin", server.new_id())
        number = (await one.ask("whoami"))[0]
        assert await other.ask("connection_close", number) is None
        item = await one.receive()
        assert isinstance(item, Failure)
        assert item.request_id == 0
        assert isinstance(item.error, ConnectionClosed)
        assert item.error.retryable
        with pytest.raises(trio.EndOfChannel):
            await one.receive()
        with pytest.raises(InvalidArgument, match=f"no connection {number}"):
            await other.ask("connection_close", number)
        assert [row[0] for row in (await other.ask("connection_list"))[0]] == [number + 1]
        assert not server.engine._open.by_id


async def test_a_commit_that_waits_is_answered_before_its_connection_ends() -> None:
    async with serving() as server:
        one, other = await server.connect(), await server.connect()
        number = (await one.ask("whoami"))[0]
        server.disk.hold()
        put = await one.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        await trio.testing.wait_all_tasks_blocked()
        await other.ask("connection_close", number)
        server.disk.release()
        assert await one.result(put)
        item = await one.receive()
        assert isinstance(item, Failure)
        assert isinstance(item.error, ConnectionClosed)


async def test_a_connection_that_closes_itself_gets_the_reason_as_its_answer() -> None:
    async with serving() as server:
        client = await server.connect()
        number = (await client.ask("whoami"))[0]
        with pytest.raises(ConnectionClosed):
            await client.ask("connection_close", number)
