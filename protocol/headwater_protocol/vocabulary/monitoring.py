"""The operations that tell what happened in the server. See operations.py."""

from typing import Final

from headwater_protocol.fields import Argument, Binary, Integer, Nullable, Record, Text
from headwater_protocol.limits import CONFLICTS_LISTED_MAX, TRACE_SIZE_MAX, TRACED_REQUESTS_MAX

MONITORING_OPERATIONS: Final[tuple[tuple[str, Record, str, str], ...]] = (
    (
        "conflicts",
        Record(
            (
                Argument(
                    "transaction",
                    Nullable(Binary(16, 16)),
                    required=False,
                    default=None,
                    why="only this one; nil: all that are remembered",
                ),
                Argument("limit", Integer(1, CONFLICTS_LISTED_MAX), required=False, default=20),
            )
        ),
        "[a map, …]",
        "The transactions that were refused for a conflict, the newest first.",
    ),
    (
        "trace",
        Record(
            (
                Argument(
                    "traceparent",
                    Text(1, TRACE_SIZE_MAX),
                    why="a trace and a span, in the form of W3C Trace Context",
                ),
                Argument(
                    "requests",
                    Integer(0, TRACED_REQUESTS_MAX),
                    why="how many requests of this connection, from the next one on; 0: none",
                ),
            )
        ),
        "nil",
        "Set the trace of the next requests. The server includes it when it reports them.",
    ),
)
"""Name, arguments, answer and description of each operation."""
