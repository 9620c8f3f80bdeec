"""One connection to a server, which many tasks share.

    task --ask--> ClientConnection.request --> bytes --> socket
    task <-wake-- Reply <-- ClientConnection.receive <-- bytes <-- socket

The client only ever waits for a Reply, so this is the one place where it waits. How a task is
parked and woken is all that differs between trio, asyncio and plain sockets. On a plain socket
parking means to read until the reply is there. Then the coroutine never suspends, so `step`
(stepping.py) can run it without an event loop.

A task that is cancelled while it waits leaves its Reply behind. The answer fills it, nobody reads
it, and other tasks are not disturbed.

A connection belongs to the process that opened it. After a fork the child abandons its copy: two
processes on one socket would receive each other's answers.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol
from weakref import WeakSet

from headwater.errors import ConnectionLost, HeadwaterError, TimedOut
from headwater_protocol.connection import Answer, ClientConnection, Failure, Push, Violation

RECEIVE_SIZE_MAX: Final = 256 * 1024
"""Bytes to receive from a socket at once. A page of a scan has up to 1 MiB. A larger buffer does
not slow down small answers, because only the part that is filled is touched."""

QUEUED_SIZE_MAX: Final = 4 * 1024 * 1024
"""Bytes that wait to be sent on a connection. Further requests wait for room. More would not be
faster, and a thousand tasks that each write a large value would fill the memory."""

CHECKS_PER_TIMEOUT: Final = 8
"""Checks for overdue requests in the time of one timeout, so a timeout is noticed up to an eighth
late. There is one timer for each connection. A timer for each request, or even reading the clock,
would cost more than the request, so age is counted in checks."""


_ENDS: Final = {
    "subscribe": "unsubscribe",
    "subscribe_keys": "unsubscribe",
    "group_join": "group_leave",
}
"""The operation that ends what each of these operations begins."""


class Reply:
    """The answer to one request, which may still be to come.

    Attributes:
        done: whether `payload` or `error` is set.
        since: the number of checks when the request was sent.
        sleeper: what the runtime wakes, if a task is parked on this reply.
    """

    __slots__ = ("done", "error", "payload", "since", "sleeper")

    def __init__(self, since: int) -> None:
        self.done = False
        self.payload: Any = None
        self.error: HeadwaterError | None = None
        self.since = since
        self.sleeper: Any = None


class PushReceiver(Protocol):
    """The receiver of the pushes of a subscription."""

    def deliver(self, payload: list[Any]) -> None:
        """Receive a push."""

    def lose(self) -> None:
        """Note that the connection is closed, and that no more pushes will come."""


class Connection(ABC):
    """One connection, shared by tasks. Subclasses implement waiting and sending.

    Attributes:
        name: the server's address, for messages.
        closed: whether it is closed.
        reason: why it is closed, if that is known.
        server_certificate: that the server has shown in TLS (DER); None without TLS.
        on_refusal: called with each error that the server answers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.server_certificate: bytes | None = None
        self.on_refusal: Callable[[HeadwaterError], None] | None = None
        self.closed = False
        self.reason: HeadwaterError | None = None
        self._protocol = ClientConnection()
        self._pending: dict[int, Reply] = {}
        self._feeds: dict[int, PushReceiver] = {}
        self._checks = 0
        # The number of checks when a whole message last arrived.
        self._received = 0
        self._message_count = 0
        # Bytes that wait to be sent, and the requests that wait until there are fewer.
        self._queued_size = 0
        self._waiting_for_room: deque[Reply] = deque()
        _connections.add(self)

    # Sharing.

    def take(self) -> bool:
        """Whether the caller may use the connection now. A pool hands out only what it took."""
        return not self.closed

    def hold(self) -> None:  # noqa: B027 - only a pool of connections needs it
        """Note that a transaction is open on the connection."""

    def release(self) -> None:  # noqa: B027 - as hold
        """Note that a transaction has ended."""

    def _check_usable(self) -> None:
        """Raise an error if the caller cannot use the connection."""
        if self.closed:
            raise self.lost()

    # Requests.

    async def ask(self, name: str, *arguments: Any) -> Any:
        """Send a request, and return the payload of its answer.

        Raises:
            HeadwaterError: the error that the server answered; or InvalidArgument, before sending.
            ConnectionLost: the connection was closed before the answer came.
        """
        if self._queued_size > QUEUED_SIZE_MAX or self._waiting_for_room:
            await self._wait_for_room()
        reply = self._post_one(name, arguments)
        if not reply.done:
            await self._park(reply)
        return self._outcome(reply)

    def _outcome(self, reply: Reply) -> Any:
        """The payload of a reply after the wait for it."""
        if reply.error is not None:
            raise reply.error
        if not reply.done:
            # Without this, the missing payload would pass for an answer.
            raise self.lost()
        return reply.payload

    def _post_one(self, name: str, arguments: Sequence[Any]) -> Reply:
        self._check_usable()
        request_id, frame = self._protocol.request(name, *arguments)
        pending = self._pending
        alone = not pending
        reply = pending[request_id] = Reply(self._checks)
        self._send(frame, alone)
        if self._waiting_for_room:
            self._admit()
        return reply

    async def exchange(
        self, requests: Sequence[Sequence[Any]], on_sent: Callable[[], None] | None = None
    ) -> list[Any]:
        """Send several requests together, and return their payloads in order.

        Args:
            requests: each the name of an operation and its arguments.
            on_sent: called once all of them were sent. If an argument is invalid, or the
                connection is closed, nothing is sent and it is not called.

        Raises:
            HeadwaterError: the error of the first request that failed.
        """
        if self._queued_size > QUEUED_SIZE_MAX or self._waiting_for_room:
            await self._wait_for_room()
        replies = self.post(requests)
        if on_sent is not None:
            on_sent()
        payloads = []
        for reply in replies:
            if not reply.done:
                await self._park(reply)
            payloads.append(self._outcome(reply))
        return payloads

    def post(self, requests: Sequence[Sequence[Any]]) -> list[Reply]:
        """Send several requests together, without waiting."""
        self._check_usable()
        protocol = self._protocol
        identities: list[int] = []
        frames: list[bytes] = []
        try:
            for request in requests:
                request_id, frame = protocol.request(*request)
                identities.append(request_id)
                frames.append(frame)
        except HeadwaterError:
            # Nothing is sent, so none of these requests will be answered.
            for request_id in identities:
                del protocol.in_flight[request_id]
            raise
        alone = not self._pending
        replies = [Reply(self._checks) for _ in identities]
        self._pending.update(zip(identities, replies, strict=True))
        self._send(b"".join(frames) if len(frames) > 1 else frames[0], alone)
        if self._waiting_for_room:
            self._admit()
        return replies

    async def _wait_for_room(self) -> None:
        """Wait, in line, until no more than QUEUED_SIZE_MAX bytes wait to be sent."""
        self._check_usable()
        while True:
            reply = Reply(self._checks)
            self._waiting_for_room.append(reply)
            try:
                await self._park(reply)
            except BaseException:
                if reply.done:
                    self._admit()  # It was the turn of this one, and is now that of the next.
                elif reply in self._waiting_for_room:
                    self._waiting_for_room.remove(reply)
                raise
            if reply.error is not None:
                raise reply.error
            if self._queued_size <= QUEUED_SIZE_MAX:
                return

    def _admit(self) -> None:
        """Wake the request that has waited longest, if there is room. It wakes the next one."""
        if self._waiting_for_room and self._queued_size <= QUEUED_SIZE_MAX:
            self.wake(self._waiting_for_room.popleft())

    async def subscribe(
        self, feed: PushReceiver, *arguments: Any, operation: str = "subscribe"
    ) -> int:
        """Open a subscription, or a membership, whose pushes go to *feed*. Returns its id."""
        self._check_usable()
        request_id, frame = self._protocol.request(operation, *arguments)
        # Registered before the answer, because pushes may follow it in the same segment.
        self._feeds[request_id] = feed
        alone = not self._pending
        reply = self._pending[request_id] = Reply(self._checks)
        self._send(frame, alone)
        try:
            if not reply.done:
                await self._park(reply)
            self._outcome(reply)
        except BaseException:
            self.unsubscribe(request_id, operation=_ENDS[operation])
            raise
        return request_id

    def unsubscribe(self, subscription: int, *, operation: str = "unsubscribe") -> None:
        """End a subscription, without waiting."""
        self.forget(subscription)
        if not self.closed and self._protocol.in_flight.get(subscription):
            self.post([(operation, subscription)])

    def forget(self, subscription: int) -> None:
        """Stop delivering the pushes of a subscription that is about to end."""
        self._feeds.pop(subscription, None)

    async def wait(self, reply: Reply) -> None:
        """Wait until *reply* is done, or until `wake` is called."""
        await self._park(reply)

    def wake(self, reply: Reply) -> None:
        """Wake the task that is parked on *reply*."""
        reply.done = True
        if reply.sleeper is not None:
            self._wake(reply.sleeper)
            reply.sleeper = None

    def wait_without_timeout(self) -> None:  # noqa: B027 - only sockets that block need it
        """Expect pushes, which may take any time, instead of answers."""

    def wait_with_timeout(self, seconds: float) -> None:  # noqa: B027 - as wait_without_timeout
        """Expect answers again, within a timeout."""

    def new_reply(self) -> Reply:
        """A reply to park on, which belongs to no request."""
        return Reply(self._checks)

    # Received bytes.

    def receive(self, data: bytes) -> None:
        """Process received bytes."""
        pending = self._pending
        items = self._protocol.receive(data)
        if items:
            # Only whole messages count. A peer that sends a byte now and then is silent, too.
            self._received = self._checks
            self._message_count += len(items)
        for item in items:
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
                if self.on_refusal is not None:
                    self.on_refusal(item.error)
                self._fail(pending.pop(item.request_id, None), item.error)
            else:
                assert isinstance(item, Failure | Violation)
                self.close(item.error)

    def check_overdue(self, timeout: float) -> None:
        """Fail requests older than *timeout* seconds. Close if nothing at all was received.

        The runtime must call this CHECKS_PER_TIMEOUT times in each timeout.
        """
        self._checks += 1
        # A request that was sent after check number `latest` was sent before the next check, and
        # since that one the whole timeout has passed.
        latest = self._checks - CHECKS_PER_TIMEOUT - 1
        if self._feeds and not self._pending and self._received <= latest:
            # Is there no news, or no connection? A connection with subscriptions only sends no
            # requests that could time out, so it sends a ping.
            self.post([("ping",)])
        while self._waiting_for_room and self._waiting_for_room[0].since <= latest:
            error = TimedOut(f"{self.name} received too slowly to send this within {timeout:g} s")
            self._fail(self._waiting_for_room.popleft(), error)
        overdue = []
        # The requests are in the order in which they were sent.
        for request_id, reply in self._pending.items():
            if reply.since > latest:
                break
            overdue.append(request_id)
        if not overdue:
            return
        if self._received <= latest:
            self.close(TimedOut(f"{self.name} sent nothing for {timeout:g} s"))
            return
        for request_id in overdue:
            self._fail(self._pending.pop(request_id), TimedOut(f"no answer within {timeout:g} s"))

    def _fail(self, reply: Reply | None, error: HeadwaterError) -> None:
        if reply is not None:
            reply.error = error
            self.wake(reply)

    # Closing.

    def close(self, reason: HeadwaterError | None = None) -> None:
        """Close the connection. Waiting requests fail now, later ones when they are made."""
        if self.closed:
            return
        # Before `closed`, because another thread may look at it at once.
        self.reason = reason
        self.closed = True
        self._shut()
        self._finish()

    def abandon(self) -> None:
        """Forget the connection in a child process, without touching what the parent uses."""
        if self.closed:
            return
        self.reason = ConnectionLost(f"the connection with {self.name} belongs to a parent process")
        self.closed = True
        self._finish()

    def _finish(self) -> None:
        """Fail what waits on this closed connection."""
        self._protocol.close()
        pending, self._pending = self._pending, {}
        waiting, self._waiting_for_room = self._waiting_for_room, deque()
        for reply in (*pending.values(), *waiting):
            self._fail(reply, self.lost())
        feeds, self._feeds = self._feeds, {}
        for feed in feeds.values():
            feed.lose()

    def lost(self) -> ConnectionLost:
        """The error of a request on this closed connection."""
        if isinstance(self.reason, ConnectionLost):
            error = type(self.reason)(self.reason.message, retryable=self.reason.retryable)
        elif self.reason is not None:
            error = ConnectionLost(f"{self.name} closed the connection: {self.reason}")
        else:
            error = ConnectionLost(f"the connection with {self.name} ended")
        error.__cause__ = self.reason
        return error

    # What differs between runtimes.

    @abstractmethod
    def _park(self, reply: Reply) -> Awaitable[None]:
        """Wait until *reply* is done. On cancellation, clear reply.sleeper."""

    @abstractmethod
    def _wake(self, sleeper: Any) -> None:
        """Wake the task that is parked as *sleeper*."""

    @abstractmethod
    def _send(self, data: bytes, alone: bool) -> None:
        """Send *data*, or queue it. An error is not raised; it closes the connection.

        If no other task waits for an answer (*alone*), send at once, which is fastest. Otherwise
        the data may be sent together with what other tasks send in the same turn.
        """

    @abstractmethod
    def _shut(self) -> None:
        """Close the socket, and end the tasks that serve it."""


_connections: Final[WeakSet[Connection]] = WeakSet()
"""All connections of this process, to abandon them in a child."""


def _abandon_all() -> None:
    for connection in list(_connections):
        connection.abandon()


os.register_at_fork(after_in_child=_abandon_all)
