"""The engine against a model in random histories: transactions at both levels, delayed syncs,
commits during checkpoints, garbage collection, power losses, reads of the past.

A failure prints a shortened list of the steps that lead to it, as a program that can be run.
"""

import contextlib
import random
from dataclasses import dataclass, replace
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headwater_protocol.errors import (
    Conflict,
    HistoryGone,
    TransactionAborted,
    TransactionGone,
    WrongVersion,
)
from headwater_protocol.numbers import ANY, NO_STREAM, STREAM_EXISTS
from headwater_protocol.operations import SERIALIZABLE, SNAPSHOT
from headwater_server.engine.checkpoint.schedule import Checkpoint
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EVERYTHING, EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.settings import SECOND_US
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.testing.memory_files import Crash
from tests.engine.database import OWNER, SETTINGS, START_US, Database, all_events
from tests.engine.model import Model, ModelEvent, ModelTransaction, PlainState

KEYS = [b"a", b"b", b"b\0", b"c", b"d", b"e"]
STREAMS = ["account-a", "account-b", "order-1", "plain"]
TYPES = ["Opened", "Changed", "Closed"]
CATEGORIES = ["account", "order", "plain"]
PREFIXES = ["acc", "account-", "order-1", "p"]
SEEDS = st.integers(0, 2**32)
TRANSACTIONS_MAX = 4
SMALL = replace(
    SETTINGS,
    history_window_us=SECOND_US,
    garbage_entries_max=4,
    examined_events_max=3,
)


@dataclass
class Running:
    """An open transaction of the engine, and the same one in the model."""

    handle: Transaction
    model: ModelTransaction


def as_model(stored: list[bytes]) -> list[ModelEvent]:
    events = [decode_event(each) for each in stored]
    return [ModelEvent(event.stream, event.version, event.type, event.data) for event in events]


def read_from(reader: Reader, name: str, *arguments: Any) -> Any:
    """Read from the engine; return the result in the form of ModelTransaction.read."""
    match name, *arguments:
        case "get", key:
            return reader.get(key)
        case "expiry", key:
            return reader.expiry(key)
        case "scan_expiries", start, end, limit, reverse:
            items = reader.scan_expiries(start, end, limit, reverse).items
            items[1::2] = [b"%d" % keyspaces.parse_expiry(stored) for stored in items[1::2]]
            return items
        case "scan", start, end, limit, reverse:
            return reader.scan(start, end, limit, reverse).items
        case "read_stream", stream, after, limit, reverse:
            page = reader.read_stream(stream, after, limit, reverse)
            return page.version, as_model(page.events)
        case "read_all", after, wanted, limit, reverse:
            stored = all_events(reader, after, wanted, limit, reverse=reverse)
            return [decode_event(each).position for each in stored]
        case "load", stream, snapshot_name, schema, below:
            loaded = reader.load(stream, snapshot_name, schema, below)
            return loaded.version, loaded.snapshot, as_model(loaded.events)
    raise AssertionError(name)


def some_range(source: random.Random) -> tuple[bytes, bytes | None]:
    start, end = sorted(source.sample(KEYS, 2))
    return start, source.choice([end, end, None])


def some_filter(source: random.Random) -> EventFilter:
    """A filter with few members. With all members, hardly any event would match."""
    wanted = EventFilter()
    for _ in range(source.choice([0, 1, 1, 2, 4])):
        match source.randrange(4):
            case 0:
                wanted = replace(wanted, stream=source.choice(STREAMS))
            case 1:
                wanted = replace(wanted, category=source.choice(CATEGORIES))
            case 2:
                wanted = replace(wanted, prefix=source.choice(PREFIXES))
            case _:
                wanted = replace(wanted, types=tuple(source.sample(TYPES, 2)))
    return wanted


def some_read(source: random.Random, now: PlainState) -> tuple[Any, ...]:
    limit = source.randint(1, 4)
    reverse = source.random() < 0.5
    match source.randrange(7):
        case 5:
            return "expiry", source.choice(KEYS)
        case 6:
            return "scan_expiries", *some_range(source), limit, reverse
        case 0:
            return "get", source.choice(KEYS)
        case 1:
            return "scan", *some_range(source), limit, reverse
        case 2:
            return "read_stream", source.choice(STREAMS), source.randrange(7), limit, reverse
        case 3:
            after = source.choice([0, source.randint(0, len(now.events) + 3)])
            return "read_all", after, some_filter(source), limit, reverse
        case _:
            below = source.choice([None, None, 0, source.randrange(1, 7)])
            return "load", source.choice(STREAMS), "totals", source.randrange(2), below


