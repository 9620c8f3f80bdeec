"""The operations on subscriptions to events and to keys. operations.py has all others."""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import Argument, Binary, Field, Integer, Nullable, Record

CREDIT: Final = Integer(0, limits.CREDIT_MAX)
_COMMIT: Final = Integer(0, limits.NUMBER_MAX)
_POSITION: Final = Integer(0, limits.NUMBER_MAX)
_SUBSCRIPTION: Final = Integer(0, limits.REQUEST_ID_MAX)


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any = None, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


def subscription_operations(wanted: Field) -> list[tuple[str, Record, str, str]]:
    """Name, arguments, answer and description of each operation. *wanted* is a filter."""
    return [
        (
            "subscribe",
            Record(
                (
                    _optional("after", _POSITION, 0, "exclusive"),
                    _optional("filter", wanted, {}),
                    _optional("credit", CREDIT, 0, "initial credit, in events"),
                )
            ),
            "nil, then pushes",
            "Push the events after a position: first past events, then new ones.",
        ),
        (
            "subscribe_keys",
            Record(
                (
                    _required("start", Binary(0, limits.KEY_SIZE_MAX), "inclusive"),
                    _required(
                        "end",
                        Nullable(Binary(1, limits.KEY_SIZE_MAX)),
                        "exclusive; nil: to the last key",
                    ),
                    _required("after", _COMMIT, "exclusive"),
                    _optional("credit", CREDIT, 0, "initial credit, in changes"),
                )
            ),
            "nil, then pushes",
            (
                "Push the changes of a range of keys after a commit: first past changes, then new "
                "ones."
            ),
        ),
        (
            "credit",
            Record((_required("subscription", _SUBSCRIPTION), _required("events", CREDIT))),
            "nil",
            "Grant a subscription credit for more events.",
        ),
        (
            "unsubscribe",
            Record((_required("subscription", _SUBSCRIPTION),)),
            "nil",
            "End a subscription. It pushes nothing after the answer.",
        ),
    ]
