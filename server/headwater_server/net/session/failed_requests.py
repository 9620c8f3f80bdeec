"""Failed requests: what a client is told after an exception that is no fault of its own.

A read of the disk that fails changes nothing: a commit is planned before anything is applied. So
it costs one request, and everybody else goes on. The client of a commit asks for its status. What
groups and users keep in memory beside the state may be half changed by then, so there the process
ends, as it does after any other exception.
"""

from typing import Any, Final

import structlog

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import CommitUnknown, InternalError

_log = structlog.get_logger(__name__)

COMMITS: Final = frozenset({"commit", "execute"})
"""Operations whose client can ask for the outcome, since it chose the transaction's id."""

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
    }
)
"""Operations that change what is kept in memory beside the state."""


SERVER_ENDS: Final = (
    "the server could not make the commit durable, and ends; "
    "ask for the transaction's status once it is back"
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
            told = "a read of the disk failed inside of the commit; ask for the status"
            return commit_unknown(connection, request_id, arguments[0], told), False
        message = f"{name} failed in the server; its log says more"
        return connection.error(request_id, InternalError(message)), False
    if name in COMMITS:
        return commit_unknown(connection, request_id, arguments[0]), True
    message = f"{name} failed in the server, which ends; its log says more"
    return connection.error(request_id, InternalError(message)), True


def commit_unknown(
    connection: ServerConnection, request_id: int, transaction: bytes, message: str = SERVER_ENDS
) -> bytes:
    """The answer to a commit whose outcome the client has to ask for."""
    error = CommitUnknown(message, details={"transaction": transaction})
    return connection.error(request_id, error)