def some_write(source: random.Random, now: PlainState) -> list[Any]:
    """A valid write, or sometimes one with a wrong expectation."""
    stream = source.choice(STREAMS)
    version = now.version(stream)
    match source.randrange(10):
        case 8:
            return [
                "expire",
                source.choice(KEYS),
                None,
                START_US + source.randint(-1, 9) * SECOND_US,
            ]
        case 9 if source.random() < 0.3:
            return ["expire", source.choice(KEYS), None, None]
        case 0 | 1 | 9:
            return ["put", source.choice(KEYS), msgpack.packb(source.randint(-3, 3))]
        case 2:
            return ["delete", source.choice(KEYS)]
        case 3:
            return ["delete_range", *some_range(source)]
        case 4:
            operation = source.choice(["add", "min", "max"])
            return [operation, source.choice(KEYS), source.randint(-3, 3)]
        case 5 | 6:
            expect = version
            if source.random() < 0.3:
                expect = source.choice([ANY, ANY, NO_STREAM, STREAM_EXISTS, 3])
            events = [
                [None, source.choice(TYPES), source.randbytes(2), b""]
                for _ in range(source.randint(1, 3))
            ]
            return ["append", stream, expect, events]
        case _:
            at = source.randint(0, version)
            return ["save_snapshot", stream, "totals", source.randrange(2), at, source.randbytes(2)]


