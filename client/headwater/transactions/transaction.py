"""A transaction: all reads are of one commit, and all writes happen together or not at all.

    async with db.transaction() as tx:      nothing is sent
        await tx.get(a)                     begin, get                  one round trip
        tx.put(b, 1)                        nothing is sent
        await tx.get(c)                     write [put b], get c        one round trip
        tx.put(d, 2)
                                            commit [put d]              one round trip

Reads on the server include the writes that were sent before them, so a transaction sees its own
writes. A transaction that only writes is sent as one `execute`, which can safely be sent again. A
transaction that wrote nothing ends without waiting for an answer: everything that it read was of
one commit.
"""

from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeAlias
from uuid import UUID

from headwater.codecs.codec import Codec
from headwater.errors import ConnectionLost, HeadwaterError, InvalidArgument, TooLarge
from headwater.identifiers import new_transaction_id
from headwater.reads.reads import Reads
from headwater.records import Committed, committed_from
from headwater.transactions.writes import REQUEST_SIZE_MAX, Writes
from headwater.transport.channel import Channel, commit_unknown, note_unknown
from headwater.transport.connection import Connection
from headwater.transport.turns import Turn
from headwater_protocol.numbers import CommitNumber
from headwater_protocol.operations import ISOLATION, SERIALIZABLE

Isolation: TypeAlias = Literal["serializable", "snapshot"]
"""The level of isolation of a transaction."""


