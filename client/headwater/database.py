"""The database, as applications on trio and asyncio use it."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar, TypeVarTuple, overload
from uuid import UUID

from headwater.accounts.administration import Administration
from headwater.codecs.codec import Codec
from headwater.consumers.consuming import Consuming
from headwater.errors import InvalidArgument
from headwater.feeds.key_feed import KeyFeed
from headwater.feeds.subscription import WINDOW_DEFAULT, Subscription
from headwater.groups.administration import Groups
from headwater.groups.membership import GROUP_CREDIT_DEFAULT, Membership
from headwater.identifiers import new_transaction_id, transaction_bytes
from headwater.locks.lock import Locking
from headwater.nodes.routed_channel import open_channel
from headwater.projections.host import Host
from headwater.projections.models import ReadModel
from headwater.projections.projections import (
    ATTEMPTS_DEFAULT,
    BATCH_SECONDS_DEFAULT,
    BATCH_SIZE_DEFAULT,
    Projections,
    ProjectionStatus,
    check_handler,
)
from headwater.reads.commit_reads import CommitReads
from headwater.reads.history import History
from headwater.reads.key_ranges import KeyRange, deleted_range, range_of
from headwater.reads.past import Past
from headwater.reads.query import Query, event_filter
from headwater.reads.reads import Reads
from headwater.records import (
    Committed,
    Committing,
    TransactionStatus,
    committed_from,
)
from headwater.transactions import running
from headwater.transactions.batch import Batch, Executed
from headwater.transactions.range_deletion import DeletedRange, delete_part, delete_parts
from headwater.transactions.single_writes import SingleWrites
from headwater.transactions.transaction import Isolation, Transaction
from headwater.transport.channel import Channel
from headwater.transport.choice import running_runtime
from headwater.transport.runtime import Options, Runtime
from headwater_protocol.address import Address
from headwater_protocol.keys import Key
from headwater_protocol.operations import NAME, POSITION, SERIALIZABLE, SNAPSHOT

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
F = TypeVar("F", bound=Callable[..., Any])


class Database(Reads, History, CommitReads, SingleWrites, Consuming, Locking, Administration):
    """A database on a server. Any number of tasks may use it at once, over one connection.

    Use it with `async with`. A lost connection is reopened when it is next needed.

    A read outside of a transaction sees the newest commit. If its result comes in pages, all are of
    the commit of the first page, unless it outlasts the history window (`Pages.moved`). A write
    outside of one is a transaction itself. It happens exactly once, also if the connection is lost.

    Attributes:
        address: of the server.
        options: timeouts, the codec, and the name of this client.
    """

    def __init__(self, address: Address, options: Options, runtime: Runtime | None = None) -> None:
        self.address = address
        self.options = options
        self._codec: Codec = options.codec
        self._runtime = runtime
        self._opened_channel: Channel | None = None
        self._projections: Projections | None = None

    async def __aenter__(self) -> "Database":
        if self._opened_channel is not None:
            raise InvalidArgument("this database was opened before; connect() makes a new one")
        if self._runtime is None:
            self._runtime = running_runtime()
        await self._runtime.__aenter__()
        self._opened_channel = open_channel(self._runtime, self.address, self.options)
        try:
            now = self._runtime.now()
            await self._opened_channel.enter(None if self.options.wait_for_server else now)
        except BaseException as error:
            await self._runtime.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        assert self._runtime is not None
        assert self._opened_channel is not None
        self._opened_channel.close()
        return await self._runtime.__aexit__(kind, error, trace)

    async def close(self) -> None:
        """Close all connections now. Leaving `async with` does the same.

        It ends every wait of other tasks. A commit that was sent raises CommitUnknown.
        """
        if self._opened_channel is not None:
            self._opened_channel.close()

    @property
    def _channel(self) -> Channel:
        if self._opened_channel is None:
            raise InvalidArgument("use the database inside of `async with connect(…) as db`")
        return self._opened_channel

    def _fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        channel = self._opened_channel or self._channel
        return channel.fetch(name, *arguments, at_commit=at_commit)

    def _ask(self, name: str, *arguments: Any) -> Coroutine[Any, Any, Any]:
        return self._channel.read(name, *arguments)

    async def _looked_at(self) -> int | None:
        return None

    def _host(self) -> Host:
        return Host(self._channel, self._codec)

    # Transactions.

    def transaction(
        self, *, isolation: Isolation = SERIALIZABLE, read_only: bool = False
    ) -> Transaction:
        """Make a transaction. `async with` commits it at the end of the block.

        If the block raises an exception, the transaction is rolled back.

        Args:
            isolation: "serializable": the result is as if transactions ran one after the other.
                "snapshot": two transactions conflict only if they put or delete the same key.
            read_only: refuse writes. All reads are of one commit, and there are no conflicts.
        """
        return Transaction(self._channel, self._codec, isolation=isolation, read_only=read_only)

    async def run(
        self,
        function: Callable[[Transaction, *Ts], Awaitable[T]],
        *arguments: *Ts,
        isolation: Isolation = SERIALIZABLE,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> T:
        """Call function(tx, *arguments), commit, and return its result.

        After a conflict or a lost connection the function is called again, with a new
        transaction. What it does with the transaction takes effect exactly once. Everything else
        that it does may be repeated.

        Args:
            function: the work; the first argument is the transaction.
            arguments: passed on to the function.
            isolation: of the transactions, as for `transaction`.
            attempts: the maximum number of calls. None: no limit but the deadline.
            deadline: seconds after which no new attempt starts. None: the retry_timeout of
                `connect`.

        Raises:
            CommitUnknown: the commit may have happened. No server answered before the deadline.
            HeadwaterError: an error that another attempt cannot cure, or that of the last attempt.
        """
        return await running.run(
            self._channel,
            lambda: self.transaction(isolation=isolation),
            function,
            arguments,
            attempts=attempts,
            deadline=deadline,
        )

    async def delete_range(
        self, prefix: Key | None = None, *, start: Key | None = None, end: Key | None = None
    ) -> DeletedRange:
        """Delete the keys that begin with *prefix*, or those from *start* to before *end*.

        However many there are: up to 10,000 at a time are deleted in a transaction of its own, each
        exactly once. So others may see a part of them deleted. If an error ends it, call it again
        for the rest. To delete all of at most 100,000 keys together, use a transaction.

        Args:
            prefix: a tuple that the keys begin with. The empty tuple is the prefix of all keys.
            start, end: the first key, and the key before which to stop.

        Returns:
            The number of deleted keys, and the last commit.
        """
        first, last = deleted_range(prefix, start, end)
        return await delete_parts(
            lambda begin, end: self.run(delete_part, begin, end, isolation=SNAPSHOT), first, last
        )

    def batch(self) -> Batch:
        """Make an empty batch. `execute` sends all of it in one round trip."""
        self._channel  # noqa: B018 - raises if there is none
        return Batch(self._codec)

    async def execute(self, batch: Batch) -> Executed:
        """Execute a batch as one transaction, exactly once.

        Raises:
            ConditionFailed: one of its conditions does not hold. Nothing was written.
            HistoryGone: the batch was committed, as error.details["commit"], but the answer was
                lost. When the client asked again, the commit that the batch had read was older
                than the history window.
        """
        transaction = new_transaction_id()
        committed, results = await self._channel.persist(
            transaction, "execute", transaction, *batch.request()
        )
        batch.settle_deliveries()
        return Executed(committed_from(committed), batch.results(results))

    async def status(
        self, transaction: UUID | bytes | str, *, resolve: bool = False
    ) -> TransactionStatus:
        """Ask for the status of a transaction.

        Args:
            transaction: its id.
            resolve: abort the transaction unless it has committed. Then the answer is final.
        """
        try:
            identity = transaction_bytes(transaction)
        except ValueError as error:
            raise InvalidArgument(f"status: {error}") from error
        state, committed = await self._channel.read("status", identity, resolve)
        return TransactionStatus(state, None if committed is None else committed_from(committed))

    # The past, and feeds.

    def at(self, *, commit: int | None = None, time: datetime | None = None) -> Past:
        """Read the database as it was at a commit, or at the newest commit at a time."""
        return Past(self._channel, self._codec, commit=commit, time=time)

    @overload
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
        window: int = WINDOW_DEFAULT,
    ) -> Subscription: ...
    @overload
    def subscribe(
        self, *, keys: Key | KeyRange, after: int = 0, window: int = WINDOW_DEFAULT
    ) -> KeyFeed: ...
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
    ) -> Subscription | KeyFeed:
        """Subscribe to the events after a position: first those of the past, then new ones.

        Args:
            after: a position, exclusive. 0: start with the first event.
            since: only events of this time and later.
            stream, category, prefix, types, tags, query: which events, as for read_all.
            keys: a prefix of keys, or a KeyRange. Instead of events, deliver every change of these
                keys. Then `after` is a commit of the history window.
            window: how many events or changes the server may send ahead of the consumer.
        """
        POSITION(after, "subscribe: after")
        if keys is not None:
            if any(
                each is not None for each in (since, stream, category, prefix, types, tags, query)
            ):
                raise InvalidArgument("subscribe: keys= allows only after= and window= beside it")
            wanted_keys = range_of(keys)
            return KeyFeed(
                self._channel, self._codec, wanted=wanted_keys, after=after, window=window
            )
        wanted = event_filter(
            "subscribe",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        return Subscription(
            self._channel, self._codec, after=after, wanted=wanted, window=window, since=since
        )

    @property
    def groups(self) -> Groups:
        """The consumer groups: create, change, list and delete them, and see parked events."""
        return Groups(lambda: self._channel, self._codec)

    def join(
        self, group: str, *, credit: int = GROUP_CREDIT_DEFAULT, until_caught_up: bool = False
    ) -> Membership:
        """Join a consumer group: `async with db.join(…) as group`, then `async for`.

        Args:
            group: its name.
            credit: how many unsettled deliveries this consumer may hold at once.
            until_caught_up: stop once every event is done, parked, or waits behind a parked one.
        """
        NAME(group, "join: group")
        return Membership(
            self._channel, self._codec, group, credit=credit, until_caught_up=until_caught_up
        )

    # Projections.

    @property
    def projections(self) -> Projections:
        """The projections of this database: status, parked streams, rebuilding."""
        if self._projections is None:
            self._projections = Projections(self._host)
        return self._projections

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
        effects: Callable[..., Any] | None = None,
    ) -> Callable[[F], F]:
        """Define a projection: a handler of events whose writes happen exactly once.

        The handler, handler(tx, event), writes to `tx.model`, which readers see as
        `db.model(name)`. It may use everything else that a transaction offers.
        `run_projections` calls it. If it raises an error, the stream of the event is parked.

        Args:
            name: the name under which its position and its model are stored.
            version: of the handler. A higher version rebuilds the model beside the old one.
            stream, category, prefix, types, tags, query: which events, as for read_all.
            batched: pass a list of events to the handler: handler(tx, events).
            batch_size: the maximum number of events in one transaction.
            batch_seconds: seconds after which a transaction takes no further event.
            attempts: how often an event is tried before its stream is parked.
            effects: effects(tx, event), called after the handler, in the same transaction, for each
                event that no other build has dealt with. So a rebuild leaves out what it does.
        """

        def define(handler: F) -> F:
            check_handler(name, handler, waits=True)
            if effects is not None:
                check_handler(name, effects, waits=True)
            self.projections.define(
                name,
                handler,
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
                effects=effects,
            )
            return handler

        return define

    def run_projections(self, *names: str) -> AbstractAsyncContextManager[None]:
        """Run projections while a block runs: `async with db.run_projections()`.

        Several processes may run the same projection; each event takes effect once. A projection
        survives lost connections, however long they last. An error that retrying cannot cure ends
        the block.

        Args:
            names: the projections to run. Without names: all that are defined here.
        """
        return self.projections.run(*names)

    async def wait_for(
        self,
        name: str,
        position: int | Committed | Committing | None,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> None:
        """Wait until a projection has processed all events up to a position, or those of a commit.

        After `await db.wait_for("balances", await db.append(…))` the model contains what that
        commit wrote. Events of a parked stream count as processed.

        Args:
            name: of the projection. It may run in another process.
            position: of any event, also of one that the projection does not handle; or what a
                commit returned: a Committed, or what has one, as `Executed`, `Decided` and a
                transaction. If it appended no events, there is nothing to wait for.
            timeout: in seconds.

        Raises:
            ProjectionBehind: the projection had not reached the position in time.
        """
        await self.projections.wait_for(name, position, timeout=timeout)

    async def projection_status(self, name: str) -> ProjectionStatus:
        """The position of a projection, its lag, and the number of its parked streams.

        Raises:
            InvalidArgument: the projection never ran on this database.
        """
        return await self.projections.status(name)

    def model(self, name: str) -> ReadModel:
        """The read model of a projection, as readers see it."""
        NAME(name, "model: name")
        return ReadModel(self, name, self._channel)
