"""Failed requests: what a client is told after an exception that it did not cause.

A failed disk read changes nothing, since a commit is planned before anything is applied. So it
fails one request, and the server goes on. The client of a commit asks for its status. Operations on
groups and users may have half changed their state in memory by then, so for them the process ends,
as it does after any other exception.
"""

from typing import Any, Final

import structlog

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import (
    CommitUnknown,
    InternalError,
    InvalidArgument,
    PermissionDenied,
    TooLarge,
)

_log = structlog.get_logger(__name__)

ENDS_TRANSACTION: Final = (InvalidArgument, PermissionDenied, TooLarge)
"""Refusals of a request that end its transaction: later requests may depend on the refused one."""


class ServeAgain(Exception):
    """The request is not done: serve it again in the session's next turn, before all others."""


COMMITS: Final = frozenset({"commit", "execute"})
"""Operations whose client can ask for the outcome, since it knows the transaction's id."""

KEPT_IN_MEMORY: Final = frozenset(
    {
        "status",
        "nack",
        "group_create",
        "group_update",
        "group_delete",
        "group_replay",
        "group_discard",
        "user_set",
        "user_remove",
        "user_grant",
        "user_revoke",
        "user_limit",
        "role_set",
        "role_remove",
    }
)
"""Operations that change memory beside the state."""


SERVER_ENDS: Final = (
    "the server could not make the commit durable, and it may be shutting down; "
    "ask for the transaction's status after it restarts"
)


def failed_answer(
    connection: ServerConnection,
    request_id: int,
    name: str,
    arguments: list[Any],
    error: Exception,
) -> tuple[bytes, bool]:
    """The answer to a request that raised *error*, and whether the process has to end with it."""
    if isinstance(error, OSError) and name not in KEPT_IN_MEMORY:
        _log.error("a read failed", operation=name, exc_info=error)
        if name in COMMITS:
            told = "a disk read failed during the commit; ask for the transaction's status"
            return commit_unknown(connection, request_id, arguments[0], told), False
        message = f"{name} failed in the server; see the server's log"
        return connection.error(request_id, InternalError(message)), False
    if name in COMMITS:
        return commit_unknown(connection, request_id, arguments[0]), True
    message = f"{name} failed in the server, which is shutting down; see the server's log"
    return connection.error(request_id, InternalError(message)), True


def commit_unknown(
    connection: ServerConnection, request_id: int, transaction: bytes, message: str = SERVER_ENDS
) -> bytes:
    """The error for a commit whose outcome is unknown; the client asks for its status."""
    error = CommitUnknown(message, details={"transaction": transaction})
    return connection.error(request_id, error)
