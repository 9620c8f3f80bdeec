"""Starting a node: whether it leads, follows or was deposed, before its engine is opened.

NODE         --follow   the node
-            no         leads
-            yes        joins: an empty directory is filled from the leader; one with data
follows if the leader has all of its log
following    no         is refused: two nodes would lead
following    yes        follows
leading      any        leads: it was promoted; with --follow it tells its former leader, and
follows that if it was promoted later
deposed      no         serves reads
deposed      yes        joins, as above
clustered    any        is refused: net/cluster/starting.py starts it
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
import trio

from headwater_protocol.address import parse_address
from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.replication.seeding import install
from headwater_server.net.replication.bootstrap import OpenCopiedLog
from headwater_server.net.replication.replication import NodeSetup, Replication
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.settings import ServerSettings
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.files.directory import FORMAT_NAME, LOCK_NAME
from headwater_server.storage.files.file_system import FileSystem, join, make_durable_directory
from headwater_server.storage.files.node_file import (
    CLUSTERED,
    DEPOSED,
    FOLLOWING,
    LEADING,
    NodeState,
    read_node,
    write_node,
)
from headwater_server.storage.wal.interface import Epoch

T = TypeVar("T")

_log = structlog.get_logger(__name__)

JOINING: Final = "joining"
"""The state of a node that was told to follow and has not been accepted yet. Never written."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a node starts.

    Attributes:
        leads: it claims the log.
        deposed: it neither leads nor follows.
    """

    setup: NodeSetup
    leads: bool
    deposed: bool = False

    @property
    def epoch(self) -> Epoch:
        """The least epoch of its claim: a node may be promoted, and lose the power before that."""
        return Epoch(self.setup.state.epoch)


async def start_node(
    file_system: FileSystem,
    settings: ServerSettings,
    open_log: OpenCopiedLog,
    upstream: Upstream | None = None,
    run_blocking: RunBlocking | None = None,
) -> Start:
    """Find out how the node of a data directory starts; fill the directory if it is empty.

    Args:
        upstream: for tests; by default that of the settings.
        run_blocking: for tests; by default, a thread.

    Raises:
        InvalidArgument: the settings and the directory do not go together.
        DirectoryInUse: another process uses the directory.
    """
    run = run_blocking or in_thread
    data = settings.data
    if upstream is None and settings.follow is not None:
        upstream = Upstream(parse_address(settings.follow))
    state = await run(lambda: _prepare(file_system, data))
    if state is not None and state.state == FOLLOWING and upstream is None:
        raise InvalidArgument(
            f"{data} is the directory of a follower of {state.leader}. Start it with --follow, and "
            "promote it if it is to lead: headwater promote URL"
        )
    if state is not None and state.state == CLUSTERED:
        raise InvalidArgument(
            f"{data} is the directory of a node of a cluster. Start it with --log: alone it would "
            "write a log of its own"
        )
    if state is None:
        role = LEADING if upstream is None else JOINING
        state = NodeState(role, secrets.token_hex(8))
    leads = state.state == LEADING
    setup = NodeSetup(
        file_system,
        data,
        state,
        upstream,
        open_log,
        advertised=settings.advertise,
        synchronous=settings.synchronous_followers,
    )
    deposed = state.state == DEPOSED and upstream is None
    if leads or deposed:
        return Start(setup, leads, deposed)
    if not file_system.exists(join(data, FORMAT_NAME)):
        setup = await _fill(setup, run)
    return Start(setup, leads=False)


def _prepare(file_system: FileSystem, data: str) -> NodeState | None:
    """Finish what a crash has interrupted, and read NODE."""
    if not file_system.exists(data):
        return None
    lock = file_system.lock(join(data, LOCK_NAME))
    try:
        install(file_system, data)
        return read_node(file_system, data)
    finally:
        lock.close()


async def _fill(setup: NodeSetup, run: RunBlocking) -> NodeSetup:
    """Copy the leader into an empty directory."""
    assert setup.upstream is not None
    file_system, data = setup.file_system, setup.data
    make_durable_directory(file_system, data)
    lock = file_system.lock(join(data, LOCK_NAME))
    try:
        _log.info("this node begins as a copy of its leader", leader=setup.upstream.url)
        state = NodeState(FOLLOWING, setup.state.node, setup.upstream.url)
        await run(lambda: write_node(file_system, data, state))
        await Replication.bootstrap(setup, run).run()
        await run(lambda: install(file_system, data))
    finally:
        lock.close()
    return NodeSetup(
        file_system,
        data,
        state,
        setup.upstream,
        setup.open_log,
        advertised=setup.advertised,
        synchronous=setup.synchronous,
    )


async def in_thread(call: Callable[[], T], /) -> T:
    """Run a call in a thread, and return what it does."""
    return await trio.to_thread.run_sync(call)
