"""A feed: one request that the server answers with pushes until it is ended.

                  .--------- connection lost, or ended and retryable --------.
                  v                                                          |
    new --open--> open --push--> queue --take--> consumer                    |
                  |  ^                              |                        |
                  |  '------------ credit ----------'                        |
                  '--> ended by the server with an error that is not retryable: raised

The server never pushes more items than the client has granted. The client grants more credit as the
consumer processes items, so the queue of a slow consumer has a bounded size. When the connection is
lost, the feed is opened again, with growing pauses, for `retry_timeout` seconds. The subclass knows
where it has to continue.

Subscriptions, feeds of keys and memberships in consumer groups are feeds.
"""

from abc import ABC, abstractmethod
from collections import deque
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from headwater.errors import ConnectionLost, HeadwaterError, InvalidArgument
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection, Reply

Q = TypeVar("Q")


class Feed(ABC, Generic[Q]):
    """Opens a feed, waits for its pushes, grants credit. It is for one task.

    Args:
        channel: to the server.
        word: the name of this kind of feed in messages, such as "subscription".
        credit: how much the server may push ahead of the consumer.
    """

    def __init__(self, channel: Channel, *, word: str, credit: int) -> None:
        self._channel = channel
        self._word = word
        self._credit = credit
        self._connection: Connection | None = None
        self._identity = 0
        self._queue: deque[Q] = deque()
        self._arrival: Reply | None = None
        self._ended: HeadwaterError | None = None
        self._owed = 0

    # What differs between feeds.

    @abstractmethod
    async def _request(self, connection: Connection) -> int:
        """Request the feed, from where it has to continue. Returns the id of the request."""

    @abstractmethod
    def _accept(self, payload: list[Any]) -> bool:
        """Process a push. Returns False if this client does not know its kind."""

    def _reset(self) -> None:
        """Forget the state of the last connection, before the feed is opened again."""

    def _is_finished(self) -> bool:
        """Whether the feed has delivered everything, and ends."""
        return False

    # Called by the consumer.

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._channel.runtime.shares_connections:
            connection.unsubscribe(self._identity)
        else:
            connection.close()

    def _check_alone(self) -> None:
        if self._arrival is not None:
            raise InvalidArgument(f"a {self._word} is for one task; another waits on this one")

    async def _take(self) -> Q:
        """Wait for the next item of the queue, and return it.

        Raises:
            HeadwaterError: the error with which the server ended the feed.
            ConnectionLost: no server was found for `retry_timeout` seconds.
            StopAsyncIteration: the feed is finished.
        """
        while not self._queue:
            if self._ended is not None and not self._ended.retryable:
                raise self._ended
            if self._connection is None:
                raise InvalidArgument(f"a {self._word} is used with `async with`")
            if self._is_finished():
                raise StopAsyncIteration
            if self._ended is not None or self._connection.closed:
                await self._reopen()
                continue
            self._arrival = self._connection.new_reply()
            try:
                await self._connection.wait(self._arrival)
            finally:
                self._arrival = None
        return self._queue.popleft()

    def _grant(self, count: int) -> None:
        """Grant credit for *count* processed items.

        The message is sent once half of the credit is used. So the server never has to wait for
        credit, and it receives few messages.
        """
        self._owed += count
        connection = self._connection
        if self._owed * 2 < self._credit or connection is None or connection.closed:
            return
        try:
            connection.post([("credit", self._identity, self._owed)])
        except ConnectionLost:
            return  # The next wait notices it.
        self._owed = 0

    # Called by the connection.

    def deliver(self, payload: list[Any]) -> None:
        """Receive a push."""
        match payload:
            case ["ended", error, *_]:
                self._ended = HeadwaterError.from_payload(error)
            case _:
                # A newer server may push what this client does not know.
                if not self._accept(payload):
                    return
        self._notice()

    def lose(self) -> None:
        """Note that the connection is closed."""
        self._notice()

    def _notice(self) -> None:
        if self._arrival is not None and not self._arrival.done and self._connection is not None:
            self._connection.wake(self._arrival)

    # Opening and reopening.

    async def _open(self) -> None:
        connection = await self._channel.own_connection()
        # Reset before asking. The first pushes may come with the answer, and be delivered before
        # this task goes on; if the feed ended among them, that must not be forgotten.
        self._ended = None
        self._owed = 0
        self._reset()
        try:
            self._identity = await self._request(connection)
        except BaseException:
            if not self._channel.runtime.shares_connections:
                connection.close()
            raise
        connection.wait_without_timeout()
        self._connection = connection

    async def _reopen(self) -> None:
        runtime = self._channel.runtime
        deadline = runtime.now() + self._channel.options.retry_timeout
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        while True:
            try:
                await self._open()
                return
            except HeadwaterError as error:
                pause = backoff.next()
                if not error.retryable or runtime.now() + pause >= deadline:
                    raise
            await runtime.sleep(pause)
