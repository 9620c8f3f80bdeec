"""The client without an event loop: plain sockets, and threads instead of tasks.

Threads may share a database. Each request has a connection to itself until its answer has come, so
a slow request of one thread does not hold up the others; the channel keeps a pool of connections
(channel.py). A transaction keeps its connection. A subscription has its own, because waiting for
its items on a shared one would block all other requests.
"""

import socket
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TypeVar

from headwater.errors import ConnectionLost
from headwater.transport.blocking_connection import BlockingConnection
from headwater.transport.connection import Connection
from headwater.transport.dialing import dial
from headwater.transport.runtime import Greeting, Options, not_connected
from headwater.transport.stopping import Stop, Stopped, closed_by_user
from headwater_protocol.address import Address

T = TypeVar("T")


class BlockingRuntime:
    """Connections on plain sockets."""

    shares_connections = False

    def __init__(self) -> None:
        self.closing = Stop()
        # Weak, so that a connection that nobody got, since a signal handler raised, does not stay
        # open.
        self._connections: list[weakref.ref[BlockingConnection]] = []
        self._listing = threading.RLock()
        # The stops that end what the current thread waits for, besides `closing`.
        self._guarded = threading.local()

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """As Runtime.open."""
        connection: BlockingConnection | None = None
        try:
            until = self.now() + options.connect_timeout
            sock = _connect(address, options.connect_timeout, self._stops())
            connection = BlockingConnection(str(address), sock, options.connect_timeout)
            connection.deadline = until
            with self._listing:
                self._connections = [
                    *(weakref.ref(other) for other in self._listed() if not other.closed),
                    weakref.ref(connection),
                ]
            with ExitStack() as stack:
                for stop in self._stops():
                    stack.enter_context(stop.calling(connection.close))
                await greet(connection)
            connection.deadline = None
            connection.set_timeout(options.request_timeout)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if self.closing.stopped and isinstance(error, Stopped | ConnectionLost | OSError):
                raise closed_by_user() from error
            if isinstance(error, OSError):
                raise not_connected(address, error, options.connect_timeout) from error
            raise
        return connection

    def close(self) -> None:
        """Close all connections, end all waits, and open nothing any more."""
        self.closing.set()
        with self._listing:
            connections = self._listed()
        for connection in connections:
            connection.close(closed_by_user())

    def _listed(self) -> list[BlockingConnection]:
        listed = [each() for each in self._connections]
        return [connection for connection in listed if connection is not None]

    async def guard(self, work: Callable[[], Awaitable[T]], stop: Stop) -> T:
        """As Runtime.guard."""
        before = self._stops()
        self._guarded.stops = [*before, stop]
        try:
            if stop.stopped:
                raise Stopped
            return await work()
        except ConnectionLost as error:
            if stop.stopped:
                raise Stopped from error
            raise
        finally:
            self._guarded.stops = before

    def _stops(self) -> list[Stop]:
        stops: list[Stop] = getattr(self._guarded, "stops", [self.closing])
        return stops

    async def sleep(self, seconds: float) -> None:
        """As Runtime.sleep."""
        bell = ThreadBell()
        with ExitStack() as stack:
            for stop in self._stops():
                stack.enter_context(stop.calling(bell.ring))
            await bell.wait(seconds)

    def now(self) -> float:
        return time.monotonic()

    def lock(self) -> "ThreadLock":
        return ThreadLock()

    def bell(self) -> "ThreadBell":
        return ThreadBell()

    async def __aenter__(self) -> "BlockingRuntime":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ThreadLock:
    """A lock that one thread can hold at a time.

    It is reentrant, so a signal handler may use the database while its thread holds the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run *work* while no other thread does."""
        # `with` on a lock of the interpreter is atomic. After an `acquire()` in a method of ours,
        # an exception that a signal handler raises could leave the lock held for ever.
        with self._lock:
            return await work()


class ThreadBell:
    """Wakes a thread. threading.Event would not do: a signal can leave its lock held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """As Bell.ring."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # It has rung already.

    async def wait(self, seconds: float) -> bool:
        """As Bell.wait."""
        return self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


def _connect(address: Address, timeout: float, stops: Sequence[Stop]) -> socket.socket:
    until = time.monotonic() + timeout
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = dial(address, timeout, lambda: any(stop.stopped for stop in stops))
    try:
        if address.path:
            sock.settimeout(timeout)
            sock.connect(address.path)
        if address.tls is not None:
            sock.settimeout(max(0.001, until - time.monotonic()))
            with ExitStack() as stack:
                for stop in stops:
                    stack.enter_context(stop.calling(partial(_shut_down, sock)))
                sock = address.tls.wrap_socket(sock, server_hostname=address.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It is not connected any more.
