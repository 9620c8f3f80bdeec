"""The network: in-memory connections that are slow, are cut at any byte, or go silent.

    client end  --pipe--> server end        each pipe delivers bytes in order; the delay of each
                <--pipe--                   chunk is drawn when it is sent

A connection may have a fault, which is drawn when it is opened. After a number of bytes in both
directions together, the connection is cut (both ends get an error), goes silent (bytes are lost
without an error: a half-open connection), or stalls for a while. When a machine dies, its
connections end, with or without an error at the client.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

import msgpack
import trio

Fault = Literal["cut", "silent", "stall"]

_SIZE: Final = 4
_MEMBERS: Final = 3
"""Bytes of a frame's size, and members of a frame's body."""

_FRAME_SIZE_MAX: Final = 128 * 1024
"""Largest frame in a world. A larger size means that the bytes are not a frame."""

IN_FLIGHT_SIZE_MAX: Final = 256 * 1024
"""Bytes in flight in one direction, like a socket's buffers. Beyond this the sender waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFaults:
    """The faults of the network.

    Attributes:
        latency_s: the shortest delay of a chunk of bytes; sometimes it is up to five times as long.
        faulty: the share of connections with a fault.
        bytes_before: the average number of bytes before the fault.
        stall_s: the longest stall.
        silent_death: the share of a dead machine's connections that end without an error.
    """

    latency_s: float = 0.0005
    faulty: float = 0.0
    bytes_before: int = 4000
    stall_s: float = 5.0
    silent_death: float = 0.0


class Pipe:
    """One direction of a connection."""

    def __init__(self) -> None:
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.ended = False
        self.broken = False
        self.changed = trio.lowlevel.ParkingLot()
        self.watchers: list[Callable[[], None]] = []
        self.arrival = 0.0

    def tell(self) -> None:
        """Wake the waiting tasks after a change."""
        self.changed.unpark_all()
        for watcher in self.watchers:
            watcher()

    def take(self, size_max: int, dice: random.Random) -> bytes:
        """Take bytes that have arrived. There must be some."""
        arrival, data = self.chunks.popleft()
        size = min(size_max, len(data))
        if dice.random() < 0.1:
            # Frames may arrive in any pieces.
            size = dice.randint(1, size)
        if size < len(data):
            self.chunks.appendleft((arrival, data[size:]))
        self.size -= size
        self.tell()
        return data[:size]

    def end(self, *, broken: bool) -> None:
        self.ended = True
        if broken:
            self.broken = True
            self.chunks.clear()
            self.size = 0
        self.tell()


