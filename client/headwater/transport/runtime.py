"""The interface to the event loop: what the client needs of trio, asyncio or plain sockets.

    trio       trio_runtime.py       a nursery with a reader and a writer for each connection
    asyncio    asyncio_runtime.py    a Protocol, called by the loop
    none       blocking_runtime.py   a socket

Only the runtime that is used is imported (choice.py), so an asyncio application needs no trio.
"""

import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

from headwater.codecs.codec import Codec
from headwater.errors import ConnectionLost
from headwater.transport.connection import Connection
from headwater.transport.stopping import Stop
from headwater.transport.tracing import Tracing
from headwater.transport.turns import Bell
from headwater_protocol.address import Address

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `connect`. Times are in seconds.

    Attributes:
        codec: of values, event data and states.
        connect_timeout: to connect and authenticate.
        request_timeout: to wait for one answer.
        retry_timeout: to keep retrying where that is safe: connecting, reads and writes outside of
            a transaction, `run`, subscriptions and memberships.
        wait_for_server: whether entering a database waits for a server, too.
        client_name: the name of this client in the server's log.
        tracing: makes spans of the requests; None: there are none.
        nodes: the addresses of the nodes, if there are several or `read` is given.
        read: where to read, one of READ_MODES; None: there is one server.
        open_stream: on trio, opens the stream of a connection instead of the address: a tunnel, or
            memory in a simulation.
    """

    codec: Codec
    connect_timeout: float = 10.0
    request_timeout: float = 30.0
    retry_timeout: float = 30.0
    wait_for_server: bool = True
    client_name: str = ""
    tracing: Tracing | None = None
    nodes: tuple[Address, ...] = ()
    read: str | None = None
    open_stream: Callable[[], Awaitable[Any]] | None = None


Greeting = Callable[[Connection], Awaitable[None]]
"""Does the handshake on a new connection."""


class Lock(Protocol):
    """A lock that one task can hold at a time."""

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run *work* while no other task does."""
        ...


class Runtime(Protocol):
    """Sleeping, locks and sockets of an event loop.

    Attributes:
        shares_connections: whether other tasks can use a connection while one waits on it.
        closing: set when the database is closed.
    """

    shares_connections: bool
    closing: Stop

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """Open a connection and do the handshake with *greet*, within the connect timeout.

        Raises:
            ConnectionLost: no server answered at the address, or the database was closed.
        """

    def close(self) -> None:
        """Close all connections, end all waits, and open nothing any more."""

    async def guard(self, work: Callable[[], Awaitable[T]], stop: Stop) -> T:
        """Run *work*, but end what it waits for when *stop* is set.

        Raises:
            Stopped: *stop* was set before *work* ended.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep, without blocking other tasks. It ends early when the database is closed."""

    def now(self) -> float:
        """The time of a monotonic clock, in seconds."""

    def lock(self) -> Lock:
        """A new lock."""
        ...

    def bell(self) -> Bell:
        """A new bell."""
        ...

    async def __aenter__(self) -> "Runtime": ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None: ...


def not_connected(address: Address, error: BaseException, timeout: float) -> ConnectionLost:
    """The ConnectionLost to raise for an error of connecting."""
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"cannot connect to {address} within {timeout:g} s")
    if isinstance(error.__cause__, ssl.SSLError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        # Retrying does not help: the certificate stays the same.
        return ConnectionLost(
            f"{address}: the certificate is not trusted: {error.verify_message}", retryable=False
        )
    if isinstance(error, ssl.SSLError):
        reason = f"{error.reason or error}".lower().replace("_", " ")
        return ConnectionLost(
            f"{address}: TLS failed ({reason}); does the server use TLS?", retryable=False
        )
    reason = _reason(error)
    if address.tls is not None and not reason:
        reason = "the server closed it during the TLS handshake; does it use TLS?"
    return ConnectionLost(f"cannot connect to {address}: {reason or type(error).__name__}")


def _reason(error: BaseException) -> str:
    """The reason of an error of connecting, from inside of what the runtime wrapped around it."""
    while isinstance(error.__cause__, OSError | ExceptionGroup):
        error = error.__cause__
    if isinstance(error, ExceptionGroup):
        # One error for each address of the host. Report the first.
        return _reason(error.exceptions[0])
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    number = re.search(r"\[Errno (\d+)\]", str(error))
    return os.strerror(int(number[1])) if number else str(error)
