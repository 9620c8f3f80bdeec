"""Evaluation: turns a transaction's writes into the effects of its commit.

It runs after validation, without interruption until the commit is applied. So it sees the newest
state, including commits that are sequenced but not yet durable. It applies atomic operations, turns
range deletes into deletes of keys, gives events their versions, positions and ids, and prunes old
snapshots. The log stores only the results.
"""

from collections import deque
from typing import Final

from headwater_protocol import limits
from headwater_protocol.errors import InvalidArgument, TooLarge
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.planned import COMMIT, Planned
from headwater_server.engine.retention.writes import RetentionEvaluator
from headwater_server.engine.state.layers import NO_EXPIRY, State
from headwater_server.engine.transactions.appending import Appender
from headwater_server.engine.transactions.expiries import evaluate_expiries
from headwater_server.engine.transactions.validation import (
    refuse_erased_snapshots,
)
from headwater_server.engine.transactions.write_buffer import WriteBuffer, evaluate
from headwater_server.engine.work_budget import RANGE_DELETES, WorkBudget

_LOOKED_PAST: Final = 8
"""Deleted snapshots in a row after which a save looks for no older ones."""


def evaluate_buffer(
    state: State,
    buffer: WriteBuffer,
    transaction: bytes,
    user: int,
    now: int,
    *,
    snapshots_kept: int,
    budget: WorkBudget | None = None,
    view: int | None = None,
) -> Planned:
    """The plan of a buffer's commit on the newest state. If it has `failures`, do not apply it.

    *budget* has the work of the request so far; None: none was charged yet. *view* is the commit at
    which the transaction has read, if it was open.

    Raises:
        Conflict: a snapshot may hold data that was erased since it was read.
        NotANumber, DuplicateEvent, InvalidArgument, TooLarge: the transaction is not possible.
    """
    active = state.active
    newest = active.last_commit
    writes: list[bytes | None] = []
    planned = Planned(COMMIT, transaction, now, user, newest + 1, active.last_position + 1, writes)
    retention = RetentionEvaluator(state, now, budget) if buffer.retention else None
    if buffer.appends or retention is not None:
        appender = Appender(state, transaction, now, retention, budget)
        retaining = deque(buffer.retention)
        for place, append in enumerate(buffer.appends):
            while retaining and retaining[0].place <= place:
                appender.retain(retaining.popleft())
            appender.append(append)
        for write in retaining:
            appender.retain(write)
        if appender.failures or appender.failed_conditions:
            planned.failures = appender.failures + appender.failed_conditions
            planned.impossible = appender.impossible
            return planned
        appender.finish(planned)
        if not buffer.appends_only:
            # Its other writes are of its own commit, so its answer must be too.
            planned.repeated = ()
    stale: set[bytes] | None = None
    if buffer.snapshots:
        refuse_erased_snapshots(state, buffer.snapshots, view)
        if retention is not None:
            stale = _stale_snapshots(buffer, retention)
    for key, entry in buffer.entries.items():
        if stale is not None and key in stale:
            writes += (key, None)
            continue
        writes.append(key)
        if type(entry) is list:
            if budget is not None:
                budget.step(1 + len(entry) // 4)
            entry = evaluate(entry, state.get(key, newest))
        writes.append(entry)  # type: ignore[arg-type]
    if buffer.ranges:
        _evaluate_ranges(state, buffer, writes, budget or WorkBudget(RANGE_DELETES))
    if buffer.expiries or (writes and state.next_expiry != NO_EXPIRY):
        evaluate_expiries(state, buffer, writes, now)
    if buffer.snapshots:
        _check_snapshots(state, buffer, planned)
        _prune_snapshots(state, buffer, stale or set(), writes, snapshots_kept)
    if retention is not None:
        # Keys of retention must come last: applying looks only at the record's last key.
        for key, value in retention.writes(set(writes[::2])):  # type: ignore[arg-type]
            writes += (key, value)
            planned.has_retention = True
    return planned


def _evaluate_ranges(
    state: State, buffer: WriteBuffer, writes: list[bytes | None], budget: WorkBudget
) -> None:
    budget.phase = RANGE_DELETES
    count = len(buffer.entries)
    size = buffer.size
    for first, last in _joined(buffer.ranges):
        budget.spend(keys=1)
        for key, _ in state.scan(first, last, state.last_commit):
            budget.spend(deleted=1)
            if key in buffer.entries:
                continue
            count += 1
            if count > limits.WRITES_MAX:
                raise TooLarge(
                    f"a range delete of more than {limits.WRITES_MAX} keys, the bound of a "
                    "transaction; delete the range in parts"
                )
            size += len(key)
            if size > limits.TRANSACTION_SIZE_MAX:
                raise TooLarge(
                    f"a range delete of more than {limits.TRANSACTION_SIZE_MAX} bytes of keys, "
                    "which is the bound of a transaction; delete the range in parts"
                )
            writes.append(key)
            writes.append(None)


def _joined(ranges: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The same keys as ranges in order that do not overlap, so that each key is met once."""
    joined: list[tuple[bytes, bytes]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def _check_snapshots(state: State, buffer: WriteBuffer, planned: Planned) -> None:
    for snapshot in buffer.snapshots:
        version = (planned.versions or {}).get(snapshot.stream)
        if version is None:
            version = state.head(snapshot.stream).version
        if snapshot.version > version:
            raise InvalidArgument(
                f"a snapshot of stream {snapshot.stream!r} at version {snapshot.version}; "
                f"the stream is at version {version}"
            )


def _stale_snapshots(buffer: WriteBuffer, retention: RetentionEvaluator) -> set[bytes]:
    """The keys of snapshots whose data a later write of the transaction erases."""
    last_save = {snapshot.key: snapshot for snapshot in buffer.snapshots}
    return {
        key
        for key, snapshot in last_save.items()
        if retention.may_hold_erased(snapshot.stream, snapshot.version, snapshot.place)
    }


def _newest_keys(state: State, first: bytes, last: bytes, kept: int) -> list[bytes]:
    """The last keys of a range of snapshots, down to where earlier saves have pruned.

    The deletions of those stay for the history window, and a stream that saves often has thousands,
    so the search ends with the first few.
    """
    found: list[bytes] = []
    rest: bytes | None = last
    while rest is not None:
        items, rest = state.first_items(
            first, rest, state.last_commit, count_max=kept + _LOOKED_PAST, reverse=True
        )
        if not items:
            break
        found += [key for key, _ in items]
    return found


def _prune_snapshots(
    state: State,
    buffer: WriteBuffer,
    stale: set[bytes],
    writes: list[bytes | None],
    kept: int,
) -> None:
    """Delete all but the newest *kept* snapshots of each name and schema that is saved here.

    0: all are kept.
    """
    if not kept:
        return
    codes = {(s.stream, s.name, s.schema) for s in buffer.snapshots}
    for stream, name, schema in sorted(codes):
        first, last = keyspaces.snapshot_range(stream, name, schema, limits.NUMBER_MAX)
        stored = _newest_keys(state, first, last, kept)
        present = {key for key in stored if key not in buffer.entries}
        for snapshot in buffer.snapshots:
            if (snapshot.stream, snapshot.name, snapshot.schema) == (stream, name, schema):
                if snapshot.key not in stale:
                    present.add(snapshot.key)
        for key in sorted(present, reverse=True)[kept:]:
            if key in buffer.entries:
                # This transaction saves it, so it stays; a later save will prune it.
                continue
            writes.append(key)
            writes.append(None)
