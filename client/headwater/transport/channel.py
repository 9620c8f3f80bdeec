"""The channel to a server: one connection at a time, and a new one when it is lost.

What happens to a request whose connection is lost depends on the request:

    a read outside a transaction     sent once more, on a new connection
    a write in one round trip        sent again with the same transaction id, until it is answered
                                     or `retry_timeout` is over. The server recognizes an id that
                                     it has committed, and repeats its first answer. A refusal
                                     counts only once the lost copy can no longer take effect.
    anything else                    ConnectionLost, or CommitUnknown while committing

Attempts to connect are separated by growing pauses, no matter how many requests wait, because each
attempt costs both sides something. All tasks that wait for an attempt share its result.
"""

from collections.abc import Coroutine
from typing import Any

from headwater.errors import (
    CommitUnknown,
    ConnectionLost,
    HeadwaterError,
    HistoryGone,
    ShuttingDown,
    TimedOut,
    TransactionAborted,
)
from headwater.transport.address import Address
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.connection import Connection
from headwater.transport.handshake import greet
from headwater.transport.runtime import Options, Runtime


class Channel:
    """Connections to one server, opened when they are needed."""

    def __init__(self, runtime: Runtime, address: Address, options: Options) -> None:
        self.runtime = runtime
        self.address = address
        self.options = options
        self._connection: Connection | None = None
        self._connecting = runtime.lock()
        self._backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        self._not_before = 0.0
        self._failures = 0
        self._failure: ConnectionLost | None = None
        self._closed = False

    async def connection(self) -> Connection:
        """The shared connection. It is opened if there is none.

        Raises:
            ConnectionLost: no server answered at the address, or the channel is closed.
            AuthenticationFailed: the server refused the user.
        """
        connection = self._connection
        if connection is not None and not connection.closed:
            return connection
        failures = self._failures
        async with self._connecting:
            if self._connection is not None and not self._connection.closed:
                return self._connection
            if self._failures != failures and self._failure is not None:
                # While this task waited, another one tried and failed.
                raise ConnectionLost(self._failure.message) from self._failure
            self._connection = await self._attempt()
            return self._connection

    async def own_connection(self) -> Connection:
        """A connection to wait on. It is a new one if waiting would block the shared one."""
        if self.runtime.shares_connections:
            return await self.connection()
        return await self._attempt()

    async def _attempt(self) -> Connection:
        if self._closed:
            raise ConnectionLost("the database was closed by close()", retryable=False)
        pause = self._not_before - self.runtime.now()
        if pause > 0:
            await self.runtime.sleep(pause)
        try:
            connection = await self.runtime.open(self.address, self.options, self._greet)
        except ConnectionLost as error:
            self._failures += 1
            self._failure = error
            self._not_before = self.runtime.now() + self._backoff.next()
            raise
        self._backoff.reset()
        return connection

    async def _greet(self, connection: Connection) -> None:
        await greet(connection, self.address, self.options.client_name)

    async def read(self, name: str, *arguments: Any) -> Any:
        """Send a request that changes nothing. If the connection is lost, send it once more."""
        connection = self._connection
        if connection is None or connection.closed:
            connection = await self.connection()
        try:
            return await connection.ask(name, *arguments)
        except ConnectionLost as error:
            # A dead idle connection is noticed only when it is used, so one retry is worth it.
            # After a timeout it is not: the server would be silent again.
            if not connection.closed or isinstance(error, TimedOut):
                raise
        return await (await self.connection()).ask(name, *arguments)

    def fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a read outside of a transaction: of the newest commit, or at *at_commit*."""
        if at_commit is None:
            return self.read(name, None, *arguments)
        return self.read(name, None, *arguments, at_commit)

    async def persist(self, transaction: bytes, name: str, *arguments: Any) -> Any:
        """Send a write with a transaction id again and again, until it is answered.

        Raises:
            CommitUnknown: `retry_timeout` is over, and the write may have happened.
            ConnectionLost: `retry_timeout` is over, and the write was never sent.
        """
        deadline = self.runtime.now() + self.options.retry_timeout
        sent = unanswered = False
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                connection = self._connection
                if connection is None or connection.closed:
                    connection = await self.connection()
                sent = True
                return await connection.ask(name, *arguments)
            except (ConnectionLost, CommitUnknown, ShuttingDown) as error:
                if not error.retryable and not isinstance(error, CommitUnknown):
                    raise
                cause: HeadwaterError = error
                unanswered = sent
            except HeadwaterError as refusal:
                # An unanswered copy may still be on its way. The server could commit it later, for
                # example when it is writable again. Resolving the status is a fence against that.
                if not unanswered or isinstance(refusal, TransactionAborted | HistoryGone):
                    raise
                try:
                    connection = await self.connection()
                    state, _ = await connection.ask("status", transaction, True)
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

    def close(self) -> None:
        """Close the connection, and never open another."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()


def commit_unknown(transaction: bytes, error: BaseException) -> CommitUnknown:
    """The error of a commit that was sent, and not answered because of *error*."""
    return CommitUnknown(
        f"no answer to the commit of transaction {transaction.hex()}: {error}",
        details={"transaction": transaction},
    )
