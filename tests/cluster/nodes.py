"""Nodes of a cluster in memory: servers on simulated disks, and one simulated stream."""

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
from headwater_server.net.cluster.starting import Joining
from headwater_server.net.drivers.streams import serve_stream
from headwater_server.net.failures import Reopen
from headwater_server.net.replication.replication import lone_node
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.server import Server
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.node_file import CLUSTERED, NodeState
from headwater_server.storage.jetstream.cluster_log import ClusterLog
from headwater_server.storage.jetstream.stream import Stream
from headwater_server.storage.wal.interface import WalIndex
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_jetstream import Deliver, Fate, MemoryJetStream
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import START_US
from tests.net.serving import Client, settings
from tests.replication.nodes import ENGINE, _open_copied, _open_log

T = TypeVar("T")

STREAM = "log"
RESTART_S = 0.5


class NoAnswer(Exception):
    """The stream does not answer at a start: the node starts again later."""


class ClusterNode:
    """One machine: its disk, and the server on it while it runs.

    Attributes:
        deliver: decides about its requests to NATS.
        paused: its blocking calls do not go on; its time does.
    """

    def __init__(self, cluster: "MemoryCluster", name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.random = random.Random(f"{cluster.seed} {name}")
        self.files = MemoryFileSystem(self.random)
        self.store = MemoryStore(self.random)
        self.server: Server | None = None
        self.down = False
        self.engine: Engine
        self.deliver: Deliver = lambda _: Fate.ANSWERED
        self.opened = 0
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._goes_on = trio.Event()
        self._goes_on.set()

    async def run(self) -> None:
        """Run until `crash`; start again after a failed start, and when the server asks for it."""
        self._ended = trio.Event()
        self.down = False
        resigned = False
        try:
            with trio.CancelScope() as self._scope:
                while True:
                    try:
                        await self._run_once(resigned)
                    except* Reopen as group:
                        error: BaseException = group
                        while isinstance(error, BaseExceptionGroup):
                            error = error.exceptions[0]
                        assert isinstance(error, Reopen)
                        resigned = error.resigned
                    except* NoAnswer:
                        await trio.sleep(RESTART_S)
                    # A store that is closed and opened again need not have what was not flushed.
                    self.store = self.store.crash(self.random)
        finally:
            self.server = None
            self._ended.set()

    def _copied_store(self) -> MemoryStore | None:
        """The state store has no files here: what another node's has made for a copy, if any."""
        made: MemoryStore | None = None
        for node in self.cluster.nodes.values():
            if node is not self:
                made = node.store.checkpoints.pop("data/copy.tmp/state", None) or made
        return made

    async def _run_once(self, resigned: bool) -> None:
        given = replace(settings(), engine=ENGINE, advertise=f"headwater://{self.name}:4323")
        given = replace(given, log_replicas=1)
        if self.files.exists("data/FORMAT.seed"):
            # A copy of another node is complete, and takes the place of the old data.
            self.store = (self._copied_store() or self.store).crash(self.random)
        service = self.cluster.stream.connect(self._fate)
        joining = Joining(
            self.files,
            given,
            Stream(service, STREAM, replicas_min=1),
            open_copied=_open_copied,
            clock=trio.current_time,
            random=self.random,
            upstream=self.cluster.upstream,
            resigned=resigned,
            pause=_start_again,
        )
        database_id = await joining.prepare(self._inline)

        def open_log(
            file_system: Any,
            path: str,
            *,
            database_id: bytes,
            random: Any,
            known_durable: WalIndex,
        ) -> ClusterLog:
            copy = _open_log(
                file_system,
                path,
                database_id=database_id,
                random=random,
                known_durable=known_durable,
            )
            try:
                return joining.open_log(copy, database_id)
            except BaseException:
                copy.close()
                raise

        self.engine = open_engine(
            self.files,
            "data",
            open_store=lambda _: self.store,
            open_log=open_log,
            settings=given.engine,
            clock=self.cluster.clock,
            source=self.random,
            leads=False,
            directory=DataDirectory.open(
                self.files,
                "data",
                source=self.random,
                now=self.cluster.clock(),
                database_id=database_id,
            ),
        )
        self.opened += 1
        setup = joining.joined()
        self.server = Server(
            self.engine,
            given,
            clock=self.cluster.clock,
            worker=self._worker,
            node=lone_node(self.engine, NodeState(CLUSTERED, setup.name)),
            cluster=setup,
        )
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.server.run)
        finally:
            server, self.server = self.server, None
            for session in list(server.service.sessions):
                session.abort()
            self.engine.close()

    def _fate(self, subject: str) -> Fate:
        return self.deliver(subject)

    def _worker(self, _name: str) -> RunBlocking:
        return self._inline

    async def _inline(self, call: Callable[[], T], /) -> T:
        await trio.lowlevel.checkpoint()
        while not self._goes_on.is_set():
            with trio.CancelScope(shield=False):
                await self._goes_on.wait()
        return call()

    def pause(self) -> None:
        self._goes_on = trio.Event()

    def go_on(self) -> None:
        self._goes_on.set()

    async def crash(self) -> None:
        """Lose the power."""
        assert self._scope is not None
        self.down = True
        self._scope.cancel()
        self.go_on()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        self.files = self.files.crash()
        self.store = self.store.crash(self.random)

    @property
    def leads(self) -> bool:
        return self.server is not None and self.engine.leadership.leads

    async def put(self, key: bytes, value: bytes) -> int:
        """Put a key in a transaction of its own; return the commit."""
        client = await self.client()
        try:
            write = [["put", key, value]]
            made: Any = await client.ask("execute", self.new_id(), [], [], write)
        finally:
            await client.close()
        commit: int = made[0][0]
        return commit

    async def get(self, key: bytes, *, of_any_age: bool = False) -> Any:
        """Read a key."""
        client = await self.client()
        try:
            if of_any_age:
                return (await client.ask("read_at_least", 0, ["get", key, None]))[2]
            return await client.ask("get", None, key)
        finally:
            await client.close()

    def new_id(self) -> bytes:
        """A new transaction id."""
        return new_transaction_id(self.cluster.clock(), self.random)

    async def stream(self) -> trio.abc.Stream:
        """A stream to this node."""
        if self.server is None:
            raise OSError(f"node {self.name} is down")
        ours, theirs = memory_stream_pair()
        self.cluster.nursery.start_soon(_serve, theirs, self.server)
        return ours

    async def client(self) -> Client:
        """A connection, after hello."""
        client = Client(await self.stream())
        await client.hello()
        return client

    @property
    def log(self) -> ClusterLog:
        log = self.engine.log_reader
        assert isinstance(log, ClusterLog)
        return log