class _Frames:
    """Checks that the server sends whole frames, in any pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def problem(self, data: bytes) -> str | None:
        """The problem with the next bytes, or None."""
        self._rest += data
        while len(self._rest) >= _SIZE:
            end = _SIZE + int.from_bytes(self._rest[:_SIZE], "big")
            if not _SIZE < end <= _FRAME_SIZE_MAX:
                return f"a frame of {end - _SIZE} bytes"
            if len(self._rest) < end:
                break
            body, self._rest = self._rest[_SIZE:end], self._rest[end:]
            try:
                members = msgpack.unpackb(body)
            except ValueError as error:
                return f"{body[:40]!r}: {error}"
            if not isinstance(members, list) or len(members) != _MEMBERS:
                return f"{body[:40]!r}"
        return None


class Connection:
    """The two ends of a connection, and its pipes."""

    def __init__(self, network: "Network", number: int) -> None:
        self.number = number
        self.network = network
        self.silent = False
        self._random = network.random
        self._to_server = Pipe()
        self._to_client = Pipe()
        self._bytes = 0
        self._frames = _Frames()
        self._fault: Fault | None = None
        self._fault_at = 0
        self._stalled_until = 0.0
        faults = network.faults
        if self._random.random() < faults.faulty:
            self._fault = self._random.choice(("cut", "cut", "silent", "stall"))
            self._fault_at = int(self._random.expovariate(1 / faults.bytes_before))
        self.client = SimulatedStream(self, "client", self._to_server, self._to_client)
        self.server = SimulatedStream(self, "server", self._to_client, self._to_server)

    def carry(self, pipe: Pipe, sender: str, data: bytes) -> None:
        """Carry a sender's bytes, up to the connection's fault."""
        self.network.trace("send", self.number, sender, data)
        if sender == "server":
            problem = self._frames.problem(data)
            if problem is not None:
                self.network.surprise(
                    f"connection {self.number}: the server sent no frame: {problem}"
                )
        passing = data
        if self._fault is not None and self._bytes + len(data) > self._fault_at:
            passing = data[: max(0, self._fault_at - self._bytes)]
        self._bytes += len(data)
        if not self.silent and passing:
            self._deliver(pipe, passing)
        if len(passing) < len(data):
            self._meet(pipe, data[len(passing) :])

    def _deliver(self, pipe: Pipe, data: bytes) -> None:
        delay = self.network.faults.latency_s
        if self._random.random() < 0.1:
            delay *= self._random.uniform(1, 5)
        pipe.arrival = max(pipe.arrival, trio.current_time() + delay, self._stalled_until)
        pipe.chunks.append((pipe.arrival, data))
        pipe.size += len(data)
        pipe.tell()

    def _meet(self, pipe: Pipe, rest: bytes) -> None:
        fault, self._fault = self._fault, None
        self.network.trace("fault", self.number, fault)
        match fault:
            case "cut":
                self.cut()
            case "silent":
                self.silent = True
            case _:
                stall = self._random.uniform(0, self.network.faults.stall_s)
                self._stalled_until = trio.current_time() + stall
                self._deliver(pipe, rest)

    def cut(self) -> None:
        """End the connection with an error at both ends. Bytes in flight are lost."""
        self._to_server.end(broken=True)
        self._to_client.end(broken=True)

    def die(self) -> None:
        """End the connection, because the server's machine died."""
        if self._random.random() < self.network.faults.silent_death:
            self.silent = True
        else:
            self.cut()

    def close(self, pipe: Pipe) -> None:
        """Close one direction."""
        if not self.silent:
            pipe.end(broken=False)


class SimulatedStream(trio.abc.Stream):
    """One end of a connection. sockets.py wraps it as a socket."""

    def __init__(self, connection: Connection, name: str, outgoing: Pipe, incoming: Pipe) -> None:
        self.connection = connection
        self.outgoing = outgoing
        self.incoming = incoming
        self._name = name
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        self.connection.carry(self.outgoing, self._name, bytes(data))
        while self.outgoing.size > IN_FLIGHT_SIZE_MAX:
            await self.outgoing.changed.park()
            self._check_open()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self.incoming
        while True:
            if self._closed:
                raise trio.ClosedResourceError("closed here")
            if pipe.broken:
                raise trio.BrokenResourceError("the connection was cut")
            if pipe.chunks:
                wait = pipe.chunks[0][0] - trio.current_time()
                if wait <= 0:
                    return pipe.take(max_bytes or 65536, self.connection.network.random)
                with trio.move_on_after(wait):
                    await pipe.changed.park()
            elif pipe.ended:
                return b""
            else:
                await pipe.changed.park()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.connection.close(self.outgoing)
            self.incoming.changed.unpark_all()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("closed here")
        if self.outgoing.broken:
            raise trio.BrokenResourceError("the connection was cut")


class Network:
    """The network between clients and the machine.

    Attributes:
        serve: accepts the server's end of a new connection; None while no server listens.
        faults: may be changed at any time; open connections keep their fault.
    """

    def __init__(
        self,
        source: random.Random,
        faults: NetworkFaults,
        trace: Callable[..., None],
        surprise: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.random = source
        self.faults = faults
        self.trace = trace
        self.surprise = surprise
        self.serve: Callable[[SimulatedStream, str], None] | None = None
        self._connections: list[Connection] = []
        self._count = 0

    def opener(self, client: str) -> Callable[[], Awaitable[trio.abc.Stream]]:
        """A function with which a client opens connections."""

        async def open_stream() -> trio.abc.Stream:
            await trio.sleep(self.faults.latency_s)
            if self.serve is None:
                raise ConnectionRefusedError("nobody listens")
            self._count += 1
            connection = Connection(self, self._count)
            self._connections.append(connection)
            self.trace("connect", connection.number, client)
            self.serve(connection.server, f"{client}/{connection.number}")
            return connection.client

        return open_stream

    def die(self) -> None:
        """End all connections, because the machine died."""
        self.serve = None
        for connection in self._connections:
            connection.die()
        self._connections.clear()
