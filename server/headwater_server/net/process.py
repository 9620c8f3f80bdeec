"""The server as a process: its data directory, its sockets and its signals.

On SIGTERM or SIGINT the server stops in order (server.py). A second signal skips the waiting. On
SIGHUP it reads the TLS certificate again.
"""

import contextlib
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
import trio

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.engine import Engine
from headwater_server.engine.pacing import Pacer
from headwater_server.engine.recovery import OpenLog, open_engine
from headwater_server.net import systemd
from headwater_server.net.clocks import monotonic_clock, monotonic_seconds, wall_clock
from headwater_server.net.cluster.cluster import ClusterSetup
from headwater_server.net.cluster.starting import (
    Joining,
    check_synced,
    connect,
    parse_log_address,
)
from headwater_server.net.drivers import streams
from headwater_server.net.drivers.listening import Listeners
from headwater_server.net.drivers.tls import Certificate
from headwater_server.net.failures import CommitFailed, Reopen
from headwater_server.net.monitoring.monitor import Monitor
from headwater_server.net.replication.replication import NodeSetup, lone_node
from headwater_server.net.replication.starting import in_thread, start_node
from headwater_server.net.server import ARCHIVE_WORKER, Server
from headwater_server.net.settings import ServerSettings
from headwater_server.net.supervision import closing, ready_file, reload, tell
from headwater_server.net.tasks.checkpointer import CheckpointFailed
from headwater_server.net.tasks.garbage_collection import GarbageCollection, replaying
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.net.threads.worker_thread import RunBlocking, WorkerThread, run_abandonable
from headwater_server.storage.files.directory import DataDirectory
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.files.node_file import CLUSTERED, NodeState
from headwater_server.storage.files.private_files import make_private, private_files
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.jetstream.cluster_log import ClusterLog
from headwater_server.storage.jetstream.stream import Stream
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog, Timed, untimed
from headwater_server.storage.wal.interface import FIRST_EPOCH, Epoch, WalIndex
from headwater_server.storage.wal.offline import open_copied

_log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SWITCH_INTERVAL_S = 0.001
"""How long a checkpoint's thread may keep the interpreter lock from the event loop. With Python's
default, the event loop could wait 5 ms for it after every sync."""


def open_directory(
    settings: ServerSettings,
    timed: Timed = untimed,
    on_replayed: Callable[[int], None] = lambda _count: None,
    *,
    leads: bool = True,
    epoch: Epoch = FIRST_EPOCH,
    joining: Joining | None = None,
    database_id: bytes | None = None,
) -> Engine:
    """Open the data directory of a real server, replaying its log.

    *timed* makes the fsyncs of commit groups. *on_replayed* is told now and then how many records
    were replayed so far. *leads*: claim the right to write, with *epoch* or a later one. *joining*:
    this is a node of a cluster; *database_id*: of its database, if the directory is empty.

    Raises:
        DirectoryInUse, FormatTooNew, DamagedFile, OSError: it cannot be opened.
    """

    def on_progress(count: int) -> None:
        _log.info("replaying the log", records=count)
        on_replayed(count)

    def on_upgrade(old: int, new: int) -> None:
        _log.warning(
            "upgrading the data directory; older versions of Headwater will refuse it",
            path=settings.data,
            old_format=old,
            new_format=new,
        )

    file_system = RealFileSystem()
    source = random.Random()
    open_log: OpenLog = partial(_open_log, timed=timed)
    directory = None
    if joining is not None:
        open_log = partial(_open_cluster_log, joining=joining)
        directory = DataDirectory.open(
            file_system, settings.data, source=source, now=wall_clock(), database_id=database_id
        )
    with replaying():
        engine = open_engine(
            file_system,
            settings.data,
            open_store=RocksStore.open,
            open_log=open_log,
            settings=settings.engine,
            clock=wall_clock,
            monotonic=monotonic_clock,
            source=source,
            leads=leads,
            epoch=epoch,
            directory=directory,
            on_progress=on_progress,
            on_upgrade=on_upgrade,
        )
    # Now that it is ours: the path could have been that of something else.
    shared = make_private(settings.data)
    if shared:
        _log.warning("other users of this machine may read the data", paths=shared)
    return engine