class MemoryCluster:
    """Machines of a test, and the stream that they share."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.nursery = nursery
        self.seed = seed
        self.stream = MemoryJetStream()
        self.nodes: dict[str, ClusterNode] = {}

    def clock(self) -> int:
        """The wall clock of all nodes."""
        return START_US + round(trio.current_time() * 1_000_000)

    def start(self, name: str) -> ClusterNode:
        """Start a node, a new one or one that crashed."""
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = ClusterNode(self, name)
        self.nursery.start_soon(node.run)
        return node

    def upstream(self, url: str) -> Upstream:
        """The way from any node to another one."""
        name = url.removeprefix("headwater://").partition(":")[0]

        async def dial() -> trio.abc.Stream:
            return await self.nodes[name].stream()

        return Upstream(Address(name, 4323), dial)

    @property
    def leaders(self) -> list[ClusterNode]:
        return [node for node in self.nodes.values() if node.leads]

    async def leader(self) -> ClusterNode:
        """Wait until one node leads, with the lease."""
        with trio.fail_after(600):
            while True:
                for node in self.leaders:
                    if node.log.has_lease:
                        return node
                await trio.sleep(0.05)

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait until something holds."""
        with trio.fail_after(600):
            while not what():  # noqa: ASYNC110
                await trio.sleep(0.05)

    def shows(self, name: str, commit: int) -> bool:
        """Whether a node shows a commit to readers."""
        node = self.nodes[name]
        return node.server is not None and node.engine.published >= commit


@asynccontextmanager
async def memory_cluster(seed: int = 1, names: str = "abc") -> AsyncIterator[MemoryCluster]:
    """Nodes that are stopped at the end."""
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(nursery, seed)
        for name in names:
            cluster.start(name)
        yield cluster
        nursery.cancel_scope.cancel()


def stored_by(node: ClusterNode) -> WalIndex:
    """The newest entry of a node's copy of the log."""
    return node.log.last_index


def _start_again(_seconds: float) -> None:
    raise NoAnswer


async def _serve(stream: trio.abc.Stream, server: Server) -> None:
    await serve_stream(stream, server.service, peer="memory")
