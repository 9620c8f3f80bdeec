"""The client on trio: a nursery with a reader and a writer for each connection.

A cancellation around `connect()` does not reach these tasks. So cleanup code under a shield can
still send requests. The tasks end when the connection is closed, at the end of
`async with connect()`.

Without TLS the socket is used directly, without a trio stream. The task that makes a request sends
it itself, in one call of `send`, which cannot be cancelled half-way. Everything else (TLS, memory)
is a trio Stream, and only the writer sends on it.
"""

import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, TypeVar

import trio

from headwater.errors import ConnectionLost, InvalidArgument
from headwater.transport.connection import CHECKS_PER_TIMEOUT, RECEIVE_SIZE_MAX, Connection, Reply
from headwater.transport.runtime import Greeting, Options, not_connected
from headwater.transport.stopping import Stop, Stopped, closed_by_user
from headwater_protocol.address import Address

T = TypeVar("T")

_BROKEN: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class TrioConnection(Connection):
    """The base of both kinds: parking, and a writer that is woken when there is data to send."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._outgoing: list[bytes] = []
        self._writer: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope(shield=True)
        self._token = trio.lowlevel.current_trio_token()

    def _check_usable(self) -> None:
        check_loop(self._token)
        super()._check_usable()

    async def _park(self, reply: Reply) -> None:
        reply.sleeper = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            reply.sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self, sleeper: trio.lowlevel.Task) -> None:
        trio.lowlevel.reschedule(sleeper)

    def _send(self, data: bytes, alone: bool) -> None:  # noqa: ARG002
        self._queue(data)

    def _queue(self, data: bytes) -> None:
        self._outgoing.append(data)
        self._queued_size += len(data)
        self._wake_writer()

    def _note_sent(self, size: int) -> None:
        """Note that the writer has sent some bytes of the queue."""
        self._queued_size -= size
        self._admit()

    def _wake_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            trio.lowlevel.reschedule(writer)

    async def _something_to_send(self) -> bytes:
        while not self._outgoing:
            self._writer = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._writer = None
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    async def serve(self, request_timeout: float) -> None:
        """Read, write and check for timeouts until the connection is closed."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
                while True:
                    await trio.sleep(request_timeout / CHECKS_PER_TIMEOUT)
                    self.check_overdue(request_timeout)

    @abstractmethod
    async def _read(self) -> None:
        """Receive, until the peer or this side closes the connection."""

    @abstractmethod
    async def _write(self) -> None:
        """Send the queue, until the connection is closed."""


