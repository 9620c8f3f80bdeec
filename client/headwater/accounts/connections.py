"""Who is connected to the server: `db.connections`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from headwater.errors import InvalidArgument
from headwater.transport.channel import Channel
from headwater_protocol.vocabulary.accounts import NAME
from headwater_protocol.vocabulary.connections import CONNECTION_ID as NUMBER

PAGE: Final = 1000
"""Connections in one answer."""


@dataclass(frozen=True, slots=True)
class WhoAmI:
    """This connection as the server sees it.

    Attributes:
        id: its number, which is not used again while the server runs.
        user: its user; None if the server has no users.
        address: where it comes from.
    """

    id: int
    user: str | None
    address: str


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """An open connection, and what it holds on the server.

    Attributes:
        id: its number.
        address: where it comes from.
        user: its user, or None.
        client: what the client calls itself.
        age: how long it has been open.
        memory: bytes that were received and not served, answers that were not read, and what its
            open transactions have written and read.
        transactions: open transactions.
        subscriptions: subscriptions to events and keys.
        memberships: memberships in consumer groups.
    """

    id: int
    address: str
    user: str | None
    client: str
    age: timedelta
    memory: int
    transactions: int
    subscriptions: int
    memberships: int


class Connections:
    """The open connections to a server."""

    def __init__(self, channel: Callable[[], Channel]) -> None:
        self._channel = channel

    async def whoami(self) -> WhoAmI:
        """The number, the user and the address of this connection, as the server sees them."""
        return WhoAmI(*await self._channel().read("whoami"))

    async def list(self) -> Sequence[ConnectionInfo]:
        """All open connections, the oldest first, with what each holds."""
        found: Sequence[ConnectionInfo] = ()
        more = True
        while more:
            after = found[-1].id if found else 0
            rows, more = await self._channel().read("connection_list", after, PAGE)
            found = (*found, *(_connection(*row) for row in rows))
        return found

    async def close(self, number: int) -> None:
        """End a connection. Its client gets ConnectionClosed and may connect again.

        Args:
            number: the `id` of the connection.

        Raises:
            InvalidArgument: there is no such connection.
        """
        NUMBER(number, "close: number")
        connection = await self._channel().connection()
        await connection.ask("connection_close", number)

    async def close_user(self, user: str) -> int:
        """End the connections of a user, except this one; return how many there were.

        A changed password holds for later log-ins, and open connections go on. So change it first,
        then end them: their clients can connect again with the new password alone.

        Args:
            user: its name.

        Raises:
            InvalidArgument: the name is not one of a user.
        """
        NAME(user, "close_user: user")
        own = (await self.whoami()).id
        count = 0
        for each in await self.list():
            if each.user == user and each.id != own:
                try:
                    await self.close(each.id)
                except InvalidArgument:
                    # It has ended meanwhile.
                    continue
                count += 1
        return count


def _connection(number: int, figures: dict[str, Any]) -> ConnectionInfo:
    return ConnectionInfo(
        number,
        figures["address"],
        figures["user"],
        figures["client"],
        timedelta(milliseconds=figures["age_ms"]),
        figures["memory"],
        figures["transactions"],
        figures["subscriptions"],
        figures["memberships"],
    )
