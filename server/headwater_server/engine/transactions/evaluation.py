"""Evaluation: turns a transaction's writes into the effects of its commit.

It runs after validation, without interruption until the commit is applied. So it sees the newest
state, including commits that are sequenced but not yet durable. It applies atomic operations, turns
range deletes into deletes of keys, gives events their versions, positions and ids, and prunes old
snapshots. The log stores only the results.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

from headwater_protocol import limits
from headwater_protocol.errors import DuplicateEvent, InvalidArgument, TooLarge
from headwater_protocol.numbers import ANY, NO_STREAM, STREAM_EXISTS
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import (
    StoredEvent,
    decode_event,
    derive_event_ids,
    encode_events,
)
from headwater_server.engine.format.planned import COMMIT, Planned, StreamRun
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.retention.rules import is_deleted, newest_first_version
from headwater_server.engine.retention.writes import RetentionEvaluator, RetentionWrite
from headwater_server.engine.state.layers import Head, State
from headwater_server.engine.transactions.validation import matching_event, stream_changed
from headwater_server.engine.transactions.write_buffer import Append, WriteBuffer, evaluate
from headwater_server.engine.work_budget import CONDITIONS, RANGE_DELETES, WorkBudget


def evaluate_buffer(
    state: State,
    buffer: WriteBuffer,
    transaction: bytes,
    user: int,
    now: int,
    *,
    snapshots_kept: int,
    budget: WorkBudget | None = None,
) -> Planned:
    """The plan of a buffer's commit on the newest state. If it has `failures`, do not apply it.

    *budget* has the work of the request so far; None: none was charged yet.

    Raises:
        NotANumber, DuplicateEvent, InvalidArgument, TooLarge: the transaction is not possible.
    """
    active = state.active
    newest = active.last_commit
    writes: list[bytes | None] = []
    planned = Planned(COMMIT, transaction, now, user, newest + 1, active.last_position + 1, writes)
    retention = RetentionEvaluator(state, now) if buffer.retention else None
    if buffer.appends or retention is not None:
        appender = _Appender(state, transaction, now, retention, budget)
        retaining = deque(buffer.retention)
        for place, append in enumerate(buffer.appends):
            while retaining and retaining[0].place <= place:
                appender.retain(retaining.popleft())
            appender.append(append)
        for write in retaining:
            appender.retain(write)
        if appender.failures or appender.failed_conditions:
            planned.failures = appender.failures + appender.failed_conditions
            return planned
        appender.finish(planned)
        if not buffer.appends_only:
            # Its other writes are of its own commit, so its answer must be too.
            planned.repeated = ()
    for key, entry in buffer.entries.items():
        writes.append(key)
        if type(entry) is list:
            entry = evaluate(entry, state.get(key, newest))
        writes.append(entry)  # type: ignore[arg-type]
    if buffer.ranges:
        _evaluate_ranges(state, buffer, writes, budget or WorkBudget(RANGE_DELETES))
    if buffer.snapshots:
        _check_snapshots(state, buffer, planned)
        _prune_snapshots(state, buffer, writes, snapshots_kept)
    if retention is not None:
        # Keys of retention must come last: applying looks only at the record's last key.
        for key, value in retention.writes(set(writes[::2])):  # type: ignore[arg-type]
            writes += (key, value)
            planned.has_retention = True
    return planned


def expectation_failure(
    state: State, stream: str, expect: int, version: int, *, deleted: int | None = None
) -> dict[str, Any] | None:
    """A description of how a stream's version differs from the expected one; None if it does not.

    A deleted stream keeps its version but does not exist until the next append. *deleted* is the
    version at which the transaction itself deletes the stream.
    """
    if expect in (ANY, version):
        return None
    if expect in (NO_STREAM, STREAM_EXISTS):
        exists = version > 0 and deleted != version and not is_deleted(state, stream, version)
        if exists == (expect == STREAM_EXISTS):
            return None
    failure: dict[str, Any] = {
        "kind": "expected version",
        "stream": stream,
        "expected": expect,
        "actual": version,
    }
    if expect == STREAM_EXISTS and version:
        failure["deleted"] = True
    return failure


def describe_winner(state: State, stream: str, failure: dict[str, Any]) -> None:
    """Add to a failure which transaction appended the stream's newest event, if still known."""
    winner = stream_changed(state, stream, 0)
    if winner:
        failure["commit"] = winner
        if winner >= state.files.oldest_commit:
            failure["transaction"] = state.commit_record(winner).transaction


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


