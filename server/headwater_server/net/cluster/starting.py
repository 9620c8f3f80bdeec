"""Starting a node of a cluster: the stream, the id of the database, the data directory, the log.

DIRECTORY   STREAM                  the node
empty       none, or from entry 1   makes a database with the id that the stream has, and reads it
empty       begins later            copies the leader
with data   none                    makes the stream, which goes on where its log ends
with data   of this database        reads what it lacks
with data   of another one          is refused

The id of the database is part of the stream's settings, and the first node to make the stream
decides it. So nodes with empty directories may be started in any order.
"""

import json
import random as random_module
import re
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.error import URLError

import structlog
import trio

from headwater_protocol.address import parse_address
from headwater_protocol.errors import InvalidArgument
from headwater_protocol.errors import Unavailable as NotAvailable
from headwater_server.engine.replication.seeding import install
from headwater_server.net.cluster.cluster import ClusterSetup
from headwater_server.net.cluster.nodes import Nodes
from headwater_server.net.replication.bootstrap import Bootstrap, OpenCopiedLog
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.settings import ServerSettings
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.errors import Unavailable
from headwater_server.storage.files.directory import FORMAT_NAME, LOCK_NAME
from headwater_server.storage.files.file_system import FileSystem, join, make_durable_directory
from headwater_server.storage.files.node_file import (
    CLUSTERED,
    LEADING,
    NodeState,
    read_node,
    write_node,
)
from headwater_server.storage.jetstream.cluster_log import ClusterLog
from headwater_server.storage.jetstream.log import JetStreamLog
from headwater_server.storage.jetstream.service import StreamService
from headwater_server.storage.jetstream.settings import StreamPlan, nodes_subject_of
from headwater_server.storage.jetstream.stream import Stream, StreamState
from headwater_server.storage.wal.interface import WriteAheadLog

_log = structlog.get_logger(__name__)

WAIT_S: Final = 1.0
"""Seconds before servers of NATS, or a leader, are looked for again."""

TRIES: Final = 60
"""How often a stream that does not answer is asked while the log is opened."""

_TRY_S: Final = 0.5
_PAGE_S: Final = 5.0
_URL: Final = re.compile(r"(nats|tls)://([^/?#]+)/([A-Za-z0-9_-]{1,64})")


@dataclass(frozen=True, slots=True)
class LogAddress:
    """Where the log of a cluster is.

    Attributes:
        servers: the URLs of NATS servers, with user and password if they need them.
        stream: the name of the stream.
    """

    servers: tuple[str, ...]
    stream: str


