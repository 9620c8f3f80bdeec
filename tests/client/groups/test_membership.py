"""Memberships on a scripted server: the requests that they send, and lost connections."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

import headwater
from headwater.codecs.codec import MsgpackCodec
from headwater_protocol.connection import Request
from tests.client.fake_server import FakeServer, Peer

DATA = MsgpackCodec().encode("data")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("group_join", None)
        server.on("group_leave", None)
        server.on("nack", None)
        yield server


def row(token: int, position: int, attempt: int = 1) -> list[Any]:
    event = [position, f"s-{position}", 1, 1, 1, bytes(16), "Happened", DATA, b"", []]
    return [token, attempt, event]


def push_from(server: FakeServer, peer: int, *payloads: list[Any]) -> None:
    """Push to a connection after the answer to its join."""
    server.wait_for("group_join", peer + 1)
    connection: Peer = server.peers[-1]
    with connection.in_order:
        [identity] = [i for i, name in connection.protocol.in_flight.items()]
        for payload in payloads:
            connection.push(identity, payload)


async def in_thread(*arguments: Any) -> None:
    await trio.to_thread.run_sync(push_from, *arguments)


async def test_credit_is_granted_again_as_deliveries_are_settled(server: FakeServer) -> None:
    async with headwater.connect(server.url) as db, db.join("mailer", credit=4) as group:
        await in_thread(server, 0, ["deliveries", [row(n, n) for n in range(1, 5)]])
        taken = [await group.__anext__() for _ in range(4)]
        await taken[0].ack()
        assert server.named("credit") == []
        await taken[1].nack(delay=1.5, reason="later")
        [granted] = await trio.to_thread.run_sync(server.wait_for, "credit")
        assert granted.arguments[1] == 2
    [join] = server.named("group_join")
    assert join.arguments == ["mailer", 4]
    [execute] = server.named("execute")
    assert execute.arguments[3] == [["ack", "mailer", [[1, 1]]]]
    [nack] = server.named("nack")
    assert nack.arguments[:-1] == ["mailer", [[2, 2]], 1500, "later", False]
    assert len(server.named("group_leave")) == 1


async def test_a_lost_delivery_in_the_queue_is_never_returned(server: FakeServer) -> None:
    async with headwater.connect(server.url) as db, db.join("mailer", credit=2) as group:
        await in_thread(
            server,
            0,
            ["deliveries", [row(1, 1), row(2, 2)]],
            ["lost", [1]],
            ["deliveries", [row(3, 1, 2)]],
        )
        found = [await group.__anext__() for _ in range(2)]
        assert {(one.position, one.attempt) for one in found} == {(2, 1), (1, 2)}


async def test_an_acknowledgement_whose_answer_is_lost_is_sent_again(
    server: FakeServer,
) -> None:
    committed: list[Any] = [[8, 1_000_000, None, None, {}], []]
    server.on("execute", FakeServer.DROP, committed)
    async with headwater.connect(server.url) as db, db.join("mailer") as group:
        await in_thread(server, 0, ["deliveries", [row(1, 1)]])
        delivery = await group.__anext__()
        # The delivery and its lease end with the lost connection. But the server knows that the
        # transaction with the acknowledgement was committed.
        await delivery.ack()
        assert delivery.settled
    first, second = server.named("execute")
    assert first.arguments == second.arguments


async def test_a_block_that_fails_sends_a_nack_with_the_exception_as_the_reason(
    server: FakeServer,
) -> None:
    async with headwater.connect(server.url) as db:
        with pytest.raises(ZeroDivisionError):
            async with db.join("mailer") as group:
                await in_thread(server, 0, ["deliveries", [row(1, 1), row(2, 2)]])
                await group.__anext__()
                raise ZeroDivisionError("by\0zero")
    [nack] = server.named("nack")
    assert nack.arguments[:-1] == ["mailer", [[1, 1]], None, "ZeroDivisionError: byzero", False]


async def test_a_cancelled_member_leaves_the_group(server: FakeServer) -> None:
    async with headwater.connect(server.url) as db:
        with trio.CancelScope() as scope:
            async with db.join("mailer"):
                scope.cancel()
                await trio.lowlevel.checkpoint()
        await trio.to_thread.run_sync(server.wait_for, "group_leave")
    assert scope.cancelled_caught
    assert server.named("nack") == []


async def test_a_cancelled_join_leaves_the_group(server: FakeServer) -> None:
    def never(_: Request) -> object:
        return FakeServer.HANG

    server.on("group_join", never)
    async with headwater.connect(server.url) as db:
        with trio.move_on_after(0.2):
            async with db.join("mailer"):
                pass
        await trio.to_thread.run_sync(server.wait_for, "group_leave")
    assert server.named("unsubscribe") == []


async def test_two_tasks_cannot_wait_on_one_membership(server: FakeServer) -> None:
    async with (
        headwater.connect(server.url) as db,
        db.join("mailer") as group,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(group.__anext__)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(headwater.InvalidArgument, match="another waits on this one"):
            await group.__anext__()
        nursery.cancel_scope.cancel()


def test_an_invalid_credit_is_refused_before_anything_is_sent() -> None:
    async def refused() -> None:
        with FakeServer() as server:
            async with headwater.connect(server.url) as db:
                for credit in (0, 10_001):
                    with pytest.raises(headwater.InvalidArgument, match="1 to 10000"):
                        db.join("mailer", credit=credit)
                with pytest.raises(headwater.InvalidArgument):
                    db.join("")

    trio.run(refused)
