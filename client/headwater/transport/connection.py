"""One connection with a server, over which many tasks ask at once.

    task --ask--> ClientConnection.request --> bytes --> socket
    task <-wake-- Reply <-- ClientConnection.receive <-- bytes <-- socket

All that the client waits for is a Reply that is not there yet, so this is the one place where
it waits, and `_park` and `_wake` are the only things that trio, asyncio and a plain socket do
differently. On a plain socket parking means to read on until the reply is there: the coroutine
never suspends, which is why `step` (headwater.transport.stepping) can run it without an event loop.

A task that is cancelled while it waits leaves its Reply behind. The answer fills it, and nobody
looks: other tasks are not disturbed.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

from headwater.errors import ConnectionLost, HeadwaterError, TimedOut
from headwater_protocol.connection import Answer, ClientConnection, Failure, Push, Violation

RECEIVE_SIZE_MAX: Final = 256 * 1024
"""Bytes taken from a socket at once. A page of a scan is up to 1 MiB; a small answer is not
slowed by a larger number, since the buffer is only touched where it is filled."""

CHECKS_PER_TIMEOUT: Final = 8
"""A request that is overdue is noticed up to an eighth of the timeout late. One timer a connection
looks at the oldest request; a timer a request would cost more than the request, and so would
a look at the clock: a request is as old as the checks that it has seen."""


_ENDS: Final = {
    "subscribe": "unsubscribe",
    "subscribe_keys": "unsubscribe",
    "group_join": "group_leave",
}
"""What ends that which each of these begins."""


class Reply:
    """The answer to one request, or the place where it will be.

    Attributes:
        done: whether `payload` or `error` is set.
        since: how many checks there had been when it was asked.
        sleeper: what the runtime wakes, if a task is parked on it.
    """

    __slots__ = ("done", "error", "payload", "since", "sleeper")

    def __init__(self, since: int) -> None:
        self.done = False
        self.payload: Any = None
        self.error: HeadwaterError | None = None
        self.since = since
        self.sleeper: Any = None


class Feed(Protocol):
    """A subscription, as a connection sees it."""

    def deliver(self, payload: list[Any]) -> None:
        """A push came."""

    def lose(self) -> None:
        """Nothing will be pushed any more: the connection is closed."""


class Connection(ABC):
    """One connection, shared by tasks. Subclasses say how to wait and how to send.

    Attributes:
        name: the server's address, for messages.
        closed: nothing can be asked any more.
        reason: why it is closed, if the server said so.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.reason: HeadwaterError | None = None
        self._protocol = ClientConnection()
        self._pending: dict[int, Reply] = {}
        self._feeds: dict[int, Feed] = {}
        self._checks = 0
        # How many checks there had been when bytes last came.
        self._received = 0

    # Asking.

    async def ask(self, name: str, *arguments: Any) -> Any:
        """The payload of the answer to one request.

        Raises:
            HeadwaterError: the server's, by its code; of a wrong argument before it is sent.
            ConnectionLost: the connection ended, or was ended, before the answer.
        """
        reply = self._post_one(name, arguments)
        if not reply.done:
            await self._park(reply)
        if reply.error is not None:
            raise reply.error
        return reply.payload

    def _post_one(self, name: str, arguments: Sequence[Any]) -> Reply:
        if self.closed:
            raise self.lost()
        request_id, frame = self._protocol.request(name, *arguments)
        pending = self._pending
        alone = not pending
        reply = pending[request_id] = Reply(self._checks)
        self._send(frame, alone)
        return reply

    async def exchange(self, requests: Sequence[Sequence[Any]]) -> list[Any]:
        """Send several requests together; their payloads, in order.

        Raises:
            HeadwaterError: of the first of them that failed. All of them were sent.
        """
        replies = self.post(requests)
        for reply in replies:
            if not reply.done:
                await self._park(reply)
            if reply.error is not None:
                raise reply.error
        return [reply.payload for reply in replies]

    def post(self, requests: Sequence[Sequence[Any]]) -> list[Reply]:
        """Send several requests together and do not wait."""
        if self.closed:
            raise self.lost()
        protocol = self._protocol
        identities: list[int] = []
        frames: list[bytes] = []
        try:
            for request in requests:
                request_id, frame = protocol.request(*request)
                identities.append(request_id)
                frames.append(frame)
        except HeadwaterError:
            # Nothing of this goes out, so nothing of it will be answered.
            for request_id in identities:
                del protocol.in_flight[request_id]
            raise
        alone = not self._pending
        replies = [Reply(self._checks) for _ in identities]
        self._pending.update(zip(identities, replies, strict=True))
        self._send(b"".join(frames) if len(frames) > 1 else frames[0], alone)
        return replies

    async def subscribe(self, feed: Feed, *arguments: Any, operation: str = "subscribe") -> int:
        """Ask for a subscription, or a membership, whose pushes go to *feed*; its id."""
        if self.closed:
            raise self.lost()
        request_id, frame = self._protocol.request(operation, *arguments)
        # Pushes may be right behind the answer, in the same segment.
        self._feeds[request_id] = feed
        alone = not self._pending
        reply = self._pending[request_id] = Reply(self._checks)
        self._send(frame, alone)
        try:
            if not reply.done:
                await self._park(reply)
            if reply.error is not None:
                raise reply.error
        except BaseException:
            self.unsubscribe(request_id, operation=_ENDS[operation])
            raise
        return request_id

    def unsubscribe(self, subscription: int, *, operation: str = "unsubscribe") -> None:
        """End a subscription; do not wait."""
        self.forget(subscription)
        if not self.closed and self._protocol.in_flight.get(subscription):
            self.post([(operation, subscription)])

    def forget(self, subscription: int) -> None:
        """Deliver nothing more of a subscription that is going to be ended."""
        self._feeds.pop(subscription, None)

    async def wait(self, reply: Reply) -> None:
        """Return when *reply* is done, or was woken."""
        await self._park(reply)

    def wake(self, reply: Reply) -> None:
        """Let a task that is parked on *reply* look again."""
        reply.done = True
        if reply.sleeper is not None:
            self._wake(reply.sleeper)
            reply.sleeper = None

    def wait_without_timeout(self) -> None:  # noqa: B027 - most runtimes need not be told
        """From now on what is waited for is news, which may take any time, and no answer."""

    def wait_with_timeout(self, seconds: float) -> None:  # noqa: B027 - as wait_without_timeout
        """From now on what is waited for is an answer again, for so long at most."""

    def new_reply(self) -> Reply:
        """A reply to park on that belongs to no request."""
        return Reply(self._checks)

    # What comes in.

    def receive(self, data: bytes) -> None:
        """Deal with received bytes."""
        self._received = self._checks
        pending = self._pending
        for item in self._protocol.receive(data):
            if type(item) is Answer:
                reply = pending.pop(item[0], None)
                if reply is not None:
                    reply.payload = item[1]
                    reply.done = True
                    if reply.sleeper is not None:
                        self._wake(reply.sleeper)
                        reply.sleeper = None
            elif isinstance(item, Push):
                feed = self._feeds.get(item.request_id)
                if feed is not None:
                    feed.deliver(item.payload)
            elif isinstance(item, Failure) and item.request_id:
                self._fail(pending.pop(item.request_id, None), item.error)
            else:
                assert isinstance(item, Failure | Violation)
                self.close(item.error)

    def check_overdue(self, timeout: float) -> None:
        """Fail what has waited longer than *timeout* seconds; close if nothing came at all.

        To be called CHECKS_PER_TIMEOUT times in that time, and then again and again.
        """
        self._checks += 1
        # What was asked after so many checks was asked before the next of them. Since that one
        # the whole timeout has passed.
        latest = self._checks - CHECKS_PER_TIMEOUT - 1
        if self._feeds and not self._pending and self._received <= latest:
            # No news, or no connection any more? Who only listens finds out by asking.
            self.post([("ping",)])
        overdue = []
        # They stand in the order in which they were asked.
        for request_id, reply in self._pending.items():
            if reply.since > latest:
                break
            overdue.append(request_id)
        if not overdue:
            return
        if self._received <= latest:
            self.close(TimedOut(f"{self.name} said nothing for {timeout:g} s"))
            return
        for request_id in overdue:
            self._fail(self._pending.pop(request_id), TimedOut(f"no answer within {timeout:g} s"))

    def _fail(self, reply: Reply | None, error: HeadwaterError) -> None:
        if reply is not None:
            reply.error = error
            self.wake(reply)

    # The end.

    def close(self, reason: HeadwaterError | None = None) -> None:
        """Close the connection: whoever waits is told, whoever asks will be."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        self._protocol.close()
        self._shut()
        pending, self._pending = self._pending, {}
        for reply in pending.values():
            self._fail(reply, self.lost())
        feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            feed.lose()

    def lost(self) -> ConnectionLost:
        """The error of whoever waits for an answer on this closed connection."""
        if isinstance(self.reason, ConnectionLost):
            error = type(self.reason)(self.reason.message)
        elif self.reason is not None:
            error = ConnectionLost(f"{self.name} closed the connection: {self.reason}")
        else:
            error = ConnectionLost(f"the connection with {self.name} ended")
        error.__cause__ = self.reason
        return error

    # What differs between runtimes.

    @abstractmethod
    def _park(self, reply: Reply) -> Awaitable[None]:
        """Wait until *reply* is done. If cancelled, forget reply.sleeper."""

    @abstractmethod
    def _wake(self, sleeper: Any) -> None:
        """Let the task go on that parked as *sleeper*."""

    @abstractmethod
    def _send(self, data: bytes, alone: bool) -> None:
        """Send *data*, or queue it; it never raises, but closes the connection.

        If nobody else waits for an answer (*alone*), what is sent goes at once, for the
        shortest wait; else it may go with what other tasks send in the same turn.
        """

    @abstractmethod
    def _shut(self) -> None:
        """Close the socket and end what serves it."""
