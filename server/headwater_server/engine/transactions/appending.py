"""Appending: gives the events of a transaction their versions, positions and ids.

Expected versions, append conditions and event ids are checked here, append by append, in the newest
state with the transaction's own earlier appends and retention writes on top.
"""

from collections.abc import Sequence
from typing import Any

from headwater_protocol.errors import DuplicateEvent
from headwater_protocol.numbers import ANY, NO_STREAM, STREAM_EXISTS
from headwater_protocol.vocabulary.causation import without_causation
from headwater_server.engine.format.events import (
    StoredEvent,
    decode_event,
    derive_event_ids,
    encode_events,
    erase_event,
    stream_name,
)
from headwater_server.engine.format.planned import Planned, StreamRun
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.retention.rules import (
    Visibility,
    is_deleted,
    newest_first_version,
    visibility_at,
)
from headwater_server.engine.retention.writes import RetentionEvaluator, RetentionWrite
from headwater_server.engine.state.layers import Head, State
from headwater_server.engine.transactions.validation import matching_event, stream_changed
from headwater_server.engine.transactions.write_buffer import Append
from headwater_server.engine.work_budget import CONDITIONS, WorkBudget


def expectation_failure(
    state: State, stream: str, expect: int, version: int, *, deleted: int | None = None
) -> dict[str, Any] | None:
    """A description of how a stream's version differs from the expected one; None if it does not.

    A deleted stream keeps its version but does not exist until the next append. *deleted* is the
    version at which the transaction itself deletes the stream.
    """
    if expect == ANY:
        return None
    exists = version > 0 and deleted != version and not is_deleted(state, stream, version)
    if expectation_holds(expect, version, exists=exists):
        return None
    failure: dict[str, Any] = {
        "kind": "expected version",
        "stream": stream,
        "expected": expect,
        "actual": version,
    }
    if expect != NO_STREAM and version and not exists:
        failure["deleted"] = True
    return failure


def expectation_holds(expect: int, version: int, *, exists: bool) -> bool:
    """Whether a stream at *version* is as expected. A number expects a stream that exists."""
    if expect == ANY:
        return True
    if expect == NO_STREAM:
        return not exists
    return exists and expect in (version, STREAM_EXISTS)


def describe_winner(state: State, stream: str, failure: dict[str, Any]) -> None:
    """Add to a failure which transaction appended the stream's newest event, if still known."""
    winner = stream_changed(state, stream, 0)
    if winner:
        failure["commit"] = winner
        if winner >= state.files.oldest_commit:
            failure["transaction"] = state.commit_record(winner).transaction


class Appender:
    """Gives the events of one transaction their positions and versions, append by append.

    Attributes:
        failures: the expectations that do not hold.
        impossible: one of them holds at no commit, since the transaction itself deletes the stream.
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
        # The conditions that were evaluated: equal ones are evaluated once. A later one sees no
        # more events, since retention between the appends only hides events.
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
        self.impossible = False
        self.failed_conditions: list[dict[str, Any]] = []

    def finish(self, planned: Planned) -> None:
        """Put the events into the plan."""
        planned.events = self._events
        planned.event_count = len(self._events)
        planned.event_ids = self._event_ids
        planned.runs = self._runs
        planned.tags = self._tags
        planned.versions = self._appended
        planned.repeated = self._repeated

    def retain(self, write: RetentionWrite) -> None:
        """Apply a retention write between two appends."""
        assert self._retention is not None
        if self._budget is not None:
            self._budget.step(4)
        if write.erased_count and self._events:
            self._erase_own(write)
            return
        stream = write.stream
        version = 0
        if stream is not None:
            version = self._versions.get(stream, -1)
            if version < 0:
                version = self._state.head(stream).version
        self._retention.apply(write, version)

    def _erase_own(self, write: RetentionWrite) -> None:
        """Apply an erasure that may also name events of this transaction."""
        assert self._retention is not None
        stream = write.stream
        stored: list[Any] = []
        erased: list[tuple[str, int]] = []
        for wanted in write.arguments[-1]:
            place = None if stream is None else self._place_of(stream, wanted)
            if place is None:
                stored.append(wanted)
                continue
            event = decode_event(self._events[place])
            if event.data is not None:
                self._events[place] = erase_event(self._events[place])
                erased.append((event.stream, event.version))
        arguments = [*write.arguments[:-1], stored]
        self._retention.apply(RetentionWrite(write.word, arguments, write.place), 0, erased)

    def _place_of(self, stream: str, wanted: Any) -> int | None:
        """The place of an event of this transaction, by its version or by a given id."""
        if type(wanted) is bytes:
            for place, event_id in zip(self._event_ids[::2], self._event_ids[1::2], strict=True):
                if event_id == wanted and stream_name(self._events[place]).decode() == stream:
                    return int(place)
            return None
        begun = 0
        for name, _, before, _, count in self._runs:
            if name == stream and before < wanted <= before + count:
                return begun + int(wanted) - before - 1
            begun += count
        return None

    def append(self, append: Append) -> None:
        """Place the events of one append, or record why it fails."""
        if self._budget is not None:
            self._budget.step(1 + len(append.events) // 4)
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
        # A stream at the expected version may be deleted only if there is retention.
        expect, state = append.expect, self._state
        is_plain = self._retention is None and not state.retention.in_use
        if expect == ANY or (is_plain and expect == version) or not self._fails(append, version):
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
        failure = matching_event(self._state, wanted, after, self._budget, self._visibility())
        if failure is not None:
            self.failed_conditions.append(failure)

    def _visibility(self) -> Visibility | None:
        """Which events can be read after the writes so far; None: as in the newest state."""
        if self._retention is not None:
            return self._retention.visibility(self._own_count)
        state = self._state
        if not self._versions or not state.retention.hiding:
            return None
        # Where a stream keeps its newest events, the appends so far push out older ones.
        return visibility_at(state, state.last_commit, state.last_position, self._own_count)

    def _own_count(self, stream: str) -> int:
        """How many events this transaction has appended to a stream so far."""
        version = self._versions.get(stream)
        return 0 if version is None else version - self._heads[stream].version

    def _fails(self, append: Append, version: int) -> bool:
        """Whether the expectation does not hold; records the failure."""
        stream = append.stream
        deleted = None if self._retention is None else self._retention.deleted.get(stream)
        failure = expectation_failure(self._state, stream, append.expect, version, deleted=deleted)
        if failure is None:
            return False
        if deleted == version and append.expect != NO_STREAM:
            self.impossible = True
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
        visibility = self._visibility()
        if visibility is None:
            lowest = newest_first_version(self._state, stream)
        else:
            lowest = visibility.first(stream)
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
        stored = [decode_event(data) for data in self._state.each_event(positions)]
        for event, old in zip(append.events, stored, strict=True):
            if old.data is None or (
                self._retention is not None and self._retention.erases(old.position)
            ):
                # Nobody can tell whether the content was the same, and nothing would be appended.
                raise DuplicateEvent(
                    f"stream {stream!r}: event id {old.id.hex()} is that of version "
                    f"{old.version}, which was erased; use another id"
                )
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


def _is_same(event: list[Any], old: StoredEvent) -> bool:
    """Whether an event to append has the same content as a stored one."""
    _, event_type, data, metadata, *rest = event
    tags = rest[0] if rest else []
    if (old.type, old.data, old.metadata) != (event_type, data, metadata):
        return False
    # The same event may be appended again by the handler of another event, and is done already.
    return [*old.tags] == tags or without_causation(old.tags) == without_causation(tags)
