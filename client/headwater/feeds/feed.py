"""A feed: one request that the server answers with pushes until it is ended.

                  .--------- connection lost, or ended and retryable --------.
                  v                                                          |
    new --open--> open --push--> queue --take--> consumer                    |
                  |  ^                              |                        |
                  |  '------------ credit ----------'                        |
                  '--> ended by the server with an error that is not retryable: raised

The server never pushes more items than the client has granted. The client grants more credit as the
consumer processes items, so the queue of a slow consumer has a bounded size. When the connection is
lost, the client tries to open the feed again for `retry_timeout` seconds, with growing pauses. The
subclass knows where to continue.

Subscriptions, feeds of keys and memberships in consumer groups are feeds.
"""

from abc import ABC, abstractmethod
from collections import deque
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from headwater.errors import ConnectionLost, HeadwaterError, InvalidArgument, PositionNotReached
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.channel import Channel
from headwater.transport.connection import Connection, Reply
from headwater.transport.stopping import Stop, Stopped

Q = TypeVar("Q")


class Feed(ABC, Generic[Q]):
    """Opens a feed, waits for its pushes, and grants credit. Only one task may use it.

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
        # The connection and reply for which the consumer waits; None if it does not wait.
        self._arrival: tuple[Connection, Reply] | None = None
        self._ended: HeadwaterError | None = None
        # Counts of processed items for which no credit was granted yet. On a blocking database
        # several threads may settle deliveries, and a deque needs no lock.
        self._owed: deque[int] = deque()
        self._stop = Stop()
        # Whether the leader is needed, if there are several nodes.
        self._leading = False

    # What differs between feeds.

    @abstractmethod
    async def _request(self, connection: Connection) -> int:
        """Request the feed from where it must continue. Returns the id of the request."""

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
        self._stop = Stop()
        try:
            await self._reopen()
        except Stopped:
            pass  # close() was called meanwhile, and there is nothing to iterate over.
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._leave()

    async def close(self) -> None:
        """End the feed. A task that waits for the next item stops iterating.

        Any task may call this, also while the connection is being reopened. Leaving `async with`
        does the same.
        """
        await self.__aexit__(None, None, None)

    def _leave(self) -> None:
        """Tell the server that the feed ends, without waiting."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._channel.runtime.shares_connections:
                connection.unsubscribe(self._identity)
            else:
                connection.close()
        self._notice()

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
            if self._stop.stopped:
                raise StopAsyncIteration
            if self._ended is not None and not self._ended.retryable:
                raise self._ended
            connection = self._connection
            if connection is None:
                if self._stop.stopped:
                    continue  # Another thread has closed the feed just now.
                raise InvalidArgument(f"a {self._word} is used with `async with`")
            if self._is_finished():
                raise StopAsyncIteration
            if self._ended is not None or connection.closed:
                try:
                    await self._reopen()
                except Stopped:
                    pass
                continue
            arrival = connection.new_reply()
            self._arrival = connection, arrival
            try:
                await connection.wait(arrival)
            finally:
                self._arrival = None
        if self._stop.stopped:
            raise StopAsyncIteration
        return self._queue.popleft()

    def _grant(self, count: int) -> None:
        """Grant credit for *count* processed items.

        The message is sent once half of the credit is used. So the server never has to wait for
        credit, and it receives few messages.
        """
        self._owed.append(count)
        connection = self._connection
        if sum(list(self._owed)) * 2 < self._credit or connection is None or connection.closed:
            return
        owed = 0
        while self._owed:
            try:
                owed += self._owed.popleft()
            except IndexError:
                break  # Another thread grants the rest.
        if not owed:
            return
        try:
            connection.post([("credit", self._identity, owed)])
        except ConnectionLost:
            pass  # The next wait notices this. A reopened feed starts with full credit.

    # Called by the connection.

    def deliver(self, payload: list[Any]) -> None:
        """Receive a push."""
        match payload:
            case ["ended", error, *_]:
                self._ended = HeadwaterError.from_payload(error)
            case _:
                # A newer server may send pushes of a kind that this client does not know.
                if not self._accept(payload):
                    return
        self._notice()

    def lose(self) -> None:
        """Note that the connection is closed."""
        self._notice()

    def _notice(self) -> None:
        waits = self._arrival
        if waits is not None and not waits[1].done:
            waits[0].wake(waits[1])

    # Opening and reopening.

    async def _open(self, until: float, *, leading: bool) -> None:
        connection = await self._channel.own_connection(until, leading=leading)
        # Reset before the request. The first pushes may arrive with the answer and be delivered
        # before this task resumes. If one of them ends the feed, a later reset would lose that.
        self._ended = None
        self._owed.clear()
        self._reset()
        if self._channel.runtime.shares_connections:
            self._identity = await self._request(connection)
        else:
            try:
                with self._stop.calling(connection.close):
                    self._identity = await self._request(connection)
            except BaseException:
                connection.close()
                raise
        connection.wait_without_timeout()
        self._connection = connection
        if self._stop.stopped:
            # Another thread closed the feed before it could see the connection.
            self._leave()
            raise Stopped

    async def _reopen(self) -> None:
        """Open the feed, for up to `retry_timeout` seconds.

        Raises:
            Stopped: the feed was closed meanwhile.
        """
        if self._connection is not None and not self._channel.runtime.shares_connections:
            # The server has ended the feed, and nobody else uses the connection.
            self._connection.close()
        await self._channel.runtime.guard(self._open_patiently, self._stop)

    async def _open_patiently(self) -> None:
        runtime = self._channel.runtime
        until = runtime.now() + self._channel.options.retry_timeout
        backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
        leading = self._leading
        while True:
            try:
                await self._open(until, leading=leading)
                return
            except PositionNotReached:
                # A follower may lack a position that the leader has.
                if leading or self._channel.at_leader is self._channel:
                    raise
                leading = True
                continue
            except HeadwaterError as error:
                pause = backoff.next()
                if not error.retryable or runtime.now() + pause >= until:
                    raise
            await runtime.sleep(pause)
