"""The client on asyncio: an asyncio.Protocol that the loop calls, and futures for the tasks."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, TypeVar, cast

from headwater.errors import ConnectionLost, InvalidArgument
from headwater.transport.connection import CHECKS_PER_TIMEOUT, QUEUED_SIZE_MAX, Connection, Reply
from headwater.transport.dialing import STAGGER_S, AddressInfo, in_turn, set_options
from headwater.transport.runtime import Greeting, Options, not_connected
from headwater.transport.stopping import Stop, Stopped, closed_by_user
from headwater_protocol.address import Address

T = TypeVar("T")

CLOSE_S_MAX: Final = 1.0
"""Seconds to wait for a transport to close. Written data must be sent, and TLS has a closing
message, but a peer that does not read must not prevent the application from ending."""


class AsyncioConnection(Connection, asyncio.Protocol):
    """A connection on an asyncio transport, TLS or plain."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, request_timeout: float) -> None:
        super().__init__(name)
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._paused = False
        self._request_timeout = request_timeout
        self._timer = loop.call_later(request_timeout / CHECKS_PER_TIMEOUT, self._check)
        self._ended: asyncio.Future[None] = loop.create_future()
        # The loop calls this attribute, so each answer costs one Python call less.
        self.data_received = self.receive  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but do not inherit from it.
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.server_certificate = tls.getpeercert(binary_form=True)
        self._transport.set_write_buffer_limits(high=QUEUED_SIZE_MAX)

    def pause_writing(self) -> None:
        self._paused = True
        self._queued_size = QUEUED_SIZE_MAX + 1

    def resume_writing(self) -> None:
        self._paused = False
        self._queued_size = sum(map(len, self._outgoing))
        self._admit()

    def _check_usable(self) -> None:
        check_loop(self._loop)
        super()._check_usable()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self.close()
        else:
            self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
        if not self._ended.done():
            self._ended.set_result(None)

    def _park(self, reply: Reply) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        reply.sleeper = future
        return future

    def _wake(self, sleeper: "asyncio.Future[None]") -> None:
        # A cancelled task has cancelled its future.
        if not sleeper.done():
            sleeper.set_result(None)

    def _send(self, data: bytes, alone: bool) -> None:
        assert self._transport is not None
        if alone and not self._outgoing:
            self._transport.write(data)
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)
        self._queued_size += len(data)

    def _flush(self) -> None:
        if self._outgoing and not self.closed:
            assert self._transport is not None
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self._queued_size = QUEUED_SIZE_MAX + 1 if self._paused else 0
            # The transport pauses at once, if it cannot send enough of it.
            self._transport.write(data)
            self._admit()
        self._outgoing.clear()

    def _check(self) -> None:
        self.check_overdue(self._request_timeout)
        if not self.closed:
            self._timer = self._loop.call_later(
                self._request_timeout / CHECKS_PER_TIMEOUT, self._check
            )

    def _shut(self) -> None:
        self._timer.cancel()
        if self._transport is not None:
            if self._outgoing:
                # Send what was queued in this turn, a rollback for example.
                self._transport.write(b"".join(self._outgoing))
                self._outgoing.clear()
            self._transport.close()

    def abandon(self) -> None:
        super().abandon()
        # Not even closed: parent and child share the selector of the loop. It is kept, because the
        # destructor would close it.
        _abandoned.append(self._transport)
        self._transport = None

    async def ended(self) -> None:
        """Wait until the transport is closed, for a short time at most."""
        if self._transport is not None:
            await asyncio.wait([self._ended], timeout=CLOSE_S_MAX)
            self._transport.abort()

    def abort(self) -> None:
        """Close at once, without the closing message of TLS, for which the loop may not run."""
        self.close()
        if self._transport is not None:
            self._transport.abort()


class AsyncioRuntime:
    """Connections on the running loop. It needs no tasks."""

    shares_connections = True

    def __init__(self) -> None:
        self.closing = Stop()
        self._loop = asyncio.get_running_loop()
        self._connections: list[AsyncioConnection] = []

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """As Runtime.open."""
        check_loop(self._loop)
        connection = AsyncioConnection(str(address), self._loop, options.request_timeout)

        async def connect() -> None:
            async with asyncio.timeout(options.connect_timeout):
                await self._connect(address, connection)
                await greet(connection)

        try:
            await self.guard(connect, self.closing)
        except (OSError, EOFError) as error:
            connection.abort()
            raise not_connected(address, error, options.connect_timeout) from error
        except Stopped:
            connection.abort()
            raise closed_by_user() from None
        except BaseException:
            connection.abort()
            raise
        self._connections = [
            *(other for other in self._connections if not other.closed),
            connection,
        ]
        return connection

    async def _connect(self, address: Address, connection: AsyncioConnection) -> None:
        if address.path:
            await self._loop.create_unix_connection(lambda: connection, address.path)
            return
        sock = await _dial(self._loop, address)
        try:
            await self._loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=address.tls,
                server_hostname=None if address.tls is None else address.host,
            )
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Close all connections, end all waits, and open nothing any more."""
        self.closing.set()
        for connection in self._connections:
            connection.close(closed_by_user())

    async def guard(self, work: Callable[[], Awaitable[T]], stop: Stop) -> T:
        """As Runtime.guard."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                with stop.calling(lambda: scope.reschedule(self._loop.time())):
                    return await work()
        except TimeoutError as error:
            if scope.expired():
                raise Stopped from error
            raise

    async def sleep(self, seconds: float) -> None:
        """As Runtime.sleep."""
        try:
            await self.guard(lambda: asyncio.sleep(seconds), self.closing)
        except Stopped:
            pass

    def now(self) -> float:
        return self._loop.time()

    def lock(self) -> "TaskLock":
        return TaskLock()

    def bell(self) -> "TaskBell":
        return TaskBell()

    async def __aenter__(self) -> "AsyncioRuntime":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        for connection in self._connections:
            await connection.ended()


class TaskLock:
    """A lock of tasks."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run *work* while no other task does."""
        async with self._lock:
            return await work()


class TaskBell:
    """Wakes a task."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.ring = self._event.set

    async def wait(self, seconds: float) -> bool:
        """As Bell.wait."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        return True


_abandoned: Final[list[object]] = []
"""The transports of a parent process."""


def check_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Raise an error unless *loop* runs the caller."""
    try:
        if asyncio.get_running_loop() is loop:
            return
    except RuntimeError:
        pass
    raise InvalidArgument(
        "this database was opened on another event loop; enter `async with connect(…)` on the loop "
        "that uses it, or use connect_blocking(), whose database any thread can use"
    )


async def _dial(loop: asyncio.AbstractEventLoop, address: Address) -> socket.socket:
    """Connect a socket to the host of an address. dialing.py explains the pauses."""
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    waiting = in_turn(found)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    try:
        while True:
            if waiting:
                running.add(loop.create_task(_connected(loop, waiting.pop(0))))
            if not running:
                raise errors[0]
            done, running = await asyncio.wait(
                running,
                timeout=STAGGER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                if (error := task.exception()) is None:
                    running |= done - {task}
                    return task.result()
                errors.append(error)
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_result)


async def _connected(loop: asyncio.AbstractEventLoop, info: AddressInfo) -> socket.socket:
    family, kind, protocol, _, target = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, target)
        set_options(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_result(task: "asyncio.Task[socket.socket]") -> None:
    """Close the socket of an attempt that came second."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
