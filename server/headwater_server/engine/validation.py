"""Validation: may a transaction commit after all that was committed since its read view?

serializable    nothing that it read was written by a commit after its read view. The serial
                order is then the order of commit numbers (backward validation, Härder 1984;
                ranges and absent keys as in FoundationDB's resolver).
snapshot        nothing that it writes was written by a commit after its read view: the first
                committer wins (Berenson et al. 1995). Atomic operations and appends without an
                expectation do not count as writes: they are evaluated after what came before.

Commits that are numbered but not yet durable count. Every conflict is found, not only the
first, up to a bound; each says what, which kind, and which transaction won.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

from headwater_protocol.errors import Conflict, InvalidArgument, TooLarge
from headwater_server.engine import keyspaces
from headwater_server.engine.events import StoredEvent, decode_event
from headwater_server.engine.filters import EventFilter
from headwater_server.engine.reading import Reader
from headwater_server.engine.retention import stored_rule
from headwater_server.engine.state import State
from headwater_server.engine.transaction import Transaction

CONFLICTS_MAX: Final = 100
"""Conflicts that one error tells of."""

_PAGE_EXAMINED: Final = 20_000
_CONDITION_PAGES_MAX: Final = 20
"""Pages of that many events that a condition may look at: a commit holds up all others. An index
answers within the first, if the position is that of a recent read."""


def find_conflicts(
    state: State, transaction: Transaction, *, examined_max: int
) -> list[dict[str, Any]]:
    """What stands against the commit of a transaction; empty if nothing does."""
    view = transaction.view
    if state.last_commit == view:
        return []
    found: list[dict[str, Any]] = []
    for conflict in _conflicts(state, transaction, examined_max):
        found.append(conflict)
        if len(found) >= CONFLICTS_MAX:
            break
    return found


def conflict_error(conflicts: list[dict[str, Any]]) -> Conflict:
    """The error of a transaction that came too late."""
    first = conflicts[0]
    others = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
    return Conflict(
        f"{first['kind']} conflict on {_subject(first)}: written by commit {first['commit']}, "
        f"transaction {first['transaction'].hex()}{others}",
        details={"conflicts": conflicts},
    )


def _conflicts(
    state: State, transaction: Transaction, examined_max: int
) -> Iterator[dict[str, Any]]:
    view = transaction.view
    reads = transaction.read_set
    if reads is not None:
        for key in reads.keys:
            winner = state.newest_commit(key, view)
            if winner:
                yield _key_conflict(state, "read-write", key, winner)
        for first, last in reads.ranges:
            changed = state.changed_in_range(first, last, view)
            if changed is not None:
                yield _range_conflict(state, "read-write", first, last, changed)
        for stream in reads.streams:
            winner = stream_changed(state, stream, transaction.position)
            if not winner and state.retention.in_use:
                winner = state.newest_commit(keyspaces.retention_key(stream), view)
            if winner:
                yield _described(state, "read-write", winner, stream=stream)
        for query in reads.queries:
            event = _first_event(
                state, query, transaction.position, examined_max, pages_max=sys.maxsize
            )
            winner = 0 if event is None else event.commit
            if not winner and state.retention.in_use:
                winner = _hidden_since(state, query, transaction, examined_max)
            if winner:
                yield _described(state, "read-write", winner, query=query.as_wire())
        if state.retention.in_use:
            for query in reads.pages:
                winner = _hidden_since(state, query, transaction, examined_max)
                if winner:
                    yield _described(state, "read-write", winner, query=query.as_wire())
        return
    for key, entry in transaction.buffer.entries.items():
        if isinstance(entry, list):
            continue
        winner = state.newest_commit(key, view)
        if not winner and state.retention.in_use and key.startswith(keyspaces.SNAPSHOTS):
            winner = _erased_since(state, key, view)
        if winner:
            yield _key_conflict(state, "write-write", key, winner)
    for first, last in transaction.buffer.ranges:
        changed = state.changed_in_range(first, last, view)
        if changed is not None:
            yield _range_conflict(state, "write-write", first, last, changed)


def stream_changed(state: State, stream: str, position: int) -> int:
    """The commit of the stream's newest event if that is beyond a position, else 0."""
    head = state.head(stream)
    if head.last_position <= position:
        return 0
    stored = state.events([head.last_position])[0]
    # Of an event that was removed it is not known any more; a reader's view would have kept it.
    return decode_event(stored).commit if stored else 0


def standing_event(state: State, wanted: EventFilter, after: int) -> dict[str, Any] | None:
    """What stands against the condition that no event that fits is beyond a position.

    Events that are numbered and not yet durable count.

    Raises:
        InvalidArgument: the position was not reached yet, so nobody can have read up to it.
        TooLarge: no index answers it, and there are too many events to look at.
    """
    if after > state.last_position:
        raise InvalidArgument(
            f"no event after position {after}: the newest is {state.last_position}"
        )
    event = _first_event(state, wanted, after, _PAGE_EXAMINED, pages_max=_CONDITION_PAGES_MAX)
    if event is None:
        return None
    failure: dict[str, Any] = {
        "kind": "condition",
        "query": wanted.as_wire(),
        "after": after,
        "position": event.position,
        "commit": event.commit,
        "message": f"the event at position {event.position}, of commit {event.commit}, fits what "
        f"must not be there after position {after}",
    }
    if event.commit >= state.files.oldest_commit:
        failure["transaction"] = state.commit_record(event.commit).transaction
    return failure


