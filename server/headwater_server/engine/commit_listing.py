"""Listings of the commit log, and of all stored snapshots."""

from typing import Any

from headwater_protocol.errors import HistoryGone
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.accounts import account_name
from headwater_server.engine.format import keyspaces
from headwater_server.engine.retention.rules import is_usable
from headwater_server.engine.state.layers import State


def read_commits(state: State, published: int, after: int | None, limit: int) -> list[list[Any]]:
    """The records of the commits after one, in the protocol's form; None: from the oldest on.

    Raises:
        HistoryGone: the record of the commit after it was trimmed.
    """
    oldest = state.files.oldest_commit
    first = oldest if after is None else after + 1
    if first < oldest:
        raise HistoryGone(
            f"the commits after {after} were trimmed from the commit log, whose oldest is {oldest}",
            details={"oldest": oldest},
        )
    found: list[list[Any]] = []
    for commit in range(first, min(published, first + limit - 1) + 1):
        record = state.commit_record(commit)
        name = account_name(state, published, record.user) if record.user else None
        first_position = record.first_position if record.event_count else 0
        found.append(
            [commit, record.transaction, record.time, name, first_position, record.event_count]
        )
    return found


def read_snapshots(
    state: State, view: int, cursor: bytes | None, limit: int
) -> tuple[list[list[Any]], bytes | None]:
    """Stored snapshots in order of stream, and the cursor for the next page; None at the end."""
    first = keyspaces.SNAPSHOTS if cursor is None else keyspaces.SNAPSHOTS + cursor + b"\0"
    found: list[list[Any]] = []
    size = 0
    last: bytes | None = None
    for key, stored in state.scan(first, keyspaces.SNAPSHOTS_END, view):
        if state.retention.in_use and not is_usable(state, keyspaces.parse_snapshot_key(key), view):
            continue
        if len(found) == limit or size > PAGE_SIZE_MAX:
            return found, last
        found.append([*keyspaces.parse_snapshot_key(key), stored])
        size += len(stored) + len(key)
        last = key[1:]
    return found, None
