"""The sequencer: one writer, one order, no lock.

    validate -> evaluate -> number -> encode -> install (pending) -> group -> durable -> publish

All up to "install" happens in one stretch, between two awaits of the server, so two commits
never interleave, and none needs a lock. What was numbered waits in the group; the server writes
a group and syncs it while the next one gathers, and then publishes it. Between numbering and
publishing a commit is in the memtable, where validation sees it and no read view reaches it.

Whatever an answer was decided on must be durable before the answer goes out: also a conflict,
which tells of a commit that a crash could still undo. So every answer is a Ticket with the
sequence number of the newest record at the time.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from headwater_protocol import limits
from headwater_protocol.errors import (
    ConditionFailed,
    Conflict,
    HeadwaterError,
    TooLarge,
    TransactionAborted,
    WrongVersion,
)
from headwater_server.engine.appended import versions_after
from headwater_server.engine.evaluation import Evaluated, evaluate_buffer
from headwater_server.engine.events import StoredEvent
from headwater_server.engine.installing import install, install_end, install_writes
from headwater_server.engine.memtable import ABORTED
from headwater_server.engine.records import Record, encode_abort, encode_commit, encode_writes
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state import State
from headwater_server.engine.transaction import Transaction
from headwater_server.engine.validation import conflict_error, find_conflicts
from headwater_server.engine.write_buffer import WriteBuffer

_new: Final = tuple.__new__


class Acknowledging(Protocol):
    """Who knows the deliveries of consumer groups, which a transaction can acknowledge."""

    def evaluate(self, acks: Sequence[tuple[str, int, int]]) -> tuple[list[bytes | None], Any]:
        """What acknowledgements write, and what `settle` wants; DeliveryLost: they are too late."""
        ...

    def settle(self, settled: Any, sequence: int) -> None:
        """They have been numbered, and are durable with a sequence number."""
        ...


class Ticket:
    """An answer that may go out once `sequence` is durable; 0 means at once.

    `payload` is the answer to a commit as the protocol has it, unless `error` is set.
    """

    __slots__ = ("error", "payload", "sequence", "transaction")

    def __init__(
        self,
        sequence: int,
        transaction: bytes,
        payload: list[Any],
        error: HeadwaterError | None = None,
    ) -> None:
        self.sequence = sequence
        self.transaction = transaction
        self.payload = payload
        self.error = error


@dataclass(slots=True)
class Group:
    """Records that become durable together, and what is published then. Never changed."""

    records: list[bytes]
    last_sequence: int
    last_commit: int
    last_position: int


class Sequencer:
    """Turns transactions into numbered records, and groups of records into published commits.

    Attributes:
        sequence: number of the newest record, which counts commits and fences.
        durable_sequence: number of the newest record that is durable.
        published, published_position: the newest commit and event that readers may see.
        acknowledging: who evaluates acknowledgements.
    """

    def __init__(self, state: State, settings: EngineSettings, clock: Callable[[], int]) -> None:
        self._state = state
        self._settings = settings
        self._clock = clock
        self._pending: list[bytes] = []
        self._log_ends: deque[tuple[int, int]] = deque()
        self._last_time = self._newest_time()
        self.acknowledging: Acknowledging | None = None
        self.sequence = 0
        self.durable_sequence = 0
        self.published = state.last_commit
        self.published_position = state.last_position

    def _newest_time(self) -> int:
        newest = self._state.last_commit
        return self._state.commit_record(newest).time if newest else 0

    def now(self) -> int:
        """The time in microseconds; never before that of the newest commit."""
        # A clock that is set back must not make "the commit at a time" ambiguous.
        now = self._clock()
        if now > self._last_time:
            self._last_time = now
        return self._last_time

    # Commit.

    def commit(self, transaction: Transaction) -> Ticket:
        """Validate and number an open transaction; what stands against it is the ticket's error."""
        buffer = transaction.buffer
        if not buffer:
            return self._read_only_ticket(transaction.id, transaction.view)
        conflicts = find_conflicts(self._state, transaction)
        if conflicts:
            conflicts += self._failed_expectations(buffer, transaction.id)
            return self._failed(transaction.id, conflict_error(conflicts))
        try:
            evaluated, failures = self._evaluate(buffer, transaction.id)
        except HeadwaterError as error:
            return self._failed(transaction.id, error)
        if failures:
            # If an expectation held when the transaction began, it lost a race, and can win
            # the next; one that was wrong from the start would be wrong again.
            raced = all(self._held_at(transaction, failure) for failure in failures)
            return self._failed(transaction.id, _failure_error(failures, retryable=raced))
        return self._number_evaluated(transaction.id, transaction.user, evaluated)

    def commit_at_once(
        self,
        transaction: bytes,
        user: int,
        buffer: WriteBuffer,
        failed_conditions: list[dict[str, Any]],
    ) -> Ticket:
        """Number a transaction that read nothing before, unless a condition of it fails."""
        if failed_conditions:
            failures = failed_conditions + self._failed_expectations(buffer, transaction)
            return self._failed(transaction, _condition_error(failures, retryable=False))
        try:
            evaluated, failures = self._evaluate(buffer, transaction)
        except HeadwaterError as wrong:
            return self._failed(transaction, wrong)
        if failures:
            return self._failed(transaction, _failure_error(failures, retryable=False))
        if not buffer:
            return self._read_only_ticket(transaction, self._state.last_commit)
        return self._number_evaluated(transaction, user, evaluated)

    def commit_blind(self, transaction: bytes, user: int, writes: list[bytes | None]) -> Ticket:
        """Number a transaction of writes that need nothing evaluated: key, value, …."""
        assert writes
        now = self.now()
        state = self._state
        newest = state.active
        commit, position = newest.last_commit + 1, newest.last_position + 1
        encoded = encode_writes(commit, transaction, now, user, writes, position)
        self._check_size(encoded)
        install_writes(state, commit, position, writes)
        install_end(state, commit, transaction, now, user, position, 0)
        self._pending.append(encoded)
        self.sequence += 1
        return Ticket(self.sequence, transaction, [commit, now, None, None, {}])

    def answer_again(self, transaction: bytes, commit: int) -> Ticket:
        """The answer that a transaction of known fate got, or would have got, the first time."""
        if commit == ABORTED:
            return self._failed(transaction, aborted(transaction))
        return Ticket(self.sequence, transaction, self._first_answer(commit))

    def abort(self, transaction: bytes, user: int) -> Ticket:
        """Fence a transaction id: it can never commit once the ticket's sequence is durable."""
        now = self.now()
        install(self._state, Record(0, transaction, now, user, [], 0, [], []))
        self._pending.append(encode_abort(transaction, now, user))
        self.sequence += 1
        return Ticket(self.sequence, transaction, [])

    def _evaluate(
        self, buffer: WriteBuffer, transaction: bytes
    ) -> tuple[Evaluated, list[dict[str, Any]]]:
        evaluated, failures = evaluate_buffer(
            self._state,
            buffer,
            transaction,
            self.now(),
            snapshots_kept=self._settings.snapshots_kept,
        )
        if buffer.acks:
            assert self.acknowledging is not None, "the engine is open"
            writes, evaluated.settled = self.acknowledging.evaluate(buffer.acks)
            # In front: who installs a record looks at its last key.
            evaluated.writes[:0] = writes
        return evaluated, failures

    def _failed_expectations(self, buffer: WriteBuffer, transaction: bytes) -> list[dict[str, Any]]:
        try:
            return self._evaluate(buffer, transaction)[1]
        except HeadwaterError:
            # It may be wrong only because of what others wrote; the conflict is the news.
            return []

    def _number_evaluated(self, transaction: bytes, user: int, evaluated: Evaluated) -> Ticket:
        if not evaluated.writes and not evaluated.events:
            if evaluated.repeated:
                return Ticket(self.sequence, transaction, self._answer_of(*evaluated.repeated[-1]))
            # A range delete that met no key.
            return self._read_only_ticket(transaction, self._state.last_commit)
        ticket = self._number(
            transaction,
            user,
            evaluated.writes,
            evaluated.events,
            evaluated.runs,
            evaluated.tags,
            evaluated.event_ids,
            evaluated.versions,
        )
        if evaluated.settled is not None:
            assert self.acknowledging is not None, "it evaluated them"
            self.acknowledging.settle(evaluated.settled, self.sequence)
        return ticket

    def _number(
        self,
        transaction: bytes,
        user: int,
        writes: list[bytes | None],
        events: list[bytes],
        runs: list[tuple[str, str, int]],
        tags: dict[int, Sequence[str]],
        event_ids: list[Any],
        versions: dict[str, int],
    ) -> Ticket:
        """Give a commit its number, and install it: here it has happened, if it gets durable."""
        newest = self._state.active
        commit, position, now = newest.last_commit + 1, newest.last_position + 1, self._last_time
        # As Record(…), in a fifth of its time.
        members = (commit, transaction, now, user, writes, position, events, event_ids)
        record: Record = _new(Record, members)
        encoded = encode_commit(record)
        self._check_size(encoded)
        install(self._state, record, runs, tags)
        self._pending.append(encoded)
        self.sequence += 1
        first, last = (position, newest.last_position) if events else (None, None)
        return Ticket(self.sequence, transaction, [commit, now, first, last, versions])

    @staticmethod
    def _check_size(encoded: bytes) -> None:
        if len(encoded) > 2 * limits.TRANSACTION_SIZE_MAX:
            raise TooLarge(
                f"a commit record of {len(encoded)} bytes; "
                f"allowed are {2 * limits.TRANSACTION_SIZE_MAX}"
            )

    def _read_only_ticket(self, transaction: bytes, view: int) -> Ticket:
        # What was read is durable if it was published; else the answer waits until it is.
        sequence = 0 if view <= self.published else self.sequence
        time = self._state.commit_record(view).time if view else 0
        return Ticket(sequence, transaction, [view, time, None, None, {}])

    def _failed(self, transaction: bytes, error: HeadwaterError) -> Ticket:
        return Ticket(self.sequence, transaction, [], error)

    def _held_at(self, transaction: Transaction, failure: dict[str, Any]) -> bool:
        if failure["kind"] == "condition":
            return bool(failure["position"] > transaction.position)
        stream = failure["stream"]
        head = self._state.head(stream)
        then = self._state.version_at(stream, head, transaction.position)
        now = failure["actual"]
        # Its own earlier appends to the stream moved both in the same way.
        return bool(then + (now - head.version) == failure["expected"])

    def _answer_of(self, first: StoredEvent, last: StoredEvent) -> list[Any]:
        """The answer to the commit that appended these events."""
        if last.commit >= self._state.files.oldest_commit:
            return self._first_answer(last.commit)
        # Ids of events are remembered for good, and commits are not.
        return [last.commit, last.time, first.position, last.position, {last.stream: last.version}]

    def _first_answer(self, commit: int) -> list[Any]:
        record = self._state.commit_record(commit)
        if not record.event_count:
            return [commit, record.time, None, None, {}]
        last = record.first_position + record.event_count - 1
        versions = versions_after(self._state, record.first_position, last)
        return [commit, record.time, record.first_position, last, versions]

    # Groups.

    def take_group(self) -> Group | None:
        """What was numbered since the last group, or None."""
        if not self._pending:
            return None
        group = Group(
            self._pending, self.sequence, self._state.last_commit, self._state.last_position
        )
        self._pending = []
        return group

    def publish(self, group: Group, log_index: int) -> None:
        """Make a group visible that is durable up to an index of the log."""
        assert group.last_sequence > self.durable_sequence, "groups are published in order"
        self.durable_sequence = group.last_sequence
        self.published = group.last_commit
        self.published_position = group.last_position
        self._log_ends.append((group.last_sequence, log_index))

    def replayed(self, log_index: int, count: int) -> None:
        """Count records that recovery read from one entry of the log, and that are installed."""
        self._last_time = max(self._last_time, self._newest_time())
        self.sequence += count
        self.durable_sequence = self.sequence
        self.published = self._state.last_commit
        self.published_position = self._state.last_position
        self._log_ends.append((self.sequence, log_index))

    def log_needed_from(self, sequence: int) -> int | None:
        """The log index below which every record is at or before *sequence*; None: no news."""
        below: int | None = None
        while self._log_ends and self._log_ends[0][0] <= sequence:
            below = self._log_ends.popleft()[1] + 1
        return below


