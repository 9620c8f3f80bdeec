"""The engine: a database without a network, and without threads or a clock of its own.

    begin, read, write, commit, execute        called for connections
    take_group, make_durable, publish          called by the server's commit task
    begin_checkpoint, run, finish_checkpoint   called by the server's checkpoint task

No method blocks, except `make_durable`, `prepare_log` and `Checkpoint.run`, which wait for the disk
and may run in another thread. All others must run in one thread, and the engine is consistent
between any two calls.
"""

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from headwater_protocol.errors import (
    HeadwaterError,
    HistoryGone,
    InvalidArgument,
    NoSuchCommit,
)
from headwater_protocol.operations import SERIALIZABLE
from headwater_server.engine.accounts import Accounts
from headwater_server.engine.archive.source import ArchiveSource
from headwater_server.engine.checkpoint.checkpoint import CheckpointResult
from headwater_server.engine.checkpoint.schedule import Checkpoint, CheckpointSchedule
from headwater_server.engine.consumer_groups.groups import Groups
from headwater_server.engine.disk_room import DiskRoom
from headwater_server.engine.expiring import Expiring
from headwater_server.engine.format import keyspaces
from headwater_server.engine.looking.looking import Looking
from headwater_server.engine.outcomes import Outcomes, TransactionStatus
from headwater_server.engine.reads.charged_reader import ChargedReader
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import EventsPage, Reader
from headwater_server.engine.reads.time_index import position_before
from headwater_server.engine.replication.applier import Applier
from headwater_server.engine.replication.leadership import Leadership
from headwater_server.engine.retention.rewriting import Rewriting
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.staging import Staging
from headwater_server.engine.state.layers import NO_EXPIRY, State
from headwater_server.engine.state.memtable import ABORTED
from headwater_server.engine.statistics import collect_statistics
from headwater_server.engine.transactions.conditions import failed_conditions
from headwater_server.engine.transactions.open_transactions import OpenTransactions
from headwater_server.engine.transactions.sequencer import Sequencer, Ticket, aborted
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.engine.transactions.write_buffer import WriteBuffer
from headwater_server.engine.work_budget import CONDITIONS, Cutting, InSteps, WorkBudget
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import LogReader, WriteAheadLog


