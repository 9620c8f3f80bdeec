"""The recorder: a wrapper of the client library that records a history.

It records what the application passes and receives, so the client library is tested together with
the server.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

import headwater
from headwater.database import Database
from headwater.reads.pages import Pages
from headwater.reads.past import Past
from headwater.reads.reads import Reads
from headwater.records import TransactionStatus
from headwater.transactions.transaction import Transaction
from headwater.transactions.writes import Writes
from tests.simulation.ages import age_us
from tests.simulation.history import (
    Add,
    Append,
    Attempt,
    DeleteRange,
    DeleteStream,
    Erase,
    Expire,
    Get,
    History,
    Kept,
    Key,
    Listing,
    Load,
    NoEvents,
    Operation,
    Outcome,
    Put,
    Query,
    Read,
    Retain,
    Save,
    Scan,
    StatusAnswer,
    Truncate,
    is_of_a_client,
    tags_of,
)
from tests.simulation.model import fold
from tests.simulation.trace import Trace
from tests.simulation.watching import element_of

UNKNOWN: Final = (
    headwater.CommitUnknown,
    headwater.TransactionForgotten,
    headwater.InternalError,
    headwater.DamagedFile,
)
"""Errors after which a transaction may have been committed."""

SURPRISING: Final = (
    headwater.InternalError,
    headwater.DamagedFile,
    headwater.InvalidArgument,
    headwater.ProtocolError,
    headwater.Undecodable,
    headwater.UnknownOperation,
    headwater.TransactionForgotten,
    headwater.NotANumber,
    headwater.TooLarge,
    headwater.TooMany,
)
"""Errors that show a bug or a broken disk."""

_LEFT_UNKNOWN: Final = 0.2
"""The share of unknown commits whose client does not ask for the outcome. They may still be in
flight."""

_ASKED_MAX: Final = 20
"""How often a client asks before it gives up."""


class Recording:
    """An attempt, and the object of the client library that it uses."""

    def __init__(self, attempt: Attempt, face: Any, history: History) -> None:
        self.attempt = attempt
        self.position = 0
        """The position of the last event that a query found."""
        self._history = history
        self._face = face
        self._reads: Reads = face
        self._writes: Writes = face

    def _keep_read(self, read: Operation, floor: int) -> None:
        """Record a read, and the newest commit that any client knew when it was requested."""
        self.attempt.floors[len(self.attempt.operations)] = floor
        self.attempt.operations.append(read)

    # Reads.

    async def get(self, key: Key) -> Any:
        value = await self._reads.get(key)
        self.attempt.operations.append(Get(key, value))
        return value

    async def scan(
        self, prefix: Key, *, limit: int | None = None, reverse: bool = False
    ) -> list[tuple[Key, Any]]:
        pages = self._reads.scan(prefix, limit=limit, reverse=reverse)
        items = [(key, value) async for key, value in pages if is_of_a_client(key)]
        self.attempt.operations.append(Scan(prefix, limit, reverse, items))
        return items

    async def read(self, stream: str, *, after: int = 0) -> list[str]:
        floor = self._history.acknowledged
        events = [event async for event in self._reads.read(stream, after=after)]
        elements = [element_of(event) for event in events]
        self._keep_read(Read(stream, after, elements), floor)
        return elements

    async def query(
        self,
        *,
        after: int = 0,
        category: str | None = None,
        kind: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> list[str]:
        floor = self._history.acknowledged
        pages = self._reads.read_all(
            after=after,
            category=category,
            types=None if kind is None else [kind],
            tags=tags or None,
        )
        events = [event async for event in pages]
        self.position = events[-1].position if events else after
        elements = [element_of(event) for event in events]
        self._keep_read(Query(after, category, kind, elements, tags), floor)
        return elements

    async def load(self, stream: str, schema: int) -> tuple[int, Any]:
        loaded = await self._reads.load(stream, schema=schema)
        elements = [element_of(event) for event in loaded.events]
        state = fold(schema, elements, loaded.snapshot.state if loaded.snapshot else None)
        self.attempt.operations.append(Load(stream, schema, loaded.version, state))
        return loaded.version, state

    async def load_kept(self, stream: str, schema: int) -> tuple[int, list[str] | None]:
        """The version, and all elements since the last deletion; None if some are hidden."""
        floor = self._history.acknowledged
        loaded = await self._reads.load(stream, schema=schema)
        base = loaded.snapshot
        elements = [] if base is None else list(base.state)
        elements += [element_of(event) for event in loaded.events]
        begins, version = loaded.begins, None if base is None else base.version
        read = Kept(stream, schema, loaded.version, begins, version, elements)
        self._keep_read(read, floor)
        return loaded.version, elements if loaded.is_whole else None

    async def listing(self, prefix: str) -> None:
        """List streams, outside a transaction."""
        found = [(s.stream, s.version, s.first, s.begins) async for s in self._streams(prefix)]
        self.attempt.operations.append(Listing(prefix, found))

    def _streams(self, prefix: str) -> Pages[headwater.StreamInfo]:
        face: Database | Past = self._face
        return face.streams(prefix=prefix)

    # Writes.

    def put(self, key: Key, value: Any, *, ttl_ms: int | None = None) -> None:
        self._writes.put(key, value, ttl=None if ttl_ms is None else ttl_ms / 1000)
        self.attempt.operations.append(Put(key, value))
        if ttl_ms is not None:
            self.attempt.operations.append(Expire(key, ttl_ms * 1000))

    def expire(self, key: Key, ttl_ms: int | None) -> None:
        self._writes.touch(key, ttl=None if ttl_ms is None else ttl_ms / 1000)
        self.attempt.operations.append(Expire(key, None if ttl_ms is None else ttl_ms * 1000))

    def delete(self, key: Key) -> None:
        self._writes.delete(key)
        self.attempt.operations.append(Put(key, None))

    def delete_range(self, prefix: Key) -> None:
        self._writes.delete_range(prefix)
        self.attempt.operations.append(DeleteRange(prefix))

    def add(self, key: Key, number: int) -> None:
        self._writes.add(key, number)
        self.attempt.operations.append(Add(key, number))

    def append(
        self,
        stream: str,
        elements: list[tuple[str, str]],
        *,
        expect: int = headwater.ANY,
        unless: tuple[str, ...] = (),
    ) -> None:
        """Append, if no event with the tags *unless* is after the position of the last query."""
        events = [event_of(element, kind) for element, kind in elements]
        if unless:
            query = headwater.Query(tags=unless)
            self._writes.append(stream, events, expect=expect, unless=query, after=self.position)
            self.attempt.operations.append(NoEvents(unless, self.position))
        else:
            self._writes.append(stream, events, expect=expect)
        self.attempt.operations.append(Append(stream, elements))

    def ack(self, delivery: headwater.Delivery) -> None:
        self._writes.ack(delivery)

    def save(self, stream: str, version: int, schema: int, state: Any) -> None:
        self._writes.save_snapshot(stream, version=version, state=state, schema=schema)

    def save_kept(self, stream: str, version: int, schema: int, elements: list[str]) -> None:
        self._writes.save_snapshot(stream, version=version, state=elements, schema=schema)
        self.attempt.operations.append(Save(stream, schema, version))

    def truncate(self, stream: str, before: int) -> None:
        self._writes.truncate(stream, before=before)
        self.attempt.operations.append(Truncate(stream, before))

    def delete_stream(self, stream: str) -> None:
        self._writes.delete_stream(stream)
        self.attempt.operations.append(DeleteStream(stream))

    def retain(self, stream: str, count: int | None) -> None:
        self._writes.set_retention(stream, max_count=count)
        self.attempt.operations.append(Retain(stream, count))

    def append_aging(self, stream: str, element: str) -> None:
        """Append to a stream whose name contains its maximum age."""
        age = age_us(stream)
        assert age is not None
        self._writes.set_retention(stream, max_age=age / 1_000_000)
        self.append(stream, [(element, "Aged")])

    def erase(self, stream: str, versions: list[int]) -> None:
        self._writes.erase(stream, versions=versions)
        self.attempt.operations.append(Erase(stream, versions))

    async def erase_newest(self, stream: str) -> None:
        """Erase the newest event of all, by its position."""
        found = [event async for event in self._reads.read(stream, reverse=True, limit=1)]
        committed = [event for event in found if event.position]
        if committed:
            self._writes.erase(positions=[committed[0].position])
            self.attempt.operations.append(Erase(stream, [committed[0].version]))


def event_of(element: str, kind: str) -> headwater.Event:
    """An event with the tags of its element."""
    return headwater.Event(kind, element, tags=tags_of(element))


class Recorder:
    """A client whose requests and answers are recorded.

    Attributes:
        database: the object of the client library.
        dice: the client's random source.
        surprises: errors that no client should get if the disk works.
        unreadable: the share of its events that no client can decode.
    """

    def __init__(
        self,
        history: History,
        client: str,
        database: Database,
        dice: random.Random,
        trace: Trace,
        surprises: list[str],
        unreadable: float = 0.0,
    ) -> None:
        self.history = history
        self.client = client
        self.database = database
        self.dice = dice
        self.surprises = surprises
        self.unreadable = unreadable
        self._fenced = history.fenced
        self._trace = trace

    @asynccontextmanager
    async def transaction(
        self, name: str, *, isolation: headwater.Isolation = "serializable", read_only: bool = False
    ) -> AsyncIterator[Recording]:
        """A transaction. Errors end its block and are recorded."""
        transaction = self.database.transaction(isolation=isolation, read_only=read_only)
        attempt = self._begin(name, transaction, isolation)
        try:
            async with transaction:
                yield Recording(attempt, transaction, self.history)
        except headwater.HeadwaterError as error:
            attempt.view = transaction.view
            await self._failed(attempt, error)
        else:
            attempt.view = transaction.view
            self._committed(attempt, transaction)

    async def run(
        self,
        name: str,
        function: Callable[[Recording], Awaitable[None]],
        *,
        isolation: headwater.Isolation = "serializable",
    ) -> None:
        """db.run: each call of the function is an attempt, and all but the last were aborted."""
        made: list[tuple[Attempt, Transaction]] = []

        async def body(transaction: Transaction) -> None:
            if made:
                self._end(made[-1][0], Outcome.ABORTED)
            attempt = self._begin(name, transaction, isolation)
            made.append((attempt, transaction))
            try:
                await function(Recording(attempt, transaction, self.history))
            finally:
                attempt.view = transaction.view

        try:
            await self.database.run(body, isolation=isolation)
        except headwater.HeadwaterError as error:
            if made:
                await self._failed(made[-1][0], error)
        else:
            self._committed(*made[-1])

    async def write(
        self, name: str, *operations: Operation, call: Callable[[], Awaitable[headwater.Committed]]
    ) -> None:
        """A single write, with an optional condition."""
        attempt = self.history.begin(self.client, name)
        attempt.operations.extend(operations)
        try:
            committed = await call()
        except headwater.HeadwaterError as error:
            attempt.identity = error.details.get("transaction")
            await self._failed(attempt, error)
        else:
            self._end(attempt, Outcome.COMMITTED, committed.commit)

    @asynccontextmanager
    async def reading(self, name: str, *, at_commit: int | None = None) -> AsyncIterator[Recording]:
        """A read outside a transaction, of the newest or a past commit."""
        attempt = self.history.begin(self.client, name)
        attempt.view = at_commit
        face = self.database if at_commit is None else self.database.at(commit=at_commit)
        try:
            yield Recording(attempt, face, self.history)
        except headwater.HeadwaterError as error:
            self.note(error)
            self._end(attempt, Outcome.ABORTED)
        else:
            self._end(attempt, Outcome.COMMITTED)

    async def execute(self, name: str, fill: Callable[[headwater.Batch], list[Operation]]) -> None:
        """A batch. *fill* adds its operations and returns them; of reads, the expected results."""
        attempt = self.history.begin(self.client, name)
        batch = self.database.batch()
        attempt.operations = fill(batch)
        try:
            done = await self.database.execute(batch)
        except headwater.ConditionFailed as error:
            # Its expected reads were wrong, so it wrote nothing.
            attempt.operations.clear()
            await self._failed(attempt, error)
        except headwater.HeadwaterError as error:
            attempt.identity = error.details.get("transaction")
            # The results of its reads and conditions are unknown.
            attempt.operations = [e for e in attempt.operations if not isinstance(e, Get)]
            if isinstance(error, headwater.HistoryGone):
                # It was sent again after its answer was lost.
                self._end(attempt, Outcome.COMMITTED, error.details.get("commit"))
            else:
                await self._failed(attempt, error)
        else:
            results = iter(done.results)
            attempt.operations = [
                each._replace(value=next(results))
                if isinstance(each, Get) and each.value is ...
                else each
                for each in attempt.operations
            ]
            # It was validated against, and read, all commits with lower numbers.
            commit = done.committed.commit
            attempt.view = commit - 1 if attempt.writes else commit
            self._end(attempt, Outcome.COMMITTED, commit)

    async def ask_status(self, identity: bytes, *, resolve: bool) -> None:
        """Ask for the outcome of a transaction of any client."""
        if resolve:
            self._fenced.add(identity)
        try:
            await self._status(identity, resolve=resolve)
        except headwater.HeadwaterError as error:
            self.note(error)

    async def _status(self, identity: bytes, *, resolve: bool) -> TransactionStatus:
        floor = self.history.acknowledged
        asked = self.history.tick()
        status = await self.database.status(identity, resolve=resolve)
        commit = None if status.committed is None else status.committed.commit
        told = self.history.tick()
        self.history.status_answers.append(
            StatusAnswer(identity, status.state, commit, floor, asked, told)
        )
        self._trace.add("status of", identity, status.state, commit)
        return status

    def note(self, error: headwater.HeadwaterError, identity: bytes | None = None) -> None:
        """Record an error that a client should not get."""
        self._trace.add("error", self.client, error.code)
        if isinstance(error, SURPRISING):
            self.surprises.append(f"{self.client}: {error.code}: {error.message}")

    # How it ended.

    def _begin(self, name: str, transaction: Transaction, isolation: str) -> Attempt:
        attempt = self.history.begin(self.client, name, isolation=isolation)
        attempt.identity = transaction.id.bytes
        return attempt

    def _end(self, attempt: Attempt, outcome: Outcome, commit: int | None = None) -> None:
        self.history.end(attempt, outcome, commit)
        self._trace.add("end", str(attempt))

    def _committed(self, attempt: Attempt, transaction: Transaction) -> None:
        commit = transaction.committed.commit if attempt.writes else None
        self._end(attempt, Outcome.COMMITTED, commit)

    async def _failed(self, attempt: Attempt, error: headwater.HeadwaterError) -> None:
        self.note(error, attempt.identity)
        if not isinstance(error, UNKNOWN):
            self._end(attempt, Outcome.ABORTED)
        elif attempt.identity is None or self.dice.random() < _LEFT_UNKNOWN:
            self._end(attempt, Outcome.UNKNOWN)
        else:
            await self._settle(attempt, attempt.identity)

    async def _settle(self, attempt: Attempt, identity: bytes) -> None:
        """Ask for the outcome of a transaction; abort it unless it committed."""
        for _ in range(_ASKED_MAX):
            try:
                status = await self._status(identity, resolve=True)
            except headwater.HeadwaterError as error:
                self.note(error)
                await trio.sleep(self.dice.uniform(0.05, 0.5))
                continue
            if status.committed is not None:
                self._end(attempt, Outcome.COMMITTED, status.committed.commit)
            elif status.state == "aborted":
                self._end(attempt, Outcome.ABORTED)
            else:
                self._end(attempt, Outcome.UNKNOWN)
            return
        self._end(attempt, Outcome.UNKNOWN)
