"""The handlers: one function for each operation, from a request's arguments to its answer.

The protocol has checked the arguments, and they are complete. A handler returns the answer's frame,
or None if the answer comes later, usually after a sync. A HeadwaterError that it raises becomes the
request's error. The modules in this folder have the handlers, by subject.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from headwater_protocol.operations import OPERATIONS
from headwater_server.engine.accounts import account_key, role_key
from headwater_server.net.requests import (
    administration,
    connections,
    feeds,
    handshake,
    looking,
    reads,
    replication,
    transactions,
)
from headwater_server.net.requests.groups import GROUP_HANDLERS
from headwater_server.net.requests.identified import identified
from headwater_server.net.service import Handler


def _account(arguments: list[Any]) -> bytes:
    return account_key(arguments[0])


def _role(arguments: list[Any]) -> bytes:
    return role_key(arguments[0])


READS: Final[Mapping[str, Handler]] = {
    "get": reads.get,
    "get_entry": partial(reads.read, "get_entry"),
    "get_expiry": partial(reads.read, "get_expiry"),
    "scan": reads.scan,
    "get_many": partial(reads.read, "get_many"),
    "scan_keys": partial(reads.read, "scan_keys"),
    "count_keys": partial(reads.read, "count_keys"),
    "scan_prefixes": partial(reads.read, "scan_prefixes"),
    "scan_expiries": partial(reads.read, "scan_expiries"),
    "stream_version": partial(reads.read, "stream_version"),
    "read_stream": partial(reads.read, "read_stream"),
    "read_all": partial(reads.read, "read_all"),
    "newest_position": reads.newest_position,
    "load": partial(reads.read, "load"),
    "commit_at": reads.commit_at,
    "position_before": reads.position_before,
    "read_commits": reads.read_commits,
    "read_snapshots": reads.read_snapshots,
    "list_streams": reads.list_streams,
    "list_categories": reads.list_categories,
    "find_event": looking.find_event,
    "key_history": looking.key_history,
    "stream_history": looking.stream_history,
    "read_commit": looking.read_commit,
    "commit_changes": looking.commit_changes,
    "count_commits": looking.count_commits,
    "known_span": looking.known_span,
    "position_at": looking.position_at,
    "list_snapshots": looking.list_snapshots,
    "scan_branches": looking.scan_branches,
    "describe_streams": looking.describe_streams,
}
"""The reads, in a transaction or outside of one."""

HANDLERS: Final[Mapping[str, Handler]] = {
    "hello": handshake.hello,
    "authenticate": handshake.authenticate,
    "ping": handshake.ping,
    "begin": transactions.begin,
    "write": transactions.write,
    "commit": transactions.commit,
    "rollback": transactions.rollback,
    "execute": transactions.execute,
    "status": transactions.status,
    **READS,
    "subscribe": feeds.subscribe,
    "subscribe_keys": feeds.subscribe_keys,
    "credit": feeds.grant_credit,
    "unsubscribe": feeds.unsubscribe,
    **GROUP_HANDLERS,
    "audit_read": administration.audit_read,
    "stats": administration.stats,
    "backup": administration.backup,
    "whoami": connections.whoami,
    "connection_list": connections.connection_list,
    "connection_close": connections.connection_close,
    "conflicts": administration.conflicts,
    "trace": administration.trace,
    "user_set": identified(administration.user_set, _account),
    "user_remove": identified(administration.user_remove, _account),
    "user_list": administration.user_list,
    "user_grant": identified(partial(administration.set_rights, True), _account),
    "user_revoke": identified(partial(administration.set_rights, False), _account),
    "user_rights": administration.user_rights,
    "user_limit": identified(administration.user_limit, _account),
    "role_set": identified(administration.role_set, _role),
    "role_remove": identified(administration.role_remove, _role),
    "role_list": administration.role_list,
    "user_verifiers": administration.user_verifiers,
    "hold_clock": administration.hold_clock,
    "node": replication.node,
    "wait_commit": replication.wait_commit,
    "read_at_least": partial(replication.read_at_least, READS),
    "replicate": replication.replicate,
    "log_read": replication.log_read,
    "copy_begin": replication.copy_begin,
    "copy_read": replication.copy_read,
    "promote": replication.promote,
    "cluster_status": replication.cluster_status,
    "cluster_resign": replication.cluster_resign,
}
"""The handler of each operation of the protocol."""

LEASED: Final[Mapping[str, Handler]] = {**READS, "begin": transactions.begin}
"""Those that the leader of a cluster serves only while no other node can lead."""

assert HANDLERS.keys() == OPERATIONS.keys(), "every operation has a handler"
