"""Validation: do the commits since a transaction's read view allow it to commit?

serializable    no later commit wrote anything that it read. The serial order is then the order of
                commit numbers (backward validation, Härder 1984; ranges and absent keys as in
                FoundationDB's resolver).
snapshot        no later commit wrote anything that it writes: the first committer wins (Berenson
                et al. 1995). Atomic operations and appends without an expectation do not count as
                writes, because they are evaluated on the newest state.

Commits that are sequenced but not yet durable count. All conflicts are reported, up to a bound,
each with its subject, its kind and the transaction that won. The work of one validation is bounded
too; see work_budget.py.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from headwater_protocol.errors import Conflict, InvalidArgument, PositionNotReached, TooLarge
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.retention.rules import Visibility, stored_rule
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.changed_keys import ChangedKeys
from headwater_server.engine.transactions.later_events import LaterEvents, first_event
from headwater_server.engine.transactions.transaction import ReadSet, Transaction
from headwater_server.engine.transactions.write_buffer import SnapshotWrite
from headwater_server.engine.work_budget import VALIDATION, WorkBudget

CONFLICTS_MAX: Final = 100
"""Conflicts that one error reports."""


def find_conflicts(
    state: State, transaction: Transaction, budget: WorkBudget
) -> list[dict[str, Any]]:
    """The conflicts that prevent a transaction's commit; empty if there are none.

    Raises:
        TooLarge: the search exceeds the budget and has found no conflict so far.
    """
    view = transaction.view
    if state.last_commit == view:
        return []
    found: list[dict[str, Any]] = []
    budget.phase = VALIDATION
    try:
        for conflict in _conflicts(state, transaction, budget):
            found.append(conflict)
            if len(found) >= CONFLICTS_MAX:
                break
    except TooLarge:
        # One conflict is enough to refuse the commit; the client can try again.
        if not found:
            raise
    return found


def conflict_error(conflicts: list[dict[str, Any]], *, retryable: bool = True) -> Conflict:
    """The error of a transaction that has conflicts."""
    first = conflicts[0]
    others = f" (and {len(conflicts) - 1} more)" if len(conflicts) > 1 else ""
    return Conflict(
        f"{first['kind']} conflict on {_subject(first)}: written by commit {first['commit']}, "
        f"transaction {first['transaction'].hex()}{others}",
        retryable=retryable,
        details={"conflicts": conflicts},
    )


def _conflicts(
    state: State, transaction: Transaction, budget: WorkBudget
) -> Iterator[dict[str, Any]]:
    view = transaction.view
    changed_keys = ChangedKeys(state, view, budget)
    if transaction.read_set is not None:
        yield from _changed_reads(state, transaction, transaction.read_set, changed_keys, budget)
        return
    for key, entry in transaction.buffer.entries.items():
        if isinstance(entry, list):
            continue
        budget.step(1)
        winner = state.newest_commit(key, view)
        if winner:
            yield _key_conflict(state, "write-write", key, winner)
    for first, last in transaction.buffer.ranges:
        changed = changed_keys.in_range(first, last)
        if changed is not None:
            yield _range_conflict(state, "write-write", first, last, changed)


def _changed_reads(
    state: State,
    transaction: Transaction,
    reads: ReadSet,
    changed_keys: ChangedKeys,
    budget: WorkBudget,
) -> Iterator[dict[str, Any]]:
    view = transaction.view
    for key in reads.keys:
        budget.step(1)
        winner = state.newest_commit(key, view)
        if winner:
            yield _key_conflict(state, "read-write", key, winner)
    for first, last in reads.ranges:
        changed = changed_keys.in_range(first, last)
        if changed is not None:
            yield _range_conflict(state, "read-write", first, last, changed)
    for stream in reads.streams:
        budget.step(2)
        winner = stream_changed(state, stream, transaction.position)
        if not winner and state.retention.in_use:
            winner = state.newest_commit(keyspaces.retention_key(stream), view)
        if winner:
            yield _described(state, "read-write", winner, stream=stream)
    if not reads.queries and not reads.pages:
        return
    later = LaterEvents(state, transaction.position, reads.queries, budget)
    for query in reads.queries:
        event = later.first_event(query)
        winner = 0 if event is None else event.commit
        if not winner and state.retention.in_use:
            winner = _hidden_since(state, query, transaction, changed_keys, later)
        if winner:
            yield _described(state, "read-write", winner, query=query.as_wire())
    if state.retention.in_use:
        for query in reads.pages:
            winner = _hidden_since(state, query, transaction, changed_keys, later)
            if winner:
                yield _described(state, "read-write", winner, query=query.as_wire())


def stream_changed(state: State, stream: str, position: int) -> int:
    """The commit of the stream's newest event if that is beyond a position, else 0."""
    head = state.head(stream)
    if head.last_position <= position:
        return 0
    stored = state.events([head.last_position])[0]
    # The commit of a removed event is unknown, but it is before the view, which would have kept it.
    return decode_event(stored).commit if stored else 0


