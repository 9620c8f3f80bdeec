"""The operations on connections: who is connected, and the end of one. See operations.py."""

from typing import Final

from headwater_protocol import limits
from headwater_protocol.fields import Argument, Integer, Record

CONNECTION_ID: Final = Integer(1, limits.NUMBER_MAX)

CONNECTION_OPERATIONS: Final[tuple[tuple[str, Record, str, str], ...]] = (
    (
        "whoami",
        Record(()),
        "[id, user | nil, address]",
        "The number of this connection, its user, and the address that the server sees.",
    ),
    (
        "connection_list",
        Record(
            (
                Argument(
                    "after",
                    Integer(0, limits.NUMBER_MAX),
                    required=False,
                    default=0,
                    why="the last number of the previous page",
                ),
                Argument("limit", Integer(1, limits.PAGE_ITEMS_MAX), required=False, default=1000),
            )
        ),
        "[[[id, a map], …], more]",
        "The open connections, the oldest first, with what each holds.",
    ),
    (
        "connection_close",
        Record((Argument("id", CONNECTION_ID),)),
        "nil",
        "End a connection. Its client may connect again.",
    ),
)
"""Name, arguments, answer and description of each operation."""
