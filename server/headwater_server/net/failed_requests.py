"""Failed requests: what a client is told after an exception that is no fault of its own."""

from typing import Any, Final

import structlog

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import CommitUnknown, InternalError

_log = structlog.get_logger(__name__)

COMMITS: Final = frozenset({"commit", "execute"})
"""Operations whose client can ask for the outcome, since it chose the transaction's id."""

CHANGES: Final = COMMITS | {
    "status",
    "nack",
    "group_create",
    "group_update",
    "group_delete",
    "group_replay",
    "group_discard",
    "user_set",
    "user_remove",
}
"""Operations that may commit. If one fails half-way, memory may hold half of it."""


def failed_answer(
    connection: ServerConnection,
    request_id: int,
    name: str,
    arguments: list[Any],
    error: Exception,
) -> tuple[bytes, bool]:
    """The answer to a request that raised *error*, and whether the process has to end with it."""
    if isinstance(error, OSError) and name not in CHANGES:
        # Reads change nothing, so the disk's error is the answer and everybody else goes on.
        _log.error("a read failed", operation=name, exc_info=error)
        message = f"{name} failed in the server; its log says more"
        return connection.error(request_id, InternalError(message)), False
    if name in COMMITS:
        return commit_unknown(connection, request_id, arguments[0]), True
    message = f"{name} failed in the server, which ends; its log says more"
    return connection.error(request_id, InternalError(message)), True


def commit_unknown(connection: ServerConnection, request_id: int, transaction: bytes) -> bytes:
    """The answer to a commit whose outcome only the restart can tell."""
    error = CommitUnknown(
        "the server could not make the commit durable, and ends; "
        "ask for the transaction's status once it is back",
        details={"transaction": transaction},
    )
    return connection.error(request_id, error)
