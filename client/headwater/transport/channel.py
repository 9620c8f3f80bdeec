"""The channel to a server: its open connections, and new ones when they are needed.

On an event loop all tasks share one connection. Without one, each request takes a connection for
itself until its answer has come, so the channel keeps a pool; the number of connections is the
number of threads that wait at the same time.

What happens to a request whose connection is lost depends on the request:

    a read outside a transaction     sent again on a new connection, until it is answered or
                                     `retry_timeout` is over. After a timeout, once more only.
    a write in one round trip        sent again with the same transaction id, until it is answered
                                     or `retry_timeout` is over. The server recognizes an id that
                                     it has committed, and repeats its first answer. A refusal
                                     counts only once the lost copy can no longer take effect.
    anything else                    ConnectionLost, or CommitUnknown while committing

Attempts to connect are separated by growing pauses, no matter how many requests wait, because each
attempt costs both sides something. All tasks that wait for an attempt share its result. They wait
for a server for up to `retry_timeout`.
"""

import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, ClassVar, Final
from weakref import WeakSet

from headwater.errors import (
    CommitUnknown,
    ConnectionLost,
    HeadwaterError,
    HistoryGone,
    NotLeader,
    PermissionDenied,
    ShuttingDown,
    TimedOut,
    TransactionAborted,
)
from headwater.identifiers import new_transaction_id
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.connection import Connection
from headwater.transport.handshake import greet
from headwater.transport.runtime import Options, Runtime
from headwater.transport.stopping import closed_by_user
from headwater.transport.turns import Turns
from headwater_protocol.address import Address

CONNECTIONS_MAX: Final = 64
"""Connections of one database, for threads that wait at the same time. Threads beyond that share
them. A server has a limit, too, which many processes would reach without this one."""