def _first_event(
    state: State, wanted: EventFilter, after: int, examined_max: int, *, pages_max: int
) -> StoredEvent | None:
    """The first event beyond a position that fits, of all that are numbered."""
    newest = Reader(state, state.last_commit, state.last_position, examined_max=examined_max)
    position = after
    for _ in range(pages_max):
        page = newest.read_all(position, wanted, 1, False)
        if page.events:
            return decode_event(page.events[0])
        if not page.more:
            return None
        position = page.position
    raise TooLarge(
        f"no event after position {after} that fits {wanted.as_wire()!r:.200}: looked at events up "
        f"to position {position}, which are more than a condition may take; give a later position, "
        "or types and tags"
    )


def _erased_since(state: State, key: bytes, view: int) -> int:
    """The commit after a view that erased an event which a snapshot may hold, or 0."""
    snapshot = keyspaces.parse_snapshot_key(key)
    rule = stored_rule(state, snapshot.stream, state.last_commit)
    holds = rule.erased_commit > view and snapshot.version >= rule.erased_from
    return rule.erased_commit if holds else 0


def _hidden_since(
    state: State, query: EventFilter, transaction: Transaction, examined_max: int
) -> int:
    """A commit after the read view that hid events which the query may have found, or 0."""
    winner = _retention_changed(state, query, transaction.view)
    return winner or _pushed_out(state, query, transaction.position, examined_max)


def _pushed_out(state: State, query: EventFilter, position: int, examined_max: int) -> int:
    """The commit of an event beyond a position that pushed out one which fits, or 0.

    It need not fit itself: a stream that keeps its newest events loses one with each that comes.
    """
    newest = Reader(state, state.last_commit, state.last_position, examined_max=examined_max)
    appended = EventFilter(stream=query.stream, category=query.category, prefix=query.prefix)
    streams: set[str] = set()
    after, more = position, True
    while more:
        page = newest.read_all(after, appended, examined_max, False)
        after, more = page.position, page.more
        for event in map(decode_event, page.events):
            if event.stream in streams:
                continue
            streams.add(event.stream)
            if _has_lost(state, query, event.stream, position):
                return stream_changed(state, event.stream, position)
    return 0


def _has_lost(state: State, query: EventFilter, stream: str, position: int) -> bool:
    """Whether events of a stream that fit were crowded out since a position."""
    rule = stored_rule(state, stream, state.last_commit)
    if not rule.count_max:
        return False
    head = state.head(stream)
    before = state.version_at(stream, head, position)
    first = max(rule.before, before - rule.count_max + 1, 1)
    last = min(before, head.version - rule.count_max)
    positions = state.stream_positions(stream, head, first, last)
    return any(stored and query.fits(decode_event(stored)) for stored in state.events(positions))


def _retention_changed(state: State, query: EventFilter, view: int) -> int:
    """A commit after the view that hid events of a stream that the query is about, or 0."""
    ranges: list[tuple[bytes, bytes]]
    if query.stream is not None:
        key = keyspaces.retention_key(query.stream)
        ranges = [(key, key + b"\0")]
    elif query.category is not None:
        key = keyspaces.retention_key(query.category)
        # The stream of the category's own name, and those that go on with "-".
        ranges = [(key, key + b"\0"), (key + b"-", key + b".")]
    elif query.prefix is not None:
        key = keyspaces.retention_key(query.prefix)
        ranges = [(key, key + b"\xff")]
    else:
        ranges = [(keyspaces.RETENTION, keyspaces.RETENTION_END)]
    for first, last in ranges:
        changed = state.changed_in_range(first, last, view)
        if changed is not None:
            return changed[1]
    return 0


def _key_conflict(state: State, kind: str, key: bytes, winner: int) -> dict[str, Any]:
    if key.startswith(keyspaces.SNAPSHOTS):
        stream, name, schema, _ = keyspaces.parse_snapshot_key(key)
        return _described(state, kind, winner, snapshot=[stream, name, schema])
    return _described(state, kind, winner, key=key[1:])


def _range_conflict(
    state: State, kind: str, first: bytes, last: bytes, changed: tuple[bytes, int]
) -> dict[str, Any]:
    key, winner = changed
    if key.startswith(keyspaces.SNAPSHOTS):
        return _key_conflict(state, kind, key, winner)
    end = None if last == keyspaces.USER_END else last[1:]
    return _described(state, kind, winner, start=first[1:], end=end, key=key[1:])


def _described(state: State, kind: str, winner: int, **subject: Any) -> dict[str, Any]:
    record = state.commit_record(winner)
    return {"kind": kind, **subject, "commit": winner, "transaction": record.transaction}


def _subject(conflict: dict[str, Any]) -> str:
    if "start" in conflict:
        return f"range {conflict['start']!r} to {conflict['end']!r}, key {conflict['key']!r}"
    for name in ("key", "stream", "query", "snapshot"):
        if name in conflict:
            return f"{name} {conflict[name]!r}"
    raise AssertionError(f"a conflict about nothing: {conflict!r}")