def _prune_snapshots(
    state: State, buffer: WriteBuffer, writes: list[bytes | None], kept: int
) -> None:
    """Delete all but the newest *kept* snapshots of each name and schema that is saved here."""
    codes = {(s.stream, s.name, s.schema) for s in buffer.snapshots}
    for stream, name, schema in sorted(codes):
        first, last = keyspaces.snapshot_range(stream, name, schema, limits.NUMBER_MAX)
        stored = (key for key, _ in state.scan(first, last, state.last_commit))
        present = {key for key in stored if key not in buffer.entries}
        for snapshot in buffer.snapshots:
            if (snapshot.stream, snapshot.name, snapshot.schema) == (stream, name, schema):
                present.add(snapshot.key)
        for key in sorted(present, reverse=True)[kept:]:
            if key in buffer.entries:
                # This transaction saves it, so it stays; a later save will prune it.
                continue
            writes.append(key)
            writes.append(None)


def _is_same(event: list[Any], old: StoredEvent) -> bool:
    """Whether an event to append has the same content as a stored one."""
    if old.data is None:
        # The stored event was erased, so only its type can be compared.
        return bool(old.type == event[1])
    _, event_type, data, metadata, *rest = event
    tags = rest[0] if rest else []
    return (old.type, old.data, old.metadata, [*old.tags]) == (event_type, data, metadata, tags)


