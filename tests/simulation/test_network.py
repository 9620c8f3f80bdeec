"""The simulated network delivers bytes in order, and its faults happen."""

import random
from typing import Any

import pytest
import trio
import trio.testing

from tests.simulation.network import Network, NetworkFaults, SimulatedStream


class Ends:
    """A network with a listening server, and its trace."""

    def __init__(self, seed: int = 1, **faults: Any) -> None:
        self.traced: list[tuple[Any, ...]] = []
        self.surprises: list[str] = []
        self.accepted: list[SimulatedStream] = []
        self.network = Network(
            random.Random(seed),
            NetworkFaults(**faults),
            lambda *what: self.traced.append(what),
            self.surprises.append,
        )
        self.network.serve = lambda stream, peer: self.accepted.append(stream)

    async def connect(self) -> tuple[trio.abc.Stream, SimulatedStream]:
        client = await self.network.opener("client")()
        return client, self.accepted[-1]


async def receive_all(stream: trio.abc.Stream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        data = await stream.receive_some()
        assert data, "it ended early"
        received += bytes(data)
    return received


async def test_bytes_arrive_in_order_and_late(autojump_clock: trio.testing.MockClock) -> None:
    ends = Ends(latency_s=0.5)
    client, server = await ends.connect()
    began = trio.current_time()
    for number in range(20):
        await client.send_all(b"%03d" % number)
    expected = b"".join(b"%03d" % number for number in range(20))
    assert await receive_all(server, 60) == expected
    assert trio.current_time() - began >= 0.5
    await server.send_all(b"back")
    assert await receive_all(client, 4) == b"back"


async def test_a_close_ends_the_stream_after_the_sent_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client, server = await Ends().connect()
    await client.send_all(b"last word")
    await client.aclose()
    assert await receive_all(server, 9) == b"last word"
    assert await server.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"more")


async def test_a_dead_machine_refuses_connections(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    client, server = await ends.connect()
    ends.network.die()
    for end in (client, server):
        with pytest.raises(trio.BrokenResourceError):
            await end.receive_some()
    with pytest.raises(ConnectionRefusedError):
        await ends.network.opener("client")()


async def test_a_silent_death_causes_no_error_at_the_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends(silent_death=1.0)
    client, _ = await ends.connect()
    ends.network.die()
    await client.send_all(b"hello?")
    with trio.move_on_after(1000) as waiting:
        await client.receive_some()
    assert waiting.cancelled_caught


async def test_connections_are_cut_go_silent_or_stall(
    autojump_clock: trio.testing.MockClock,
) -> None:
    faults_met: set[str] = set()
    for seed in range(30):
        ends = Ends(seed, faulty=1.0, bytes_before=50)
        client, server = await ends.connect()
        received = b""
        with trio.move_on_after(60):
            try:
                for _ in range(100):
                    await client.send_all(b"0123456789")
                    received += await server.receive_some()
            except trio.BrokenResourceError:
                pass
        assert (b"0123456789" * 100).startswith(received), f"seed {seed}"
        faults_met.update(what[2] for what in ends.traced if what[0] == "fault")
    assert faults_met == {"cut", "silent", "stall"}


async def test_a_sender_waits_if_too_many_bytes_are_in_flight(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client, server = await Ends().connect()
    with trio.move_on_after(10) as waiting:
        while True:
            await client.send_all(bytes(100_000))
    assert waiting.cancelled_caught
    assert await receive_all(server, 300_000) == bytes(300_000)


async def test_the_server_must_send_whole_frames_in_any_pieces(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ends = Ends()
    _, server = await ends.connect()
    frames = b"\x00\x00\x00\x04\x93\x01\x00\xc0" * 2
    for size in (3, 4, 9):
        await server.send_all(frames[:size])
        frames = frames[size:]
    assert not ends.surprises
    await server.send_all(b"\x00\x00\x00\x04\x93\x01")
    await server.send_all(b"\x00\x00\x00\x04\x93\x01\x00\xc0")
    assert "the server sent no frame" in ends.surprises[0]
