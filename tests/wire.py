"""A bare connection to a real server, for tests that control every request.

It uses the connection class of the protocol and a socket, and not the client library. So there is
no lazy begin and no retry, and one request at a time unless `send` and `receive` are used.
"""

import socket
from collections import deque
from types import TracebackType
from typing import Any

from headwater_protocol.connection import Answer, ClientConnection, Failure, Push, Violation
from headwater_protocol.limits import PROTOCOL_VERSION

_TIMEOUT_S = 30.0


class Wire:
    """A blocking connection that has said hello."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=_TIMEOUT_S)
        self._connection = ClientConnection()
        self._queued: list[tuple[int, bytes]] = []
        self._arrived: deque[Answer | Failure | Push | Violation] = deque()
        self.ask("hello", PROTOCOL_VERSION, "tests")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def send(self, operation: str, *arguments: Any) -> int:
        """Send a request and return its id, without waiting."""
        request_id, frame = self._connection.request(operation, *arguments)
        self._socket.sendall(frame)
        return request_id

    def queue(self, operation: str, *arguments: Any) -> None:
        """Make a request that `flush` sends together with others."""
        request_id, frame = self._connection.request(operation, *arguments)
        self._queued.append((request_id, frame))

    def flush(self) -> list[int]:
        """Send the queued requests in one packet; return their ids in order."""
        queued, self._queued = self._queued, []
        self._socket.sendall(b"".join(frame for _, frame in queued))
        return [request_id for request_id, _ in queued]

    def receive(self) -> Answer | Failure | Push | Violation:
        """The next message from the server."""
        while not self._arrived:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed the connection")
            self._arrived.extend(self._connection.receive(data))
        return self._arrived.popleft()

    def answer_to(self, request_id: int) -> Any:
        """The payload of the answer to a request. It must be the next message. Raises its error."""
        item = self.receive()
        if isinstance(item, Violation):
            raise item.error
        assert item.request_id == request_id, f"an answer to {item.request_id}: {item}"
        if isinstance(item, Failure):
            raise item.error
        return item.payload

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            HeadwaterError: the server answered with it.
        """
        return self.answer_to(self.send(operation, *arguments))