class EngineBesideModel(RuleBasedStateMachine):
    """Random histories. `self.model` has every commit that was sequenced."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.running: list[Running] = []
        self.waiting: list[tuple[Ticket, int]] = []
        self.acknowledged = 0
        self.answers: dict[bytes, list[Any]] = {}
        self.fenced: set[bytes] = set()
        self.checkpoint: Checkpoint | None = None
        self.opened_at = 0

    @initialize(seed=st.integers(0, 2**32))
    def open(self, seed: int) -> None:
        self.database = Database(SMALL, seed=seed)

    @property
    def engine(self) -> Any:
        return self.database.engine

    # Transactions.

    def begin(self, isolation: str, at_commit: int | None = None) -> Running:
        handle = self.database.begin(isolation=isolation, at_commit=at_commit)
        assert handle.view == (self.engine.published if at_commit is None else at_commit)
        running = Running(handle, ModelTransaction(self.model.states[handle.view]))
        self.running.append(running)
        return running

    @rule(seed=SEEDS, steps=st.integers(1, 20))
    def transactions(self, seed: int, steps: int) -> None:
        """Steps of several transactions, in random order."""
        source = random.Random(seed)
        for _ in range(steps):
            match source.randrange(20):
                case 0 if self.running:
                    self.abandon(source.randrange(len(self.running)), fenced=source.random() < 0.5)
                case 1 if len(self.running) < TRANSACTIONS_MAX:
                    oldest, newest = self.engine.oldest_readable, self.engine.published
                    self.begin(SERIALIZABLE, source.randint(oldest, newest))
                case 2 | 3:
                    self.execute(source)
                case 4 | 5 if self.waiting:
                    self.sync()
                case 6 | 7 | 8 | 9 if self.running:
                    self.commit(source.randrange(len(self.running)))
                case _:
                    self.advance(source)

    def advance(self, source: random.Random) -> None:
        """A step of an open or a new transaction."""
        place = source.randrange(TRANSACTIONS_MAX)
        if place < len(self.running):
            running = self.running[place]
        else:
            running = self.begin(source.choice([SERIALIZABLE, SERIALIZABLE, SNAPSHOT]))
        if running.handle.read_only or source.random() < 0.5:
            name, *arguments = some_read(source, running.model.base)
            found = read_from(running.handle, name, *arguments)
            assert found == running.model.read(name, *arguments), (name, arguments)
            running.model.note_read(name, tuple(arguments), found)
        else:
            write = some_write(source, running.model.now)
            running.handle.write([write])
            running.model.write(write)

    def commit(self, place: int) -> None:
        running = self.running.pop(place)
        handle = running.handle
        self.expire()
        ticket = self.engine.commit(handle.id, OWNER, [])
        if ticket.error is not None:
            assert isinstance(ticket.error, Conflict)
            self.check_conflict(running, ticket.error)
            self.waiting.append((ticket, 0))
            return
        before = self.model.last_commit
        self.note_commit(handle.id, running.model, ticket, handle.isolation == SERIALIZABLE)
        if handle.isolation == SNAPSHOT and self.model.last_commit > before:
            self.check_first_committer(running)

    def expire(self) -> None:
        """Let the engine delete what has expired; it does so in any case before it commits."""
        now = self.engine.sequencer.clock.now()
        due = self.model.expired(now)
        assert not self.engine.expiring.step()
        if due:
            number = self.engine._state.last_commit
            assert number == self.model.last_commit + 1
            record = self.engine._state.commit_record(number)
            self.model.expire(record.transaction, record.time)
            self.answers[record.transaction] = [number, record.time, None, None, {}]

    def execute(self, source: random.Random) -> None:
        self.expire()
        newest = self.model.states[-1]
        running = ModelTransaction(newest)
        for _ in range(source.randrange(4)):
            running.write(some_write(source, running.now))
        reads = [some_read(source, newest) for _ in range(source.randrange(3))]
        identity = self.database.new_id()
        ticket, results = self.engine.execute(
            identity,
            user=0,
            conditions=[],
            reads=(lambda reader: [read_from(reader, *read) for read in reads]) if reads else None,
            writes=[arguments for name, arguments, _ in running.steps],
        )
        before = ModelTransaction(newest)
        assert results == [before.read(*read) for read in reads]
        if running.failed:
            assert isinstance(ticket.error, WrongVersion)
            return
        self.note_commit(identity, running, ticket, True)

    def note_commit(
        self, identity: bytes, running: ModelTransaction, ticket: Ticket, serializable: bool
    ) -> None:
        before = self.model.last_commit
        read_only = not any(name == "write" for name, _, _ in running.steps)
        if read_only:
            # Its place in the serial order is its view, where its reads were checked.
            assert ticket.payload[0] <= before
            return
        number, time, first, last, versions = ticket.payload
        again = self.model.commit(identity, running, time, serializable=serializable)
        assert ticket.error is None
        assert number == self.model.last_commit
        appended = again.now.events[len(again.base.events) :]
        if appended:
            assert (first, last) == (len(again.base.events) + 1, len(again.now.events))
        else:
            assert (first, last) == (None, None)
        assert versions == {event.stream: event.version for event in appended}
        self.answers[identity] = ticket.payload
        self.waiting.append((ticket, number))

    def check_conflict(self, running: Running, error: Conflict) -> None:
        """Check that every conflict names a commit after the view that wrote its subject."""
        assert error.conflicts
        for conflict in error.conflicts:
            if conflict["kind"] == "expected version":
                assert conflict["expected"] != conflict["actual"]
                continue
            commit = conflict["commit"]
            assert running.handle.view < commit <= self.model.last_commit
            assert conflict["transaction"] == self.model.transactions[commit]
            keys, streams = self.model.written[commit]
            if "stream" in conflict:
                assert conflict["stream"] in streams
            elif "query" in conflict:
                assert streams
            elif "snapshot" not in conflict:
                assert conflict["key"] in keys
        if isinstance(error, WrongVersion):
            again = running.model.again_on(self.model.states[-1], check_reads=False)
            assert again.failed
            assert error.retryable == again.failed.isdisjoint(running.model.failed)

    def check_first_committer(self, running: Running) -> None:
        before = self.model.states[-2]
        again = running.model.again_on(before, check_reads=False)
        then = self.model.states[running.handle.view]
        # A checkpoint leaves no trace of a deleted key that nobody can read. If the key was
        # absent at the view too, nothing that the transaction saw has changed. A commit that only
        # moved the time of a key did not write its value, as an atomic operation would not.
        puts = {key for key in again.puts if key in then.keys or key in before.keys}
        for commit in range(running.handle.view + 1, self.model.last_commit):
            assert not puts & self.model.values[commit]

    def abandon(self, place: int, *, fenced: bool) -> None:
        running = self.running.pop(place)
        if not fenced:
            self.engine.rollback(running.handle.id, OWNER)
            return
        status = self.engine.status(running.handle.id, resolve=True)
        assert status.state == "aborted"
        with contextlib.suppress(TransactionGone):
            assert isinstance(
                self.engine.commit(running.handle.id, OWNER, []).error, TransactionAborted
            )
        self.waiting.append((status.ticket, 0))
        self.fenced.add(running.handle.id)

    @precondition(lambda self: self.model.last_commit)
    @rule(commit=st.integers(1, 1000))
    def send_again(self, commit: int) -> None:
        identity = self.model.transactions[(commit - 1) % self.model.last_commit + 1]
        ticket = self.engine.commit(identity, "another connection", [])
        assert ticket.payload == self.answers[identity]
        assert ticket.sequence >= self.model.transactions.index(identity)
        assert self.engine.status(identity, resolve=True).ticket.payload == ticket.payload

    # Syncs and checkpoints.

    def sync(self) -> None:
        self.database.sync()
        for ticket, number in self.waiting:
            assert ticket.sequence <= self.engine.durable_sequence
            self.acknowledged = max(self.acknowledged, number)
        self.waiting.clear()
        assert self.engine.published == self.model.last_commit

    @precondition(lambda self: self.checkpoint is None and self.has_commits)
    @rule(seconds=st.integers(-1, 5), at_once=st.booleans())
    def begin_checkpoint(self, seconds: int, at_once: bool) -> None:
        self.database.now += seconds * SECOND_US
        self.checkpoint = self.engine.begin_checkpoint()
        while at_once and self.checkpoint is not None:
            self.advance_checkpoint()

    @precondition(lambda self: self.checkpoint is not None)
    @rule()
    def advance_checkpoint(self) -> None:
        """Run it in one step and finish it in another, so that commits can come in between."""
        assert self.checkpoint is not None
        if self.checkpoint.result is not None:
            self.engine.finish_checkpoint(self.checkpoint)
            self.engine.trim_log()
            self.checkpoint = None
            return
        if self.checkpoint.last_sequence > self.engine.durable_sequence:
            self.sync()
        self.checkpoint.run()

    # Closing, crashing and reopening.

    @property
    def has_commits(self) -> bool:
        """Whether enough was committed since the last start for another restart or checkpoint."""
        return self.model.last_commit > self.opened_at + 1

    @precondition(lambda self: self.has_commits)
    @rule(
        moment=st.sampled_from(["now", "in a sync", "in a checkpoint", "in order"]),
        calls=st.integers(1, 12),
    )
    def end(self, moment: str, calls: int) -> None:
        files = self.database.files
        match moment:
            case "in a sync":
                files.faults.crash_at = files.calls + 1 + calls % 3
                with contextlib.suppress(Crash):
                    self.sync()
            case "in a checkpoint":
                self.sync()
                if self.checkpoint is None:
                    self.checkpoint = self.engine.begin_checkpoint()
                files.faults.crash_at = files.calls + calls
                with contextlib.suppress(Crash):
                    while self.checkpoint is not None:
                        self.advance_checkpoint()
            case "in order":
                self.sync()
                self.check_restart(self.database.reopen())
                return
        self.check_restart(self.database.crash())

    def check_restart(self, database: Database) -> None:
        """Check that a prefix of the commits was recovered, with all acknowledged ones."""
        self.database = database
        recovered = self.engine.published
        assert self.acknowledged <= recovered <= self.model.last_commit
        lost = self.model.transactions[recovered + 1 :]
        self.model.forget_after(recovered)
        self.acknowledged = self.opened_at = recovered
        self.checkpoint = None
        self.running.clear()
        self.waiting.clear()
        for identity in lost:
            assert self.engine.status(identity, resolve=False).state == "open"
        for identity in self.model.transactions[1:]:
            status = self.engine.status(identity, resolve=False)
            assert (status.state, status.ticket.payload) == ("committed", self.answers[identity])

    # Checks at every step.

    @rule(seed=SEEDS)
    def read_the_past(self, seed: int) -> None:
        source = random.Random(seed)
        for commit in range(self.engine.published + 1):
            held = commit in {running.handle.view for running in self.running}
            if commit < self.engine.oldest_readable and not held:
                with pytest.raises(HistoryGone):
                    self.engine.reader(commit)
                continue
            state = self.model.states[commit]
            read = some_read(source, state)
            found = read_from(self.engine.reader(commit), *read)
            assert found == ModelTransaction(state).read(*read), (commit, read)

    @invariant()
    def the_newest_state_is_that_of_the_model(self) -> None:
        if hasattr(self, "database"):
            check_state(self.engine.reader(), self.model.states[self.engine.published])

    def teardown(self) -> None:
        if not hasattr(self, "database"):
            return
        for running in self.running:
            # Read at its view, without its own writes. Garbage collection must have kept that view.
            view = Reader(
                self.engine._state, running.handle.view, running.handle.position, examined_max=100
            )
            check_state(view, self.model.states[view.view])
        for commit in range(self.engine.oldest_readable, self.engine.published + 1):
            check_state(self.engine.reader(commit), self.model.states[commit])


def check_state(reader: Reader, wanted: PlainState) -> None:
    """Check the keys and events that a reader returns."""
    items = reader.scan(b"", None, 1000, False).items
    assert dict(zip(items[::2], items[1::2], strict=True)) == wanted.keys
    items = reader.scan_expiries(b"", None, 1000, False).items
    times = map(keyspaces.parse_expiry, items[1::2])
    assert dict(zip(items[::2], times, strict=True)) == wanted.expiries
    assert as_model(all_events(reader, 0, EVERYTHING)) == wanted.events


EngineBesideModel.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
TestTheEngineBesideAModel = pytest.mark.slow(EngineBesideModel.TestCase)
