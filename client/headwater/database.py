"""The database, as applications on trio and asyncio use it."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.feeds.key_feed import KeyFeed
from headwater.feeds.subscription import WINDOW_DEFAULT, Subscription
from headwater.groups.administration import Groups
from headwater.groups.membership import GROUP_CREDIT_DEFAULT, Membership
from headwater.identifiers import new_transaction_id, transaction_bytes
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
from headwater.reads.key_ranges import KeyRange, range_of
from headwater.reads.listing import CategoryInfo, CategoryPages, StreamInfo, StreamPages, newest
from headwater.reads.pages import CommitPages, Pages, SnapshotPages
from headwater.reads.past import Past
from headwater.reads.query import Query, event_filter
from headwater.reads.reads import Reads
from headwater.records import (
    Backup,
    CommitRecord,
    Pong,
    StoredSnapshot,
    TransactionStatus,
    committed_from,
    time_of,
)
from headwater.transactions import running
from headwater.transactions.batch import Batch, Executed
from headwater.transactions.single_writes import SingleWrites
from headwater.transactions.transaction import Transaction
from headwater.transport.address import Address
from headwater.transport.channel import Channel
from headwater.transport.choice import running_runtime
from headwater.transport.handshake import verifier
from headwater.transport.runtime import Options, Runtime
from headwater_protocol.keys import Key
from headwater_protocol.operations import COMMIT, NAME, POSITION, SERIALIZABLE

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Database(Reads, SingleWrites):
    """A database on a server. Any number of tasks may use it at once, over one connection.

    Use it with `async with`. A connection that is lost is opened again when it is next used.

    Reads outside of a transaction see the newest commit; one that comes in pages stays at the
    commit of its first page. Writes outside of a transaction are each one of their own, and
    are done exactly once, even when the connection is lost meanwhile.

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
            raise InvalidArgument("this database was opened before; connect() gives another")
        if self._runtime is None:
            self._runtime = running_runtime()
        await self._runtime.__aenter__()
        self._opened_channel = Channel(self._runtime, self.address, self.options)
        try:
            await self._opened_channel.connection()
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
        """Close the connection now; leaving `async with` does it too."""
        if self._opened_channel is not None:
            self._opened_channel.close()

    @property
    def _channel(self) -> Channel:
        if self._opened_channel is None:
            raise InvalidArgument("a database is used inside of `async with connect(…) as db`")
        return self._opened_channel

    def _fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        channel = self._opened_channel or self._channel
        return channel.fetch(name, *arguments, at_commit=at_commit)

    def _ask(self, name: str, *arguments: Any) -> Coroutine[Any, Any, Any]:
        return self._channel.read(name, *arguments)

    def _host(self) -> Host:
        return Host(self._channel, self._codec)

    # Transactions.

    def transaction(self, *, isolation: str = SERIALIZABLE, read_only: bool = False) -> Transaction:
        """A transaction: `async with` commits it at the end of the block, or rolls it back.

        Args:
            isolation: "serializable": as if transactions ran one after the other. "snapshot":
                only two that write the same key conflict.
            read_only: all reads are of one commit; it takes no writes and never conflicts.
        """
        return Transaction(self._channel, self._codec, isolation=isolation, read_only=read_only)

    async def run(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        isolation: str = SERIALIZABLE,
        attempts: int | None = None,
        deadline: float | None = None,
    ) -> T:
        """Call function(tx, *arguments) and commit; its result, once that has happened.

        It is called again, with a new transaction, after a conflict or a lost connection, and
        takes effect exactly once. So whatever else it does must bear to be repeated.

        Args:
            attempts: how often it is called at most; None: as often as the deadline allows.
            deadline: seconds after which no new attempt is begun; None: retry_timeout.
        """
        return await running.run(
            self._channel,
            lambda: self.transaction(isolation=isolation),
            function,
            arguments,
            attempts=attempts,
            deadline=deadline,
        )

    def batch(self) -> Batch:
        """Conditions, reads and writes to be executed together in one round trip."""
        self._channel  # noqa: B018 - raises if there is none
        return Batch(self._codec)

    async def execute(self, batch: Batch) -> Executed:
        """Execute a batch as one transaction, exactly once.

        Raises:
            ConditionFailed: one of its conditions does not hold; nothing was done.
            HistoryGone: it was committed, as error.details["commit"], but the answer was lost,
                and when it was asked for again, what it read was beyond the history window.
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
        """What became of a transaction.

        Args:
            transaction: its id.
            resolve: abort it for good unless it has committed, so that the answer is final.
        """
        try:
            identity = transaction_bytes(transaction)
        except ValueError as error:
            raise InvalidArgument(f"status: {error}") from error
        state, committed = await self._channel.read("status", identity, resolve)
        return TransactionStatus(state, None if committed is None else committed_from(committed))

    # What was, what comes.

    def at(self, *, commit: int | None = None, time: datetime | None = None) -> Past:
        """The database as it was at a commit, or at the newest commit of a time."""
        return Past(self._channel, self._codec, commit=commit, time=time)

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
    ) -> Subscription:
        """Events after a position, from history into what is still to come.

        Args:
            after: a position, exclusive; 0: from the first event.
            since: only events of this time and later.
            stream, category, prefix, types, tags, query: which events, as for read_all.
            keys: in place of events, every change of the keys that begin so, or of a KeyRange;
                `after` is a commit then, within the history window.
            window: events or changes that the server may send ahead of the consumer.
        """
        POSITION(after, "subscribe: after")
        if keys is not None:
            if any(
                each is not None for each in (since, stream, category, prefix, types, tags, query)
            ):
                raise InvalidArgument("subscribe: keys= goes with after= and window= alone")
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
        """The consumer groups: to create, change, list and delete them, and what is parked."""
        return Groups(lambda: self._channel, self._codec)

    def join(
        self, group: str, *, credit: int = GROUP_CREDIT_DEFAULT, until_caught_up: bool = False
    ) -> Membership:
        """Become a consumer of a group: `async with db.join(…) as group`, and `async for`.

        Args:
            group: its name.
            credit: deliveries that may be here at once, settled ones not counted.
            until_caught_up: end once every event is done, instead of waiting for new ones.
        """
        NAME(group, "join: group")
        return Membership(
            self._channel, self._codec, group, credit=credit, until_caught_up=until_caught_up
        )

    def commits(self, *, after: int = 0, limit: int | None = None) -> Pages[CommitRecord]:
        """Iterate over the commit log: who committed what, and when."""
        COMMIT(after, "commits: after")
        return CommitPages(self._channel.read, after, limit=limit)

    def snapshots(self) -> Pages[StoredSnapshot]:
        """Iterate over every stored snapshot, in no order that means something."""
        return SnapshotPages(self._channel.read, self._codec)

    def streams(self, *, prefix: str = "") -> Pages[StreamInfo]:
        """Iterate over the streams whose names begin with *prefix*, in order of name."""
        return StreamPages(self._channel.read, prefix, newest)

    def categories(self) -> Pages[CategoryInfo]:
        """Iterate over the categories, in order of name."""
        return CategoryPages(self._channel.read, newest)

    # Projections.

    @property
    def projections(self) -> Projections:
        """The projections of this database: their status, what is parked, rebuilding."""
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
    ) -> Callable[[F], F]:
        """Define a projection: a handler of events, whose writes happen exactly once.

        The handler, handler(tx, event), writes to `tx.model`, which readers see as
        `db.model(name)`, and may do all else that a transaction can. It is run by
        `run_projections`. If it raises an error, the stream of the event is parked.

        Args:
            name: under which its position and its model are kept.
            version: of the handler. Raise it, and the model is made anew beside the old one.
            stream, category, prefix, types, tags, query: which events, as for read_all.
            batched: the handler takes a list of events, handler(tx, events).
            batch_size: events in one transaction at most.
            batch_seconds: seconds after which a transaction takes no further event.
            attempts: how often an event is tried before its stream is parked.
        """

        def define(handler: F) -> F:
            check_handler(name, handler, waits=True)
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
            )
            return handler

        return define

    def run_projections(self, *names: str) -> AbstractAsyncContextManager[None]:
        """Run projections as long as a block runs: `async with db.run_projections()`.

        Several processes may run the same: each event takes effect once. They go on after a lost
        connection, for as long as it takes. An error that time does not mend ends the block.

        Args:
            names: of those to run; without any, all that are defined here.
        """
        return self.projections.run(*names)

    async def wait_for(self, name: str, position: int, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Return when a projection has dealt with all events up to a position.

        It reads as much as has been written then: await db.wait_for("balances",
        committed.last_position). Events of a parked stream count as dealt with.

        Args:
            name: of the projection; it may run in another process.
            position: of an event, whether it concerns the projection or not.
            timeout: seconds.

        Raises:
            ProjectionBehind: it had not come so far when the time was over.
        """
        await self.projections.wait_for(name, position, timeout=timeout)

    async def projection_status(self, name: str) -> ProjectionStatus:
        """How far a projection is, how far behind, and what is parked.

        Raises:
            InvalidArgument: it never ran on this database.
        """
        return await self.projections.status(name)

    def model(self, name: str) -> ReadModel:
        """The read model of a projection, as readers see it."""
        NAME(name, "model: name")
        return ReadModel(self, name, self._channel)

    # The server.

    async def ping(self) -> Pong:
        """Ask for the newest commit and the server's clock."""
        commit, time = await self._channel.read("ping")
        return Pong(commit, time_of(time))

    async def stats(self) -> dict[str, Any]:
        """Figures of the server, by name."""
        figures: dict[str, Any] = await self._channel.read("stats")
        return figures

    async def backup(self, name: str) -> Backup:
        """Have the server make a backup; a TimedOut does not end it. See docs/guide/backup.md."""
        return Backup(*await (await self._channel.connection()).ask("backup", name))

    async def users(self) -> list[str]:
        """The names of the users. Without any, the server asks nobody for a password."""
        names: list[str] = await self._channel.read("user_list")
        return names

    async def add_user(self, name: str, password: str) -> None:
        """Add a user. Only what proves the password travels, not the password.

        The first user locks the door: connections without one are asked to connect again.
        """
        await self._set_user("add_user", name, password, create=True)

    async def set_password(self, name: str, password: str) -> None:
        """Change a user's password."""
        await self._set_user("set_password", name, password, create=False)

    async def remove_user(self, name: str) -> None:
        """Remove a user. Connections that it has stay open."""
        connection = await self._channel.connection()
        await connection.ask("user_remove", name)

    async def _set_user(self, place: str, name: str, password: str, *, create: bool) -> None:
        NAME(name, f"{place}: name")
        if not password:
            raise InvalidArgument(f"{place}: the password is empty")
        connection = await self._channel.connection()
        await connection.ask("user_set", name, *verifier(password), create)
