"""Nodes in memory for tests: servers on simulated disks, and streams between them that can be cut.

    async with cluster() as nodes:
        leader = await nodes.start("a")
        follower = await nodes.start("b", follows="a")
        client = await leader.client()

A node runs everything that a real server runs, except sockets, signals and threads. `crash` loses
its power: what was not synced is gone, and `start` opens what is left.
"""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import trio
from trio.testing import memory_stream_pair

from headwater_protocol.address import Address
from headwater_server.engine.engine import Engine
from headwater_server.engine.format.transaction_ids import new_transaction_id
from headwater_server.engine.recovery import open_engine
from headwater_server.engine.settings import EngineSettings
from headwater_server.net.drivers.streams import serve_stream
from headwater_server.net.failures import Reopen
from headwater_server.net.replication.starting import start_node
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.server import Server
from headwater_server.net.settings import ServerSettings
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.storage.wal.interface import LogEnd, WalIndex, WriteAheadLog
from headwater_server.storage.wal.offline import begin_files
from headwater_server.testing.memory_files import Crash, MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import START_US
from tests.net.serving import Client, settings
from tests.replication.faults import FaultyUpstream, LogFaults

T = TypeVar("T")

SEGMENT_SIZE = 64 * 1024
ENGINE = EngineSettings(disk_reserve_size=0)


