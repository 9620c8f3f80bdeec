"""Administration of rights and roles: `db.rights`. docs/guide/security.md explains them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from headwater.records import time_of
from headwater.transport.channel import Channel
from headwater_protocol.grants import GRANTS, ROLES, Grant
from headwater_protocol.vocabulary.accounts import NAME, REQUEST_MS

Roles = dict[str, tuple[Grant, ...]]


@dataclass(frozen=True, slots=True)
class UserRights:
    """What a user may do.

    Attributes:
        user: its name; None if the server has no users.
        restricted: whether it may do only what was given to it. False: it may do everything.
        roles: names of its roles, in order.
        grants: what was given to the user itself, in order.
        request_time: seconds that a request of it may take; None: as the server's setting says.
    """

    user: str | None
    restricted: bool
    roles: tuple[str, ...]
    grants: tuple[Grant, ...]
    request_time: float | None = None


AUDIT_LIMIT_DEFAULT: Final = 1000
"""Records of the audit log that are read: all that the server keeps in memory."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What somebody did on the server, or tried to do.

    Attributes:
        time: by the server's clock.
        event: "logged in", "log-in failed", "permission denied", "erase", …
        user: who; None before the log-in.
        address: of the client.
        details: what else is known, by name.
    """

    time: datetime
    event: str
    user: str | None
    address: str
    details: dict[str, Any]


class Rights:
    """The rights of the users, and the roles of a database.

    A grant is given as text, such as "read:keys:orders" or "append:category:order", or as a Grant.
    Every change is in force on open connections when the call returns.
    """

    def __init__(self, channel: Callable[[], Channel]) -> None:
        self._channel = channel

    async def grant(self, user: str, *grants: Grant | str, roles: Iterable[str] = ()) -> None:
        """Give grants and roles to a user. From then on, it may do only what was given to it.

        Args:
            user: its name.
            grants: what it may do.
            roles: names of roles: "reader", "writer", "admin", or one that `set_role` defined.

        Raises:
            InvalidArgument: a text is not a grant; there is no such user or role; or no user would
                be left that may do everything.
            TooLarge: the user would have too many grants or roles.
        """
        await self._change("user_grant", "grant", user, grants, roles)

    async def revoke(self, user: str, *grants: Grant | str, roles: Iterable[str] = ()) -> None:
        """Take grants and roles from a user.

        Its open transactions are rolled back, and its subscriptions and memberships end if they
        show what it may not read any more. A user from which everything was taken may do nothing.

        Args:
            user: its name.
            grants: the grants to take, each as it was given.
            roles: names of roles.

        Raises:
            InvalidArgument: a text is not a grant; there is no such user, or it was not given this;
                or no user would be left that may do everything.
        """
        await self._change("user_revoke", "revoke", user, grants, roles)

    async def limit(self, user: str, *, request_time: float | None) -> None:
        """Set how long a request of a user may take; None: as the server's setting says.

        A request that takes longer is refused, and has no effect. Only requests that do much work
        take so long: a check of conditions, a commit that has read much, a large `execute`.

        Args:
            user: its name.
            request_time: in seconds.

        Raises:
            InvalidArgument: there is no such user.
        """
        NAME(user, "limit: user")
        request_ms = None if request_time is None else round(request_time * 1000)
        if request_ms is not None:
            REQUEST_MS(request_ms, "limit: request_time, in milliseconds")
        await self._channel().administer("user_limit", user, request_ms)

    async def of(self, user: str) -> UserRights:
        """The rights of a user.

        Raises:
            InvalidArgument: there is no such user.
        """
        NAME(user, "of: user")
        return _rights(await self._channel().read("user_rights", user))

    async def mine(self) -> UserRights:
        """The rights of the user of this connection. Every user may ask for them."""
        return _rights(await self._channel().read("user_rights", None))

    async def roles(self) -> Roles:
        """The roles and their grants, by name. Every database has "reader", "writer", "admin"."""
        rows = await self._channel().read("role_list")
        return {name: tuple(map(Grant.from_wire, grants)) for name, grants in rows}

    async def set_role(self, name: str, *grants: Grant | str) -> None:
        """Define a role, or replace its grants for all users who have it.

        Raises:
            InvalidArgument: a text is not a grant; the role is one that every database has; or no
                user would be left that may do everything.
            TooMany: the database has too many roles.
        """
        NAME(name, "set_role: name")
        wire = _wire("set_role", grants)
        await self._channel().administer("role_set", name, wire)

    async def remove_role(self, name: str) -> None:
        """Remove a role.

        Raises:
            InvalidArgument: there is no such role, a user has it, or every database has it.
        """
        NAME(name, "remove_role: name")
        await self._channel().administer("role_remove", name)

    async def audit(self, limit: int = AUDIT_LIMIT_DEFAULT) -> list[AuditRecord]:
        """The newest records of the server's audit log, in order of time.

        The server keeps a thousand in memory, and all of them in the file of `--audit-log`.
        """
        rows = await self._channel().read("audit_read", limit)
        return [AuditRecord(time_of(time), *rest[:4]) for time, *rest in rows]

    async def _change(
        self,
        operation: str,
        place: str,
        user: str,
        grants: tuple[Grant | str, ...],
        roles: Iterable[str],
    ) -> None:
        NAME(user, f"{place}: user")
        wire = _wire(place, grants)
        names = [roles] if isinstance(roles, str) else list(roles)
        ROLES(names, f"{place}: roles")
        await self._channel().administer(operation, user, wire, names)


def _wire(place: str, grants: tuple[Grant | str, ...]) -> list[Any]:
    wire = [(Grant.parse(each) if isinstance(each, str) else each).as_wire() for each in grants]
    GRANTS(wire, f"{place}: grants")
    return wire


def _rights(row: list[Any]) -> UserRights:
    user, restricted, roles, grants, request_ms = row[:5]
    return UserRights(
        user,
        restricted,
        tuple(roles),
        tuple(map(Grant.from_wire, grants)),
        None if request_ms is None else request_ms / 1000,
    )
