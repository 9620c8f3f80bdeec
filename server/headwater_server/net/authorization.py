"""Authorization: which rights each operation needs. One rule for each operation of the protocol.

A rule raises PermissionDenied if the rights of the user do not include what a request names. What
leaves the border of a right is refused, never filtered. A test compares the tables with the
vocabulary, so that no operation, write, condition or read is without a rule.
"""

from collections.abc import Callable
from typing import Any, Final

from headwater_protocol.errors import PermissionDenied
from headwater_protocol.operations import IN_TRANSACTION, OPERATIONS
from headwater_server.engine.engine import Engine
from headwater_server.engine.format import keyspaces
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.rights import Rights
from headwater_server.net.push.channels import Channel
from headwater_server.net.push.feeds import Feed
from headwater_server.net.push.group_deliveries import Membership

Rule = Callable[[Rights, Engine, list[Any]], None]
"""Checks a request, or a part of one: a write, a condition or a read. It takes the rights of the
user, the engine, and the arguments. Those of a part begin with the word that names it, those of a
read of its own with the transaction, so the same rules serve both."""


def anyone(_rights: Rights, _engine: Engine, _arguments: list[Any]) -> None:
    """Every user may. What the operation refers to was checked before, or is known by a secret."""


# Plain functions, since every get and put calls one. A call of a closure takes twice as long.


def _readable_key(rights: Rights, _engine: Engine, part: list[Any]) -> None:
    rights.need_key("read", part[1])


def _writable_key(rights: Rights, _engine: Engine, part: list[Any]) -> None:
    rights.need_key("write", part[1])


def _each_key(right: str) -> Rule:
    def check(rights: Rights, _engine: Engine, part: list[Any]) -> None:
        for key in part[1]:
            rights.need_key(right, key)

    return check


def _keys(right: str) -> Rule:
    return lambda rights, _engine, part: rights.need_keys(right, part[1], part[2])


def _stream(right: str) -> Rule:
    return lambda rights, _engine, part: rights.need_stream(right, part[1])


def _append(rights: Rights, _engine: Engine, write: list[Any]) -> None:
    rights.need_stream("append", write[1])
    if len(write) > 4 and write[4] is not None:
        # Whether the append succeeds tells whether there are such events.
        rights.need_filter("read", write[4])


WRITE_RULES: Final[dict[str, Rule]] = {
    "put": _writable_key,
    "delete": _writable_key,
    "expire": _writable_key,
    "delete_range": _keys("write"),
    "add": _writable_key,
    "min": _writable_key,
    "max": _writable_key,
    "append": _append,
    "save_snapshot": _stream("append"),
    "ack": lambda rights, _engine, write: rights.need_group(write[1]),
    "truncate": _stream("manage"),
    "delete_stream": _stream("manage"),
    "set_retention": _stream("manage"),
    "erase": _stream("erase"),
    # Positions say nothing about streams.
    "erase_positions": lambda rights, _engine, _write: rights.need_filter("erase", {}),
    "erase_ids": _stream("erase"),
}
"""The rule of each write."""

CONDITION_RULES: Final[dict[str, Rule]] = {
    "value": _readable_key,
    "compare": _readable_key,
    "stream": _stream("read"),
    "unchanged": _keys("read"),
    "no_events": lambda rights, _engine, condition: rights.need_filter("read", condition[1]),
}
"""The rule of each condition: whether it holds tells something about what is stored."""

READ_RULES: Final[dict[str, Rule]] = {
    "get": _readable_key,
    "get_entry": _readable_key,
    "get_expiry": _readable_key,
    "scan": _keys("read"),
    "get_many": _each_key("read"),
    "scan_keys": _keys("read"),
    "count_keys": _keys("read"),
    "scan_prefixes": _keys("read"),
    "scan_expiries": _keys("read"),
    "stream_version": _stream("read"),
    "read_stream": _stream("read"),
    "read_all": lambda rights, _engine, read: rights.need_filter("read", read[2]),
    "load": _stream("read"),
}
"""The rule of each read, in an execute or of its own."""


def _check(rules: dict[str, Rule], rights: Rights, engine: Engine, parts: list[list[Any]]) -> None:
    for part in parts:
        rules[part[0]](rights, engine, part)


