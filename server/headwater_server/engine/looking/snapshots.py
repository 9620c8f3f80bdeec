"""The snapshots of one stream, without their states."""

from typing import Any

from headwater_server.engine.format.keyspaces import SNAPSHOTS, parse_snapshot_key, snapshots_of
from headwater_server.engine.looking.commits import who_and_when
from headwater_server.engine.looking.key_history import newest_version
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.retention.rules import is_usable
from headwater_server.engine.state.layers import State


def list_snapshots(
    state: State, published: int, reader: Reader, stream: str, cursor: bytes | None, limit: int
) -> tuple[list[list[Any]], bytes | None]:
    """Name, schema, version, commit, time and size of each snapshot, and the next cursor."""
    first, end = snapshots_of(stream)
    if cursor is not None:
        first = max(first, SNAPSHOTS + cursor + b"\0")
    found: list[list[Any]] = []
    last: bytes | None = None
    for key, stored in state.scan(first, end, reader.view):
        snapshot = parse_snapshot_key(key)
        if state.retention.in_use and not is_usable(state, snapshot, reader.view):
            continue
        if len(found) == limit:
            return found, last
        saved = newest_version(state, key, reader.view)
        assert saved is not None, "it exists at this commit"
        time, _ = who_and_when(state, published, saved.commit)
        _, name, schema, version = snapshot
        found.append([name, schema, version, saved.commit, time, len(stored)])
        last = key[1:]
    return found, None
