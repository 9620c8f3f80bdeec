"""A transaction: what it reads is of one commit, what it writes happens whole or not at all.

    async with db.transaction() as tx:      nothing is sent
        await tx.get(a)                     begin, get                  one round trip
        tx.put(b, 1)                        nothing is sent
        await tx.get(c)                     write [put b], get c        one round trip
        tx.put(d, 2)
                                            commit [put d]              one round trip

The server merges what it was sent into later reads, so a transaction sees its own writes. One
that only writes goes as one `execute`, which can safely be sent again; one that wrote nothing
needs no answer at its end, since what it read was of one commit already.
"""

from types import TracebackType
from typing import Any
from uuid import UUID

from headwater.codecs.codec import Codec
from headwater.errors import ConnectionLost, InvalidArgument, TooLarge
from headwater.identifiers import new_transaction_id
from headwater.reads.reads import Reads
from headwater.records import Committed, committed_from
from headwater.transactions.writes import REQUEST_SIZE_MAX, Writes
from headwater.transport.channel import Channel, commit_unknown
from headwater.transport.connection import Connection
from headwater_protocol.numbers import CommitNumber
from headwater_protocol.operations import ISOLATION, SERIALIZABLE


class Transaction(Writes, Reads):
    """Made by `db.transaction()`. It belongs to one task.

    Attributes:
        isolation: the level, "serializable" or "snapshot".
        read_only: it takes no writes, and never conflicts.
        view: the commit that it reads at; None before the first read.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        *,
        isolation: str = SERIALIZABLE,
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
        self._begun = False
        self._appended: set[str] = set()
        self._over = ""

    async def __aenter__(self) -> "Transaction":
        return self

    @property
    def id(self) -> UUID:
        """Its idempotency key, of UUID version 7."""
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
        """Take the read view now, and not at the first read."""
        if self._connection is None:
            await self._exchange([])

    async def commit(self) -> Committed | None:
        """Commit; what it became, or None if it wrote nothing.

        Raises:
            Conflict: another transaction committed first; error.conflicts says all of it.
            WrongVersion: a stream is not at the version that an append expected.
            CommitUnknown: the connection was lost before the answer; `db.status(tx.id,
                resolve=True)` settles what became of it.
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
            # It may have been refused before it was sent.
            self._forget()
            raise
        finally:
            self._over = self._over or "over"
        self.settle_deliveries()
        return self._committed

    async def rollback(self) -> None:
        """Forget it. The server is told, and not waited for."""
        self._check_open()
        self._over = "rolled back"
        self._forget()

    def _forget(self) -> None:
        """Tell the server to roll back, and do not wait."""
        if self._connection is not None and not self._connection.closed:
            self._connection.post([("rollback", self._bytes)])

    @property
    def committed(self) -> Committed:
        """What it became.

        Raises:
            InvalidArgument: it did not commit, or wrote nothing.
        """
        if self._committed is None:
            raise InvalidArgument(f"transaction {self.id} has not committed, or wrote nothing")
        return self._committed

    def settle(self, committed: Committed) -> None:
        """It has committed after all, as `status` says."""
        self._committed = committed
        self.settle_deliveries()

    async def _commit_at_once(self) -> Committed:
        """All of it in one request, sent again until it is answered."""
        payload = await self._channel.persist(
            self._bytes, "execute", self._bytes, [], [], self._writes
        )
        return committed_from(payload[0])

    async def _commit_begun(self) -> Committed:
        connection = await self._own_connection()
        if connection.closed:
            # Nothing was asked yet, so nothing is unknown.
            raise connection.lost()
        *parts, last = [*self._take()] or [[]]
        requests = [
            *self._opening(),
            *[("write", self._bytes, part) for part in parts],
            ("commit", self._bytes, last),
        ]
        try:
            payloads = await connection.exchange(requests)
        except ConnectionLost as error:
            raise commit_unknown(self._bytes, error) from error
        return committed_from(payloads[-1])

    def _keep(self, write: list[Any], size: int) -> None:
        self._check_open()
        if self.read_only:
            raise InvalidArgument(f"{write[0]}: the transaction is read-only")
        super()._keep(write, size)
        if write[0] == "append":
            self._appended.add(write[1])

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:  # noqa: ARG002
        # All of its reads are of one commit, whichever is asked for.
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
        """What was not sent yet, and then *reads*, together; the answer to the last."""
        self._check_open()
        connection = await self._own_connection()
        opening = self._opening()
        writes = [("write", self._bytes, part) for part in self._take()]
        payloads = await connection.exchange([*opening, *writes, *reads])
        if opening:
            self.view = payloads[0][0]
        return payloads[-1]

    async def _own_connection(self) -> Connection:
        if self._connection is None:
            self._connection = await self._channel.connection()
        return self._connection

    def _opening(self) -> list[tuple[Any, ...]]:
        """The request to begin, unless it was made."""
        if self._begun:
            return []
        self._begun = True
        return [("begin", self._bytes, self.isolation, self.read_only)]

    def _check_open(self) -> None:
        if self._over:
            raise InvalidArgument(f"transaction {self.id} is {self._over}; begin another one")