class _Appender:
    """Gives the events of one transaction their positions and versions, append by append.

    Attributes:
        failures: the expectations that do not hold.
        failed_conditions: the conditions of appends that do not hold.
    """

    def __init__(
        self,
        state: State,
        transaction: bytes,
        now: int,
        retention: RetentionEvaluator | None = None,
        budget: WorkBudget | None = None,
    ) -> None:
        self._state = state
        self._budget = budget
        # The conditions that were evaluated: equal ones are evaluated once.
        self._conditions: set[tuple[EventFilter, int]] | None = None
        self._retention = retention
        self._transaction = transaction
        self._now = now
        self._heads: dict[str, Head] = {}
        self._ids: set[tuple[str, bytes]] = set()
        self._place = 0
        self._events: list[bytes] = []
        self._event_ids: list[Any] = []
        self._runs: list[StreamRun] = []
        self._tags: dict[int, Sequence[str]] = {}
        self._repeated: list[tuple[StoredEvent, StoredEvent]] = []
        # The new versions of all streams; `_appended` has only those with new events, for the
        # answer.
        self._versions: dict[str, int] = {}
        self._appended: dict[str, int] = {}
        self.failures: list[dict[str, Any]] = []
        self.failed_conditions: list[dict[str, Any]] = []

    def finish(self, planned: Planned) -> None:
        """Put the events into the plan."""
        planned.events = self._events
        planned.event_ids = self._event_ids
        planned.runs = self._runs
        planned.tags = self._tags
        planned.versions = self._appended
        planned.repeated = self._repeated

    def retain(self, write: RetentionWrite) -> None:
        """Apply a retention write between two appends."""
        assert self._retention is not None
        stream = write.stream
        version = 0
        if stream is not None:
            version = self._versions.get(stream, -1)
            if version < 0:
                version = self._state.head(stream).version
        self._retention.apply(write, version)

    def append(self, append: Append) -> None:
        """Place the events of one append, or record why it fails."""
        stream = append.stream
        head = self._heads.get(stream)
        if head is None:
            head = self._heads[stream] = self._state.head(stream)
        version = self._versions.get(stream, head.version)
        if append.has_ids:
            repeated = self._find_repeated(append, head)
            if repeated is not None:
                # The events were appended before, so the append succeeds whatever it expects. It
                # is left out of the answer, which must be reproducible from the log.
                self._repeated.append(repeated)
                self._place += len(append.events)
                return
        if append.unless is not None:
            self._check_condition(append.unless, append.after)
        expect = append.expect
        if expect in (ANY, version) or not self._fails(append, version):
            self._place_events(append, head, version)

    def _check_condition(self, wanted: EventFilter, after: int) -> None:
        if self._conditions is None:
            self._conditions = set()
            self._budget = self._budget or WorkBudget(CONDITIONS)
            self._budget.phase = CONDITIONS
        if (wanted, after) in self._conditions:
            return
        self._conditions.add((wanted, after))
        assert self._budget is not None
        self._budget.spend(keys=1)
        failure = matching_event(self._state, wanted, after, self._budget)
        if failure is not None:
            self.failed_conditions.append(failure)

    def _fails(self, append: Append, version: int) -> bool:
        """Whether the expectation does not hold; records the failure."""
        stream = append.stream
        deleted = None if self._retention is None else self._retention.deleted.get(stream)
        failure = expectation_failure(self._state, stream, append.expect, version, deleted=deleted)
        if failure is None:
            return False
        describe_winner(self._state, stream, failure)
        # A further append to the stream expects the version after this one.
        self._versions[stream] = version + len(append.events)
        self.failures.append(failure)
        return True

    def _place_events(self, append: Append, head: Head, version: int) -> None:
        stream, events = append.stream, append.events
        first, count = len(self._events), len(events)
        active = self._state.active
        position = active.last_position + first + 1
        if not head.id:
            # A stream's id is the position of its first event.
            head = self._heads[stream] = head._replace(id=position)
        self._events += encode_events(
            position,
            stream,
            version + 1,
            active.last_commit + 1,
            self._now,
            # The first event's id is the transaction's id itself.
            [self._transaction]
            if count == 1 and self._place == 0
            else derive_event_ids(self._transaction, self._place, count),
            events,
        )
        if append.has_ids:
            for place, event in enumerate(events, first):
                if event[0] is not None:
                    self._event_ids += (place, event[0])
        if append.has_tags:
            for place, event in enumerate(events, first):
                if len(event) == 5 and event[4]:
                    self._tags[place] = event[4]
        # In runs: most appends are of one type.
        begun = 0
        event_type: str = events[0][1]
        for place, event in enumerate(events):
            name: str = event[1]
            if name != event_type:
                self._runs.append((stream, head.id, version + begun, event_type, place - begun))
                begun, event_type = place, name
        self._runs.append((stream, head.id, version + begun, event_type, count - begun))
        self._place += count
        self._appended[stream] = self._versions[stream] = version + count

    def _find_repeated(self, append: Append, head: Head) -> tuple[StoredEvent, StoredEvent] | None:
        """The first and last of these events if all are stored already; None if none is.

        Raises:
            DuplicateEvent: only some are stored, or they are not consecutive, or their content
                differs.
        """
        stream = append.stream
        lowest = newest_first_version(self._state, stream)
        versions: list[int | None] = []
        for event in append.events:
            event_id = event[0]
            if event_id is not None:
                if (stream, event_id) in self._ids:
                    raise DuplicateEvent(
                        f"stream {stream!r}: event id {event_id.hex()} twice in one transaction"
                    )
                self._ids.add((stream, event_id))
            version = None
            if event_id is not None and head.version > 0:
                version = self._state.event_version(stream, head, event_id)
            # The id of a truncated event may be used again.
            versions.append(version if version is not None and version >= lowest else None)
        if all(version is None for version in versions):
            return None
        self._check_whole(append, versions)
        present = [version for version in versions if version is not None]
        positions = self._state.stream_positions(stream, head, present[0], present[-1])
        stored = [decode_event(data) for data in self._state.events(positions)]
        for event, old in zip(append.events, stored, strict=True):
            if not _is_same(event, old):
                raise DuplicateEvent(
                    f"stream {stream!r}: event id {old.id.hex()} already exists, at version "
                    f"{old.version}, with other content"
                )
        return stored[0], stored[-1]

    @staticmethod
    def _check_whole(append: Append, versions: Sequence[int | None]) -> None:
        for place, version in enumerate(versions):
            if version is None:
                there = next(v for v in versions if v is not None)
                raise DuplicateEvent(
                    f"stream {append.stream!r}: event {place} of the append is not stored, but "
                    f"another of its ids is, at version {there}"
                )
            if version != (versions[0] or 0) + place:
                raise DuplicateEvent(
                    f"stream {append.stream!r}: event {place} of the append already exists at "
                    f"version {version}, but not in sequence with the others"
                )
