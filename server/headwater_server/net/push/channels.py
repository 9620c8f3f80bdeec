"""Channels: the feeds and memberships of a session, as the session and their owners see them.

A request opens a channel, and its pushes carry that request's id. The owner serves all channels of
one kind. A session knows its channels only by this interface.
"""

from collections.abc import MutableMapping
from typing import Any, Final, Protocol

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.limits import KIB
from headwater_protocol.messages import encode

CHANNEL_SIZE: Final = 2 * KIB
"""Bytes of a feed or membership, and of its place in the indexes, besides those of its filter."""


class Pushes(Protocol):
    """The part of a server connection that makes frames of pushes."""

    def push(self, request_id: int, payload: Any, /) -> bytes:
        """The frame of a push."""
        ...


class Subscriber(Protocol):
    """The part of a session that feeds use."""

    @property
    def output_blocked(self) -> bool:
        """Too much output is unread; nothing is pushed until the client reads it."""
        ...

    @property
    def feeds(self) -> "MutableMapping[int, Channel]":
        """The open channels, by the id of the request that opened them."""
        ...

    @property
    def connection(self) -> Pushes:
        """Makes frames."""
        ...

    def send(self, frame: bytes, /) -> None:
        """Add a frame to the output."""
        ...

    def send_shared(self, head: bytes, shared: bytes, /) -> None:
        """Add a frame with the body *head* + *shared* to the output; *shared* is not copied."""
        ...


class Channel:
    """A feed or membership: a request opened it, and its pushes carry that request's id.

    Attributes:
        owner: serves this channel.
        head: the first bytes of each push's body.
        size: bytes that it takes in memory, about.
    """

    __slots__ = ("head", "owner", "request_id", "session", "size")

    def __init__(
        self, owner: "Owner", session: Subscriber, request_id: int, size: int = CHANNEL_SIZE
    ) -> None:
        self.size = size
        self.owner = owner
        self.session = session
        self.request_id = request_id
        self.head = b"\x93" + encode(request_id)

    @property
    def is_open(self) -> bool:
        """Whether pushes are still allowed."""
        return self.session.feeds.get(self.request_id) is self

    def push(self, payload: list[Any]) -> None:
        """Encode a payload and push it."""
        self.session.send(self.session.connection.push(self.request_id, payload))


class Owner(Protocol):
    """Serves the channels of one kind."""

    def grant(self, channel: Any, credit: int, /) -> None:
        """Allow that many more items."""
        ...

    def resume(self, channel: Any, /) -> None:
        """The client has read its output: push again."""
        ...

    def close(self, channel: Any, /) -> None:
        """Push nothing more, because the client asked for that."""
        ...

    def lost(self, channel: Any, /) -> None:
        """Push nothing more, because the connection is gone."""
        ...

    def end(self, channel: Any, error: HeadwaterError, /) -> None:
        """Tell the client that nothing more will come, and why."""
        ...
