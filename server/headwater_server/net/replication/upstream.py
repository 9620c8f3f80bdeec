"""Upstream: the connection of a follower to its leader.

It speaks the protocol as every client does: hello, a user and a password if the leader requires
them, TLS as the URL says. One task uses a connection. It may send several requests before it waits
for the first answer.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from scramp import ScramClient, ScramException

from headwater_protocol.address import Address
from headwater_protocol.connection import Answer, ClientConnection, Failure, Violation
from headwater_protocol.errors import AuthenticationFailed, ConnectionLost, ProtocolError
from headwater_protocol.limits import PROTOCOL_VERSION

Dial = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens a stream to the leader."""

MECHANISM: Final = "SCRAM-SHA-256"

CONNECT_S_MAX: Final = 10.0
"""Seconds to connect and to authenticate."""

ANSWER_S_MAX: Final = 30.0
"""Seconds for an answer. A leader answers a log_read without entries after one second."""

_RECEIVE_SIZE: Final = 256 * 1024


def url_of(address: Address) -> str:
    """The URL of a node, without user and password, for those who are told to go there."""
    if address.path:
        return f"headwater+unix://{address.path}"
    return f"headwater{'s' if address.tls is not None else ''}://{address}"


class Link:
    """A connection that was greeted."""

    def __init__(self, stream: trio.abc.Stream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._connection = ClientConnection()
        self._answers: dict[int, Answer | Failure] = {}

    async def ask(self, operation: str, *arguments: Any, seconds: float = ANSWER_S_MAX) -> Any:
        """Send a request and wait for its answer; raise its error.

        Raises:
            ConnectionLost: the connection ended, or no answer came in time.
        """
        return await self.result(await self.send(operation, *arguments), seconds=seconds)

    async def send(self, operation: str, *arguments: Any) -> int:
        """Send a request; `result` waits for its answer."""
        request_id, frame = self._connection.request(operation, *arguments)
        try:
            await self._stream.send_all(frame)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"{self._name}: {error}") from error
        return request_id

    async def result(self, request_id: int, *, seconds: float = ANSWER_S_MAX) -> Any:
        """The answer to a request; raise its error."""
        with trio.move_on_after(seconds):
            while request_id not in self._answers:
                await self._receive()
        answer = self._answers.pop(request_id, None)
        if answer is None:
            raise ConnectionLost(f"{self._name}: no answer within {seconds:g} s")
        if isinstance(answer, Failure):
            raise answer.error
        return answer.payload

    async def _receive(self) -> None:
        try:
            data = await self._stream.receive_some(_RECEIVE_SIZE)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionLost(f"{self._name}: {error}") from error
        if not data:
            raise ConnectionLost(f"{self._name} has closed the connection")
        for item in self._connection.receive(bytes(data)):
            if isinstance(item, Violation) or (isinstance(item, Failure) and not item.request_id):
                raise item.error
            if not isinstance(item, (Answer, Failure)):
                raise ProtocolError(f"{self._name} pushes, and nothing was subscribed to")
            self._answers[item.request_id] = item


class Upstream:
    """The leader, as its follower reaches it.

    Attributes:
        url: of the leader, without user and password.
    """

    def __init__(self, address: Address, dial: Dial | None = None) -> None:
        """*dial* opens a stream, by default to the address."""
        self.url = url_of(address)
        self._address = address
        self._dial = dial or self._open

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Link]:
        """Connect and authenticate.

        Raises:
            ConnectionLost: nobody answers.
            AuthenticationFailed, ProtocolError: the leader does not let this node in.
        """
        stream: trio.abc.Stream | None = None
        try:
            with trio.move_on_after(CONNECT_S_MAX) as scope:
                try:
                    stream = await self._dial()
                except (OSError, trio.BrokenResourceError) as error:
                    raise ConnectionLost(f"{self.url}: {error}") from error
                link = Link(stream, self.url)
                await self._greet(link)
            if scope.cancelled_caught:
                raise ConnectionLost(f"{self.url}: no connection within {CONNECT_S_MAX:g} s")
            yield link
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _open(self) -> trio.abc.Stream:
        address = self._address
        if address.path:
            return await trio.open_unix_socket(address.path)
        stream = await trio.open_tcp_stream(address.host, address.port)
        if address.tls is None:
            return stream
        encrypted = trio.SSLStream(
            stream, address.tls, server_hostname=address.host, https_compatible=True
        )
        await encrypted.do_handshake()
        return encrypted

    async def _greet(self, link: Link) -> None:
        version, _, _, mechanisms, *_ = await link.ask("hello", PROTOCOL_VERSION, "a follower")
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"{self.url} speaks version {version} of the protocol")
        if not mechanisms:
            return
        if self._address.user is None:
            raise AuthenticationFailed(f"{self.url} requires a user with the right replicate")
        try:
            scram = ScramClient([MECHANISM], self._address.user, self._address.password or "")
            scram.set_server_first(await _step(link, scram.get_client_first()))
            scram.set_server_final(await _step(link, scram.get_client_final()))
        except ScramException as error:
            raise AuthenticationFailed(f"{self.url}: {error}") from error


async def _step(link: Link, message: str) -> str:
    match await link.ask("authenticate", MECHANISM, message.encode()):
        case [bool(), bytes(answer)]:
            return answer.decode(errors="replace")
        case _:
            raise ProtocolError("the answer to authenticate is not of its form")