class Node:
    """One machine: its disk, and the server on it while it runs."""

    def __init__(self, nodes: "Nodes", name: str, engine: EngineSettings) -> None:
        self.nodes = nodes
        self.name = name
        self.settings = replace(settings(), engine=engine)
        self.random = random.Random(f"{nodes.seed} {name}")
        self.files = MemoryFileSystem(self.random)
        self.store = MemoryStore(self.random)
        self.server: Server | None = None
        self.engine: Engine
        self.reopened = 0
        self.copied = 0
        self.clock_off_us = 0
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    # Running.

    async def run(self, follows: str | None, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until `crash`; open the engine again when a new copy of the leader asks for it."""
        self._ended = trio.Event()
        try:
            with trio.CancelScope() as self._scope:
                again = True
                while again:
                    again = False
                    try:
                        await self._run_once(follows, task_status)
                    except* Reopen:
                        self.reopened += 1
                        again = True
                        task_status = trio.TASK_STATUS_IGNORED
                    except* Crash:
                        # The power failed at a planned call.
                        pass
        finally:
            self.server = None
            self._ended.set()

    async def _run_once(self, follows: str | None, task_status: trio.TaskStatus[None]) -> None:
        given: ServerSettings = replace(
            self.settings, synchronous_followers=self.nodes.synchronous, advertise=f"at {self.name}"
        )
        upstream = None if follows is None else self.nodes.upstream(self.name, follows)
        start = await start_node(
            self.files, given, _open_copied, upstream=upstream, run_blocking=_inline
        )
        if follows is not None:
            # The state store has no files here: take what the leader's made for the copy.
            made = self.nodes.by_name[follows].store.checkpoints.pop("data/copy.tmp/state", None)
            if made is not None:
                self.copied += 1
                self.store = made.crash()
        self.engine = open_engine(
            self.files,
            "data",
            open_store=lambda _: self.store,
            open_log=_open_log,
            settings=given.engine,
            clock=self.clock,
            source=self.random,
            leads=start.leads,
            epoch=start.epoch,
        )
        if start.deposed:
            self.engine.leadership.depose(start.setup.state.leader)
        self.server = Server(
            self.engine, given, clock=self.clock, worker=self._worker, node=start.setup
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.server.run)
                task_status.started()
        finally:
            server, self.server = self.server, None
            for session in list(server.service.sessions):
                session.abort()
            self.engine.close()

    def clock(self) -> int:
        """The wall clock of this machine."""
        return self.nodes.clock() + self.clock_off_us

    def _worker(self, name: str) -> RunBlocking:
        if name != "replication":
            return _inline

        async def run(call: Callable[[], T], /) -> T:
            result = await _inline(call)
            # The event loop learns later than the thread that a call is over.
            await trio.sleep(self.nodes.late_s)
            return result

        return run

    async def crash(self) -> None:
        """Lose the power."""
        assert self._scope is not None
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        self.files = self.files.crash()
        self.store = self.store.crash(self.random)

    # Using.

    async def stream(self) -> trio.abc.Stream:
        """A stream to this node."""
        if self.server is None:
            raise OSError(f"node {self.name} is down")
        ours, theirs = memory_stream_pair()
        self.nodes.nursery.start_soon(_serve, theirs, self.server)
        return ours

    async def client(self) -> Client:
        """A connection, after hello."""
        client = Client(await self.stream())
        await client.hello()
        return client

    async def put(self, client: Client, key: bytes, value: bytes) -> Any:
        """Put a key in a transaction of its own; return the commit."""
        made = await client.ask("execute", self.new_id(), [], [], [["put", key, value]])
        return made[0][0]

    def new_id(self) -> bytes:
        """A new transaction id."""
        return new_transaction_id(self.nodes.clock(), self.random)

    async def reaches(self, commit: int) -> None:
        """Wait until this node shows a commit."""
        with trio.fail_after(600):
            while self.server is None or self.engine.published < commit:  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until something holds of this node."""
        with trio.fail_after(600):
            while self.server is None or not what():  # noqa: ASYNC110
                await trio.sleep(0.05)

    def figures(self) -> dict[str, Any]:
        """What `stats` says of replication."""
        assert self.server is not None
        return self.server.replication.figures()


class Nodes:
    """The machines of a test.

    Attributes:
        cut: pairs of nodes, from and to, between which no stream can be opened.
        streams: open streams between nodes, by the same pairs.
        synchronous: how many followers a leader needs.
        late_s: seconds between the end of a call in the thread of replication and its result.
        faults: those of answers between nodes; None: there are none.
        damages: what happens to bytes that are sent to followers; None: nothing.
        user: with which followers connect, and the password.
    """

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.seed = seed
        self.by_name: dict[str, Node] = {}
        self.cut: set[tuple[str, str]] = set()
        self.streams: dict[tuple[str, str], list[trio.abc.Stream]] = {}
        self.synchronous = 0
        self.late_s = 0.0
        self.faults: LogFaults | None = None
        self.damages: Callable[[bytes], bytes] | None = None
        self.user: tuple[str | None, str | None] = (None, None)

    def clock(self) -> int:
        """The wall clock of all nodes."""
        return START_US + round(trio.current_time() * 1_000_000)

    async def start(
        self, name: str, *, follows: str | None = None, engine: EngineSettings = ENGINE
    ) -> Node:
        """Start a node, a new one or one that was stopped."""
        node = self.by_name.get(name)
        if node is None:
            node = self.by_name[name] = Node(self, name, engine)
        await self.nursery.start(node.run, follows)
        return node

    def upstream(self, name: str, leader: str) -> Upstream:
        """How one node reaches another."""

        async def dial() -> trio.abc.Stream:
            if (name, leader) in self.cut:
                raise OSError("the network is cut")
            stream = await self.by_name[leader].stream()
            self.streams.setdefault((name, leader), []).append(stream)
            return _Damaging(stream, self)

        user, password = self.user
        address = Address(leader, 4323, user=user, password=password)
        if self.faults is None:
            return Upstream(address, dial)
        faulty = FaultyUpstream(address, dial)
        faulty.faults = self.faults
        return faulty

    def break_links(self) -> None:
        """Let answers between nodes have faults, as often as `faults` says."""
        self.faults = LogFaults(random.Random(f"faults {self.seed}"))

    async def disconnect(self, name: str, leader: str, *, for_good: bool = False) -> None:
        """Cut the streams between two nodes, and let no new one be opened if *for_good*."""
        if for_good:
            self.cut.add((name, leader))
        for stream in self.streams.pop((name, leader), []):
            await trio.aclose_forcefully(stream)


class _Damaging(trio.abc.Stream):
    """A stream to a leader whose answers may be damaged on their way."""

    def __init__(self, stream: trio.abc.Stream, nodes: Nodes) -> None:
        self._stream = stream
        self._nodes = nodes

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        damages = self._nodes.damages
        return data if damages is None else damages(bytes(data))

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def cluster(seed: int = 1) -> AsyncIterator[Nodes]:
    """Nodes that are stopped at the end."""
    random.seed(seed)
    async with trio.open_nursery() as nursery:
        yield Nodes(nursery, seed)
        nursery.cancel_scope.cancel()


async def _serve(stream: trio.abc.Stream, server: Server) -> None:
    await serve_stream(stream, server.service, peer="memory")


async def _inline(call: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return call()


def _open_log(
    file_system: Any,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
) -> WriteAheadLog:
    return FileWriteAheadLog.open(
        file_system,
        path,
        database_id=database_id,
        random=random,
        segment_size=SEGMENT_SIZE,
        known_durable=known_durable,
    )


def _open_copied(file_system: Any, path: str, *, database_id: bytes, end: LogEnd) -> WriteAheadLog:
    if not file_system.list(path):
        begin_files(file_system, path, database_id=database_id, after=end.index, end=end)
    return _open_log(
        file_system,
        path,
        database_id=database_id,
        random=random.Random(1),
        known_durable=WalIndex(0),
    )
