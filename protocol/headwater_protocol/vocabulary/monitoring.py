"""The operations that tell what happened in the server. See operations.py."""

from typing import Final

from headwater_protocol.fields import Argument, Binary, Integer, Nullable, Record
from headwater_protocol.limits import CONFLICTS_LISTED_MAX

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
)
"""Name, arguments, answer and description of each operation."""
