"""The sequencer: one writer, one order, no lock.

    plan (may fail) -> apply (cannot fail) -> pending -> group -> durable -> publish

Plan and apply run without interruption, between two awaits of the server. So commits never
interleave, and no lock is needed. Planning changes nothing. Applying puts the whole commit into the
memtable; an exception there is a bug, and the process must end. Applied records wait for the next
group. The server writes and syncs one group while the next one gathers, and then publishes it.
Before a commit is published, validation sees it but no read view does.

An answer goes out only when everything that it depends on is durable. This also holds for a
conflict: a crash could still undo the commit that it names. So every answer is a Ticket with the
sequence number of the newest record at that time.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol.errors import HeadwaterError, InvalidArgument, TransactionAborted
from headwater_server.engine.format.events import StoredEvent
from headwater_server.engine.format.planned import ABORT, TICK, Planned
from headwater_server.engine.format.records import encode_abort, encode_tick
from headwater_server.engine.format.transaction_ids import ids_from, told_time
from headwater_server.engine.log_clock import HELD_US_MIN, LogClock, LogTime
from headwater_server.engine.settings import SECOND_US, EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.memtable import ABORTED
from headwater_server.engine.transactions.commit_answer import versions_after
from headwater_server.engine.transactions.planning import Planner
from headwater_server.engine.transactions.refusals import Refusals
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.engine.transactions.write_buffer import WriteBuffer
from headwater_server.engine.work_budget import Cutting, WorkBudget
from headwater_server.storage.wal.interface import WalIndex, WriteAheadLog

TICK_US: Final = SECOND_US
"""Microseconds between two ticks of the log's clock while there are commits."""

HORIZON_US: Final = 10 * SECOND_US
"""Microseconds between two checks, in quiet times, whether commits have left the history window."""


class Ticket:
    """An answer that may go out once `sequence` is durable; 0 means immediately.

    Attributes:
        commit, time: the whole answer to a commit without events; else 0.
        committed_by: the number of the user whose commit is answered again; None: this is the first
            answer, or it was no commit.
        error: why the transaction was refused, or None.
    """

    __slots__ = ("_payload", "commit", "committed_by", "error", "sequence", "time", "transaction")

    def __init__(
        self,
        sequence: int,
        transaction: bytes,
        payload: list[Any] | None,
        error: HeadwaterError | None = None,
        commit: int = 0,
        time: int = 0,
    ) -> None:
        self.sequence = sequence
        self.transaction = transaction
        self._payload = payload
        self.error = error
        self.commit = commit
        self.time = time
        self.committed_by: int | None = None

    @property
    def payload(self) -> list[Any]:
        """The answer in the protocol's form, unless `error` is set."""
        if self._payload is None:
            self._payload = [self.commit, self.time, None, None, {}]
        return self._payload

    @payload.setter
    def payload(self, payload: list[Any]) -> None:
        self._payload = payload
        self.commit = 0


@dataclass(slots=True)
class Group:
    """Records that become durable together, and what is published then."""

    records: list[bytes]
    last_sequence: int
    last_commit: int
    last_position: int
    time: tuple[int, int, int]
    """The members of a LogTime."""
    log_index: WalIndex = WalIndex(0)  # noqa: RUF009
    """The entry that completes it, once it was sent."""


