"""A peer: what the rest of the server sees of a session.

The service keeps account of the sessions, and backups answer one later. Neither needs to know how
a session takes requests, so they see it as a peer, and only the requests and the drivers import
session.py.
"""

from typing import Protocol

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import HeadwaterError
from headwater_server.engine.accounts import Account
from headwater_server.net.push.feeds import Channel


class Peer(Protocol):
    """A connection with a client. Its string is for logs: the address, the user, the client."""

    @property
    def connection(self) -> ServerConnection:
        """The protocol's state of this connection, which makes frames."""
        ...

    @property
    def account(self) -> Account | None:
        """The user, once one has proved to be it."""
        ...

    @property
    def user(self) -> str:
        """The user's name, or nothing."""
        ...

    @property
    def feeds(self) -> dict[int, Channel]:
        """The open feeds and memberships, by the id of the request that opened them."""
        ...

    @property
    def output_size(self) -> int:
        """Bytes that were not sent yet."""
        ...

    @property
    def closing(self) -> bool:
        """Nothing more is sent."""
        ...

    def send(self, frame: bytes, /) -> None:
        """Put a frame into the output."""
        ...

    def end(self, error: HeadwaterError, /) -> None:
        """Take no more requests; once no commit waits, tell the client why, and close."""
        ...

    def abort(self) -> None:
        """Throw away what was not sent, and let the driver close at once."""
        ...