class Channel:
    """Connections to one server, opened when they are needed.

    Attributes:
        turns: the lines in which transactions that conflicted wait for each other.
    """

    RESENT: ClassVar[tuple[type[HeadwaterError], ...]] = (ConnectionLost, ShuttingDown)
    """The errors after which a read is sent again."""

    UNANSWERED: ClassVar[tuple[type[HeadwaterError], ...]] = (*RESENT, CommitUnknown)
    """The errors after which a write is sent again."""

    def __init__(self, runtime: Runtime, address: Address, options: Options) -> None:
        self.runtime = runtime
        self.address = address
        self.options = options
        # Replaced as a whole, so threads need no lock to look through it.
        self._connections: tuple[Connection, ...] = ()
        self._opening = runtime.lock()
        self._backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        self._not_before = 0.0
        self._failures = 0
        self._failure: HeadwaterError | None = None
        self._shared_count = 0
        self.turns = Turns(runtime.bell)
        _channels.add(self)

    def _free(self) -> Connection | None:
        """An open connection that the caller can use now."""
        for connection in self._connections:
            if connection.take():
                return connection
        return None

    async def connection(self, until: float | None = None) -> Connection:
        """A connection for the next request. If none is free, one is opened.

        Args:
            until: the time until which to wait for a server. None: for `retry_timeout`.

        Raises:
            ConnectionLost: no server answered at the address, or the channel is closed.
            AuthenticationFailed: the server refused the user.
        """
        connection = self._free()
        if connection is not None:
            return connection
        return await self._patiently(self._free_or_new, until)

    async def enter(self, until: float | None) -> None:
        """Connect for the first time, so that a wrong address or password is told at once."""
        await self.connection(until)

    async def own_connection(
        self,
        until: float | None = None,
        *,
        leading: bool = True,  # noqa: ARG002
    ) -> Connection:
        """A connection to wait on. It is a new one if waiting would block the shared one.

        Args:
            until: as for `connection`.
            leading: of several nodes, the leader is needed.
        """
        if self.runtime.shares_connections:
            return await self.connection(until)
        return await self._patiently(self._new, until)

    # Of several nodes; one server is all of them.

    @property
    def at_leader(self) -> "Channel":
        """The same nodes, but all that is read here is read at the leader."""
        return self

    async def reading_connection(self, until: float | None = None) -> Connection:
        """A connection for a transaction that only reads, at any node that may be read."""
        return await self.connection(until)

    def note_seen(self, commit: int) -> None:
        """The application has seen a commit: later reads must not be older."""

    async def survey(self) -> list[tuple[Address, Any]]:
        """The nodes, each with its answer to `node`, or None if it cannot be reached."""
        return [(self.address, await self.read("node"))]

    async def read_together(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send reads in one round trip; they are done one after the other."""
        connection = await self.connection()
        try:
            return await connection.exchange(requests)
        except ConnectionLost:
            # A dead idle connection is noticed only when it is used, so one retry is worth it.
            if not connection.closed:
                raise
        return await (await self.connection()).exchange(requests)

    async def _patiently(
        self, attempt: Callable[[], Awaitable[Connection]], until: float | None
    ) -> Connection:
        """Repeat *attempt* until it succeeds, or no other one can begin before *until*."""
        if until is None:
            until = self.runtime.now() + self.options.retry_timeout
        while True:
            try:
                return await attempt()
            except HeadwaterError as error:
                if not error.retryable or self._not_before >= until:
                    raise

    async def _free_or_new(self) -> Connection:
        return await self._opening.run(partial(self._free_or_new_alone, self._failures))

    async def _free_or_new_alone(self, failures: int) -> Connection:
        connection = self._free()
        if connection is not None:
            return connection
        if self._failures != failures and self._failure is not None:
            # While this task waited, another one tried and failed.
            error = HeadwaterError.from_payload(self._failure.as_payload())
            raise error from self._failure
        usable = tuple(one for one in self._connections if not one.closed)
        try:
            if len(usable) >= CONNECTIONS_MAX:
                return self._shared(usable)
            connection = await self._new()
        except HeadwaterError:
            # The server may have no room for another connection.
            if not usable or self.runtime.closing.stopped:
                raise
            return self._shared(usable)
        connection.take()
        # Looked at again: a signal handler may have opened one meanwhile.
        self._connections = (*(one for one in self._connections if not one.closed), connection)
        return connection

    def _shared(self, usable: tuple[Connection, ...]) -> Connection:
        """One of the connections that others use. Its requests wait for each other."""
        self._shared_count += 1
        return usable[self._shared_count % len(usable)]

    async def _new(self) -> Connection:
        self._check_open()
        pause = self._not_before - self.runtime.now()
        if pause > 0:
            await self.runtime.sleep(pause)
            self._check_open()
        try:
            connection = await self.runtime.open(self.address, self.options, self._greet)
        except HeadwaterError as error:
            if error.retryable:
                self._failures += 1
                self._failure = error
                self._not_before = self.runtime.now() + self._backoff.next()
            raise
        self._backoff.reset()
        return connection

    def _check_open(self) -> None:
        if self.runtime.closing.stopped:
            raise closed_by_user()

    async def _greet(self, connection: Connection) -> None:
        await greet(connection, self.address, self.options.client_name)
        if self.options.tracing is not None:
            await self.options.tracing.wrap(connection, self.address)

    async def read(self, name: str, *arguments: Any) -> Any:
        """Send a request that changes nothing. If the connection is lost, send it again."""
        connection = self._free()
        if connection is None:
            connection = await self.connection()
        try:
            return await connection.ask(name, *arguments)
        except self.RESENT as error:
            failed: HeadwaterError = error
        until = self.runtime.now() + self.options.retry_timeout
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        timeouts = 0
        while True:
            timeouts += isinstance(failed, TimedOut)
            # After a timeout on a connection that others receive answers on, the request is slow
            # and would be slow again. If all was silent, it may have been the connection.
            if not failed.retryable or timeouts > (1 if connection.closed else 0):
                raise failed
            try:
                connection = await self.connection(until)
                return await connection.ask(name, *arguments)
            except self.RESENT as error:
                failed = error
            pause = backoff.next()
            if self.runtime.now() + pause >= until:
                raise failed
            await self.runtime.sleep(pause)

    def fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a read outside of a transaction: of the newest commit, or at *at_commit*."""
        if at_commit is None:
            return self.read(name, None, *arguments)
        return self.read(name, None, *arguments, at_commit)

    async def administer(self, name: str, *arguments: Any) -> Any:
        """Send an administrative write, with a transaction id of its own as its last argument.

        Raises:
            As persist.
        """
        transaction = new_transaction_id()
        return await self.persist(transaction, name, *arguments, transaction)

    def post(self, name: str, *arguments: Any) -> None:
        """Send a request without waiting for its answer, if there is an open connection."""
        connection = self._free()
        if connection is not None:
            connection.post([(name, *arguments)])
            connection.release()

    async def persist(self, transaction: bytes, name: str, *arguments: Any) -> Any:
        """Send a write with a transaction id again and again, until it is answered.

        Raises:
            CommitUnknown: `retry_timeout` is over, and the write may have happened.
            ConnectionLost: `retry_timeout` is over, and the write was never sent.
        """
        deadline = self.runtime.now() + self.options.retry_timeout
        sent = unanswered = False
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        try:
            while True:
                try:
                    connection = self._free()
                    if connection is None:
                        connection = await self.connection(deadline)
                    sent = True
                    return await connection.ask(name, *arguments)
                except self.UNANSWERED as error:
                    if not error.retryable and not isinstance(error, CommitUnknown):
                        # For example, close() was called. What was sent may still take effect.
                        if sent:
                            raise commit_unknown(transaction, error) from error
                        raise
                    cause: HeadwaterError = error
                    if isinstance(error, NotLeader):
                        # It was answered: this copy does nothing.
                        sent = unanswered
                    unanswered = sent
                except HeadwaterError as refusal:
                    # An unanswered copy may still be on its way. The server could commit it later,
                    # for example when it is writable again. Resolving the status is a fence.
                    if not unanswered or isinstance(refusal, TransactionAborted | HistoryGone):
                        raise
                    if "commit" in refusal.details:
                        # It was committed, and the answer cannot be had any more.
                        raise
                    try:
                        connection = await self.connection(deadline)
                        state, _ = await connection.ask("status", transaction, True)
                    except PermissionDenied:
                        # This user may write nothing, so what is on its way cannot commit.
                        raise refusal from None
                    except HeadwaterError as error:
                        cause = error
                    else:
                        if state == "aborted":
                            raise
                        # It has committed meanwhile. Sent again, it gets its answer.
                        cause = refusal
                pause = backoff.next()
                if self.runtime.now() + pause >= deadline:
                    if not sent:
                        raise cause
                    raise commit_unknown(transaction, cause) from cause
                await self.runtime.sleep(pause)
        except HeadwaterError:
            raise
        except BaseException as error:
            # A cancellation, or an exception that a signal handler raised, anywhere in the call.
            if sent:
                note_unknown(error, transaction)
            raise

    def close(self) -> None:
        """Close all connections, end all waits, and never open another connection."""
        self.runtime.close()

    def abandon(self) -> None:
        """Forget all connections in a child process, which opens its own."""
        self._connections = ()
        self._opening = self.runtime.lock()
        self.turns = Turns(self.runtime.bell)


def commit_unknown(transaction: bytes, error: BaseException) -> CommitUnknown:
    """The error of a commit that was sent, and not answered because of *error*."""
    return CommitUnknown(
        f"no answer to the commit of transaction {transaction.hex()}: {error}",
        details={"transaction": transaction},
    )


def note_unknown(error: BaseException, transaction: bytes) -> None:
    """Note on an exception that ended the wait for a commit which commit that was.

    The exception itself must stay as it is: an event loop expects its own cancellation back.
    """
    error.add_note(
        f"The commit of transaction {transaction.hex()} was sent and not answered. "
        f"db.status({transaction.hex()!r}, resolve=True) tells whether it took effect."
    )
    error.transaction = transaction  # type: ignore[attr-defined]


_channels: Final[WeakSet[Channel]] = WeakSet()
"""All channels of this process, to abandon their connections in a child."""


def _abandon_all() -> None:
    for channel in list(_channels):
        channel.abandon()


os.register_at_fork(after_in_child=_abandon_all)