def matching_event(
    state: State,
    wanted: EventFilter,
    after: int,
    budget: WorkBudget,
    visibility: Visibility | None = None,
) -> dict[str, Any] | None:
    """A failure of the condition that no matching event is after a position, or None.

    Events that are sequenced but not yet durable count. *visibility* tells which events can be
    read, if the transaction itself hides some.

    Raises:
        PositionNotReached: no event has the position yet, so nobody can have read up to it.
        TooLarge: the search exceeds the budget.
    """
    if after > state.last_position:
        raise PositionNotReached(
            f"no event after position {after}: the newest is {state.last_position}",
            details={"newest": state.last_position},
        )
    proven = after
    if budget.proven:
        proven = max(after, budget.proven.get((wanted, after), 0))
    event = first_event(state, wanted, proven, budget, visibility)
    if event is None:
        return None
    failure: dict[str, Any] = {
        "kind": "condition",
        "query": wanted.as_wire(),
        "after": after,
        "position": event.position,
        "commit": event.commit,
        "message": f"the event at position {event.position}, of commit {event.commit}, matches "
        f"the condition, which allows none after position {after}",
    }
    if event.commit >= state.files.oldest_commit:
        failure["transaction"] = state.commit_record(event.commit).transaction
    return failure


def refuse_erased_snapshots(
    state: State, snapshots: Sequence[SnapshotWrite], view: int | None
) -> None:
    """Refuse snapshots that may hold data that was erased after it was read.

    *view* is the commit at which the transaction has read. Without one, only a snapshot that says
    at which commit its events were read can be told from an older one.

    Raises:
        Conflict: events were erased since.
        InvalidArgument: nobody can tell, or the commit was not made yet.
    """
    for snapshot in snapshots:
        read_at = snapshot.read_at
        if read_at is not None and read_at > state.last_commit:
            raise InvalidArgument(
                f"save_snapshot: stream {snapshot.stream!r} read at commit {read_at}, which was "
                f"not made yet; the newest is {state.last_commit}"
            )
        if not state.retention.in_use:
            continue
        rule = stored_rule(state, snapshot.stream, state.last_commit)
        since = view if read_at is None else read_at
        if not rule.erased_commit or snapshot.version < rule.erased_from:
            continue
        if since is None:
            raise InvalidArgument(
                f"save_snapshot: events of stream {snapshot.stream!r} were erased by commit "
                f"{rule.erased_commit}. Say at which commit the events of the state were read, or "
                "load and save in one transaction"
            )
        if rule.erased_commit > since:
            conflict = _key_conflict(state, "write-write", snapshot.key, rule.erased_commit)
            # With the same state, a retry would fail again.
            raise conflict_error([conflict], retryable=read_at is None)


def _hidden_since(
    state: State,
    query: EventFilter,
    transaction: Transaction,
    changed: ChangedKeys,
    later: LaterEvents,
) -> int:
    """A commit after the read view that hid events which the query may have returned, or 0."""
    winner = _retention_changed(query, changed)
    if not winner:
        stream = later.stream_that_lost(query)
        if stream is not None:
            winner = stream_changed(state, stream, transaction.position)
    return winner


def _retention_changed(query: EventFilter, changed: ChangedKeys) -> int:
    """A commit after the view that changed the rule of a stream which the query covers, or 0."""
    ranges: list[tuple[bytes, bytes]]
    if query.stream is not None:
        key = keyspaces.retention_key(query.stream)
        ranges = [(key, key + b"\0")]
    elif query.category is not None:
        key = keyspaces.retention_key(query.category)
        # The stream with the category's own name, and those whose names go on with "-".
        ranges = [(key, key + b"\0"), (key + b"-", key + b".")]
    elif query.prefix is not None:
        key = keyspaces.retention_key(query.prefix)
        ranges = [(key, key + b"\xff")]
    else:
        ranges = [(keyspaces.RETENTION, keyspaces.RETENTION_END)]
    for first, last in ranges:
        found = changed.in_range(first, last)
        if found is not None:
            return found[1]
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
