"""In-memory sockets for the driver of the real server, net/drivers/plain_sockets.py.

    network.py    connection, server end
                         |
    sockets.py    SimulatedSocket  <--recv, send--  PlainSockets  <--ready--  SimulatedReadiness

They behave like sockets of the kernel: they do not block, accept partial writes, and are readable
once bytes have arrived. The order of ready sockets is drawn.
"""

import errno
import random
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import trio

from headwater_server.net.drivers.plain_sockets import PlainSockets
from headwater_server.net.drivers.readiness import READ, WRITE
from headwater_server.net.service import Service
from tests.simulation.network import IN_FLIGHT_SIZE_MAX, Pipe, SimulatedStream

_DESCRIPTOR: Final = 3
"""The file descriptor of every socket. Only the kernel's readiness would need different ones."""


class SimulatedSocket:
    """The server's end of a connection."""

    family = 0

    def __init__(self, stream: SimulatedStream) -> None:
        self._connection = stream.connection
        self._incoming = stream.incoming
        self._outgoing = stream.outgoing
        self._closed = False

    @property
    def pipes(self) -> tuple[Pipe, Pipe]:
        """The pipes whose changes can make it ready."""
        return self._incoming, self._outgoing

    def readiness(self) -> int:
        """What would not block now."""
        incoming, outgoing = self._incoming, self._outgoing
        if incoming.broken or outgoing.broken:
            return READ | WRITE
        ready = WRITE if outgoing.size < IN_FLIGHT_SIZE_MAX else 0
        arrived = bool(incoming.chunks) and incoming.chunks[0][0] <= trio.current_time()
        if arrived or (incoming.ended and not incoming.chunks):
            ready |= READ
        return ready

    def next_arrival(self) -> float:
        """The time at which bytes in flight arrive; infinity if there are none."""
        chunks = self._incoming.chunks
        return chunks[0][0] if chunks else float("inf")

    def recv(self, size: int, flags: int = 0) -> bytes:
        self._check_open()
        if self._incoming.broken:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was cut")
        if not self.readiness() & READ:
            raise BlockingIOError(errno.EAGAIN, "nothing has arrived")
        if not self._incoming.chunks:
            return b""
        if flags & socket.MSG_PEEK:
            return self._incoming.chunks[0][1][:size]
        return self._incoming.take(size, self._connection.network.random)

    def send(self, data: bytes) -> int:
        self._check_open()
        if self._outgoing.broken:
            raise BrokenPipeError(errno.EPIPE, "the connection was cut")
        room = IN_FLIGHT_SIZE_MAX - self._outgoing.size
        if room <= 0:
            raise BlockingIOError(errno.EAGAIN, "there is no room")
        dice = self._connection.network.random
        size = min(len(data), room)
        if dice.random() < 0.1:
            # The kernel may accept any part.
            size = dice.randint(1, size)
        self._connection.carry(self._outgoing, "server", bytes(data[:size]))
        return size

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.close(self._outgoing)

    def shutdown(self, _how: int) -> None:
        self._connection.close(self._outgoing)

    def fileno(self) -> int:
        return -1 if self._closed else _DESCRIPTOR

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def setsockopt(self, *_options: int) -> None:
        """Do nothing: the simulated network has no options."""

    def __enter__(self) -> "SimulatedSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "the socket is closed")


class SimulatedListener:
    """A listening socket."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[SimulatedSocket, str]] = deque()
        self._closed = False
        self.arrived: Callable[[], None] = lambda: None

    def connect(self, stream: SimulatedStream, peer: str) -> None:
        """A client connects."""
        if self._closed:
            stream.connection.cut()
            return
        self._waiting.append((SimulatedSocket(stream), peer))
        self.arrived()

    def readiness(self) -> int:
        """What would not block now."""
        return READ if self._waiting else 0

    def next_arrival(self) -> float:
        """Infinity: connections are accepted at once."""
        return float("inf")

    def accept(self) -> tuple[SimulatedSocket, tuple[str, int]]:
        if not self._waiting:
            raise BlockingIOError(errno.EAGAIN, "nobody waits")
        client, peer = self._waiting.popleft()
        return client, (peer, 0)

    def close(self) -> None:
        self._closed = True
        for client, _ in self._waiting:
            client.close()
        self._waiting.clear()

    def setblocking(self, flag: bool) -> None:
        assert not flag


Watched = SimulatedSocket | SimulatedListener


class SimulatedReadiness:
    """Readiness of the sockets. It is level-triggered, as the server uses epoll."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._watched: dict[Any, tuple[int, Any]] = {}
        self._changed = trio.lowlevel.ParkingLot()

    def fileno(self) -> int:
        """The descriptor that is passed to `wait_readable`."""
        return -1

    async def wait_readable(self, _descriptor: int) -> None:
        """Return once one of the sockets is ready."""
        await trio.lowlevel.checkpoint()
        while not self._ready():
            with trio.move_on_at(self._next_arrival()):
                await self._changed.park()

    def register(self, watched: Any, interest: int, owner: Any) -> None:
        assert watched not in self._watched
        if isinstance(watched, SimulatedListener):
            watched.arrived = self._wake
        else:
            for pipe in watched.pipes:
                pipe.watchers.append(self._wake)
        self._watched[watched] = interest, owner
        self._wake()

    def modify(self, watched: Any, interest: int, owner: Any) -> None:
        assert watched in self._watched
        self._watched[watched] = interest, owner
        self._wake()

    def unregister(self, watched: Any) -> None:
        del self._watched[watched]
        if isinstance(watched, SimulatedSocket):
            for pipe in watched.pipes:
                pipe.watchers.remove(self._wake)

    def ready(self) -> list[tuple[Any, int]]:
        """The ready sockets, in a random order."""
        ready = self._ready()
        self._random.shuffle(ready)
        return ready

    def wait(self, _seconds: float) -> bool:
        """Whether a socket is ready now: time passes only in the event loop."""
        return bool(self._ready())

    def _ready(self) -> list[tuple[Any, int]]:
        found = [
            (owner, watched.readiness() & interest)
            for watched, (interest, owner) in self._watched.items()
        ]
        return [(owner, events) for owner, events in found if events]

    def _next_arrival(self) -> float:
        return min(
            (w.next_arrival() for w, (interest, _) in self._watched.items() if interest & READ),
            default=float("inf"),
        )

    def _wake(self) -> None:
        self._changed.unpark_all()

    def close(self) -> None:
        assert not self._watched, "every socket was closed"


def driver(source: random.Random) -> Callable[[Service], PlainSockets]:
    """A factory of the real driver over in-memory sockets."""
    readiness = SimulatedReadiness(source)
    return partial(PlainSockets, readiness=readiness, wait_readable=readiness.wait_readable)
