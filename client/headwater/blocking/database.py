"""The database without an event loop: the same names, without await.

Each class here wraps one of the async face and runs its coroutines with `step`, so the logic
exists once. tests/client/blocking/test_faces.py compares the names and signatures of both faces.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from headwater.blocking.groups import BlockingGroups, BlockingMembership
from headwater.blocking.listing import BlockingListings
from headwater.blocking.pages import BlockingPages
from headwater.blocking.retention import BlockingRetention
from headwater.database import Database
from headwater.errors import InvalidArgument
from headwater.feeds.items import Item
from headwater.feeds.subscription import WINDOW_DEFAULT, Events, Subscription
from headwater.groups.membership import GROUP_CREDIT_DEFAULT
from headwater.projections.projections import (
    ATTEMPTS_DEFAULT,
    BATCH_SECONDS_DEFAULT,
    BATCH_SIZE_DEFAULT,
    ProjectionStatus,
    check_handler,
)
from headwater.reads.key_ranges import KeyRange
from headwater.reads.past import Past
from headwater.reads.query import Query
from headwater.reads.reads import Reads
from headwater.records import (
    Backup,
    CommitRecord,
    Committed,
    Event,
    Loaded,
    Pong,
    RecordedEvent,
    TransactionStatus,
)
from headwater.transactions.batch import Batch, Executed
from headwater.transactions.transaction import Transaction
from headwater.transport.address import Address
from headwater.transport.blocking_runtime import BlockingRuntime
from headwater.transport.runtime import Options
from headwater.transport.stepping import step
from headwater_protocol.keys import Key, KeyTuple
from headwater_protocol.numbers import ANY, CommitNumber
from headwater_protocol.operations import SERIALIZABLE

if TYPE_CHECKING:
    from headwater.blocking.projections import (
        BlockingProjections,
        BlockingReadModel,
        RunningProjections,
    )

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class BlockingReads:
    """What can be read; see Reads."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def get(self, key: Key, default: Any = None) -> Any:
        return step(self._reads.get(key, default))

    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> BlockingPages[tuple[KeyTuple, Any]]:
        return BlockingPages(
            self._reads.scan(prefix, start=start, end=end, reverse=reverse, limit=limit)
        )

    def read(
        self,
        stream: str,
        *,
        after: int = 0,
        since: datetime | None = None,
        types: Sequence[str] | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> BlockingPages[RecordedEvent]:
        return BlockingPages(
            self._reads.read(
                stream, after=after, since=since, types=types, reverse=reverse, limit=limit
            )
        )

    def read_all(
        self,
        *,
        after: int = 0,
        since: datetime | None = None,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> BlockingPages[RecordedEvent]:
        return BlockingPages(
            self._reads.read_all(
                after=after,
                since=since,
                stream=stream,
                category=category,
                prefix=prefix,
                types=types,
                tags=tags,
                query=query,
                reverse=reverse,
                limit=limit,
            )
        )

    def load(self, stream: str, *, schema: int = 0, name: str = "") -> Loaded:
        return step(self._reads.load(stream, schema=schema, name=name))


class BlockingPast(BlockingReads, BlockingListings):
    """The database as it was; see Past."""

    def __init__(self, past: Past) -> None:
        super().__init__(past)
        self._past = past

    def commit(self) -> CommitNumber:
        return step(self._past.commit())


class BlockingTransaction(BlockingReads):
    """A transaction; see Transaction. It belongs to one thread."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._transaction = transaction
        # These do not wait, so they are the same.
        self.put = transaction.put
        self.delete = transaction.delete
        self.delete_range = transaction.delete_range
        self.add = transaction.add
        self.min = transaction.min
        self.max = transaction.max
        self.append = transaction.append
        self.save_snapshot = transaction.save_snapshot
        self.truncate = transaction.truncate
        self.delete_stream = transaction.delete_stream
        self.set_retention = transaction.set_retention
        self.erase = transaction.erase
        self.ack = transaction.ack

    def __enter__(self) -> "BlockingTransaction":
        step(self._transaction.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        step(self._transaction.__aexit__(kind, error, trace))

    @property
    def id(self) -> UUID:
        return self._transaction.id

    @property
    def isolation(self) -> str:
        return self._transaction.isolation

    @property
    def read_only(self) -> bool:
        return self._transaction.read_only

    @property
    def view(self) -> CommitNumber | None:
        return self._transaction.view

    @property
    def committed(self) -> Committed:
        return self._transaction.committed

    def begin(self) -> None:
        step(self._transaction.begin())

    def commit(self) -> Committed | None:
        return step(self._transaction.commit())

    def rollback(self) -> None:
        step(self._transaction.rollback())


class BlockingSubscription(Iterator[Item]):
    """A subscription; see Subscription. It has a connection of its own."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def __enter__(self) -> "BlockingSubscription":
        step(self._subscription.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        step(self._subscription.__aexit__(kind, error, trace))

    def __next__(self) -> Item:
        return step(self._subscription.__anext__())

    @property
    def position(self) -> int:
        return self._subscription.position

    def events(self) -> "BlockingEvents":
        return BlockingEvents(self._subscription.events())


class BlockingEvents(Iterator[RecordedEvent]):
    """Single events of a subscription."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def __next__(self) -> RecordedEvent:
        return step(self._events.__anext__())


class BlockingDatabase(BlockingReads, BlockingListings, BlockingRetention):
    """A database on a server; see Database. Threads may share it; one asks at a time."""

    def __init__(self, address: Address, options: Options) -> None:
        self._database = Database(address, options, BlockingRuntime())
        super().__init__(self._database)

    @property
    def address(self) -> Address:
        return self._database.address

    @property
    def options(self) -> Options:
        return self._database.options

    def __enter__(self) -> "BlockingDatabase":
        step(self._database.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        step(self._database.__aexit__(kind, error, trace))

    def close(self) -> None:
        step(self._database.close())

    def transaction(
        self, *, isolation: str = SERIALIZABLE, read_only: bool = False
    ) -> BlockingTransaction:
        return BlockingTransaction(
            self._database.transaction(isolation=isolation, read_only=read_only)
        )

    def run(
        self,
        function: Callable[..., T],
        *arguments: Any,
        isolation: str = SERIALIZABLE,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> T:
        async def call(transaction: Transaction, *inner: Any) -> T:
            result = function(BlockingTransaction(transaction), *inner)
            if inspect.iscoroutine(result):
                result.close()
                raise InvalidArgument(
                    f"run: {function!r:.80} is an `async def`; a blocking database wants a `def`"
                )
            return result

        return step(
            self._database.run(
                call, *arguments, isolation=isolation, attempts=attempts, deadline=deadline
            )
        )

    def batch(self) -> Batch:
        return self._database.batch()

    def execute(self, batch: Batch) -> Executed:
        return step(self._database.execute(batch))

    def status(
        self, transaction: UUID | bytes | str, *, resolve: bool = False
    ) -> TransactionStatus:
        return step(self._database.status(transaction, resolve=resolve))

    def put(self, key: Key, value: Any) -> Committed:
        return step(self._database.put(key, value))

    def delete(self, key: Key) -> Committed:
        return step(self._database.delete(key))

    def delete_range(
        self, prefix: Key | None = None, *, start: Key | None = None, end: Key | None = None
    ) -> Committed:
        return step(self._database.delete_range(prefix, start=start, end=end))

    def add(self, key: Key, number: float) -> Committed:
        return step(self._database.add(key, number))

    def min(self, key: Key, number: float) -> Committed:
        return step(self._database.min(key, number))

    def max(self, key: Key, number: float) -> Committed:
        return step(self._database.max(key, number))

    def append(
        self,
        stream: str,
        events: Event | Iterable[Event],
        *,
        expect: int = ANY,
        unless: Query | None = None,
        after: int = 0,
    ) -> Committed:
        return step(
            self._database.append(stream, events, expect=expect, unless=unless, after=after)
        )

    def save_snapshot(
        self, stream: str, *, version: int, state: Any, schema: int = 0, name: str = ""
    ) -> Committed:
        return step(
            self._database.save_snapshot(
                stream, version=version, state=state, schema=schema, name=name
            )
        )

    def at(self, *, commit: int | None = None, time: datetime | None = None) -> BlockingPast:
        return BlockingPast(self._database.at(commit=commit, time=time))

    def subscribe(
        self,
        *,
        after: int = 0,
        since: datetime | None = None,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        keys: Key | KeyRange | None = None,
        window: int = WINDOW_DEFAULT,
    ) -> BlockingSubscription:
        return BlockingSubscription(
            self._database.subscribe(
                after=after,
                since=since,
                stream=stream,
                category=category,
                prefix=prefix,
                types=types,
                tags=tags,
                query=query,
                keys=keys,
                window=window,
            )
        )

    @property
    def groups(self) -> BlockingGroups:
        return BlockingGroups(self._database.groups)

    def join(
        self, group: str, *, credit: int = GROUP_CREDIT_DEFAULT, until_caught_up: bool = False
    ) -> BlockingMembership:
        return BlockingMembership(
            self._database.join(group, credit=credit, until_caught_up=until_caught_up)
        )

    def commits(self, *, after: int = 0, limit: int | None = None) -> BlockingPages[CommitRecord]:
        return BlockingPages(self._database.commits(after=after, limit=limit))

    # Their module builds on this one.

    @property
    def projections(self) -> "BlockingProjections":
        from headwater.blocking.projections import BlockingProjections

        return BlockingProjections(self._database.projections)

    def projection(
        self,
        name: str,
        *,
        version: int = 1,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        batched: bool = False,
        batch_size: int = BATCH_SIZE_DEFAULT,
        batch_seconds: float = BATCH_SECONDS_DEFAULT,
        attempts: int = ATTEMPTS_DEFAULT,
    ) -> Callable[[F], F]:
        from headwater.blocking.projections import stepped_handler

        def define(handler: F) -> F:
            check_handler(name, handler, waits=False)
            self._database.projections.define(
                name,
                stepped_handler(handler),
                version=version,
                stream=stream,
                category=category,
                prefix=prefix,
                types=types,
                tags=tags,
                query=query,
                batched=batched,
                batch_size=batch_size,
                batch_seconds=batch_seconds,
                attempts=attempts,
            )
            return handler

        return define

    def run_projections(self, *names: str) -> "RunningProjections":
        from headwater.blocking.projections import RunningProjections

        return RunningProjections(self._database, self._database.projections, names)

    def wait_for(self, name: str, position: int, *, timeout: float = 30.0) -> None:
        step(self._database.wait_for(name, position, timeout=timeout))

    def projection_status(self, name: str) -> ProjectionStatus:
        return step(self._database.projection_status(name))

    def model(self, name: str) -> "BlockingReadModel":
        from headwater.blocking.projections import BlockingReadModel

        return BlockingReadModel(self._database.model(name))

    def ping(self) -> Pong:
        return step(self._database.ping())

    def stats(self) -> dict[str, Any]:
        return step(self._database.stats())

    def backup(self, name: str) -> Backup:
        return step(self._database.backup(name))

    def users(self) -> list[str]:
        return step(self._database.users())

    def add_user(self, name: str, password: str) -> None:
        step(self._database.add_user(name, password))

    def set_password(self, name: str, password: str) -> None:
        step(self._database.set_password(name, password))

    def remove_user(self, name: str) -> None:
        step(self._database.remove_user(name))
