"""Many tasks on one connection: order, cancellation, and answers that come too late."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial

import pytest
import trio
import trio.testing

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.transport.connection import (
    CHECKS_PER_TIMEOUT,
    QUEUED_SIZE_MAX,
    Connection,
    Reply,
)
from headwater.transport.stepping import step
from headwater.transport.trio_runtime import TrioSocketConnection
from headwater_protocol.connection import Request, ServerConnection
from tests.client.faces import run_on
from tests.client.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def by_key(server: FakeServer) -> None:
    """Answer a get of the key (n,) with n, except that the key (0,) waits for ever."""

    def answer(request: object) -> object:
        key: bytes = request.arguments[1]  # type: ignore[attr-defined]
        return server.HANG if key == b"\x14" else key[-1:]

    server.on("get", answer)


async def test_a_cancelled_trio_task_does_not_disturb_the_others(server: FakeServer) -> None:
    by_key(server)
    async with headwater.connect(server.url) as db:
        seen = []

        async def get(number: int) -> None:
            seen.append(await db.get(number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(get, 0)
            nursery.start_soon(get, 5)
            await trio.to_thread.run_sync(server.wait_for, "get", 2)
            while not seen:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert seen == [5]
        # The answer to the cancelled request arrives late, and is ignored.
        (peer,) = server.peers
        (late,) = [number for number, name in peer.protocol.in_flight.items() if name == "get"]
        peer.send(peer.protocol.answer(late, b"\x63"))
        assert [await db.get(number) for number in range(1, 20)] == [*range(1, 20)]


def test_a_cancelled_asyncio_task_does_not_disturb_the_others(server: FakeServer) -> None:
    by_key(server)

    async def main() -> None:
        async with headwater.connect(server.url) as db:
            stuck = asyncio.create_task(db.get(0))
            assert await db.get(5) == 5
            # The answer to one request may arrive before the other request reaches the server.
            await asyncio.to_thread(server.wait_for, "get", 2)
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck
            (peer,) = server.peers
            (late,) = [number for number, name in peer.protocol.in_flight.items() if name == "get"]
            peer.send(peer.protocol.answer(late, b"\x63"))
            numbers = await asyncio.gather(*(db.get(number) for number in range(1, 20)))
            assert numbers == [*range(1, 20)]

    asyncio.run(main())


async def test_requests_of_many_tasks_are_sent_together(server: FakeServer) -> None:
    by_key(server)
    async with headwater.connect(server.url) as db:
        (peer,) = server.peers
        before = peer.receives

        async def get(number: int) -> None:
            assert await db.get(number) == number

        async with trio.open_nursery() as nursery:
            for number in range(1, 100):
                nursery.start_soon(get, number)
        # The first request is sent immediately, and the others together in a few sends.
        assert peer.receives - before < 20


async def test_all_waiting_tasks_get_an_error_when_the_connection_is_lost(
    server: FakeServer,
) -> None:
    server.on("begin", server.HANG)
    async with headwater.connect(server.url) as db:
        lost = 0

        async def begin() -> None:
            nonlocal lost
            with pytest.raises(headwater.ConnectionLost):
                await db.transaction().begin()
            lost += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(begin)
            await trio.to_thread.run_sync(server.wait_for, "begin", 5)
            server.drop_all()
        assert lost == 5
        await db.ping()


async def test_a_cancelled_block_can_clean_up_under_a_shield(server: FakeServer) -> None:
    server.on("get", b"\x01")
    cleaned = False
    with trio.CancelScope() as scope:
        async with headwater.connect(server.url) as db:
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    cleaned = await db.get("a") == 1
    assert cleaned
    assert scope.cancelled_caught


async def test_an_exception_leaves_the_trio_block_unchanged(server: FakeServer) -> None:
    with pytest.raises(ZeroDivisionError):
        async with headwater.connect(server.url):
            raise ZeroDivisionError


def test_only_a_request_that_waits_too_long_times_out(server: FakeServer) -> None:
    by_key(server)

    async def main() -> None:
        async with headwater.connect(server.url, request_timeout=0.4) as db:
            stuck = asyncio.create_task(db.get(0))
            while not stuck.done():
                assert await db.get(1) == 1
            with pytest.raises(headwater.TimedOut, match="no answer within"):
                await stuck
        assert len(server.peers) == 1

    asyncio.run(main())


async def test_nothing_is_sent_before_the_rest_of_a_frame() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    connection = TrioSocketConnection("test", ours)
    protocol = ServerConnection()
    request_id, hello = connection._protocol.request("hello", 1)
    protocol.receive(hello)
    connection._protocol.receive(protocol.answer(request_id, [1, "", [], [], b"0" * 16]))
    received: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.serve, 30.0)
        large = ("write", b"0" * 16, [["put", b"k", bytes(5_000_000)]])
        (waits,) = connection.post([large])
        await trio.testing.wait_all_tasks_blocked()
        # Nobody waits for the large request any more, but not all of it was sent yet.
        connection._pending.clear()
        assert not waits.done
        connection.post([("ping",)])
        theirs.setblocking(False)
        while len(received) < 2:
            await trio.lowlevel.wait_readable(theirs)
            for item in protocol.receive(theirs.recv(1 << 20)):
                assert isinstance(item, Request)
                received.append(item.name)
        connection.close()
    theirs.close()
    assert received == ["write", "ping"]


def test_a_wrong_request_sends_nothing_and_is_not_pending(server: FakeServer) -> None:
    async def main() -> None:
        async with headwater.connect(server.url) as db:
            connection = await db._channel.connection()
            with pytest.raises(headwater.InvalidArgument):
                connection.post([("ping",), ("get", None, 5)])
            with pytest.raises(headwater.UnknownOperation):
                await connection.ask("dance")
            assert not connection._protocol.in_flight
            await db.ping()

    asyncio.run(main())
    assert [came.name for came in server.requests] == ["hello", "ping"]


def test_a_coroutine_that_suspends_cannot_be_stepped() -> None:
    class Elsewhere:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def waits() -> None:
        await Elsewhere()

    with pytest.raises(AssertionError, match="suspended"):
        step(waits())


def test_connect_needs_a_known_event_loop(server: FakeServer) -> None:
    with pytest.raises(headwater.InvalidArgument, match="connect_blocking"):
        step(headwater.connect(server.url).__aenter__())


def test_asyncio_needs_no_trio(server: FakeServer) -> None:
    code = (
        "import asyncio, sys, headwater\n"
        "async def main():\n"
        f"    async with headwater.connect({server.url!r}) as db: await db.ping()\n"
        "asyncio.run(main())\n"
        f"with headwater.connect_blocking({server.url!r}) as db: db.ping()\n"
        "assert 'trio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(server.named("ping")) == 2


async def test_a_connection_that_only_receives_notices_a_dead_peer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # The simulation found this: the server's machine died without closing its connections, and a
    # subscriber without a pending request waited for ever.
    asked: list[str] = []
    streams: list[trio.abc.Stream] = []

    async def serve(stream: trio.abc.Stream) -> None:
        connection = ServerConnection()
        while data := await stream.receive_some():
            for item in connection.receive(bytes(data)):
                assert isinstance(item, Request)
                asked.append(item.name)
                answers: dict[str, object] = {"hello": [1, "fake", [], [], b"0" * 16]}
                if item.name != "ping":
                    await stream.send_all(
                        connection.answer(item.request_id, answers.get(item.name))
                    )

    async with trio.open_nursery() as nursery:

        async def open_stream() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            streams.append(ours)
            nursery.start_soon(serve, theirs)
            return ours

        database = headwater.connect(
            open_stream=open_stream, request_timeout=4.0, retry_timeout=0.0
        )
        async with database as db, db.subscribe() as feed:
            with trio.move_on_after(20):
                await feed.__anext__()
        nursery.cancel_scope.cancel()
    assert len(streams) > 1, "the client connected again"
    assert asked[:3] == ["hello", "subscribe", "ping"]


@pytest.mark.parametrize("face", ["trio", "asyncio", "uvloop"])
def test_a_client_queues_a_bounded_number_of_bytes_and_then_waits(
    face: str, real_server: ServerProcess
) -> None:
    value = bytes(200_000)
    longest = 0

    async def scenario(db: headwater.Database) -> None:
        (connection,) = db._channel._connections
        send = connection._send

        def watched(data: bytes, alone: bool) -> None:
            nonlocal longest
            send(data, alone)
            longest = max(longest, connection._queued_size)

        connection._send = watched  # type: ignore[method-assign]

        async def put(number: int) -> None:
            await db.put(("queued", number), value)

        await together(face, [partial(put, number % 10) for number in range(100)])
        assert await db.get(("queued", 9)) == value
        assert not connection._waiting_for_room

    run_on(face, real_server.url, scenario)
    assert QUEUED_SIZE_MAX / 2 < longest < QUEUED_SIZE_MAX + 2 * len(value)


@pytest.mark.parametrize("face", ["trio", "asyncio", "uvloop"])
def test_who_waits_for_room_is_told_when_the_connection_is_lost(
    face: str, server: FakeServer
) -> None:
    outcomes: list[type[Exception]] = []

    async def scenario(db: headwater.Database) -> None:
        (connection,) = db._channel._connections
        connection._queued_size = QUEUED_SIZE_MAX + 1

        async def wait() -> None:
            with pytest.raises(headwater.ConnectionLost):
                await connection.ask("ping")
            outcomes.append(headwater.ConnectionLost)

        async def lose() -> None:
            while len(connection._waiting_for_room) < 3:
                await db._channel.runtime.sleep(0)
            connection.close()

        await together(face, [wait, wait, wait, lose])

    run_on(face, server.url, scenario)
    assert len(outcomes) == 3


async def together(face: str, works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run works beside each other."""
    if face == "trio":
        async with trio.open_nursery() as nursery:
            for work in works:
                nursery.start_soon(work)
    else:
        await asyncio.gather(*(work() for work in works))


class Silent(Connection):
    """A connection whose peer sends nothing. The test calls its checks."""

    async def _park(self, reply: Reply) -> None:
        raise AssertionError("nobody waits here")

    def _wake(self, sleeper: object) -> None:
        raise AssertionError("nobody sleeps here")

    def _send(self, data: bytes, alone: bool) -> None:
        pass

    def _shut(self) -> None:
        pass


def test_a_request_sent_between_two_checks_has_its_whole_timeout() -> None:
    # A request does not read the clock. Its age is the number of checks since it was sent.
    connection = Silent("nowhere")
    for _ in range(3):
        connection.check_overdue(8.0)
    (reply,) = connection.post([("hello", 1, "test")])
    for _ in range(CHECKS_PER_TIMEOUT):
        connection.check_overdue(8.0)
    assert not reply.done
    connection.check_overdue(8.0)
    assert isinstance(reply.error, headwater.TimedOut)
    assert connection.closed
