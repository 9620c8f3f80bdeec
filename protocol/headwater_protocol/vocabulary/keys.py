"""The operations on keys: reads, and the expiry of a key. operations.py has all others."""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import (
    Argument,
    Binary,
    Boolean,
    Choice,
    Field,
    Integer,
    ListOf,
    Nullable,
    Number,
    Record,
)

KEY: Final = Binary(1, limits.KEY_SIZE_MAX)
LIMIT: Final = Integer(1, limits.PAGE_ITEMS_MAX)


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any = None, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


EXPIRE: Final = Record(
    (
        _required("key", KEY),
        _required(
            "after", Nullable(Integer(1, limits.NUMBER_MAX)), "microseconds after the commit"
        ),
        _required(
            "at", Nullable(Integer(0, limits.NUMBER_MAX)), "a time; both nil: it does not expire"
        ),
    )
)
"""A write that sets when a key expires. It changes nothing if the key is absent."""

RELATION: Final = Choice(("less", "at_most", "at_least", "greater"))

COMPARED: Final = Record(
    (
        _required("key", KEY),
        _required("relation", RELATION, "of the stored number to the given one"),
        _required("number", Number()),
    )
)
"""A condition on the number that a key holds. It fails if there is none."""

_KEY = (_required("key", KEY),)
_RANGE = (
    _required("start", Binary(0, limits.KEY_SIZE_MAX), "inclusive; empty: from the first key"),
    _required("end", Nullable(KEY), "exclusive; nil: to the last key"),
)
_SCAN = (
    *_RANGE,
    _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
    _optional("reverse", Boolean(), False),
)

Described = tuple[str, tuple[Argument, ...], str, str]
"""Name, own arguments, answer and description of a read."""

KEY_READS: Final[tuple[Described, ...]] = (
    ("get", _KEY, "value | nil", "The value of a key."),
    (
        "get_entry",
        _KEY,
        "[value, expires_at | nil, time] | nil",
        "The value of a key, when it expires, and the log's time.",
    ),
    (
        "get_expiry",
        _KEY,
        "[expires_at | nil, time] | nil",
        "When a key expires, and the log's time; nil: the key is absent.",
    ),
    (
        "scan",
        _SCAN,
        "[commit, [key, value, key, value, …], more]",
        "The keys of a range in order. If `more`, continue after the last key.",
    ),
    (
        "get_many",
        (_required("keys", ListOf(KEY, limits.GET_MANY_MAX, count_min=1)),),
        "[commit, [value | nil, …]]",
        "The values of keys, in their order. If there are fewer than keys, ask for the rest.",
    ),
    (
        "scan_keys",
        _SCAN,
        "[commit, [key, …], rest | nil]",
        "The keys of a range without their values. `rest`: where the range goes on.",
    ),
    (
        "count_keys",
        _RANGE,
        "[commit, count, rest | nil]",
        "How many keys a range has, up to `rest`, where it goes on.",
    ),
    (
        "scan_prefixes",
        (
            *_RANGE,
            _required(
                "size",
                Integer(0, limits.KEY_SIZE_MAX),
                "bytes of the prefix that all keys of the range share",
            ),
            _optional(
                "delimiter",
                Nullable(Binary(1, limits.NAME_SIZE_MAX)),
                None,
                "nil: beginnings end with a member of the key",
            ),
            _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
        ),
        "[commit, [beginning, …], rest | nil]",
        "The distinct beginnings of the keys of a range, behind their shared prefix.",
    ),
    (
        "scan_expiries",
        _SCAN,
        "[commit, [key, expires_at, key, expires_at, …], more]",
        "The keys of a range that expire, in order of key, each with its time.",
    ),
)
"""The reads of keys: in a transaction, in an execute, or on their own."""
