"""A thread that serves databases in memory: the real engine and server, no process and no disk.

    machine = MemoryMachine()
    with machine.database() as database:
        headwater.connect_blocking(database.url)

Each database has a Unix socket in a temporary directory, so clients of any kind reach it: threads,
asyncio, trio, other processes. A database can lose power, start again, be copied, and be served
through a FaultPlan. Its clock can be moved.
"""

import itertools
import random
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import trio

from headwater_server.engine.recovery import open_engine
from headwater_server.engine.settings import EngineSettings
from headwater_server.net.clocks import monotonic_clock, wall_clock
from headwater_server.net.drivers.streams import serve_stream
from headwater_server.net.server import Server
from headwater_server.net.settings import ServerSettings
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from headwater_server.testing.memory_files import MemoryFileSystem
from headwater_server.testing.memory_store import MemoryStore
from headwater_testing.faults import OUTAGE_S, Fault, FaultPlan
from headwater_testing.faulty import FaultyStream

T = TypeVar("T")

STARTED_S_MAX: Final = 30.0
"""Seconds in which the thread answers. It has little to do."""

SEGMENT_SIZE: Final = 256 * 1024
"""Bytes of a segment of the log, small because each database begins with one."""

SETTINGS: Final = EngineSettings(disk_reserve_size=0)


class MemoryDatabase:
    """A database of a machine, with its address.

    Attributes:
        url: its address.
        faults: the plan of faults, or None.
    """

    def __init__(
        self,
        machine: "MemoryMachine",
        path: Path,
        *,
        files: MemoryFileSystem,
        store: MemoryStore,
        faults: FaultPlan | None,
    ) -> None:
        self.url = f"headwater+unix://{path}"
        self.faults = faults
        self._machine = machine
        self._path = path
        self._files = files
        self._store = store
        self._wall_us = 0
        self._passed_us = 0
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._wanted = False
        self._changing = trio.Lock()

    def __enter__(self) -> "MemoryDatabase":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server; return once it listens. It recovers what a kill has left."""
        self._machine.call(self._start)

    def kill(self) -> None:
        """End the server at once, as a power loss does. What was acknowledged is kept."""
        self._machine.call(self._kill)

    def restart(self) -> None:
        """Kill the server and start it again."""
        self.kill()
        self.start()

    def pass_time(self, seconds: float) -> None:
        """Let time pass on the server's clocks, for leases, ages and windows."""
        self._passed_us += round(seconds * 1_000_000)

    def set_clock(self, seconds: float) -> None:
        """Set the server's wall clock, this far from the real one, without time passing."""
        self._wall_us = round(seconds * 1_000_000)

    def copy(self, faults: FaultPlan | None = None) -> "MemoryDatabase":
        """A database of its own with the same content, which is not started yet.

        This one must not be running.
        """
        assert self._scope is None, "only a database that is not running is copied"
        return self._machine.database(self._files.copy(), self._store.crash(), faults=faults)

    async def _start(self) -> None:
        self._wanted = True
        await self._start_again()

    async def _start_again(self) -> None:
        async with self._changing:
            if self._wanted and self._scope is None:
                await self._machine.nursery.start(self._serve)

    async def _kill(self) -> None:
        self._wanted = False
        await self._end()

    async def _end(self) -> None:
        async with self._changing:
            if self._scope is not None:
                self._scope.cancel()
                await self._ended.wait()

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._ended = trio.Event()
        with trio.CancelScope() as self._scope:
            try:
                await self._live(task_status)
            finally:
                self._scope = None
                self._path.unlink(missing_ok=True)
                # Nothing that the old server still does reaches these.
                self._files, self._store = self._files.crash(), self._store.crash()
                self._ended.set()

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        engine = open_engine(
            self._files,
            "data",
            open_store=lambda _: self._store,
            open_log=partial(FileWriteAheadLog.open, segment_size=SEGMENT_SIZE),
            settings=SETTINGS,
            clock=self._wall_clock,
            monotonic=self._monotonic,
            source=random.Random(1),
        )
        server = Server(
            engine,
            ServerSettings(data="data", engine=SETTINGS),
            clock=self._wall_clock,
            worker=lambda _: _inline,
        )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        listener.listen()
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            sockets = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            serve = partial(self._serve_connection, server)
            nursery.start_soon(
                partial(trio.serve_listeners, serve, [sockets], handler_nursery=nursery)
            )
            task_status.started()
            await trio.sleep_forever()

    async def _serve_connection(self, server: Server, stream: trio.SocketStream) -> None:
        carried: trio.abc.Stream = stream
        if self.faults is not None:
            carried = FaultyStream(stream, self.faults, self._act)
        await serve_stream(carried, server.service, peer="test")

    async def _act(self, fault: Fault) -> None:
        match fault.kind:
            case "restart":
                self._machine.nursery.start_soon(self._restart_after, 0.0)
                await trio.sleep_forever()
            case "outage":
                self._machine.nursery.start_soon(self._restart_after, OUTAGE_S)
                await trio.sleep_forever()
            case "clock":
                self._wall_us += round(fault.amount * 1_000_000)
            case _:
                pass

    async def _restart_after(self, seconds: float) -> None:
        await self._end()
        await trio.sleep(seconds)
        await self._start_again()

    def _wall_clock(self) -> int:
        return wall_clock() + self._wall_us + self._passed_us

    def _monotonic(self) -> int:
        return monotonic_clock() + self._passed_us


async def _inline(call: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return call()


class MemoryMachine:
    """The thread. It ends with the process, or with `close`.

    Attributes:
        nursery: of the thread's event loop.
        ending: whether it has been closed.
    """

    nursery: trio.Nursery

    def __init__(self) -> None:
        self.ending = False
        self._directory = tempfile.TemporaryDirectory(prefix="headwater-")
        self._numbers = itertools.count(1)
        self._started: Future[trio.lowlevel.TrioToken] = Future()
        self._thread = threading.Thread(target=self._run, name="headwater-testing", daemon=True)
        self._thread.start()
        self._token = self._started.result(STARTED_S_MAX)

    def _run(self) -> None:
        trio.run(self._main)

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._started.set_result(trio.lowlevel.current_trio_token())
            await trio.sleep_forever()

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run an async function in the thread, and wait for its result."""
        result: Future[T] = Future()

        async def run() -> None:
            try:
                result.set_result(await function(*arguments))
            except Exception as error:
                result.set_exception(error)

        self._token.run_sync_soon(self.nursery.start_soon, run)
        return result.result(STARTED_S_MAX)

    def database(
        self,
        files: MemoryFileSystem | None = None,
        store: MemoryStore | None = None,
        *,
        faults: FaultPlan | None = None,
    ) -> MemoryDatabase:
        """A database that is not started yet: an empty one, or one with content."""
        # A path of a Unix socket has at most 107 bytes.
        path = Path(self._directory.name, f"{next(self._numbers)}.sock")
        return MemoryDatabase(
            self,
            path,
            files=files or MemoryFileSystem(),
            store=store or MemoryStore(),
            faults=faults,
        )

    def close(self) -> None:
        """End all databases and the thread."""
        self.ending = True
        try:
            self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
        except trio.RunFinishedError:
            pass
        self._thread.join(STARTED_S_MAX)
        self._directory.cleanup()