def parse_log_address(text: str) -> LogAddress:
    """nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/STREAM; tls:// for TLS.

    Raises:
        InvalidArgument: it is not of that form.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            "the log is nats://HOST:PORT,HOST:PORT,…/STREAM, where STREAM has letters, digits, _ "
            "and -"
        )
    scheme, hosts, stream = match.groups()
    user, at, hosts = hosts.rpartition("@")
    servers = tuple(f"{scheme}://{user}{at}{host}" for host in hosts.split(",") if host)
    return LogAddress(servers, stream)


class Joining:
    """How a node takes part in a cluster, from before its directory is open.

    Attributes:
        name: identifies the node.
    """

    def __init__(
        self,
        file_system: FileSystem,
        settings: ServerSettings,
        stream: Stream,
        *,
        open_copied: OpenCopiedLog,
        clock: Callable[[], float],
        random: random_module.Random,
        upstream: Callable[[str], Upstream] | None = None,
        resigned: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """*upstream* and *pause* are for tests; by default a URL is connected to."""
        self.name = ""
        self._file_system = file_system
        self._settings = settings
        self._stream = stream
        self._open_copied = open_copied
        self._clock = clock
        self._random = random
        self._upstream = upstream or self._connect
        self._resigned = resigned
        self._pause = pause
        self._state: StreamState | None = None
        self._log: ClusterLog | None = None

    async def prepare(self, run: RunBlocking) -> bytes | None:
        """Make the directory ready to be opened; return the database id of one that is empty.

        Raises:
            InvalidArgument: settings, stream and directory do not go together.
            DirectoryInUse.
        """
        data = self._settings.data
        state = await run(lambda: _installed(self._file_system, data))
        if state is not None and state.state not in (CLUSTERED, LEADING):
            raise InvalidArgument(
                f"{data} is the directory of a follower; a cluster begins with its leader, and "
                "other nodes with empty directories"
            )
        self.name = self._random.randbytes(8).hex() if state is None else state.node
        if self._file_system.exists(join(data, FORMAT_NAME)):
            return None
        found = await self._find(run)
        if found is None:
            return self._random.randbytes(16)
        if found.first > 1:
            await self._copy_leader(run)
            return None
        return found.database_id

    async def _find(self, run: RunBlocking) -> StreamState | None:
        while True:
            try:
                return await run(self._stream.find)
            except Unavailable as error:
                _log.warning("waiting for the stream", reason=str(error))
                await trio.sleep(WAIT_S)

    async def _copy_leader(self, run: RunBlocking) -> None:
        """Fill the empty directory from the leader, whenever there is one."""
        service = self._stream.service
        nodes = Nodes(service, nodes_subject_of(self._stream.name), self.name, self._clock)
        while True:
            for message in await run(lambda: nodes.receive(WAIT_S)):
                nodes.note(message)
            leader = nodes.leader
            if leader is not None and leader.address is not None:
                break
            _log.warning("this node is empty and waits for a leader to copy")
            await trio.sleep(WAIT_S)
        file_system, data = self._file_system, self._settings.data
        make_durable_directory(file_system, data)
        lock = file_system.lock(join(data, LOCK_NAME))
        try:
            await self._bootstrap(leader.address, run).run()
            await run(lambda: install(file_system, data))
        finally:
            lock.close()

    def open_log(self, copy: WriteAheadLog, database_id: bytes) -> ClusterLog:
        """The log of the node, on its copy. Blocks; the stream is made if there is none.

        Raises:
            InvalidArgument: the stream is that of another database, or not safe.
            Unavailable: the stream does not answer.
        """
        plan = StreamPlan(
            self._stream.name,
            self._settings.log_replicas,
            database_id,
            int(copy.last_index) + 1,
        )
        state = self._made(plan)
        if state.database_id != database_id:
            raise InvalidArgument(
                f"the stream {self._stream.name!r} is that of the database "
                f"{state.database_id.hex()}, and this directory that of {database_id.hex()}"
            )
        stream = JetStreamLog(self._stream, state, self._random)
        self._log = ClusterLog(copy, stream, self._clock)
        return self._log

    def _made(self, plan: StreamPlan) -> StreamState:
        for _ in range(TRIES):
            try:
                return self._stream.make(plan)
            except Unavailable as error:
                _log.warning("waiting for the stream", reason=str(error))
                self._pause(_TRY_S)
        raise NotAvailable(f"the stream {self._stream.name!r} does not answer")

    def joined(self) -> ClusterSetup:
        """The directory is open: note that it is of a cluster."""
        assert self._log is not None, "the engine has opened the log"
        settings = self._settings
        write_node(self._file_system, settings.data, NodeState(CLUSTERED, self.name))
        return ClusterSetup(
            name=self.name,
            log=self._log,
            clock=self._clock,
            random=self._random,
            advertised=settings.advertise or _address_of(settings),
            upstream=self._upstream,
            bootstrap=self._bootstrap,
            kept_size_max=settings.engine.log_kept_size_max,
            resigned=self._resigned,
        )

    def _connect(self, url: str) -> Upstream:
        settings = self._settings
        address = parse_address(url, user=settings.peer_user, password=settings.peer_password)
        return Upstream(address)

    def _bootstrap(self, url: str, run: RunBlocking) -> Bootstrap:
        return Bootstrap(
            self._file_system,
            self._settings.data,
            self.name,
            self._upstream(url),
            self._open_copied,
            run,
        )


def _installed(file_system: FileSystem, data: str) -> NodeState | None:
    """Finish what a crash has interrupted, and read NODE."""
    if not file_system.exists(data):
        return None
    lock = file_system.lock(join(data, LOCK_NAME))
    try:
        install(file_system, data)
        return read_node(file_system, data)
    finally:
        lock.close()


def _address_of(settings: ServerSettings) -> str | None:
    """The URL of the first address that the server listens on, if that is known now."""
    for address in settings.listen:
        if address.host and address.port:
            scheme = "headwater" if settings.tls_certificate is None else "headwaters"
            return f"{scheme}://{address}"
    return None


async def connect(
    open_service: Callable[[Sequence[str], str], StreamService],
    address: LogAddress,
    name: str,
    run: RunBlocking,
) -> StreamService:
    """Connect to one of the NATS servers, whenever one is there.

    Raises:
        InvalidArgument: a server cannot be used.
    """
    told = False
    while True:
        try:
            return await run(lambda: open_service(address.servers, name))
        except Unavailable as error:
            if not told:
                _log.warning("waiting for NATS", reason=str(error))
                told = True
            await trio.sleep(WAIT_S)


def check_synced(pages: Sequence[str]) -> None:
    """Ask the monitoring of NATS servers whether they sync each message. Blocks.

    Raises:
        InvalidArgument: one does not, or does not answer.
    """
    for page in pages:
        url = f"{page.rstrip('/')}/varz"
        try:
            with urllib.request.urlopen(url, timeout=_PAGE_S) as answer:  # noqa: S310
                config = json.load(answer).get("jetstream", {}).get("config", {})
        except (URLError, OSError, ValueError) as error:
            raise InvalidArgument(f"--log-monitor {page}: {error}") from error
        if not config.get("sync_always"):
            raise InvalidArgument(
                f"the NATS server at {page} acknowledges messages before it has synced them: set "
                "sync_interval: always in its section jetstream"
            )
