"""What the client needs of whatever runs it, and which one that is.

    trio       trio_runtime.py       a nursery with a reader and a writer for each connection
    asyncio    asyncio_runtime.py    a Protocol, called by the loop
    none       blocking_runtime.py   a socket

Only the one that is in use is imported, so an asyncio application needs no trio.
"""

import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from headwater.codecs.codec import Codec
from headwater.errors import ConnectionLost
from headwater.transport.address import Address
from headwater.transport.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to talk with a server. Times in seconds.

    Attributes:
        codec: of values, event data and states.
        connect_timeout: to connect, shake hands and authenticate.
        request_timeout: to wait for one answer.
        retry_timeout: to go on trying where that is safe: one-shot writes, `run`,
            subscriptions that reconnect.
        client_name: what the server's log calls this client.
        open_stream: on trio, opens the stream of a connection in place of the address: a
            tunnel, or memory in a simulation.
    """

    codec: Codec
    connect_timeout: float = 10.0
    request_timeout: float = 30.0
    retry_timeout: float = 30.0
    client_name: str = ""
    open_stream: Callable[[], Awaitable[Any]] | None = None


Greeting = Callable[[Connection], Awaitable[None]]
"""Shakes hands on a new connection."""


class Runtime(Protocol):
    """Sleeps, locks and sockets.

    Attributes:
        shares_connections: whether a task that waits on a connection leaves it to others meanwhile.
    """

    shares_connections: bool

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """A new connection on which *greet* has succeeded, within the connect timeout.

        Raises:
            ConnectionLost: no server answered there.
        """

    async def sleep(self, seconds: float) -> None:
        """Wait, without holding up others."""

    def now(self) -> float:
        """Seconds by a clock that never goes back."""

    def lock(self) -> AbstractAsyncContextManager[Any]:
        """A lock that one task holds at a time."""

    async def __aenter__(self) -> "Runtime": ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None: ...


def not_connected(address: Address, error: BaseException, timeout: float) -> ConnectionLost:
    """The error for one that was met while connecting."""
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"cannot connect to {address} within {timeout:g} s")
    if isinstance(error.__cause__, ssl.SSLError):
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        # Trying again will not make the certificate good.
        return ConnectionLost(
            f"{address}: the certificate is not trusted: {error.verify_message}", retryable=False
        )
    if isinstance(error, ssl.SSLError):
        reason = f"{error.reason or error}".lower().replace("_", " ")
        return ConnectionLost(
            f"{address}: no TLS ({reason}); does the server speak it?", retryable=False
        )
    reason = _reason(error)
    if address.tls is not None and not reason:
        reason = "it ended the connection during the TLS handshake; does it speak TLS?"
    return ConnectionLost(f"cannot connect to {address}: {reason or type(error).__name__}")


def _reason(error: BaseException) -> str:
    """What an error of connecting comes down to, however the runtime wrapped it."""
    while isinstance(error.__cause__, OSError | ExceptionGroup):
        error = error.__cause__
    if isinstance(error, ExceptionGroup):
        # One error for each address of the host: the first is as good as any.
        return _reason(error.exceptions[0])
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    number = re.search(r"\[Errno (\d+)\]", str(error))
    return os.strerror(int(number[1])) if number else str(error)