def _open_log(
    file_system: FileSystem,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
    timed: Timed,
) -> FileWriteAheadLog:
    log = FileWriteAheadLog.open(
        file_system,
        path,
        database_id=database_id,
        random=random,
        known_durable=known_durable,
        timed=timed,
    )
    if log.torn is not None:
        _log.warning("the log ended with a torn write, which was set aside", where=str(log.torn))
    return log


def _open_cluster_log(
    file_system: FileSystem,
    path: str,
    *,
    database_id: bytes,
    random: random.Random,
    known_durable: WalIndex,
    joining: Joining,
) -> ClusterLog:
    copy = _open_log(
        file_system,
        path,
        database_id=database_id,
        random=random,
        known_durable=known_durable,
        timed=untimed,
    )
    try:
        return joining.open_log(copy, database_id)
    except BaseException:
        copy.close()
        raise


async def serve(
    settings: ServerSettings,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a data directory until SIGTERM or SIGINT. The task status gets the addresses.

    Raises:
        CannotListen, DirectoryInUse, FormatTooNew, DamagedFile, OSError: it cannot start.
        CommitFailed, CheckpointFailed: the disk failed; the restart decides what is durable.
    """
    resigned = False
    while True:
        try:
            await _serve_once(settings, task_status, resigned=resigned)
        except Reopen as error:
            _log.warning("opening the data directory again", why=str(error))
            resigned = error.resigned
            task_status = trio.TASK_STATUS_IGNORED
        else:
            return


async def _serve_once(
    settings: ServerSettings, task_status: trio.TaskStatus[list[str]], *, resigned: bool
) -> None:
    certificate = None
    if settings.tls_certificate is not None:
        certificate = Certificate(
            settings.tls_certificate,
            settings.tls_key,
            client_authority=settings.tls_client_ca,
            revoked=settings.tls_client_crl,
            login=settings.tls_client_login,
        )
    # Bind before replaying the log, so that an occupied port is reported immediately.
    listeners = Listeners(settings)
    # Only now: whoever starts the server decides if other users may connect to the Unix socket.
    try:
        with (
            private_files(),
            contextlib.closing(Monitor(settings, AdaptiveFsync(time.perf_counter))) as monitor,
        ):
            run = partial(
                _serve_directory, settings, listeners, certificate, monitor, task_status, resigned
            )
            await (_beside_pages(monitor, run) if monitor.has_pages else run())
    finally:
        listeners.close()


async def _beside_pages(monitor: Monitor, run: Callable[[], Awaitable[None]]) -> None:
    """Serve the pages of monitoring as long as the server runs."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(monitor.run)
            await run()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The pages handle their failures themselves, so this is what the server raised.
        raise group.exceptions[0]


async def _serve_directory(
    settings: ServerSettings,
    listeners: Listeners,
    certificate: Certificate | None,
    monitor: Monitor,
    task_status: trio.TaskStatus[list[str]],
    resigned: bool,
) -> None:
    node, cluster = None, None
    open_data = partial(
        open_directory, settings, timed=monitor.timed, on_replayed=monitor.readiness.note_replayed
    )
    if settings.log is None:
        start = await start_node(RealFileSystem(), settings, open_copied)
        open_node = partial(open_data, leads=start.leads, epoch=start.epoch)
        engine = await trio.to_thread.run_sync(open_node)
        node = start.setup
        if start.deposed:
            engine.leadership.depose(node.state.leader)
    else:
        engine, cluster = await _join(settings, open_data, resigned=resigned)
        node = lone_node(engine, NodeState(CLUSTERED, cluster.name))
    with closing(engine):
        try:
            listeners.check_allowed(has_users=engine.accounts.any(), data=settings.data)
            garbage_collection = GarbageCollection(time.monotonic)
            garbage_collection.start()
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            await _serve_engine(
                engine,
                settings,
                listeners,
                certificate,
                monitor,
                garbage_collection,
                node,
                cluster,
                task_status,
            )
        except BaseExceptionGroup as group:
            # A failed disk makes other tasks fail too; raise the failure of the disk.
            for kinds in ((CommitFailed, CheckpointFailed), (OSError,), (Reopen,)):
                failed, _ = group.split(kinds)
                if failed is not None:
                    raise _first(failed)
            raise


async def _join(
    settings: ServerSettings, open_data: Callable[..., Engine], *, resigned: bool
) -> tuple[Engine, ClusterSetup]:
    """Open the data directory of a node of a cluster."""
    try:
        # An extra, which others need not install.
        from headwater_server.net.jetstream.connection import NatsConnection
    except ImportError as error:
        raise InvalidArgument(f"--log needs the package headwater[cluster]: {error}") from error
    assert settings.log is not None
    address = parse_log_address(settings.log)
    await in_thread(partial(check_synced, settings.log_monitor))
    service = await connect(NatsConnection.open, address, "headwater", in_thread)
    try:
        joining = Joining(
            RealFileSystem(),
            settings,
            Stream(service, address.stream, replicas_min=settings.log_replicas),
            open_copied=open_copied,
            clock=monotonic_seconds,
            random=random.Random(),
            resigned=resigned,
        )
        database_id = await joining.prepare(in_thread)
        open_node = partial(open_data, leads=False, joining=joining, database_id=database_id)
        engine = await trio.to_thread.run_sync(open_node)
    except BaseException:
        service.close()
        raise
    return engine, joining.joined()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def _worker(workers: list[WorkerThread], name: str) -> RunBlocking:
    """A thread for a task of the server, noted in *workers*."""
    if name == ARCHIVE_WORKER:
        return run_abandonable
    workers.append(WorkerThread(name))
    return workers[-1].run


async def _serve_engine(
    engine: Engine,
    settings: ServerSettings,
    listeners: Listeners,
    certificate: Certificate | None,
    monitor: Monitor,
    garbage_collection: GarbageCollection,
    node: NodeSetup,
    cluster: ClusterSetup | None,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    workers: list[WorkerThread] = []
    server = Server(
        engine,
        settings,
        clock=wall_clock,
        worker=partial(_worker, workers),
        turn_clock=time.perf_counter,
        processor_time=time.thread_time,
        # A group of a cluster goes to other machines, so never on the event loop.
        adaptive_fsync=monitor.adaptive_fsync if cluster is None else None,
        pacing=Pacer(time.perf_counter, time.sleep, lambda: engine.checkpoints.fill),
        garbage_collection=garbage_collection,
        local_only=listeners.local_only,
        recorder=monitor.recorder,
        node=node,
        cluster=cluster,
    )
    monitor.watch(server.service, server.checkpointer, server.scrubber)
    try:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as nursery:
                if server.archiving is not None:
                    await server.archiving.begin()
                await nursery.start(server.run)
                addresses = listeners.listen(settings.listen_backlog)
                accepting = trio.CancelScope()
                if certificate is None:
                    for listener in listeners.tcp:
                        server.plain_sockets.listen(listener, "tcp")
                elif listeners.tcp:
                    nursery.start_soon(
                        _serve_tls, server, listeners, certificate, settings, nursery, accepting
                    )
                for listener in listeners.unix:
                    server.plain_sockets.listen(listener, f"unix:{settings.unix}")
                local = listeners.local_only
                tell(settings, addresses, engine, tls=certificate is not None, local_only=local)
                hurry = trio.Event()
                with ready_file(settings, addresses):
                    task_status.started(addresses)
                    systemd.ready(nursery)
                    async for number in signals:
                        if number == signal.SIGHUP:
                            reload(certificate)
                            continue
                        if server.service.stopping:
                            hurry.set()
                            continue
                        _log.info("signal", name=signal.Signals(number).name)
                        systemd.notify("STOPPING=1")
                        accepting.cancel()
                        nursery.start_soon(_stop, server, hurry, nursery.cancel_scope)
    finally:
        for thread in workers:
            thread.close()
    _log.info("stopped", commit=engine.published)


async def _stop(server: Server, hurry: trio.Event, scope: trio.CancelScope) -> None:
    await server.stop(hurry=hurry)
    scope.cancel()


async def _serve_tls(
    server: Server,
    listeners: Listeners,
    certificate: Certificate,
    settings: ServerSettings,
    nursery: trio.Nursery,
    accepting: trio.CancelScope,
) -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await streams.serve_tls(
            stream,
            service=server.service,
            certificate=certificate,
            handshake_ms_max=settings.session.hello_ms_max,
        )

    sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(s)) for s in listeners.tcp]
    with accepting:
        # serve_listeners waits without spinning when descriptors run out.
        await trio.serve_listeners(handler, sockets, handler_nursery=nursery)
