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

from headwater_server.engine.engine import Engine
from headwater_server.engine.pacing import Pacer
from headwater_server.engine.recovery import open_engine
from headwater_server.net import systemd
from headwater_server.net.clocks import monotonic_clock, wall_clock
from headwater_server.net.drivers import streams
from headwater_server.net.drivers.listening import Listeners
from headwater_server.net.drivers.tls import Certificate
from headwater_server.net.failures import CommitFailed, Reopen
from headwater_server.net.monitoring.monitor import Monitor
from headwater_server.net.replication.replication import NodeSetup
from headwater_server.net.replication.starting import start_node
from headwater_server.net.server import ARCHIVE_WORKER, Server
from headwater_server.net.settings import ServerSettings
from headwater_server.net.supervision import closing, ready_file, reload, tell
from headwater_server.net.tasks.checkpointer import CheckpointFailed
from headwater_server.net.tasks.garbage_collection import GarbageCollection, replaying
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.net.threads.worker_thread import RunBlocking, WorkerThread, run_abandonable
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.files.private_files import make_private, private_files
from headwater_server.storage.files.real_files import RealFileSystem
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
) -> Engine:
    """Open the data directory of a real server, replaying its log.

    *timed* makes the fsyncs of commit groups. *on_replayed* is told now and then how many records
    were replayed so far. *leads*: claim the right to write, with *epoch* or a later one.

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

    with replaying():
        engine = open_engine(
            RealFileSystem(),
            settings.data,
            open_store=RocksStore.open,
            open_log=partial(_open_log, timed=timed),
            settings=settings.engine,
            clock=wall_clock,
            monotonic=monotonic_clock,
            source=random.Random(),
            leads=leads,
            epoch=epoch,
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
    while True:
        try:
            await _serve_once(settings, task_status)
        except Reopen:
            _log.warning("the new copy of the leader takes the place of the old data")
            task_status = trio.TASK_STATUS_IGNORED
        else:
            return


async def _serve_once(settings: ServerSettings, task_status: trio.TaskStatus[list[str]]) -> None:
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
    # Only now: whether other users may connect to the Unix socket is up to whoever starts us.
    try:
        with (
            private_files(),
            contextlib.closing(Monitor(settings, AdaptiveFsync(time.perf_counter))) as monitor,
        ):
            run = partial(_serve_directory, settings, listeners, certificate, monitor, task_status)
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
) -> None:
    start = await start_node(RealFileSystem(), settings, open_copied)
    open_data = partial(open_directory, leads=start.leads, epoch=start.epoch)
    engine = await trio.to_thread.run_sync(
        open_data, settings, monitor.timed, monitor.readiness.note_replayed
    )
    if start.deposed:
        engine.leadership.depose(start.setup.state.leader)
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
                start.setup,
                task_status,
            )
        except BaseExceptionGroup as group:
            # A failed disk makes other tasks fail too; raise the failure of the disk.
            for kinds in ((CommitFailed, CheckpointFailed), (OSError,), (Reopen,)):
                failed, _ = group.split(kinds)
                if failed is not None:
                    raise _first(failed)
            raise


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
        adaptive_fsync=monitor.adaptive_fsync,
        pacing=Pacer(time.perf_counter, time.sleep, lambda: engine.checkpoints.fill),
        garbage_collection=garbage_collection,
        local_only=listeners.local_only,
        recorder=monitor.recorder,
        node=node,
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
