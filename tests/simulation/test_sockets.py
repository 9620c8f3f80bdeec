"""In-memory sockets behave like those of the kernel, as far as the server's driver can see."""

import random
from typing import Any

import pytest
import trio
import trio.testing

from headwater_server.net.drivers.readiness import READ, WRITE
from tests.simulation.network import IN_FLIGHT_SIZE_MAX, Network, NetworkFaults
from tests.simulation.plan import draw
from tests.simulation.sockets import SimulatedListener, SimulatedReadiness, SimulatedSocket
from tests.simulation.world import run_world


class Ends:
    """A listening socket, its readiness, and clients that connect."""

    def __init__(self, **faults: Any) -> None:
        self.network = Network(random.Random(1), NetworkFaults(**faults), lambda *_: None)
        self.listener = SimulatedListener()
        self.network.serve = self.listener.connect
        self.readiness = SimulatedReadiness(random.Random(2))
        self.readiness.register(self.listener, READ, "listener")

    async def connect(self) -> tuple[trio.abc.Stream, SimulatedSocket]:
        client = await self.network.opener("client")()
        await self.readiness.wait_readable(self.readiness.fileno())
        assert self.readiness.ready() == [("listener", READ)]
        server, address = self.listener.accept()
        assert address[0].startswith("client/")
        self.readiness.register(server, READ, "server")
        return client, server


async def test_a_socket_is_readable_once_bytes_have_arrived(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends(latency_s=0.5)
    client, server = await ends.connect()
    with pytest.raises(BlockingIOError):
        ends.listener.accept()
    began = trio.current_time()
    await client.send_all(b"hello")
    assert ends.readiness.ready() == []
    with pytest.raises(BlockingIOError):
        server.recv(10)
    await ends.readiness.wait_readable(-1)
    assert trio.current_time() - began >= 0.5
    assert ends.readiness.ready() == [("server", READ)]
    received = server.recv(3)
    assert b"hello".startswith(received)
    assert 0 < len(received) <= 3
    # As with epoll, a socket with unread bytes stays ready.
    assert ends.readiness.ready() == [("server", READ)]


async def test_the_end_of_a_connection_is_read_as_no_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    client, server = await ends.connect()
    await client.aclose()
    await ends.readiness.wait_readable(-1)
    assert server.recv(10) == b""


async def test_a_cut_connection_is_ready_and_fails(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    _, server = await ends.connect()
    ends.network.die()
    await ends.readiness.wait_readable(-1)
    assert ends.readiness.ready() == [("server", READ)]
    with pytest.raises(ConnectionResetError):
        server.recv(10)
    with pytest.raises(BrokenPipeError):
        server.send(b"too late")


async def test_a_full_socket_takes_no_more_until_the_client_reads(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    client, server = await ends.connect()
    ends.readiness.modify(server, WRITE, "server")
    assert ends.readiness.ready() == [("server", WRITE)]
    data = bytes(IN_FLIGHT_SIZE_MAX)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += server.send(data)
    assert sent == IN_FLIGHT_SIZE_MAX
    assert ends.readiness.ready() == []
    assert await client.receive_some(10)
    assert ends.readiness.ready() == [("server", WRITE)]


async def test_a_connection_to_a_closed_listener_is_cut(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    ends.listener.close()
    client = await ends.network.opener("client")()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


def test_worlds_have_both_drivers_both_stores_and_fsync_on_the_event_loop() -> None:
    plans = [draw(seed) for seed in range(1, 101)]
    assert {(plan.driver, plan.adaptive) for plan in plans} == {
        ("sockets", False),
        ("sockets", True),
        ("streams", False),
    }
    assert {plan.store for plan in plans} == {"memory", "rocks"}
    calm = draw(next(plan.seed for plan in plans if plan.adaptive), "calm")
    verdict = run_world(calm)
    assert not verdict.problems
    assert verdict.counts["syncs in the event loop"] > 0
