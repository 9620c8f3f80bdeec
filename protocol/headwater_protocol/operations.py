"""All operations of the protocol, with their arguments and answers.

A request is `[request_id, operation, arguments…]`. This table is the single definition of the
arguments: client and server validate with it, and a test compares docs/protocol.md with it.
Arguments are positional. Trailing ones with a default may be left out.

    write      ["put", key, value], ["append", stream, expect, [event…]], …
    event in   [id | nil, type, data, metadata, tags]      tags may be left out
    event out  [position, stream, version, commit, time, id, type, data, metadata, tags]

`execute` combines conditions, reads and writes. Values, event data and snapshot states are opaque
bytes to the server; clients encode them, by default as msgpack. Only add, min and max read and
write values, as msgpack numbers. Times are microseconds since 1970-01-01 UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.errors import TooLarge
from headwater_protocol.fast_validators import FastValidator
from headwater_protocol.fields import (
    Argument,
    Binary,
    Boolean,
    Choice,
    Integer,
    ListOf,
    MapOf,
    Nullable,
    Number,
    Record,
    Tagged,
    Text,
)
from headwater_protocol.mechanisms import MECHANISMS
from headwater_protocol.numbers import STREAM_EXISTS
from headwater_protocol.vocabulary.accounts import ACCOUNT_OPERATIONS
from headwater_protocol.vocabulary.connections import CONNECTION_OPERATIONS
from headwater_protocol.vocabulary.groups import ACK, group_operations
from headwater_protocol.vocabulary.keys import COMPARED, EXPIRE, KEY, KEY_READS, LIMIT
from headwater_protocol.vocabulary.looking import LOOKING_OPERATIONS
from headwater_protocol.vocabulary.monitoring import MONITORING_OPERATIONS
from headwater_protocol.vocabulary.replication import (
    NODE_ANSWER,
    READS,
    REPLICATION_OPERATIONS,
    read_at_least,
)
from headwater_protocol.vocabulary.subscriptions import subscription_operations

SERIALIZABLE: Final = "serializable"
SNAPSHOT: Final = "snapshot"

TRANSACTION_ID: Final = Binary(16, 16)
EVENT_ID: Final = Binary(16, 16)
VALUE: Final = Binary(0, limits.VALUE_SIZE_MAX)
STREAM: Final = Text(1, limits.STREAM_NAME_SIZE_MAX)
PREFIX: Final = Text(1, limits.STREAM_NAME_SIZE_MAX)
NAME: Final = Text(1, limits.NAME_SIZE_MAX)
ISOLATION: Final = Choice((SERIALIZABLE, SNAPSHOT))
COMMIT: Final = Integer(0, limits.NUMBER_MAX)
POSITION: Final = Integer(0, limits.NUMBER_MAX)
VERSION: Final = Integer(0, limits.NUMBER_MAX)
TIME: Final = Integer(0, limits.NUMBER_MAX)
EXPECT: Final = Integer(STREAM_EXISTS, limits.NUMBER_MAX)
SCHEMA: Final = Integer(0, 2**32 - 1)
TAG: Final = Text(1, limits.TAG_SIZE_MAX)
TAGS: Final = ListOf(TAG, limits.TAGS_MAX, unique=True)

CRITERION: Final = MapOf(
    {
        "types": ListOf(NAME, limits.QUERY_NAMES_MAX, count_min=1),
        "tags": ListOf(TAG, limits.TAGS_MAX, count_min=1),
    },
    count_min=1,
)
"""An event matches if its type is one of `types`, if given, and it has all of `tags`, if given."""


@dataclass(frozen=True)
class Criteria(ListOf):
    """The criteria of a query: an array, with a limit on the names in all of them together."""

    def check(self, value: Any) -> None:
        ListOf.check(self, value)
        self._check_names(value, "")

    def __call__(self, value: Any, place: str) -> None:
        ListOf.__call__(self, value, place)
        self._check_names(value, f"{place}: ")

    def _check_names(self, value: list[Any], place: str) -> None:
        count = sum(len(names) for criterion in value for names in criterion.values())
        if count > limits.QUERY_NAMES_MAX:
            raise TooLarge(
                f"{place}{count} types and tags; a query may have {limits.QUERY_NAMES_MAX}"
            )

    def fast_validator(self) -> FastValidator:
        return FastValidator()


QUERY: Final = Criteria(CRITERION, limits.CRITERIA_MAX, count_min=1)
"""An event matches a query if it matches one of the criteria."""

FILTER: Final = MapOf(
    {
        "stream": STREAM,
        "category": STREAM,
        "prefix": PREFIX,
        "types": ListOf(NAME, limits.TYPES_MAX, count_min=1),
        "query": QUERY,
    }
)
"""An event matches a filter if it matches all its members."""


def _record(*arguments: Argument) -> Record:
    return Record(arguments)


def _required(name: str, field: Any, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Any, default: Any = None, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


EVENT: Final = Record(
    (
        _required("id", Nullable(EVENT_ID), "nil: derived from the transaction's id"),
        _required("type", NAME),
        _required("data", VALUE),
        _required("metadata", VALUE, "empty if there is none"),
        _optional("tags", TAGS, []),
    ),
    may_be_short=True,
)
"""An event to append. Its tags may be left out."""

ERASED_NUMBERS: Final = ListOf(Integer(1, limits.NUMBER_MAX), limits.ERASED_MAX, count_min=1)
"""Versions or positions of events to erase."""

WRITE: Final = Tagged(
    {
        "put": _record(_required("key", KEY), _required("value", VALUE)),
        "delete": _record(_required("key", KEY)),
        "delete_range": _record(
            _required("start", Binary(0, limits.KEY_SIZE_MAX)),
            _required("end", Nullable(KEY), "exclusive; nil: to the last key"),
        ),
        "add": _record(_required("key", KEY), _required("number", Number())),
        "min": _record(_required("key", KEY), _required("number", Number())),
        "max": _record(_required("key", KEY), _required("number", Number())),
        "expire": EXPIRE,
        "append": Record(
            (
                _required("stream", STREAM),
                _required("expect", EXPECT, "a version, 0 no stream, -1 any, -2 stream exists"),
                _required("events", ListOf(EVENT, limits.EVENTS_MAX, count_min=1)),
                _optional("unless", Nullable(FILTER), None, "no event may match this filter"),
                _optional("after", POSITION, 0, "only events after this position count"),
            ),
            may_be_short=True,
        ),
        "save_snapshot": Record(
            (
                _required("stream", STREAM),
                _required("name", Text(0, limits.NAME_SIZE_MAX)),
                _required("schema", SCHEMA),
                _required("version", VERSION, "version of the stream that the state includes"),
                _required("state", VALUE),
                _optional("read_at", Nullable(COMMIT), None, "the events were read at this commit"),
            ),
            may_be_short=True,
        ),
        "ack": ACK,
        "truncate": _record(
            _required("stream", STREAM),
            _required("before", VERSION, "events below this version are hidden"),
        ),
        "delete_stream": _record(_required("stream", STREAM)),
        "set_retention": _record(
            _required("stream", STREAM),
            _required("max_count", Nullable(Integer(1, limits.NUMBER_MAX)), "nil: no limit"),
            _required(
                "max_age", Nullable(Integer(1, limits.NUMBER_MAX)), "microseconds; nil: no limit"
            ),
        ),
        "erase": _record(_required("stream", STREAM), _required("versions", ERASED_NUMBERS)),
        "erase_positions": _record(_required("positions", ERASED_NUMBERS)),
        "erase_ids": _record(
            _required("stream", STREAM),
            _required("ids", ListOf(EVENT_ID, limits.ERASED_MAX, count_min=1), "given by clients"),
        ),
    }
)
WRITES: Final = ListOf(WRITE, limits.WRITES_MAX)

CONDITION: Final = Tagged(
    {
        "value": _record(
            _required("key", KEY), _required("value", Nullable(VALUE), "nil: the key is absent")
        ),
        "compare": COMPARED,
        "stream": _record(_required("stream", STREAM), _required("expect", EXPECT)),
        "unchanged": _record(
            _required("start", Binary(0, limits.KEY_SIZE_MAX)),
            _required("end", Nullable(KEY), "exclusive; nil: to the last key"),
            _required("commit", COMMIT, "no key in the range was written after it"),
        ),
        "no_events": _record(
            _required("filter", FILTER), _required("after", POSITION, "no event after it matches")
        ),
    }
)

_READ_STREAM = (
    _required("stream", STREAM),
    _optional("after", VERSION, 0, "exclusive; if reverse and not 0, events before it"),
    _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
    _optional("reverse", Boolean(), False),
)
_READ_ALL = (
    _optional("after", POSITION, 0, "exclusive; if reverse and not 0, events before it"),
    _optional("filter", FILTER, {}),
    _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
    _optional("reverse", Boolean(), False),
)
_LOAD = (
    _required("stream", STREAM),
    _optional("name", Text(0, limits.NAME_SIZE_MAX), ""),
    _optional("schema", SCHEMA, 0),
    _optional("below", Nullable(VERSION), None, "only a snapshot below this version; nil: any"),
)


def _all_required(arguments: Sequence[Argument]) -> Record:
    return Record([Argument(a.name, a.field, why=a.why) for a in arguments])


READ: Final = Tagged(
    {
        **{name: _all_required(arguments) for name, arguments, _, _ in KEY_READS},
        "stream_version": _record(_required("stream", STREAM)),
        "read_stream": _all_required(_READ_STREAM),
        "read_all": _all_required(_READ_ALL),
        "load": _all_required(_LOAD),
    }
)

_IN = _required("transaction", Nullable(TRANSACTION_ID), "nil: outside a transaction")
_AT = _optional("at_commit", Nullable(COMMIT), None, "outside a transaction; nil: the newest")
_COMMITTED = "[commit, time, first_position | nil, last_position | nil, {stream: version}]"
_EVENTS = "[commit, events, more]"


@dataclass(frozen=True)
class Operation:
    """An operation that a client can request."""

    name: str
    arguments: Record
    answer: str
    """The payload of the response."""
    what: str
    """A sentence that describes the operation."""


_TABLE = (
    # Session.
    Operation(
        "hello",
        _record(
            _required("version", Integer(1, 2**16 - 1)),
            _optional("client", Text(0, limits.NAME_SIZE_MAX), "", "name and version, for logs"),
            _optional("features", ListOf(NAME, 64), []),
        ),
        "[version, server, features, mechanisms, database]; with the feature node, also node | nil",
        "Must be the first request. `mechanisms` is empty if no authentication is needed.",
    ),
    Operation(
        "authenticate",
        _record(
            _required("mechanism", Choice(MECHANISMS)),
            _required("message", Binary(0, 4096)),
        ),
        "[done, message]",
        "One step of SASL: a message of SCRAM (RFC 5802, RFC 7677), or EXTERNAL (RFC 4422).",
    ),
    Operation(
        "ping",
        _record(),
        f"[commit, time]; with the feature node, also {NODE_ANSWER}",
        "The newest commit, the server's clock, and what this node is.",
    ),
    # Transactions.
    Operation(
        "begin",
        _record(
            _required("transaction", TRANSACTION_ID, "chosen by the client, never used before"),
            _optional("isolation", ISOLATION, SERIALIZABLE),
            _optional("read_only", Boolean(), False),
            _optional("at_commit", Nullable(COMMIT), None, "a past commit; implies read_only"),
        ),
        "[commit]",
        "Open a transaction that reads as of `commit`.",
    ),
    Operation(
        "write",
        _record(_required("transaction", TRANSACTION_ID), _required("writes", WRITES)),
        "nil",
        "Add writes to the transaction. Its own later reads see them.",
    ),
    Operation(
        "commit",
        _record(_required("transaction", TRANSACTION_ID), _optional("writes", WRITES, [])),
        _COMMITTED,
        "Add the writes and commit. Committing the same transaction again gives the same answer.",
    ),
    Operation(
        "rollback",
        _record(_required("transaction", TRANSACTION_ID)),
        "nil",
        "Discard the transaction. If it is not open, do nothing.",
    ),
    Operation(
        "execute",
        _record(
            _required("transaction", TRANSACTION_ID, "makes it idempotent"),
            _optional("conditions", ListOf(CONDITION, limits.CONDITIONS_MAX), []),
            _optional("reads", ListOf(READ, limits.READS_MAX), []),
            _optional("writes", WRITES, []),
        ),
        f"[committed, results]; committed is {_COMMITTED}; results: the answer of each read",
        "Run a whole transaction: if all conditions hold, read, then write and commit.",
    ),
    Operation(
        "status",
        _record(
            _required("transaction", TRANSACTION_ID),
            _optional("resolve", Boolean(), False, "abort it unless it committed"),
        ),
        '[state, committed | nil]; state is "committed", "aborted", "open" or "forgotten"',
        "The outcome of a transaction. Without `resolve`, an unknown transaction is open.",
    ),
    # Reads: in a transaction, or outside one as of the newest or a past commit.
    *(
        Operation(name, _record(_IN, *arguments, _AT), answer, what)
        for name, arguments, answer, what in KEY_READS
    ),
    Operation(
        "stream_version",
        _record(_IN, _required("stream", STREAM), _AT),
        "[commit, version]",
        "The version of a stream that an append may expect; 0: it does not exist.",
    ),
    Operation(
        "read_stream",
        _record(_IN, *_READ_STREAM, _AT),
        "[commit, version, events, more]; version: of the stream",
        "The events of a stream in version order.",
    ),
    Operation(
        "read_all",
        _record(_IN, *_READ_ALL, _AT),
        "[commit, position, events, more]; position: the last that was examined",
        "The events of all streams in position order. If `more`, continue after `position`.",
    ),
    Operation(
        "newest_position",
        _record(
            _IN,
            _optional("after", POSITION, 0, "if not 0, only events before it"),
            _optional("filter", FILTER, {}),
            _AT,
        ),
        "[commit, position, more]; position: of the newest event that matches, 0 if there is none",
        "The position of the newest event that matches a filter, without the event.",
    ),
    Operation(
        "load",
        _record(_IN, *_LOAD, _AT),
        "[commit, version, [version, state] | nil, events, more, begins]",
        "The newest snapshot of this name and schema, and the events after it.",
    ),
    Operation(
        "commit_at",
        _record(_required("time", TIME)),
        "commit",
        "The newest commit at a time, 0 before the first.",
    ),
    Operation(
        "position_before",
        _record(_required("time", TIME)),
        "position",
        "The last position before a time, 0 before the first.",
    ),
    Operation(
        "read_snapshots",
        _record(
            _optional("after", Nullable(Binary(0, 2 * limits.KEY_SIZE_MAX)), None, "a cursor"),
            _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
            _AT,
        ),
        "[[[stream, name, schema, version, state], …], cursor | nil]",
        "All stored snapshots, for a dump. Continue after the cursor until it is nil.",
    ),
    Operation(
        "list_streams",
        _record(
            _optional("prefix", Text(0, limits.STREAM_NAME_SIZE_MAX), "", "of the streams' names"),
            _optional("after", Nullable(STREAM), None, "a cursor"),
            _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
            _AT,
        ),
        "[commit, [[stream, version, first, max_count | nil, max_age | nil, begins], …], "
        "cursor | nil]",
        "The streams in name order. Continue after the cursor until it is nil.",
    ),
    Operation(
        "list_categories",
        _record(
            _optional("after", Nullable(STREAM), None, "a cursor"),
            _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX),
            _AT,
        ),
        "[commit, [[category, events], …], cursor | nil]",
        "The categories in name order. Continue after the cursor until it is nil.",
    ),
    *(Operation(*operation) for operation in LOOKING_OPERATIONS),
    # Subscriptions. Their pushes have the request id of the subscribe.
    *(Operation(*operation) for operation in subscription_operations(FILTER)),
    # Consumer groups. Their pushes have the request id of the group_join.
    *(Operation(*operation) for operation in group_operations(FILTER)),
    # Administration.
    Operation("stats", _record(), "a map", "Statistics of the server, by name."),
    Operation(
        "backup",
        _record(_required("name", Text(1, limits.BACKUP_NAME_SIZE_MAX))),
        "[commit, position, size]",
        "Make a backup with a new name in the server's backup directory.",
    ),
    *(Operation(*operation) for operation in CONNECTION_OPERATIONS),
    *(Operation(*operation) for operation in MONITORING_OPERATIONS),
    *(Operation(*operation) for operation in ACCOUNT_OPERATIONS),
    # Nodes.
    *(Operation(*operation) for operation in REPLICATION_OPERATIONS),
    Operation(
        "hold_clock",
        _record(_required("time", Nullable(TIME), "nil: let it go on")),
        "nil",
        "Hold the log's clock at a time, so that a load keeps the times of a dump.",
    ),
)

READ_REQUEST: Final = Tagged(
    {
        name: _all_required([each for each in found.arguments.arguments if each is not _IN])
        for name, found in {each.name: each for each in _TABLE}.items()
        if name in READS
    }
)
"""A read outside of a transaction: its name and its arguments, without the transaction."""

OPERATIONS: Final[dict[str, Operation]] = {
    operation.name: operation for operation in (*_TABLE, Operation(*read_at_least(READ_REQUEST)))
}

OK: Final = 0
"""Status of a response whose payload is the answer."""

ERROR: Final = 1
"""Status of a response whose payload is [code, message, retryable, details]."""

PUSH: Final = 2
"""Status of a push. A subscription pushes ["events", [event…]], ["caught_up", position],
["fell_behind", position] and, last, ["ended", error payload]. A membership in a consumer group
pushes ["deliveries", [[token, attempt, event]…]], ["lost", [token…]], ["caught_up", position] and,
last, ["ended", error payload]."""

IN_TRANSACTION: Final = frozenset(
    name
    for name, operation in OPERATIONS.items()
    if operation.arguments.arguments and operation.arguments.arguments[0].name == "transaction"
)
"""The operations whose first argument is the transaction."""
