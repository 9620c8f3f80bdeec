"""A server in memory for tests: simulated files, streams in memory, and syncs that tests hold up.

    async with serving() as server:
        client = await server.connect()
        await client.ask("ping")

It runs everything that a real server runs, except sockets, signals and threads.
"""

import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import trio
from trio.testing import memory_stream_pair

from headwater_protocol.connection import Answer, ClientConnection, Failure, Push, Responded
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_server.net.drivers.streams import serve_stream
from headwater_server.net.monitoring.recorder import Recorder
from headwater_server.net.server import Server
from headwater_server.net.settings import ServerSettings, SessionSettings
from headwater_server.net.threads.worker_thread import RunBlocking
from tests.engine.database import Database

T = TypeVar("T")

NO_END_MS = 3_600_000
"""Milliseconds of a turn that does not end during a test."""


@dataclass
class Disk:
    """A disk whose syncs a test can hold up or make fail."""

    syncs: int = 0
    error: Exception | None = None
    _free: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self._free.set()

    def hold(self) -> None:
        """Hold up every sync until `release`."""
        if self._free.is_set():
            self._free = trio.Event()

    def release(self) -> None:
        """Let the syncs continue."""
        self._free.set()

    async def run_blocking(self, call: Callable[[], T], /) -> T:
        """Run a call of the committer as the disk allows."""
        self.syncs += 1
        await self._free.wait()
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return call()


class Client:
    """The client's end of a connection in memory."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.connection = ClientConnection()
        self._arrived: deque[Responded] = deque()

    async def send(self, operation: str, *arguments: Any) -> int:
        """Send a request without waiting for its answer."""
        request_id, frame = self.connection.request(operation, *arguments)
        await self.stream.send_all(frame)
        return request_id

    async def receive(self) -> Responded:
        """The next message."""
        while not self._arrived:
            data = await self.stream.receive_some(65536)
            if not data:
                raise trio.EndOfChannel
            self._arrived.extend(self.connection.receive(bytes(data)))
        return self._arrived.popleft()

    async def result(self, request_id: int) -> Any:
        """The payload of the next answer; raises its error."""
        item = await self.receive()
        if isinstance(item, Failure):
            assert item.request_id == request_id, item
            raise item.error
        assert isinstance(item, Answer), item
        assert item.request_id == request_id, item
        return item.payload

    async def ask(self, operation: str, *arguments: Any) -> Any:
        """Send a request and return its answer."""
        return await self.result(await self.send(operation, *arguments))

    async def pushed(self) -> Any:
        """The payload of the next push."""
        item = await self.receive()
        assert isinstance(item, Push), item
        return item.payload

    async def hello(self) -> Any:
        """Say hello."""
        return await self.ask("hello", PROTOCOL_VERSION, "test")

    async def close(self) -> None:
        """Close the connection."""
        await self.stream.aclose()


class MemoryServer:
    """A server whose clients come through `connect`."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        local_only: bool = True,
        recorder: Recorder | None = None,
    ) -> None:
        self.database = Database(settings.engine)
        self.disk = Disk()
        self.checkpoint_disk = Disk()
        self.backup_disk = Disk()
        self.server = Server(
            self.database.engine,
            settings,
            clock=lambda: self.database.now,
            worker=self._worker,
            local_only=local_only,
            recorder=recorder,
        )
        self.nursery: trio.Nursery

    @property
    def engine(self) -> Any:
        return self.database.engine

    def _worker(self, name: str) -> RunBlocking:
        disks = {
            "commit": self.disk,
            "checkpoint": self.checkpoint_disk,
            "backup": self.backup_disk,
        }
        return disks[name].run_blocking if name in disks else _inline

    async def connect(self, *, hello: bool = True) -> Client:
        """A new connection, by default after hello."""
        ours, theirs = memory_stream_pair()
        client = Client(ours)
        self.nursery.start_soon(_serve, theirs, self.server, self.database)
        if hello:
            await client.hello()
        return client

    def new_id(self) -> bytes:
        """A new transaction id."""
        return self.database.new_id()

    async def put(self, client: Client, key: bytes, value: bytes) -> Any:
        """Put a key in a transaction of its own."""
        return await client.ask("execute", self.new_id(), [], [], [["put", key, value]])

    async def append(
        self, client: Client, stream: str, *data: bytes, kind: str = "Happened"
    ) -> Any:
        """Append events in a transaction of its own."""
        events = [[None, kind, one, b""] for one in data]
        return await client.ask("execute", self.new_id(), [], [], [["append", stream, -1, events]])


async def _inline(call: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return call()


async def _serve(stream: trio.abc.Stream, server: Server, database: Database) -> None:
    await serve_stream(stream, server.service, peer="memory")


def settings(**session: Any) -> ServerSettings:
    """Settings with other bounds for sessions. Turns do not end by time, as machines differ."""
    return ServerSettings(
        data="data",
        scrub_interval_ms=None,
        turn_ms=NO_END_MS,
        feeds_turn_ms=NO_END_MS,
        session=replace(SessionSettings(turn_ms=NO_END_MS), **session),
    )


@asynccontextmanager
async def serving(
    given: ServerSettings | None = None,
    *,
    local_only: bool = True,
    recorder: Recorder | None = None,
) -> AsyncIterator[MemoryServer]:
    """A running server in memory."""
    random.seed(1)
    server = MemoryServer(given or settings(), local_only=local_only, recorder=recorder)
    async with trio.open_nursery() as nursery:
        server.nursery = nursery
        await nursery.start(server.server.run)
        yield server
        nursery.cancel_scope.cancel()