class Sequencer:
    """Turns transactions into sequenced records, and groups of records into published commits.

    Attributes:
        clock: gives records their times.
        planner: plans commits.
        sequence: the number of the newest record; commits, fences and ticks are counted.
        commits_and_fences: the same without the ticks.
        durable_sequence: the number of the newest durable record.
        started: the log is replayed, and records may be written.
        published, published_position: the newest commit and event that readers may see.
        published_time: the log's time as of the newest published record.
        forgotten_ids_end: time-based ids below these bytes may be forgotten.
        refusals: counts the transactions that were refused, and remembers those with a conflict.
        fenced: how many transactions were aborted.
    """

    def __init__(self, state: State, log: WriteAheadLog, settings: EngineSettings) -> None:
        self._state = state
        self._log = log
        self.started = False
        self._settings = settings
        self._pending: list[bytes] = []
        self._log_ends: deque[tuple[int, int]] = deque()
        self._ticked = 0
        self._ticked_at_sequence = 0
        self._looked_at = 0
        self._wall: Callable[[], int] = _standing_at_0
        self._monotonic: Callable[[], int] = _standing_at_0
        self._clock_holder: object | None = None
        self._interrupt: Callable[[], None] | None = None
        self.clock = LogClock(_standing_at_0, _standing_at_0, jump_us_max=0, newest=0)
        self.planner = Planner(state, settings)
        self.sequence = 0
        self.commits_and_fences = 0
        self.durable_sequence = 0
        self.published = state.last_commit
        self.published_position = state.last_position
        self.published_time = state.time
        self.forgotten_ids_end = ids_from(state.time.forget_before)
        self.refusals = Refusals(state)
        self.fenced = 0

    def start(self, wall: Callable[[], int], monotonic: Callable[[], int]) -> None:
        """Start the clock. The log is replayed, and records may now be written."""
        self._wall, self._monotonic = wall, monotonic
        self.clock = self._clock_on(wall, monotonic)
        self._ticked = self.clock.now()
        self.started = True

    def _clock_on(self, wall: Callable[[], int], monotonic: Callable[[], int]) -> LogClock:
        jump_us_max, newest = self._settings.clock_jump_us_max, self._state.time.time
        return LogClock(wall, monotonic, jump_us_max=jump_us_max, newest=newest)

    # Commit.

    def commit(self, transaction: Transaction, cutting: Cutting | None = None) -> Ticket:
        """Plan and apply an open transaction; if it is refused, the ticket has the error.

        Raises:
            InSteps: it takes too long for one stretch; see work_budget.py.
        """
        self.planner.work = None
        if not transaction.buffer:
            return self._read_only_ticket(transaction.id, transaction.view)
        now = self._now()
        self.begin_plan(cutting)
        try:
            planned = self.planner.plan(transaction, now, cutting)
        except HeadwaterError as error:
            self.refusals.note_opened(error, transaction, self.clock.now())
            return self._failed(transaction.id, error)
        finally:
            if cutting is not None and cutting.interrupt is not None:
                self.end_plan()
        return self._apply(planned)

    # Plans in steps. Others are served between the steps, but nothing that the plan depends on may
    # change. The server lets writers wait; who cannot wait interrupts the plan.

    def begin_plan(self, cutting: Cutting | None) -> None:
        """A plan begins. If it is made in steps, it is interrupted before anything changes."""
        if cutting is not None and cutting.interrupt is not None:
            self.interrupt_plan()
            self._interrupt = cutting.interrupt

    def end_plan(self) -> None:
        """The plan in steps is made, or was given up."""
        self._interrupt = None

    @property
    def planning(self) -> bool:
        """Whether a plan is being made in steps, for which writers should wait."""
        return self._interrupt is not None

    def interrupt_plan(self) -> None:
        """Something changes that a plan in steps depends on: it has to begin again."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            interrupt()

    def commit_at_once(
        self,
        transaction: bytes,
        user: int,
        buffer: WriteBuffer,
        failed_conditions: list[dict[str, Any]],
        budget: WorkBudget | None = None,
    ) -> Ticket:
        """Plan and apply a transaction without earlier reads, unless a condition failed.

        *budget* has the work of its conditions and reads; None: there was none.
        """
        self.planner.work = budget
        if buffer.is_empty and not failed_conditions:
            return self._read_only_ticket(transaction, self._state.last_commit)
        now = self.clock.now()
        # Without writes, only failed conditions are reported, which needs no tick. A full disk may
        # have no room for one.
        if now - self._ticked >= TICK_US and not buffer.is_empty and self._interrupt is None:
            self._tick(now)
        try:
            if failed_conditions:
                raise self.planner.refuse(transaction, user, buffer, failed_conditions, now, budget)
            planned = self.planner.plan_buffer(transaction, user, buffer, now, budget=budget)
        except HeadwaterError as error:
            self.refusals.note(error, transaction, user, buffer, now)
            return self._failed(transaction, error)
        if budget is not None and budget.in_steps:
            self.end_plan()
        return self._apply(planned)

    def commit_stored(self, transaction: bytes, user: int, writes: list[bytes | None]) -> Ticket:
        """Plan and apply writes of stored keys: key, value, …, each key once."""
        buffer = WriteBuffer()
        for place in range(0, len(writes), 2):
            key = writes[place]
            assert key is not None
            buffer.put(key, writes[place + 1])
        return self.commit_at_once(transaction, user, buffer, [])

    def answer_again(
        self, transaction: bytes, commit: int, buffer: WriteBuffer | None = None
    ) -> Ticket:
        """The first answer to a transaction that has ended, even if it was never sent.

        *buffer* has its writes, if the client sent them again.
        """
        if commit == ABORTED:
            return self._failed(transaction, aborted(transaction))
        answer = None if buffer is None else self._answer_of_repeated(transaction, commit, buffer)
        ticket = Ticket(self.sequence, transaction, answer or self._first_answer(commit))
        ticket.committed_by = self._state.commit_record(commit).user
        return ticket

    def answer_commit_again(
        self, transaction: bytes, commit: int, writes: list[list[Any]]
    ) -> Ticket:
        """Like `answer_again`; *writes* came with the commit."""
        # If it wrote keys, these are not all of its writes: earlier requests had others.
        if commit == ABORTED or not self._state.wrote_no_key(commit):
            return self.answer_again(transaction, commit)
        buffer = WriteBuffer()
        buffer.add(writes)
        return self.answer_again(transaction, commit, buffer)

    def _answer_of_repeated(
        self, transaction: bytes, commit: int, buffer: WriteBuffer
    ) -> list[Any] | None:
        """The answer to a commit whose appends were all stored before it, else None."""
        if not (buffer.appends_only and any(append.has_ids for append in buffer.appends)):
            return None
        record = self._state.commit_record(commit)
        if record.event_count:
            return None
        try:
            planned = self.planner.plan_buffer(transaction, 0, buffer, record.time)
        except HeadwaterError:
            # Planning it again fails now, and is not needed: it was committed.
            return None
        return self._answer_of(*planned.repeated[-1]) if planned.repeated else None

    def abort(self, transaction: bytes, user: int) -> Ticket:
        """Fence a transaction id. Once the ticket's sequence is durable, it can never commit."""
        now = self._now()
        planned = Planned(ABORT, transaction, now, user, 0, 0, ())
        planned.record = encode_abort(transaction, now, user)
        self._add(planned)
        self.commits_and_fences += 1
        self.fenced += 1
        return Ticket(self.sequence, transaction, [])

    def _apply(self, planned: Planned) -> Ticket:
        """Apply a plan. After this, only a crash before the sync can undo the commit."""
        self._add(planned)
        self.commits_and_fences += 1
        if planned.settled is not None:
            assert self.planner.acknowledging is not None, (
                "only the consumer groups plan acknowledgements"
            )
            self.planner.acknowledging.settle(planned.settled, self.sequence)
        if planned.event_count:
            first, last = planned.first_position, self._state.last_position
            answer = [planned.commit, planned.time, first, last, planned.versions]
            planned.versions = None
        elif planned.repeated:
            answer = self._answer_of(*planned.repeated[-1])
        else:
            return Ticket(
                self.sequence, planned.transaction, None, None, planned.commit, planned.time
            )
        return Ticket(self.sequence, planned.transaction, answer)

    def _add(self, planned: Planned) -> None:
        if self._interrupt is not None:
            self.interrupt_plan()
        # The memtable keeps the plan until the next checkpoint, and needs no bytes of the log.
        record, planned.record = planned.record, b""
        self._state.apply([planned])
        self._pending.append(record)
        self.sequence += 1

    def _read_only_ticket(self, transaction: bytes, view: int) -> Ticket:
        # If the view is not published yet, the answer waits until it is durable.
        sequence = 0 if view <= self.published else self.sequence
        time = self._state.commit_record(view).time if view else 0
        return Ticket(sequence, transaction, [view, time, None, None, {}])

    def _failed(self, transaction: bytes, error: HeadwaterError) -> Ticket:
        self.refusals.count(error)
        return Ticket(self.sequence, transaction, [], error)

    def _answer_of(self, first: StoredEvent, last: StoredEvent) -> list[Any]:
        """The answer to the commit that appended these events."""
        if last.commit >= self._state.files.oldest_commit:
            return self._first_answer(last.commit)
        # Event ids are kept forever, but this commit's record was forgotten.
        return [last.commit, last.time, first.position, last.position, {last.stream: last.version}]

    def _first_answer(self, commit: int) -> list[Any]:
        record = self._state.commit_record(commit)
        if not record.event_count:
            return [commit, record.time, None, None, {}]
        last = record.first_position + record.event_count - 1
        versions = versions_after(self._state, record.first_position, last)
        return [commit, record.time, record.first_position, last, versions]

    # Time.

    def hold_clock(self, holder: object, time: int | None) -> None:
        """Hold the log's clock at a time, or release it if the time is None.

        A load does this to keep the times of a dump. Times never decrease in the log, so this is
        possible only as long as nothing newer was written. While the clock is held, there are no
        ticks: the history window and the forgetting of transactions wait.

        Raises:
            InvalidArgument: the time is before that of the newest record, or in the future; or
                another holder holds the clock.
        """
        if self._clock_holder is not None and self._clock_holder is not holder:
            if time is None:
                return
            raise InvalidArgument("hold_clock: another connection holds the clock")
        if time is None:
            if self._clock_holder is not None:
                self._clock_holder = None
                self.clock = self._clock_on(self._wall, self._monotonic)
            return
        least, most = max(self._state.time.time, HELD_US_MIN), self._wall()
        if not least <= time <= most:
            raise InvalidArgument(
                f"hold_clock: {told_time(time)}; possible are {told_time(least)}, the time of the "
                f"newest record, to {told_time(most)}, the present"
            )
        # A plan has a time already, which may be later than this one.
        self.interrupt_plan()
        self._clock_holder = holder
        self.clock = self._clock_on(lambda: time, _standing_at_0)

    def _now(self) -> int:
        """The time of the next record. About once a second, this adds a tick before it."""
        now = self.clock.now()
        if now - self._ticked >= TICK_US:
            self._tick(now)
        return now

    def tick(self, *, write: bool) -> None:
        """Write a tick if something depends on the time. Call this about once a second.

        A tick is needed if there are records since the last one, if any rule has an age, or (which
        is checked less often) if commits have left the history window.
        """
        now = self.clock.now()
        if not write or now - self._ticked < TICK_US or self._interrupt is not None:
            return
        wanted = self.sequence != self._ticked_at_sequence or self._state.retention.has_ages
        if not wanted and now - self._looked_at >= HORIZON_US:
            self._looked_at = now
            window_start = self._state.commit_at(now - self._settings.history_window_us)
            wanted = min(window_start, self.published) > self._state.time.horizon
        if wanted:
            self._tick(now)

    def _tick(self, now: int) -> None:
        before = self._state.time
        window_start = self._state.commit_at(now - self._settings.history_window_us)
        planned = Planned(TICK, b"", now, 0, 0, 0, ())
        planned.horizon = max(before.horizon, min(window_start, self.published))
        planned.forget_before = max(
            before.forget_before, now - self._settings.transaction_retention_us
        )
        planned.record = encode_tick(now, planned.horizon, planned.forget_before)
        self._add(planned)
        self._ticked = now
        self._ticked_at_sequence = self.sequence

    # Groups.

    def take_group(self) -> Group | None:
        """The records that were applied since the last group, or None."""
        if not self._pending:
            return None
        active = self._state.active
        group = Group(
            self._pending,
            self.sequence,
            active.last_commit,
            active.last_position,
            (active.newest_time, active.horizon, active.forget_before),
        )
        self._pending = []
        return group

    def make_durable(self, group: Group) -> None:
        """Write a group to the log and sync it. Blocks; may run in another thread.

        Raises:
            DiskFull, Unavailable: call it again later.
            Fenced: another node has taken the right to write.
            Exception: the log failed. Do not retry: only a restart can find out what is durable.
        """
        if not group.log_index:
            group.log_index = self._log.send(group.records)
        self._log.confirm(group.log_index)

    def publish(self, group: Group) -> None:
        """Make a durable group visible to new read views."""
        assert group.last_sequence > self.durable_sequence, "groups are published in order"
        self._log_ends.append((group.last_sequence, group.log_index))
        self.durable_sequence = group.last_sequence
        self.published = commit = group.last_commit
        self.published_position = group.last_position
        retention = self._state.retention
        if retention.pending:
            retention.publish(commit)
        if group.time != self.published_time:
            self._publish_time(LogTime(*group.time))

    def replayed(self, log_index: int, count: int, commits_and_fences: int) -> None:
        """Publish records that were read from one log entry and applied."""
        self.sequence += count
        self.commits_and_fences += commits_and_fences
        # Of entries without records the last one counts: an idle leader writes many.
        if self._log_ends and self._log_ends[-1][0] == self.sequence:
            self._log_ends.pop()
        self._log_ends.append((self.sequence, log_index))
        self.durable_sequence = self.sequence
        self.published = self._state.last_commit
        self.published_position = self._state.last_position
        retention = self._state.retention
        if retention.pending:
            retention.publish(self.published)
        self._publish_time(self._state.time)

    def _publish_time(self, time: LogTime) -> None:
        if time.forget_before != self.published_time.forget_before:
            self.forgotten_ids_end = ids_from(time.forget_before)
        self.published_time = time
        # From now on no read may begin below the horizon.
        if time.horizon > self._state.files.horizon:
            self._state.files.horizon = time.horizon

    def log_needed_from(self, sequence: int) -> int | None:
        """The log index below which every record is at or before *sequence*; None: unchanged."""
        below: int | None = None
        while self._log_ends and self._log_ends[0][0] <= sequence:
            below = self._log_ends.popleft()[1] + 1
        return below


def aborted(transaction: bytes) -> TransactionAborted:
    """The error of a transaction that was fenced."""
    return TransactionAborted(
        f"transaction {transaction.hex()} was aborted by a status request with resolve"
    )


def _standing_at_0() -> int:
    return 0
