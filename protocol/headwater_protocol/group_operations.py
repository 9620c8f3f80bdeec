"""The part of the vocabulary that is about consumer groups; operations.py has the rest.

push of a membership    ["deliveries", [[token, attempt, event], …]], ["lost", [token, …]],
                        ["caught_up", position], ["ended", error payload]
"""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import (
    Argument,
    Boolean,
    Choice,
    Field,
    Integer,
    ListOf,
    MapOf,
    Nullable,
    Record,
    Text,
)

NAME: Final = Text(1, limits.NAME_SIZE_MAX)
POSITION: Final = Integer(0, limits.NUMBER_MAX)
TOKEN: Final = Integer(0, limits.NUMBER_MAX)
LIMIT: Final = Integer(1, limits.PAGE_ITEMS_MAX)
MEMBERSHIP: Final = Integer(0, limits.REQUEST_ID_MAX)
CREDIT: Final = Integer(0, limits.DELIVERIES_MAX)
REASON: Final = Text(0, limits.REASON_SIZE_MAX)
RETRY_MS: Final = Integer(0, limits.RETRY_MS_MAX)
SETTINGS: Final = MapOf(
    {
        "lease_ms": Integer(limits.LEASE_MS_MIN, limits.LEASE_MS_MAX),
        "attempts_max": Integer(0, limits.ATTEMPTS_MAX),
        "retry_ms": RETRY_MS,
        "parked_stream": Choice(("hold", "continue")),
    }
)
"""How a consumer group treats its members, and what fails."""


def _record(*arguments: Argument) -> Record:
    return Record(arguments)


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any = None, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


DELIVERY: Final = _record(_required("position", POSITION), _required("token", TOKEN))
DELIVERIES: Final = ListOf(DELIVERY, limits.DELIVERIES_MAX, count_min=1)
POSITIONS: Final = ListOf(POSITION, limits.DELIVERIES_MAX, count_min=1)

ACK: Final = _record(
    _required("group", NAME),
    _required("deliveries", DELIVERIES, "each as it was delivered"),
)
"""A write of a transaction: the events are done."""


Described = tuple[str, Record, str, str]
"""Name, arguments, answer and what it does of an operation."""

_CONSUMING: Final[tuple[Described, ...]] = (
    (
        "group_join",
        _record(
            _required("group", NAME),
            _optional("credit", CREDIT, 0, "deliveries before more is granted"),
        ),
        "nil, then pushes",
        "Become a member of a consumer group, and get a share of its events.",
    ),
    (
        "group_leave",
        _record(_required("membership", MEMBERSHIP)),
        "nil",
        "Leave a consumer group. What was not settled goes to others, as if never delivered.",
    ),
    (
        "nack",
        _record(
            _required("group", NAME),
            _required("deliveries", DELIVERIES, "each as it was delivered"),
            _optional("delay_ms", Nullable(RETRY_MS), None, "nil: as the group has it"),
            _optional("reason", REASON, ""),
            _optional("park", Boolean(), False, "true: park them now"),
        ),
        "nil",
        "Give events back, to be delivered again after a pause, or to be parked.",
    ),
    (
        "group_parked",
        _record(
            _required("group", NAME),
            _optional("after", POSITION, 0, "exclusive"),
            _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
        ),
        "[[[position, attempts, reason, time, event | nil], …], more]",
        "A page of the parked events of a group, in order of position.",
    ),
    (
        "group_replay",
        _record(
            _required("group", NAME),
            _optional("positions", Nullable(POSITIONS), None, "nil: all"),
        ),
        "[count]",
        "Deliver parked events again, in order.",
    ),
    (
        "group_discard",
        _record(
            _required("group", NAME),
            _optional("positions", Nullable(POSITIONS), None, "nil: all"),
        ),
        "[count]",
        "Forget parked events: they count as done.",
    ),
)


def group_operations(wanted: Field) -> tuple[Described, ...]:
    """All operations on consumer groups; *wanted* is the filter of events."""
    return (
        (
            "group_create",
            _record(
                _required("name", NAME),
                _optional("filter", wanted, {}),
                _optional("after", Nullable(POSITION), 0, "exclusive; nil: the newest event"),
                _optional("settings", SETTINGS, {}),
            ),
            "[position]",
            "Make a consumer group that begins after a position.",
        ),
        (
            "group_update",
            _record(
                _required("name", NAME),
                _optional("filter", Nullable(wanted), None, "nil: unchanged"),
                _optional("after", Nullable(POSITION), None, "begin anew there; nil: go on"),
                _optional("settings", SETTINGS, {}, "those to be changed"),
            ),
            "nil",
            "Change a consumer group. What its members have is taken back from them.",
        ),
        (
            "group_delete",
            _record(_required("name", NAME)),
            "nil",
            "Remove a consumer group, with its parked events.",
        ),
        (
            "group_list",
            _record(),
            "[[name, position, members], …]",
            "The consumer groups in order of name.",
        ),
        (
            "group_info",
            _record(_required("name", NAME)),
            "a map",
            "All about a consumer group, by name.",
        ),
        *_CONSUMING,
    )
