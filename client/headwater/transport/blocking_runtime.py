"""The client without an event loop: a socket that blocks.

To wait for a reply is to read from the socket until the reply is there. Threads may share a
database: one thread asks at a time, the others wait for the connection's lock. A transaction
belongs to one thread. A subscription has its own connection, because waiting for its items on a
shared one would block all other requests.

A plain socket stays in blocking mode, and the kernel implements the timeout (SO_RCVTIMEO). A
timeout of Python's socket module would cost a `poll` before each `recv` and each `send`.
"""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from headwater.errors import ConnectionLost, TimedOut
from headwater.transport.address import Address
from headwater.transport.connection import RECEIVE_SIZE_MAX, Connection, PushReceiver, Reply
from headwater.transport.runtime import Greeting, Options, not_connected


class BlockingConnection(Connection):
    """A connection on a blocking socket."""

    def __init__(self, name: str, sock: socket.socket, timeout: float) -> None:
        super().__init__(name)
        self._socket = sock
        self._timeout = timeout
        self._expects_pushes = False
        self._pinged = False
        # Reentrant, because an answer may close the connection, which ends a subscription, which
        # may send a request.
        self._lock = threading.RLock()

    async def ask(self, name: str, *arguments: Any) -> Any:
        # Connection.ask without the coroutine of _park.
        with self._lock:
            reply = self._post_one(name, arguments)
            if not reply.done:
                self._read_until(reply)
        if reply.error is not None:
            raise reply.error
        return reply.payload

    async def exchange(
        self, requests: Sequence[Sequence[Any]], on_sent: Callable[[], None] | None = None
    ) -> list[Any]:
        with self._lock:
            return await super().exchange(requests, on_sent)

    def post(self, requests: Sequence[Sequence[Any]]) -> list[Reply]:
        with self._lock:
            return super().post(requests)

    async def subscribe(
        self, feed: PushReceiver, *arguments: Any, operation: str = "subscribe"
    ) -> int:
        with self._lock:
            return await super().subscribe(feed, *arguments, operation=operation)

    async def _park(self, reply: Reply) -> None:
        self._read_until(reply)

    def _read_until(self, reply: Reply) -> None:
        while not reply.done and not self.closed:
            try:
                data = self._socket.recv(RECEIVE_SIZE_MAX)
            except (BlockingIOError, TimeoutError):
                if self._expects_pushes and not self._pinged:
                    # Is there no news, or no connection? A ping tells.
                    self._pinged = True
                    self.post([("ping",)])
                    continue
                self.close(TimedOut(f"no answer from {self.name} within {self._timeout:g} s"))
            except OSError as error:
                self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
            else:
                if not data:
                    self.close()
                    continue
                self._pinged = False
                try:
                    self.receive(data)
                except BaseException:
                    # Interrupted in the middle of the data. The rest could no longer be parsed.
                    self.close()
                    raise

    def _wake(self, _sleeper: Any) -> None:
        raise AssertionError("no task parks on a blocking connection")

    def _send(self, data: bytes, alone: bool) -> None:  # noqa: ARG002
        try:
            self._socket.sendall(data)
        except OSError as error:
            self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))
        except BaseException:
            # Interrupted in the middle of a frame. The server could not parse what follows.
            self.close()
            raise

    def set_timeout(self, seconds: float) -> None:
        """Set the timeout of each receive and send."""
        self._timeout = seconds
        _set_timeout(self._socket, seconds)

    def wait_without_timeout(self) -> None:
        # The socket keeps its timeout, after which this side sends a ping. Otherwise a server whose
        # machine dies would never be missed.
        self._expects_pushes = True

    def wait_with_timeout(self, seconds: float) -> None:
        self._expects_pushes = False
        self.set_timeout(seconds)

    def _shut(self) -> None:
        try:
            # Without this, another thread that waits in recv would keep waiting.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The peer has closed it already.
        self._socket.close()


class BlockingRuntime:
    """Connections on plain sockets."""

    shares_connections = False

    def __init__(self) -> None:
        self._connections: list[BlockingConnection] = []

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """As Runtime.open."""
        connection: BlockingConnection | None = None
        try:
            sock = _connect(address, options.connect_timeout)
            connection = BlockingConnection(str(address), sock, options.connect_timeout)
            await greet(connection)
            connection.set_timeout(options.request_timeout)
        except OSError as error:
            if connection is not None:
                connection.close()
            raise not_connected(address, error, options.connect_timeout) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._connections = [
            *(other for other in self._connections if not other.closed),
            connection,
        ]
        return connection

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - there is no event loop to hold up

    def now(self) -> float:
        return time.monotonic()

    def lock(self) -> "ThreadLock":
        return ThreadLock()

    async def __aenter__(self) -> "BlockingRuntime":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()


class ThreadLock:
    """A lock of threads with the interface of an asynchronous one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def __aenter__(self) -> None:
        self._lock.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def _connect(address: Address, timeout: float) -> socket.socket:
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = socket.create_connection((address.host, address.port), timeout)
    try:
        if address.path:
            sock.settimeout(timeout)
            sock.connect(address.path)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if address.tls is not None:
            sock = address.tls.wrap_socket(sock, server_hostname=address.host)
        _set_timeout(sock, timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def _set_timeout(sock: socket.socket, seconds: float) -> None:
    """Set the timeout of each receive and send."""
    if isinstance(sock, ssl.SSLSocket):
        # OpenSSL would treat the kernel's timeout as "try again", and retry.
        sock.settimeout(seconds)
        return
    sock.settimeout(None)
    whole, part = divmod(seconds, 1)
    interval = struct.pack("ll", int(whole), int(part * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