class TrioSocketConnection(TrioConnection):
    """A connection on a socket of its own, TCP or Unix."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        super().__init__(name)
        sock.setblocking(False)
        self._socket = sock
        # Whether the writer has sent part of a frame, so that its rest must go first.
        self._halfway = False

    def _send(self, data: bytes, alone: bool) -> None:
        if not alone or self._outgoing or self._halfway:
            self._queue(data)
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
            return
        if sent < len(data):
            self._queue(data[sent:])

    async def _read(self) -> None:
        sock = self._socket
        # Received bytes may close the connection.
        while not self.closed:
            try:
                await trio.lowlevel.wait_readable(sock)
                data = sock.recv(RECEIVE_SIZE_MAX)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                return  # Another task of this client closed it.
            except OSError as error:
                self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
                return
            if not data:
                self.close()
                return
            self.receive(data)

    async def _write(self) -> None:
        while True:
            data = memoryview(await self._something_to_send())
            size = len(data)
            self._halfway = True
            while data:
                try:
                    data = data[self._socket.send(data) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                except trio.ClosedResourceError:
                    return
                except OSError as error:
                    self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
                    return
            self._halfway = False
            self._note_sent(size)

    def _shut(self) -> None:
        self.scope.cancel()
        if self._outgoing and not self._halfway:
            try:
                self._socket.send(b"".join(self._outgoing))
            except OSError:
                pass  # The server notices that the connection is closed, which is enough.
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


class TrioStreamConnection(TrioConnection):
    """A connection on a trio Stream."""

    def __init__(self, name: str, stream: trio.abc.Stream) -> None:
        super().__init__(name)
        self._stream = stream

    async def _read(self) -> None:
        try:
            while not self.closed and (data := await self._stream.receive_some()):
                self.receive(bytes(data))
        except _BROKEN as error:
            self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
        self.close()

    async def _write(self) -> None:
        try:
            while True:
                data = await self._something_to_send()
                await self._stream.send_all(data)
                self._note_sent(len(data))
        except _BROKEN as error:
            self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))

    async def serve(self, request_timeout: float) -> None:
        try:
            await super().serve(request_timeout)
        finally:
            await trio.aclose_forcefully(self._stream)

    def _shut(self) -> None:
        self.scope.cancel()


class TrioRuntime:
    """Connections whose tasks live in one nursery."""

    shares_connections = True

    def __init__(self) -> None:
        self.closing = Stop()
        self._token = trio.lowlevel.current_trio_token()
        self._nurseries = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self._connections: list[TrioConnection] = []

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """As Runtime.open."""
        check_loop(self._token)
        nursery = self._nursery
        assert nursery is not None, "open() before __aenter__()"
        connection: TrioConnection | None = None

        async def connect() -> TrioConnection:
            nonlocal connection
            with trio.fail_after(options.connect_timeout):
                connection = opened = await _connect(address, options)
                nursery.start_soon(opened.serve, options.request_timeout)
                await greet(opened)
            return opened

        try:
            opened = await self.guard(connect, self.closing)
        except Stopped:
            if connection is not None:
                connection.close()
            raise closed_by_user() from None
        except (*_BROKEN, trio.TooSlowError) as error:
            if connection is not None:
                connection.close()
            cause = TimeoutError() if isinstance(error, trio.TooSlowError) else error
            raise not_connected(address, cause, options.connect_timeout) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._connections = [
            *(other for other in self._connections if not other.closed),
            opened,
        ]
        return opened

    def close(self) -> None:
        """Close all connections, end all waits, and open nothing any more."""
        self.closing.set()
        for connection in self._connections:
            connection.close(closed_by_user())

    async def guard(self, work: Callable[[], Awaitable[T]], stop: Stop) -> T:
        """As Runtime.guard."""
        with trio.CancelScope() as scope, stop.calling(scope.cancel):
            return await work()
        raise Stopped

    async def sleep(self, seconds: float) -> None:
        """As Runtime.sleep."""
        with trio.CancelScope() as scope, self.closing.calling(scope.cancel):
            await trio.sleep(seconds)

    def now(self) -> float:
        return trio.current_time()

    def lock(self) -> "TaskLock":
        return TaskLock()

    def bell(self) -> "TaskBell":
        return TaskBell()

    async def __aenter__(self) -> "TrioRuntime":
        self._nursery = await self._nurseries.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._nursery is not None
        crashed = self._nursery.cancel_scope.cancel_called
        for connection in self._connections:
            connection.close()
        if crashed:
            # One of our tasks failed, and cancelled the user's. The nursery knows why.
            return await self._nurseries.__aexit__(kind, error, trace)
        # The user's error passes by the nursery, which would wrap it in an ExceptionGroup.
        try:
            await self._nurseries.__aexit__(None, None, None)
        except BaseException as own:
            if error is None or not _only_cancelled(own):
                raise
        return None


class TaskLock:
    """A lock of tasks."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run *work* while no other task does."""
        async with self._lock:
            return await work()


class TaskBell:
    """Wakes a task."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self.ring = self._event.set

    async def wait(self, seconds: float) -> bool:
        """As Bell.wait."""
        with trio.move_on_after(seconds):
            await self._event.wait()
        return self._event.is_set()


def check_loop(token: trio.lowlevel.TrioToken) -> None:
    """Raise an error unless the run of *token* runs the caller."""
    try:
        if trio.lowlevel.current_trio_token() is token:
            return
    except RuntimeError:
        pass
    raise InvalidArgument(
        "this database was opened in another trio.run(); enter `async with connect(…)` in the run "
        "that uses it, or use connect_blocking(), whose database any thread can use"
    )


async def _connect(address: Address, options: Options) -> TrioConnection:
    name = str(address)
    stream: trio.abc.Stream
    if options.open_stream is not None:
        return TrioStreamConnection(name, await options.open_stream())
    if address.path:
        stream = await trio.open_unix_socket(address.path)
        return TrioSocketConnection(name, _plain_socket(stream))
    stream = await trio.open_tcp_stream(address.host, address.port)
    # trio sets TCP_NODELAY itself.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if address.tls is None:
        return TrioSocketConnection(name, _plain_socket(stream))
    secure = trio.SSLStream(
        stream, address.tls, server_hostname=address.host, https_compatible=True
    )
    try:
        await secure.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    connection = TrioStreamConnection(name, secure)
    connection.server_certificate = secure.getpeercert(binary_form=True)
    return connection


def _plain_socket(stream: trio.SocketStream) -> socket.socket:
    """The socket of a stream that is not used any more."""
    return socket.socket(fileno=stream.socket.detach())


def _only_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_cancelled(inner) for inner in error.exceptions)
    return isinstance(error, trio.Cancelled)
