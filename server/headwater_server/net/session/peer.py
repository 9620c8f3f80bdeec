"""A peer: what the rest of the server sees of a session.

The service keeps the set of sessions, and a backup answers its session later. Neither needs to know
how a session handles requests, so they see a peer. Only requests and drivers import session.py.
"""

from typing import Any, Protocol

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import HeadwaterError
from headwater_server.engine.accounts import Account
from headwater_server.net.push.channels import Channel


class Peer(Protocol):
    """A connection to a client. str() is for logs: the address, the user, the client.

    Attributes:
        account: the user with its rights, once authenticated.
        user_number: the user's number; 0 without a user.
        peer: the client's address, for logs.
        waiting_to_write: nothing is served until another's long request is done.
    """

    account: Account | None
    user_number: int
    peer: str
    waiting_to_write: bool

    @property
    def connection(self) -> ServerConnection:
        """The protocol's state of this connection, which makes frames."""
        ...

    @property
    def user(self) -> str:
        """The user's name, or ""."""
        ...

    @property
    def feeds(self) -> dict[int, Channel]:
        """The open feeds and memberships, by the id of the request that opened them."""
        ...

    @property
    def output_size(self) -> int:
        """Bytes not sent yet."""
        ...

    @property
    def closing(self) -> bool:
        """Nothing more is added to the output."""
        ...

    @property
    def suspended(self) -> bool:
        """Nothing is served until a change of the user's rights is durable."""
        ...

    def suspend(self, *, on: bool) -> None:
        """Serve nothing (*on*) until the same is called with False."""
        ...

    @property
    def runnable(self) -> bool:
        """Requests are left from the last turn, and can be served."""
        ...

    def go_on(self) -> None:
        """What held this session back may be over: serve it."""
        ...

    def serve_later(self, request_id: int, name: str, arguments: list[Any]) -> None:
        """Serve a request that has waited for something, in a turn of the session."""
        ...

    def send(self, frame: bytes, /) -> None:
        """Add a frame to the output."""
        ...

    def end(self, error: HeadwaterError, /) -> None:
        """Take no more requests; once no commit waits, tell the client why, and close."""
        ...

    def abort(self) -> None:
        """Discard the output, and let the driver close immediately."""
        ...
