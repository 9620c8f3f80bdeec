"""The listing of all stored snapshots."""

from typing import Any

from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.retention.rules import is_usable
from headwater_server.engine.state.layers import State


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
