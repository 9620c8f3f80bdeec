"""The driver of streams: a client that stalls, one that vanishes, one that is refused."""

from dataclasses import replace

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from headwater_protocol.connection import Failure
from headwater_protocol.errors import TooMany
from headwater_server.net.drivers.streams import serve_stream
from headwater_server.net.session.session import Session
from tests.net.serving import Client, MemoryServer, serving, settings


async def connect_slowly(server: MemoryServer) -> Client:
    """A connection without a buffer: a send waits until the other side reads."""
    ours, theirs = lockstep_stream_pair()
    client = Client(ours)

    async def serve() -> None:
        await serve_stream(theirs, server.server.service, peer="slow")

    server.nursery.start_soon(serve)
    await client.hello()
    return client


async def test_a_stalled_client_is_not_read_from_until_it_reads() -> None:
    given = settings(output_pause_size=50_000, output_resume_size=10_000)
    async with serving(given) as server:
        other, client = await server.connect(), await connect_slowly(server)
        await server.put(other, b"k", b"v" * 10_000)
        requests = [client.connection.request("get", None, b"k") for _ in range(100)]
        sent = trio.Event()

        async def send() -> None:
            for _, frame in requests:
                await client.stream.send_all(frame)
            sent.set()

        server.nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert not sent.is_set(), "the server must not read any more requests"
        held = max(session.output_size for session in server.server.service.sessions)
        assert held < 70_000
        for request_id, _ in requests:
            assert len(await client.result(request_id)) == 10_000
        assert sent.is_set()


async def test_a_client_that_reads_nothing_is_dropped_in_the_middle_of_its_output() -> None:
    given = settings(output_pause_size=50_000, output_size_max=100_000)
    async with serving(given) as server:
        other, client = await server.connect(), await connect_slowly(server)
        await server.put(other, b"k", b"v" * 40_000)
        requests = [client.connection.request("get", None, b"k") for _ in range(2)]
        await client.stream.send_all(b"".join(frame for _, frame in requests))
        await wait_all_tasks_blocked()
        sessions = [s for s in server.server.service.sessions if isinstance(s, Session)]
        assert len(sessions) == 2
        session = next(s for s in sessions if s.peer == "slow")
        session.send(bytes(100_000))
        await wait_all_tasks_blocked()
        assert len(server.server.service.sessions) == 1
        await other.ask("ping")


async def test_waiting_for_a_client_to_read_its_last_answer_is_bounded(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with serving() as server:
        client = await connect_slowly(server)
        await client.stream.send_all(b"\0\0\0\0")
        await trio.sleep(5)
        assert len(server.server.service.sessions) == 1
        await trio.sleep(10)
        assert not server.server.service.sessions


async def test_one_connection_too_many_is_refused_with_the_reason() -> None:
    async with serving(replace(settings(), connections_max=1)) as server:
        first = await server.connect()
        second = await server.connect(hello=False)
        item = await second.receive()
        assert isinstance(item, Failure)
        assert isinstance(item.error, TooMany)
        with pytest.raises(trio.EndOfChannel):
            await second.receive()
        await first.ask("ping")