class Engine:
    """A database in a directory. Call `recovery.open_engine` to open one.

    Attributes:
        files: the open files of the directory, closed with the engine.
        looking: what people ask about what happened.
        take_group, make_durable, publish: of the sequencer.
        sequencer: applies commits, makes groups of them durable and publishes them.
        open_transactions: all; open_count, open_size: how many an owner has, and their bytes.
    """

    def __init__(
        self,
        *,
        path: str,
        file_system: FileSystem,
        database_id: bytes,
        created: int,
        state: State,
        log: WriteAheadLog,
        sequencer: Sequencer,
        applier: Applier,
        leadership: Leadership,
        settings: EngineSettings,
        clock: Callable[[], int],
        source: random.Random,
    ) -> None:
        self.settings = settings
        self.database_id, self.path = database_id, path
        self.outcomes = Outcomes(state, sequencer, settings, created=created)
        self.known = self.outcomes.known
        self.state = self._state = state
        self.file_system = self._file_system = file_system
        self.looking = Looking(state, self)
        self._log = log
        self.take_group, self.publish = sequencer.take_group, sequencer.publish
        self.make_durable = sequencer.make_durable
        self.log_reader: LogReader = log
        self.sequencer = sequencer
        self.applier = applier
        self.leadership = leadership
        self._clock = clock
        self.files = ExitStack()
        self.room = DiskRoom(file_system, path, log, reserve_size=settings.disk_reserve_size)
        self.expiring = Expiring(state, sequencer, self._may_expire, source)
        self.checkpoints = CheckpointSchedule(
            state, sequencer, log, settings, clock, file_system, path, self.room.is_scarce
        )
        self.archived = ArchiveSource(
            file_system, log, sequencer, state.files, database_id, created, source
        )
        self.staging = Staging(file_system, path, state.files, database_id, self.checkpoints, log)
        self.stage_backup = self.staging.backup
        self.accounts = Accounts(state, sequencer, clock, source, self.check_writable)
        self.groups = Groups(state, sequencer, self.reader, clock, source, self.check_writable)
        self._open = self.open_transactions = OpenTransactions(
            count_max=settings.transactions_max,
            size_max=settings.transactions_size_max,
            idle_us_max=settings.transaction_idle_us_max,
            # The outcome of an older one is forgotten, so its commit would be refused.
            age_us_max=min(settings.transaction_age_us_max, settings.transaction_retention_us),
        )
        self.open_count, self.open_size = self._open.count_of, self._open.size_of
        self.rewriting = Rewriting(
            state, sequencer, log, settings, views=self._open.views, times=self._open.times
        )

    # What is visible.

    @property
    def published(self) -> int:
        """The newest commit that readers see."""
        return self.sequencer.published

    @property
    def published_position(self) -> int:
        """The newest event that readers see."""
        return self.sequencer.published_position

    @property
    def durable_sequence(self) -> int:
        """Tickets up to this sequence may be answered."""
        return self.sequencer.durable_sequence

    @property
    def oldest_readable(self) -> int:
        """The oldest commit at which a reader may begin."""
        return self._state.files.horizon

    def reader(self, at_commit: int | None = None, *, step: bool = False) -> Reader:
        """A reader outside of a transaction, at the newest commit or a past one.

        *step*: for a step of something that goes on by itself; its pages are shorter.

        Raises:
            NoSuchCommit, HistoryGone: the commit does not exist yet, or cannot be read any more.
        """
        if at_commit is None:
            view, position = self.sequencer.published, self.sequencer.published_position
        else:
            view, position = at_commit, self._position_at(at_commit)
        most = self.settings.step_events_max if step else self.settings.examined_events_max
        return Reader(self._state, view, position, examined_max=most, time=self._time_at(view))

    def get(self, key: bytes) -> bytes | None:
        """The newest published value of a user's key, or None; a fast `reader().get(key)`."""
        return self._state.get(keyspaces.USER + key, self.sequencer.published)

    def commit_at(self, time: int) -> int:
        """The newest commit at a time in microseconds, 0 before the first."""
        self.sequencer.clock.now()
        if not self.clock_offset_us and time >= self._clock():
            # This also covers a log time that is ahead of a clock that was set back. A rejected
            # clock does not count: it may say 1970.
            return self.published
        return min(self._state.commit_at(time), self.published)

    def position_before(self, time: int) -> int:
        """The last published position before a time in microseconds, 0 before the first."""
        return position_before(self._state, time, self.published)

    def events_page(self, after: int, wanted: EventFilter, limit: int) -> EventsPage:
        """Published events after a position, for a step of a subscription."""
        return self.reader(step=True).read_all(after, wanted, limit, reverse=False)

    # Transactions.

    def begin(
        self,
        transaction: bytes,
        *,
        owner: object,
        user: int = 0,
        isolation: str = SERIALIZABLE,
        read_only: bool = False,
        at_commit: int | None = None,
    ) -> Transaction:
        """Open a transaction that reads at the newest published commit, or at a past one.

        Raises:
            InvalidArgument: the id was used before.
            TransactionAborted: it was fenced before it was begun.
            TransactionForgotten: the id is older than the retention.
            TooMany, NoSuchCommit, HistoryGone.
        """
        self._open.check_room()
        if not read_only and at_commit is None:
            self.leadership.check_leads()
        known = self.known(transaction)
        if known == ABORTED:
            raise aborted(transaction)
        if self._open.find(transaction) is not None or known is not None:
            raise InvalidArgument(f"transaction {transaction.hex()} was begun before")
        if at_commit is None:
            view, position = self.published, self.published_position
        else:
            view, position = at_commit, self._position_at(at_commit)
            read_only = True
        begun = Transaction(
            self._state,
            view,
            position,
            transaction=transaction,
            owner=owner,
            user=user,
            isolation=isolation,
            read_only=read_only,
            now=self._clock(),
            time=self._time_at(view),
            examined_max=self.settings.examined_events_max,
            read_set_max=self.settings.read_set_size_max,
        )
        self._open.add(begun)
        return begun

    def transaction(self, transaction: bytes, owner: object) -> Transaction:
        """The owner's open transaction; this renews its lease.

        Raises:
            TransactionGone: it is not open, or belongs to another connection.
        """
        return self._open.owned(transaction, owner, self._clock())

    def write(self, transaction: bytes, owner: object, writes: list[list[Any]]) -> None:
        """Add writes to the owner's open transaction.

        Raises:
            TransactionGone: it is not open, or belongs to another connection.
            InvalidArgument, NotANumber, TooLarge: a write is invalid. The transaction is rolled
                back, because the client's next requests may depend on that write.
            TooMany: all open transactions together hold too many bytes; this one is rolled back.
        """
        opened = self._open.owned(transaction, owner, self._clock())
        try:
            opened.write(writes)
        except HeadwaterError:
            self._open.remove(opened)
            raise
        self._open.charge(opened)

    def commit(
        self,
        transaction: bytes,
        owner: object,
        writes: list[list[Any]],
        *,
        cutting: Cutting | None = None,
    ) -> Ticket:
        """Add writes to an open transaction and commit it; it is closed in any other case.

        A transaction that has committed, on any connection, gets its first answer again.

        Raises:
            InSteps: it has the writes and is still open. Commit it without them, in steps.
            TransactionGone, ReadOnly, InvalidArgument, NotANumber, DuplicateEvent, TooLarge.
        """
        found = self._open.find(transaction)
        if found is None or found.owner is not owner:
            known = self.known(transaction)
            if known is not None:
                return self.sequencer.answer_commit_again(transaction, known, writes)
        opened = self._open.owned(transaction, owner, self._clock())
        self._expire_keys()
        try:
            opened.write(writes)
            if opened.buffer:
                self.check_writable(opened.buffer)
            ticket = self.sequencer.commit(opened, cutting)
        except InSteps:
            self._open.charge(opened)
            raise
        except Exception:
            self.rollback(transaction, owner)
            raise
        self.rollback(transaction, owner)
        return ticket

    def rollback(self, transaction: bytes, owner: object) -> None:
        """Close the owner's transaction if it is open."""
        found = self._open.find(transaction)
        if found is not None and found.owner is owner:
            self._open.remove(found)

    def wrote_key(self, commit: int, prefix: bytes) -> bool:
        """Whether an administrative write that wrote such a key can be this commit."""
        return self._state.wrote_key(commit, prefix)

    def check_not_open(self, transaction: bytes) -> None:
        """Refuse the id of an open transaction for another one: both could commit."""
        if transaction in self._open.by_id:
            raise InvalidArgument(f"transaction {transaction.hex()} is open")

    def execute(
        self,
        transaction: bytes,
        *,
        user: int,
        conditions: list[list[Any]],
        reads: Callable[[Reader], list[Any]] | None,
        writes: list[list[Any]],
        proven: Mapping[Any, int] | None = None,
        cutting: Cutting | None = None,
    ) -> tuple[Ticket, list[Any]]:
        """A whole transaction in one call: if all conditions hold, read, then write and commit.

        *reads* gets a reader and returns the results, which are sent with the ticket's answer. A
        repeated call gives the first answer: its reads are done at the commit before its own.

        Raises:
            As begin and commit, and whatever *reads* raises; SearchAhead, InSteps: see WorkBudget.
            HistoryGone: it was committed before, as details["commit"], and cannot read again.
        """
        buffer = WriteBuffer()
        in_steps = buffer.add_in_parts(writes, cutting)
        known = self._state.transaction(transaction)
        if known is None and transaction < self.sequencer.forgotten_ids_end:
            known = self.known(transaction)
        if known is not None:
            ticket = self.sequencer.answer_again(transaction, known, buffer)
            return ticket, [] if reads is None or not known else reads(self._before(known))
        if transaction in self._open.by_id:
            raise InvalidArgument(f"transaction {transaction.hex()} is open")
        if writes and (self.room.read_only_reason is not None or not self.leadership.takes_writes):
            self.check_writable(buffer)
        self._expire_keys()
        charged = conditions or reads is not None or (proven is not None and buffer.conditional)
        budget = None
        if charged or in_steps or (cutting is not None and buffer.may_take_long):
            budget = WorkBudget(CONDITIONS, proven=proven, cutting=cutting)
        if in_steps:
            self.sequencer.begin_plan(cutting)
        try:
            failures = [] if budget is None else failed_conditions(self._state, conditions, budget)
            results: list[Any] = []
            if budget is not None and reads is not None and not failures:
                # The answer waits until what is read here is durable.
                results = reads(ChargedReader(self._state, budget, self.settings))
            ticket = self.sequencer.commit_at_once(transaction, user, buffer, failures, budget)
        finally:
            if in_steps:
                self.sequencer.end_plan()
        return ticket, results

    def status(self, transaction: bytes, *, resolve: bool, user: int = 0) -> TransactionStatus:
        """The status of a transaction; with *resolve*, fence it unless it committed.

        Raises:
            ReadOnly: it would have to be fenced, and nothing can be written.
        """
        known = self._state.transaction(transaction)
        if known is not None:
            ticket = self.sequencer.answer_again(transaction, known)
            return TransactionStatus("aborted" if known == ABORTED else "committed", ticket)
        # Only the leader knows that a transaction has not committed.
        self.leadership.check_leads()
        if self.outcomes.is_forgotten(transaction):
            return TransactionStatus("forgotten", Ticket(0, transaction, []))
        if not resolve:
            return TransactionStatus("open", Ticket(0, transaction, []))
        self.check_writable()
        opened = self._open.find(transaction)
        if opened is not None:
            self._open.remove(opened)
        return TransactionStatus("aborted", self.sequencer.abort(transaction, user))

    def close_owner(self, owner: object) -> int:
        """Roll back the open transactions of a connection; return how many there were."""
        return self._open.close_owner(owner)

    def expire(self) -> list[Transaction]:
        """Roll back transactions that were idle or open for too long, and return them."""
        return self._open.expire(self._clock())

    def tick(self) -> None:
        """Write the time to the log if something depends on it. Call this once a second."""
        self.expiring.step()
        # Do not write to a full disk.
        self.sequencer.tick(write=self._may_expire())

    def _may_expire(self) -> bool:
        return self.leadership.takes_writes and self.room.may_tick

    @property
    def clock_offset_us(self) -> int:
        """How far an implausible wall clock is ahead (negative: behind); 0 if it is plausible."""
        return self.sequencer.clock.offset_us

    # The log.

    def prepare_log(self) -> None:
        """Allocate space for the log, and see whether there is any; see `DiskRoom.measure`."""
        self.room.measure()

    def check_writable(self, buffer: WriteBuffer | None = None) -> None:
        """Raise NotLeader or ReadOnly unless this may be written."""
        self.leadership.check_leads()
        self.room.check_writable(buffer)

    @property
    def read_only_reason(self) -> str | None:
        """Why nothing can be written, or None."""
        return self.room.read_only_reason

    # Checkpoints.

    def begin_checkpoint(self, *, tidy: bool = False) -> Checkpoint | None:
        """Freeze the memtable; None if a checkpoint runs, or if it is empty and not *tidy*."""
        views, before = self._open.views(), self.sequencer.published_time.forget_before
        begin = self.checkpoints.begin
        return begin(published=self.published, views=views, forget_before=before, tidy=tidy)

    def finish_checkpoint(self, checkpoint: Checkpoint) -> CheckpointResult:
        """Let readers use the files; the log may be trimmed now."""
        return self.checkpoints.finish(checkpoint)

    def trim_log(self) -> None:
        """Remove the part of the log that the files have. Blocks; may run in another thread."""
        self.checkpoints.trim()

    def seal_log(self) -> None:
        """Mark the newest group as durable in the log; see WriteAheadLog.seal. Blocks."""
        if self.leadership.leads:
            self.rewriting.seal_log()

    def close(self) -> None:
        """Close the files and release the directory's lock. What is not durable is lost."""
        self.files.close()

    def stats(self) -> dict[str, Any]:
        """Statistics of the engine, by name."""
        return collect_statistics(
            self._state,
            self.sequencer,
            self._open,
            now=self._clock(),
            log_size=self._log.size,
            checkpoints=self.checkpoints.count,
            checkpoint_running=self.checkpoints.running,
            read_only_reason=self.read_only_reason,
        )

    # Internal.

    def _expire_keys(self) -> None:
        if self._state.next_expiry != NO_EXPIRY and not self.sequencer.planning:
            self.expiring.step()

    def _before(self, commit: int) -> Reader:
        """A reader of what the transaction with this commit number has read."""
        view = commit - 1
        if view < self.oldest_readable:
            # The client asks again because it got no answer, and must learn that it was committed.
            raise HistoryGone(
                f"it was committed, as commit {commit}, but what it read is older than the history "
                f"window; the oldest commit that can be read is {self.oldest_readable}",
                details={"oldest": self.oldest_readable, "commit": commit},
            )
        position = self._state.position_at(view)
        return Reader(self._state, view, position, examined_max=self.settings.examined_events_max)

    def _time_at(self, view: int) -> int | None:
        """The time of a read view: now for the newest view; None (see Reader) for a past one."""
        return self.sequencer.published_time.time if view == self.published else None

    def _position_at(self, commit: int) -> int:
        if commit > self.published:
            raise NoSuchCommit(f"commit {commit} was not made yet; the newest is {self.published}")
        if commit < self.oldest_readable and not self._open.reads_at(commit):
            raise HistoryGone(
                f"commit {commit} is older than the history window; "
                f"the oldest that can be read is {self.oldest_readable}",
                details={"oldest": self.oldest_readable},
            )
        return self._state.position_at(commit)