class Transaction(Writes, Reads):
    """A transaction, made by `db.transaction()`. It belongs to one task.

    Attributes:
        isolation: the level, "serializable" or "snapshot".
        read_only: whether it refuses writes.
        view: the commit at which it reads. None before the first read.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        *,
        isolation: Isolation = SERIALIZABLE,
        read_only: bool = False,
    ) -> None:
        ISOLATION(isolation, "transaction: isolation")
        super().__init__(codec)
        self.isolation = isolation
        self.read_only = read_only
        self.view: CommitNumber | None = None
        self._committed: Committed | None = None
        self._bytes = new_transaction_id()
        self._channel = channel
        self._connection: Connection | None = None
        self._until: float | None = None
        self._turn: Turn | None = None
        self._appended: set[str] = set()
        self._over = ""

    async def __aenter__(self) -> "Transaction":
        return self

    @property
    def id(self) -> UUID:
        """The id of the transaction, a UUID of version 7. The server commits an id only once."""
        return UUID(bytes=self._bytes)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._over:
            return
        if error is None:
            await self.commit()
        else:
            await self.rollback()

    async def begin(self) -> None:
        """Take the read view now. Otherwise the first read takes it."""
        if self._connection is None:
            await self._exchange([])

    async def commit(self) -> Committed | None:
        """Commit. Returns None if the transaction wrote nothing.

        Raises:
            Conflict: another transaction committed first. error.conflicts lists all conflicts.
            WrongVersion: a stream is not at the version that an append expected.
            CommitUnknown: the connection was lost before the answer came. `db.status(tx.id,
                resolve=True)` tells whether the transaction committed.
        """
        self._check_open()
        try:
            if self._written_count == 0:
                await self.rollback()
            elif self._connection is None and self._written_size <= REQUEST_SIZE_MAX:
                self._committed = await self._commit_at_once()
            else:
                self._committed = await self._commit_begun()
        except (InvalidArgument, TooLarge):
            # The client may have refused it, so the server still has it open.
            self._forget()
            raise
        finally:
            self._end("over")
        self.settle_deliveries()
        return self._committed

    async def rollback(self) -> None:
        """Roll back. This does not wait for the answer of the server."""
        self._check_open()
        self._end("rolled back")
        self._forget()

    def _end(self, how: str) -> None:
        if not self._over:
            self._over = how
            if self._connection is not None:
                self._connection.release()

    def _forget(self) -> None:
        """Tell the server to roll back, without waiting."""
        if self._connection is not None and not self._connection.closed:
            self._connection.post([("rollback", self._bytes)])

    @property
    def committed(self) -> Committed:
        """The commit: its number, time, positions and versions.

        Raises:
            InvalidArgument: the transaction has not committed, or wrote nothing.
        """
        if self._committed is None:
            raise InvalidArgument(f"transaction {self.id} has not committed, or wrote nothing")
        return self._committed

    def prepare(self, until: float, turn: Turn) -> None:
        """Wait for a server until this time, and in line for what others changed: see `run`."""
        self._until = until
        self._turn = turn

    def settle(self, committed: Committed) -> None:
        """Record that the transaction has committed, as `status` said."""
        self._channel.note_seen(committed.commit)
        self._committed = committed
        self.settle_deliveries()

    async def _commit_at_once(self) -> Committed:
        """Commit with one request, which is sent again until it is answered."""
        payload = await self._channel.persist(
            self._bytes, "execute", self._bytes, [], [], self._writes
        )
        return committed_from(payload[0])

    async def _commit_begun(self) -> Committed:
        connection = self._connection or await self._reach()
        if connection.closed:
            # The commit was not sent yet, so its outcome is known: it did not happen.
            raise connection.lost()
        *parts, last = [*self._parts()] or [[]]
        requests = [
            *self._opening(),
            *[("write", self._bytes, part) for part in parts],
            ("commit", self._bytes, last),
        ]
        sent = False

        def note_sent() -> None:
            nonlocal sent
            sent = True
            self._note_sent(connection)

        try:
            payloads = await connection.exchange(requests, note_sent)
        except ConnectionLost as error:
            raise commit_unknown(self._bytes, error) from error
        except HeadwaterError:
            raise
        except BaseException as error:
            # A cancellation, or an exception that a signal handler raised.
            if sent:
                note_unknown(error, self._bytes)
            raise
        committed = committed_from(payloads[-1])
        self._channel.note_seen(committed.commit)
        return committed

    async def _reach(self) -> Connection:
        """The connection for the whole transaction."""
        if self.read_only:
            return await self._channel.reading_connection(self._until)
        return await self._channel.connection(self._until)

    def _keep(self, write: list[Any], size: int) -> None:
        self._check_open()
        if self.read_only:
            raise InvalidArgument(f"{write[0]}: the transaction is read-only")
        super()._keep(write, size)
        if write[0] == "append":
            self._appended.add(write[1])

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:  # noqa: ARG002
        # All reads of a transaction are of one commit, so *at_commit* is ignored.
        if self._connection is None and self._turn is not None and arguments:
            # Once it has begun, its view is of an earlier commit, and waiting would not help.
            subject = arguments[0]
            if isinstance(subject, bytes | str):
                await self._turn.enter_line(subject)
        if self._connection is None or self._writes:
            return await self._exchange([(name, self._bytes, *arguments)])
        self._check_open()
        return await self._connection.ask(name, self._bytes, *arguments)

    async def _ask(self, name: str, *arguments: Any) -> Any:
        self._check_open()
        return await self._channel.read(name, *arguments)

    def _has_own(self, stream: str) -> bool:
        return stream in self._appended

    async def _exchange(self, reads: list[tuple[Any, ...]]) -> Any:
        """Send the buffered writes and then *reads* together; return the last answer."""
        self._check_open()
        connection = self._connection or await self._reach()
        opening = self._opening()
        writes = [("write", self._bytes, part) for part in self._parts()]
        # If a read is refused before it is sent, the buffer must still have the writes. The caller
        # may catch the error and commit.
        payloads = await connection.exchange(
            [*opening, *writes, *reads], partial(self._note_sent, connection)
        )
        if opening:
            self.view = payloads[0][0]
            self._channel.note_seen(payloads[0][0])
        return payloads[-1]

    def _opening(self) -> list[tuple[Any, ...]]:
        """The request to begin, unless it was sent before."""
        if self._connection is not None:
            return []
        return [("begin", self._bytes, self.isolation, self.read_only)]

    def _note_sent(self, connection: Connection) -> None:
        """The transaction has begun on *connection*, and the buffered writes were sent."""
        if self._connection is None:
            self._connection = connection
            connection.hold()
        self._empty()

    def _check_open(self) -> None:
        if self._over:
            raise InvalidArgument(f"transaction {self.id} is {self._over}; begin another one")
