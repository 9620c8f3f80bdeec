"""The client on asyncio: an asyncio.Protocol that the loop calls, and futures for the tasks."""

import asyncio
import socket
from types import TracebackType
from typing import Any, Final

from headwater.errors import ConnectionLost
from headwater.transport.address import Address
from headwater.transport.connection import CHECKS_PER_TIMEOUT, Connection, Reply
from headwater.transport.runtime import Greeting, Options, not_connected

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
        self._request_timeout = request_timeout
        self._timer = loop.call_later(request_timeout / CHECKS_PER_TIMEOUT, self._check)
        self._ended: asyncio.Future[None] = loop.create_future()
        # The loop calls this attribute, so each answer costs one Python call less.
        self.data_received = self.receive  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

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
        # The queue is bounded by the number of waiting tasks: each has one request in it.
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        if self._outgoing and not self.closed:
            assert self._transport is not None
            self._transport.write(b"".join(self._outgoing))
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
        self._loop = asyncio.get_running_loop()
        self._connections: list[AsyncioConnection] = []

    async def open(self, address: Address, options: Options, greet: Greeting) -> Connection:
        """As Runtime.open."""
        connection = AsyncioConnection(str(address), self._loop, options.request_timeout)
        try:
            async with asyncio.timeout(options.connect_timeout):
                if address.path:
                    await self._loop.create_unix_connection(lambda: connection, address.path)
                else:
                    transport, _ = await self._loop.create_connection(
                        lambda: connection, address.host, address.port, ssl=address.tls
                    )
                    _set_options(transport.get_extra_info("socket"))
                await greet(connection)
        except (OSError, EOFError) as error:
            connection.abort()
            raise not_connected(address, error, options.connect_timeout) from error
        except BaseException:
            connection.abort()
            raise
        self._connections = [
            *(other for other in self._connections if not other.closed),
            connection,
        ]
        return connection

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def now(self) -> float:
        return self._loop.time()

    def lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    async def __aenter__(self) -> "AsyncioRuntime":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()
            await connection.ended()


def _set_options(sock: Any) -> None:
    if isinstance(sock, socket.socket) or hasattr(sock, "setsockopt"):
        # asyncio sets TCP_NODELAY itself.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
