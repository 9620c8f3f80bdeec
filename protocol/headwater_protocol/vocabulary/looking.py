"""The operations that look into a database: what happened, when, and by whom. See operations.py.

They are asked outside of transactions, by people and their tools.
"""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import Argument, Binary, Field, Integer, Nullable, Record

_EVENT_ID: Final = Binary(16, 16)
_NUMBER: Final = Integer(0, limits.NUMBER_MAX)


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


_AT: Final = _optional("at_commit", Nullable(_NUMBER), None, "nil: the newest")

LOOKING_OPERATIONS: Final[tuple[tuple[str, Record, str, str], ...]] = (
    (
        "find_event",
        Record((_required("id", _EVENT_ID), _AT)),
        "[commit, event | nil]",
        "The event with an id, in any stream.",
    ),
)
