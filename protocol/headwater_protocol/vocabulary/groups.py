"""The operations on consumer groups. operations.py has all others."""

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
from headwater_protocol.identified import IDENTITY

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
"""Settings of a consumer group; docs/protocol.md explains them under `group_create`."""


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
"""A write of a transaction that marks events as done."""


AT_COMMIT: Final = _optional(
    "at_commit", Nullable(POSITION), None, "what was stored then; nil: now, with the members"
)

Described = tuple[str, Record, str, str]
"""Name, arguments, answer and description of an operation."""

_CONSUMING: Final[tuple[Described, ...]] = (
    (
        "group_join",
        _record(
            _required("group", NAME),
            _optional("credit", CREDIT, 0, "initial credit, in deliveries"),
        ),
        "nil, then pushes",
        "Become a member of a consumer group and receive a share of its events.",
    ),
    (
        "group_leave",
        _record(_required("membership", MEMBERSHIP)),
        "nil",
        "Leave a consumer group. Unsettled deliveries go to others and do not count as attempts.",
    ),
    (
        "nack",
        _record(
            _required("group", NAME),
            _required("deliveries", DELIVERIES, "each as it was delivered"),
            _optional("delay_ms", Nullable(RETRY_MS), None, "nil: the group's delay"),
            _optional("reason", REASON, ""),
            _optional("park", Boolean(), False, "true: park them now"),
            IDENTITY,
        ),
        "nil",
        "Return events, to have them delivered again after a delay, or parked.",
    ),
    (
        "group_extend",
        _record(
            _required("group", NAME),
            _required("deliveries", DELIVERIES, "each as it was delivered"),
        ),
        "[lease_ms, [token, …]]",
        "Restart the leases of deliveries, because their consumer still works on them.",
    ),
    (
        "group_parked",
        _record(
            _required("group", NAME),
            _optional("after", POSITION, 0, "exclusive"),
            _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
            AT_COMMIT,
        ),
        "[[[position, attempts, reason, time, event | nil], …], more]",
        "A page of the parked events of a group, in position order.",
    ),
    (
        "group_replay",
        _record(
            _required("group", NAME),
            _optional("positions", Nullable(POSITIONS), None, "nil: all"),
            IDENTITY,
        ),
        "[count]",
        "Deliver parked events again, in order.",
    ),
    (
        "group_discard",
        _record(
            _required("group", NAME),
            _optional("positions", Nullable(POSITIONS), None, "nil: all"),
            IDENTITY,
        ),
        "[count]",
        "Discard parked events: they count as done.",
    ),
)


def group_operations(wanted: Field) -> tuple[Described, ...]:
    """All operations on consumer groups; *wanted* is the field of an event filter."""
    return (
        (
            "group_create",
            _record(
                _required("name", NAME),
                _optional("filter", wanted, {}),
                _optional("after", Nullable(POSITION), 0, "exclusive; nil: after the newest event"),
                _optional("settings", SETTINGS, {}),
                IDENTITY,
            ),
            "[position]",
            "Create a consumer group that starts after a position.",
        ),
        (
            "group_update",
            _record(
                _required("name", NAME),
                _optional("filter", Nullable(wanted), None, "nil: unchanged"),
                _optional("after", Nullable(POSITION), None, "restart after it; nil: continue"),
                _optional("settings", SETTINGS, {}, "the settings to change"),
                IDENTITY,
            ),
            "nil",
            "Change a consumer group. Its members lose their unsettled deliveries.",
        ),
        (
            "group_delete",
            _record(_required("name", NAME), IDENTITY),
            "nil",
            "Delete a consumer group with its parked events.",
        ),
        (
            "group_list",
            _record(AT_COMMIT),
            "[[name, position, members, waiting], …]",
            "The consumer groups in name order.",
        ),
        (
            "group_info",
            _record(_required("name", NAME), AT_COMMIT),
            "a map",
            "The settings and state of a consumer group, by name.",
        ),
        *_CONSUMING,
    )