def _writes(rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    _check(WRITE_RULES, rights, engine, arguments[1])


def _execute(rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    if arguments[1]:
        _check(CONDITION_RULES, rights, engine, arguments[1])
    if arguments[2]:
        _check(READ_RULES, rights, engine, arguments[2])
    _check(WRITE_RULES, rights, engine, arguments[3])


def _everything_readable(rights: Rights, _engine: Engine, _arguments: list[Any]) -> None:
    rights.need_everything_readable()


def _streams_readable(rights: Rights, _engine: Engine, _arguments: list[Any]) -> None:
    rights.need_filter("read", {})


def _list_streams(rights: Rights, _engine: Engine, arguments: list[Any]) -> None:
    prefix = arguments[0]
    rights.need_filter("read", {"prefix": prefix} if prefix else {})


def _find_event(rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    try:
        rights.need_filter("read", {})
    except PermissionDenied:
        # Whoever may read some streams gets an event of these. For any other id it is refused,
        # whether there is such an event or not.
        stream = engine.looking.stream_of(*arguments)
        if stream is None or not rights.reads_stream(stream):
            raise


def _subscribe(rights: Rights, _engine: Engine, arguments: list[Any]) -> None:
    rights.need_filter("read", arguments[1])


def _subscribe_keys(rights: Rights, _engine: Engine, arguments: list[Any]) -> None:
    rights.need_keys("read", arguments[0], arguments[1])


def _group(rights: Rights, _engine: Engine, arguments: list[Any]) -> None:
    rights.need_group(arguments[0])


def _group_filter(rights: Rights, _engine: Engine, arguments: list[Any]) -> None:
    rights.need_group(arguments[0])
    if arguments[1] is not None:
        rights.need_filter("read", arguments[1])


def need_group_events(rights: Rights, engine: Engine, name: str) -> None:
    """Need the right on a consumer group, and the right to read what it delivers."""
    rights.need_group(name)
    wanted = engine.groups.filter_of(name)
    if wanted is not None:
        rights.need_filter("read", wanted.as_wire())


def _group_events(rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    need_group_events(rights, engine, arguments[0])


def _every_group(rights: Rights, _engine: Engine, _arguments: list[Any]) -> None:
    rights.need_every_group()


def _status(rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    transaction, resolve = arguments
    # The id of a transaction is a secret of whoever began it. Aborting one writes to the log, which
    # nobody may fill who cannot write.
    if resolve and engine.status(transaction, resolve=False).state == "open":
        rights.need_any_write()


def _needs(right: str) -> Rule:
    return lambda rights, _engine, _arguments: rights.need(right)


def _user_rights(rights: Rights, _engine: Engine, arguments: list[Any]) -> None:
    if arguments[0] is not None:
        rights.need("admin")


def _read_at_least(rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    name, *rest = arguments[1]
    RULES[name](rights, engine, [None, *rest] if name in IN_TRANSACTION else rest)


RULES: Final[dict[str, Rule]] = {
    "hello": anyone,
    "authenticate": anyone,
    "ping": anyone,
    "begin": anyone,
    "write": _writes,
    "commit": _writes,
    "rollback": anyone,
    "execute": _execute,
    "status": _status,
    "get": READ_RULES["get"],
    "get_entry": READ_RULES["get_entry"],
    "get_expiry": READ_RULES["get_expiry"],
    "scan": READ_RULES["scan"],
    "get_many": READ_RULES["get_many"],
    "scan_keys": READ_RULES["scan_keys"],
    "count_keys": READ_RULES["count_keys"],
    "scan_prefixes": READ_RULES["scan_prefixes"],
    "scan_expiries": READ_RULES["scan_expiries"],
    "stream_version": READ_RULES["stream_version"],
    "read_stream": READ_RULES["read_stream"],
    "read_all": READ_RULES["read_all"],
    "newest_position": READ_RULES["read_all"],
    "load": READ_RULES["load"],
    "commit_at": anyone,
    "position_before": anyone,
    "read_commits": _everything_readable,
    "read_snapshots": _streams_readable,
    "list_streams": _list_streams,
    "list_categories": _streams_readable,
    "find_event": _find_event,
    "key_history": lambda rights, _engine, arguments: rights.need_key("read", arguments[0]),
    "stream_history": lambda rights, _engine, arguments: rights.need_stream("read", arguments[0]),
    "read_commit": _everything_readable,
    "commit_changes": lambda rights, _engine, asked: rights.need_keys("read", asked[1], asked[2]),
    # As much as `commit_at` and `position_before` tell.
    "count_commits": anyone,
    "known_span": anyone,
    "position_at": anyone,
    "list_snapshots": lambda rights, _engine, arguments: rights.need_stream("read", arguments[0]),
    "scan_branches": lambda rights, _engine, asked: rights.need_keys("read", asked[0], asked[1]),
    "describe_streams": _list_streams,
    "subscribe": _subscribe,
    "subscribe_keys": _subscribe_keys,
    # A session has its own subscriptions alone.
    "credit": anyone,
    "unsubscribe": anyone,
    "group_create": _group_filter,
    "group_update": _group_filter,
    "group_delete": _group,
    "group_list": _every_group,
    "group_info": _group,
    "group_join": _group_events,
    "group_leave": anyone,
    "nack": _group,
    "group_extend": _group,
    "group_parked": _group_events,
    "group_replay": _group,
    "group_discard": _group,
    "audit_read": _needs("admin"),
    "stats": _needs("admin"),
    "backup": _needs("backup"),
    "whoami": anyone,
    "connection_list": _needs("admin"),
    "connection_close": _needs("admin"),
    # Users who are not administrators see only their own.
    "conflicts": anyone,
    "trace": anyone,
    "user_set": _needs("admin"),
    "user_remove": _needs("admin"),
    "user_list": _needs("admin"),
    "user_verifiers": _needs("admin"),
    "user_grant": _needs("admin"),
    "user_revoke": _needs("admin"),
    "user_rights": _user_rights,
    "user_limit": _needs("admin"),
    "role_set": _needs("admin"),
    "role_remove": _needs("admin"),
    "role_list": _needs("admin"),
    "hold_clock": _needs("admin"),
    "node": anyone,
    "wait_commit": anyone,
    "read_at_least": _read_at_least,
    "replicate": _needs("replicate"),
    "log_read": _needs("replicate"),
    "copy_begin": _needs("replicate"),
    "copy_read": _needs("replicate"),
    "promote": _needs("admin"),
    "cluster_status": anyone,
    "cluster_resign": _needs("admin"),
}
"""The rule of each operation."""


def is_plainly_allowed(rights: Rights, operation: str, arguments: list[Any]) -> bool:
    """Whether a request is a `get`, or an `execute` of a single `put`, and is allowed.

    These are the commonest requests, and the way through the tables costs more than the comparison.
    False says nothing: then the rules decide.
    """
    if operation == "get":
        return rights.can_read_key(arguments[1])
    if operation == "execute":
        writes: list[list[Any]] = arguments[3]
        if len(writes) == 1 and not arguments[1] and not arguments[2]:
            write = writes[0]
            return write[0] == "put" and rights.can_write_key(write[1])
    return False


WRITING: Final[dict[str, int]] = {"write": 1, "commit": 1, "execute": 3}
"""Operations with writes, and which of their arguments these are. The first is the transaction."""

SENT_AGAIN: Final = frozenset({"commit", "execute"})
"""Operations that a client sends again if it lost the answer."""


def need_only_outcome(operation: str, rights: Rights, engine: Engine, arguments: list[Any]) -> None:
    """Of a request whose transaction committed before, leave in *arguments* what may be answered.

    Nobody knows whether the first request was the same. So reads need their rights again, and
    writes are left out: the answer to a repeated append tells which events are stored.

    Raises:
        PermissionDenied: it reads what the user may not. details["commit"] says that it committed.
    """
    if operation == "execute":
        try:
            _check(READ_RULES, rights, engine, arguments[2])
        except PermissionDenied as error:
            commit = engine.known(arguments[0])
            raise PermissionDenied(
                f"it was committed, as commit {commit}, but {error.message}",
                details={**error.details, "commit": commit},
            ) from None
    arguments[WRITING[operation]] = []


assert RULES.keys() == OPERATIONS.keys(), "every operation has a rule"


def need_channel(rights: Rights, engine: Engine, channel: Channel) -> None:
    """Need the right to what an open feed or membership goes on sending."""
    if isinstance(channel, Membership):
        need_group_events(rights, engine, channel.group)
    elif isinstance(channel, Feed):
        wanted = channel.wanted
        if isinstance(wanted, EventFilter):
            rights.need_filter("read", wanted.as_wire())
        else:
            # The range is in stored form: with the byte of the key space in front.
            start, end = wanted
            last = None if end == keyspaces.USER_END else end[1:]
            rights.need_keys("read", start[1:], last)
