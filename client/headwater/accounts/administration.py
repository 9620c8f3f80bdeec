"""Statistics of the server and requests of administrators: `db.stats()`, `db.users()`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from headwater.accounts.conflicts import RefusedTransaction, refused_of
from headwater.accounts.connections import Connections
from headwater.accounts.nodes import NodeInfo, Pong, node_of, pong_of
from headwater.accounts.rights import Rights
from headwater.errors import InvalidArgument
from headwater.identifiers import transaction_bytes
from headwater.records import Backup, Committed
from headwater.transport.channel import Channel
from headwater.transport.handshake import verifier
from headwater_protocol.fields import Integer
from headwater_protocol.limits import CONFLICTS_LISTED_MAX
from headwater_protocol.vocabulary.accounts import NAME

_LIMIT = Integer(1, CONFLICTS_LISTED_MAX)


class Administration(ABC):
    """The server of a database."""

    @property
    @abstractmethod
    def _channel(self) -> Channel:
        """The connections to the server."""

    async def ping(self) -> Pong:
        """Ask for the newest commit, the server's clock, and what the server is."""
        return pong_of(*await self._channel.read("ping"))

    async def stats(self) -> dict[str, Any]:
        """The statistics of the server, by name."""
        figures: dict[str, Any] = await self._channel.read("stats")
        return figures

    async def backup(self, name: str) -> Backup:
        """Let the server make a backup. It continues after a TimedOut: docs/guide/backup.md."""
        return Backup(*await (await self._channel.connection()).ask("backup", name))

    async def node(self) -> NodeInfo:
        """The role of the node that this database is connected to, and how far it is behind.

        Of several nodes, it is the one that leads.
        """
        return node_of(*await self._channel.read("node"))

    async def nodes(self) -> dict[str, NodeInfo | None]:
        """The nodes that are known, by address; None for one that cannot be reached.

        These are the nodes of the URL, and those that they have named.
        """
        return {
            str(address): None if told is None else node_of(*told)
            for address, told in await self._channel.survey()
        }

    async def wait_commit(
        self,
        commit: int | Committed,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> int:
        """Wait until this node shows a commit to readers; return its newest commit.

        A client that wrote at the leader reads its own writes at a follower after this.

        Args:
            commit: the number of a commit, or what the commit returned.
            timeout: in seconds, at most a minute.

        Raises:
            CommitNotReached: the node does not have it in time.
        """
        number = commit if isinstance(commit, int) else commit.commit
        wait_ms = round(timeout * 1000)
        newest: int = await self._channel.read("wait_commit", number, wait_ms)
        return newest

    async def promote(self) -> NodeInfo:
        """Make this node, a follower, the leader. See docs/guide/followers.md.

        Raises:
            InvalidArgument: the node was deposed; or the URL has several, and does not say which.
        """
        if self._channel.options.read is not None:
            raise InvalidArgument("promote: connect to the one node that is to lead, and no other")
        await (await self._channel.connection()).ask("promote")
        return await self.node()

    async def cluster_status(self) -> dict[str, Any]:
        """The nodes of the cluster as far as this one knows them, and the stream with the log.

        `docs/protocol.md` has the names; a newer server may have more.

        Raises:
            InvalidArgument: the server is not a node of a cluster.
        """
        found: dict[str, Any] = await self._channel.read("cluster_status")
        return found

    async def cluster_resign(self) -> None:
        """Let another node of the cluster lead. This one then follows; see docs/guide/cluster.md.

        Raises:
            NotLeader: this node does not lead.
            InvalidArgument: it is not a node of a cluster, or no other node is there.
        """
        await (await self._channel.connection()).ask("cluster_resign")

    async def conflicts(
        self, transaction: UUID | bytes | str | None = None, *, limit: int = 20
    ) -> Sequence[RefusedTransaction]:
        """The transactions that were refused for a conflict, the newest first.

        The server remembers some hundred, until it ends. An administrator sees those of all users,
        and what the winners wrote; everybody else sees their own.

        Args:
            transaction: only this one.
            limit: at most so many.
        """
        _LIMIT(limit, "conflicts: limit")
        try:
            wanted = None if transaction is None else transaction_bytes(transaction)
        except ValueError as error:
            raise InvalidArgument(f"conflicts: {error}") from error
        rows = await self._channel.read("conflicts", wanted, limit)
        return [refused_of(row) for row in rows]

    @property
    def connections(self) -> Connections:
        """The open connections to the server: list them, or close one."""
        return Connections(lambda: self._channel)

    @property
    def rights(self) -> Rights:
        """The rights of users, and roles: give them, take them away, and list them."""
        return Rights(lambda: self._channel)

    async def users(self) -> list[str]:
        """The names of the users. If there are none, the server asks nobody for a password."""
        names: list[str] = await self._channel.read("user_list")
        return names

    async def add_user(self, name: str, password: str) -> None:
        """Add a user. The client sends a verifier of the password, never the password.

        Once there is a user, the server ends the connections that have not authenticated, this one
        included.
        """
        await self._set_user("add_user", name, password, create=True)

    async def set_password(self, name: str, password: str) -> None:
        """Change a user's password."""
        await self._set_user("set_password", name, password, create=False)

    async def remove_user(self, name: str) -> None:
        """Remove a user. The server ends its connections."""
        await self._channel.administer("user_remove", name)

    async def _set_user(self, place: str, name: str, password: str, *, create: bool) -> None:
        NAME(name, f"{place}: name")
        if not password:
            raise InvalidArgument(f"{place}: the password is empty")
        await self._channel.administer("user_set", name, *verifier(password), create)
