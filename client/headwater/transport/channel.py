"""The way to the server: one link at a time, a new one when it is lost.

What is lost with a link depends on what was asked:

    a read outside a transaction     asked once more, on a new link
    a write in one round trip        sent again with the same transaction id until it is
                                     answered or `retry_timeout` is over: the server knows an id
                                     that it has committed, and answers as the first time; a
                                     refusal counts once the lost copy is fenced off
    all else                         ConnectionLost, or CommitUnknown while committing

A server that does not answer is tried again with growing pauses, however often it is used: an
attempt costs both sides something. Everybody who waits for an attempt gets its outcome.
"""

import random
from typing import Any, Final

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
from headwater.transport.connection import Link
from headwater.transport.handshake import greet
from headwater.transport.runtime import Options, Runtime

PAUSE_FIRST: Final = 0.05
"""Seconds after a first failed attempt to connect; doubled by each further one."""

PAUSE_MAX: Final = 2.0
"""Seconds between attempts at most: a server that restarts is found soon."""


class Pauses:
    """Growing, uneven pauses, so that many who failed together do not come back together."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._next = first
        self._longest = longest

    def next(self) -> float:
        """Seconds of the next pause."""
        pause = self._next
        self._next = min(pause * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """All is well again."""
        self._next = self._first


class Channel:
    """Links to one server, opened when they are needed."""

    def __init__(self, runtime: Runtime, address: Address, options: Options) -> None:
        self.runtime = runtime
        self.address = address
        self.options = options
        self._link: Link | None = None
        self._connecting = runtime.lock()
        self._pauses = Pauses(PAUSE_FIRST, PAUSE_MAX)
        self._not_before = 0.0
        self._failures = 0
        self._failure: ConnectionLost | None = None
        self._closed = False

    async def link(self) -> Link:
        """A link on which to ask.

        Raises:
            ConnectionLost: no server answered at the address; or the channel is closed.
            AuthenticationFailed: the server did not let us in.
        """
        link = self._link
        if link is not None and not link.closed:
            return link
        failures = self._failures
        async with self._connecting:
            if self._link is not None and not self._link.closed:
                return self._link
            if self._failures != failures and self._failure is not None:
                # While we waited, another task tried in our place.
                raise ConnectionLost(self._failure.message) from self._failure
            self._link = await self._attempt()
            return self._link

    async def own_link(self) -> Link:
        """A link to wait on: the shared one, or, where waiting would block it, one more."""
        if self.runtime.shares_links:
            return await self.link()
        return await self._attempt()

    async def _attempt(self) -> Link:
        if self._closed:
            raise ConnectionLost("this database was closed by close()", retryable=False)
        pause = self._not_before - self.runtime.now()
        if pause > 0:
            await self.runtime.sleep(pause)
        try:
            link = await self.runtime.open(self.address, self.options, self._greet)
        except ConnectionLost as error:
            self._failures += 1
            self._failure = error
            self._not_before = self.runtime.now() + self._pauses.next()
            raise
        self._pauses.reset()
        return link

    async def _greet(self, link: Link) -> None:
        await greet(link, self.address, self.options.client_name)

    async def read(self, name: str, *arguments: Any) -> Any:
        """Ask what changes nothing. If the link is lost, ask once more on another."""
        link = self._link
        if link is None or link.closed:
            link = await self.link()
        try:
            return await link.ask(name, *arguments)
        except ConnectionLost as error:
            # An idle connection is found dead only when it is used. A server that is silent
            # would be silent again.
            if not link.closed or isinstance(error, TimedOut):
                raise
        return await (await self.link()).ask(name, *arguments)

    async def persist(self, transaction: bytes, name: str, *arguments: Any) -> Any:
        """Ask what changes something under a transaction id, until it is answered.

        Raises:
            CommitUnknown: `retry_timeout` is over, and it may have been done.
            ConnectionLost: `retry_timeout` is over, and it was never sent.
        """
        deadline = self.runtime.now() + self.options.retry_timeout
        sent = unanswered = False
        pauses = Pauses(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                link = self._link
                if link is None or link.closed:
                    link = await self.link()
                sent = True
                return await link.ask(name, *arguments)
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
                    link = await self.link()
                    state, _ = await link.ask("status", transaction, True)
                except HeadwaterError as error:
                    cause = error
                else:
                    if state == "aborted":
                        raise
                    # Committed meanwhile: asked again, it gets its answer.
                    cause = refusal
            pause = pauses.next()
            if self.runtime.now() + pause >= deadline:
                if not sent:
                    raise cause
                raise commit_unknown(transaction, cause) from cause
            await self.runtime.sleep(pause)

    def close(self) -> None:
        """Close the link, for good."""
        self._closed = True
        if self._link is not None:
            self._link.close()


def commit_unknown(transaction: bytes, error: BaseException) -> CommitUnknown:
    """The error of a commit that was asked for and not answered because of *error*."""
    return CommitUnknown(
        f"no answer to the commit of transaction {transaction.hex()}: {error}",
        details={"transaction": transaction},
    )
