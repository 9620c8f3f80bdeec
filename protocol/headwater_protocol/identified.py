"""The last argument of administrative writes: the id of their transaction.

A request with an id can be sent again if its answer was lost. The server does it once, and `status`
tells what became of it.
"""

from typing import Final

from headwater_protocol.fields import Argument, Binary, Nullable

IDENTITY: Final = Argument(
    "transaction",
    Nullable(Binary(16, 16)),
    required=False,
    default=None,
    why="makes it idempotent; nil: it is not",
)
"""The id, chosen by the client and never used before."""