def _condition_error(failures: list[dict[str, Any]], *, retryable: bool) -> ConditionFailed:
    return ConditionFailed(
        f"{len(failures)} of the conditions do not hold: {_describe(failures[0])}",
        retryable=retryable,
        details={"conflicts": failures},
    )


def _failure_error(failures: list[dict[str, Any]], *, retryable: bool) -> Conflict:
    if any(failure["kind"] == "condition" for failure in failures):
        return _condition_error(failures, retryable=retryable)
    others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return WrongVersion(
        _describe(failures[0]) + others, retryable=retryable, details={"conflicts": failures}
    )


def _describe(failure: dict[str, Any]) -> str:
    if failure["kind"] == "expected version":
        words = {0: "no stream", -1: "any", -2: "an existing stream"}
        expected = words.get(failure["expected"], f"version {failure['expected']}")
        if failure.get("deleted"):
            return f"stream {failure['stream']!r} was deleted, at version {failure['actual']}"
        return f"stream {failure['stream']!r} is at version {failure['actual']}, not {expected}"
    return str(failure["message"])


def aborted(transaction: bytes) -> TransactionAborted:
    """The error of a transaction that was fenced."""
    return TransactionAborted(
        f"transaction {transaction.hex()} was aborted by a status request with resolve"
    )
