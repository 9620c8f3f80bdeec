"""The way to the server: one connection at a time, a new one when it is lost.

What is lost with a connection depends on what was asked:

    a read outside a transaction     asked once more, on a new connection
    a write in one round trip        sent again with the same transaction id until it is
                                     answered or `retry_timeout` is over: the server knows an id
                                     that it has committed, and answers as the first time; a
                                     refusal counts once the lost copy is fenced off
    all else                         ConnectionLost, or CommitUnknown while committing

A server that does not answer is tried again with growing backoff, however often it is used: an
attempt costs both sides something. Everybody who waits for an attempt gets its outcome.
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
    """Connections with one server, opened when they are needed."""

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
        """A connection on which to ask.

        Raises:
            ConnectionLost: no server answered at the address; or the channel is closed.
            AuthenticationFailed: the server did not let us in.
        """
        connection = self._connection
        if connection is not None and not connection.closed:
            return connection
        failures = self._failures
        async with self._connecting:
            if self._connection is not None and not self._connection.closed:
                return self._connection
            if self._failures != failures and self._failure is not None:
                # While we waited, another task tried in our place.
                raise ConnectionLost(self._failure.message) from self._failure
            self._connection = await self._attempt()
            return self._connection

    async def own_connection(self) -> Connection:
        """A connection to wait on: the shared one, or, where waiting would block it, one more."""
        if self.runtime.shares_connections:
            return await self.connection()
        return await self._attempt()

    async def _attempt(self) -> Connection:
        if self._closed:
            raise ConnectionLost("this database was closed by close()", retryable=False)
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
        """Ask what changes nothing. If the connection is lost, ask once more on another."""
        connection = self._connection
        if connection is None or connection.closed:
            connection = await self.connection()
        try:
            return await connection.ask(name, *arguments)
        except ConnectionLost as error:
            # An idle connection is found dead only when it is used. A server that is silent
            # would be silent again.
            if not connection.closed or isinstance(error, TimedOut):
                raise
        return await (await self.connection()).ask(name, *arguments)

    def fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Ask a read outside of a transaction: of the newest commit, or at *at_commit*."""
        if at_commit is None:
            return self.read(name, None, *arguments)
        return self.read(name, None, *arguments, at_commit)

    async def persist(self, transaction: bytes, name: str, *arguments: Any) -> Any:
        """Ask what changes something under a transaction id, until it is answered.

        Raises:
            CommitUnknown: `retry_timeout` is over, and it may have been done.
            ConnectionLost: `retry_timeout` is over, and it was never sent.
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
                # A copy that was not answered may still be on its way, and the server may take
                # it later, when it is writable again say. Behind a fence it cannot.
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
                    # Committed meanwhile: asked again, it gets its answer.
                    cause = refusal
            pause = backoff.next()
            if self.runtime.now() + pause >= deadline:
                if not sent:
                    raise cause
                raise commit_unknown(transaction, cause) from cause
            await self.runtime.sleep(pause)

    def close(self) -> None:
        """Close the connection, for good."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()


def commit_unknown(transaction: bytes, error: BaseException) -> CommitUnknown:
    """The error of a commit that was asked for and not answered because of *error*."""
    return CommitUnknown(
        f"no answer to the commit of transaction {transaction.hex()}: {error}",
        details={"transaction": transaction},
    )
