"""What the log needs of a client of NATS: requests, and messages to all listeners.

    post      one request; its reply comes later
    gather    one request with many replies, the last of which has a status
    tell      a message to all nodes that listen at present; it may be lost

All calls are synchronous. An implementation keeps a connection to one of several servers. No reply
within the time and no connection are the same: None. The request may have been carried out, or may
still be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

STATUS = "Status"
"""The header of a reply without a message: 204 for the end of many, 404 for nothing found, 503 if
nobody has the subject: the stream has no leader at present."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A message that answers a request."""

    headers: Mapping[str, str]
    data: bytes


class Pending(Protocol):
    """A request that was posted."""

    def wait(self) -> Reply | None:
        """The reply, or None if none came within the time of the request."""
        ...


class StreamService(Protocol):
    """A client of NATS. All calls may be made in any thread."""

    def post(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, seconds: float
    ) -> Pending:
        """Send a request. Requests that one thread posts are sent in their order."""
        ...

    def gather(self, subject: str, payload: bytes, seconds: float) -> list[Reply] | None:
        """Send a request and collect its replies up to the one with a status, which is the last.

        None: it did not come within that time.
        """
        ...

    def reset(self) -> None:
        """The server seems to hang: connect to another one before the next request."""
        ...

    def tell(self, subject: str, payload: bytes) -> None:
        """Send a message to all listeners."""
        ...

    def listen(self, subject: str) -> None:
        """Keep the messages to a subject for `heard`, now and after each reconnection."""
        ...

    def heard(self, subject: str, seconds: float) -> list[bytes]:
        """The messages since the last call. Without any, wait for one for that time."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...
