"""A connection on a socket, without an event loop: the thread that waits for a reply receives it.

    ask ---send---> poll ---readable---> recv, parse ---reply done---> return
                     ^                        |
                     '---- not yet done ------'       until the deadline of the answer

One thread at a time receives (`_using`). Several threads may send (`_lock`), for example one that
acknowledges a delivery while another waits for the next one.

The socket never blocks. A thread waits in `poll`, which receives nothing, so an exception that a
signal handler raises does no harm there. While bytes are sent or received, the connection is marked
as torn. If an exception interrupts this, the mark stays, and nobody uses the connection again:
the rest of a frame would be taken for the next one.

Another thread may close the connection at any time. It shuts the socket down, which wakes a polling
thread, and fails all waiting requests. It never frees the descriptor of a socket that is in use,
because the system would give the same number to the next file.
"""

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from headwater.errors import ConnectionLost, HeadwaterError, TimedOut
from headwater.transport.connection import RECEIVE_SIZE_MAX, Connection, PushReceiver, Reply

_POLL_S_MAX: Final = 1_000_000.0
"""Seconds of one poll. The system takes milliseconds as an int."""


class BlockingConnection(Connection):
    """A connection on a socket of its own, TLS or plain.

    Attributes:
        deadline: the time at which every wait for an answer ends, while connecting.
    """

    def __init__(self, name: str, sock: socket.socket, timeout: float) -> None:
        super().__init__(name)
        sock.setblocking(False)
        self._socket = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        if isinstance(sock, ssl.SSLSocket):
            self.server_certificate = sock.getpeercert(binary_form=True)
        self._timeout = timeout
        self.deadline: float | None = None
        self._expects_pushes = False
        self._torn = False
        # Poll objects that no thread uses now.
        self._polls = [select.poll()]
        # All locks are reentrant, because a signal handler may use the database, too.
        self._using = threading.RLock()
        self._lock = threading.RLock()
        # The thread that took the connection from the pool, and whether it uses it now.
        self._taking = threading.RLock()
        self._taker = 0
        self._in_use = False
        self._transaction_count = 0

    # Sharing.

    def take(self) -> bool:
        taker = threading.get_ident()
        with self._taking:
            if self.closed or self._in_use or self._transaction_count:
                return False
            # A thread that was interrupted may have left its connection taken.
            if self._taker not in (0, taker):
                return False
            self._taker = taker
            return True

    def hold(self) -> None:
        with self._taking:
            self._transaction_count += 1

    def release(self) -> None:
        with self._taking:
            self._transaction_count -= 1

    # Requests.

    async def ask(self, name: str, *arguments: Any) -> Any:
        # Connection.ask without the coroutine of _park.
        try:
            with self._using:
                self._in_use = True
                with self._lock:
                    reply = self._post_one(name, arguments)
                if not reply.done:
                    self._receive_until(reply)
        finally:
            self._leave()
        if reply.done and reply.error is None:
            return reply.payload
        return self._outcome(reply)

    async def exchange(
        self, requests: Sequence[Sequence[Any]], on_sent: Callable[[], None] | None = None
    ) -> list[Any]:
        try:
            with self._using:
                self._in_use = True
                return await super().exchange(requests, on_sent)
        finally:
            self._leave()

    def post(self, requests: Sequence[Sequence[Any]]) -> list[Reply]:
        with self._lock:
            return super().post(requests)

    async def subscribe(
        self, feed: PushReceiver, *arguments: Any, operation: str = "subscribe"
    ) -> int:
        try:
            with self._using:
                self._in_use = True
                return await super().subscribe(feed, *arguments, operation=operation)
        finally:
            self._leave()

    async def wait(self, reply: Reply) -> None:
        try:
            with self._using:
                if self._expects_pushes:
                    self._receive_push(reply)
                else:
                    self._receive_until(reply)
        finally:
            self._leave()

    async def _park(self, reply: Reply) -> None:
        self._receive_until(reply)

    def wait_without_timeout(self) -> None:
        self._expects_pushes = True

    def wait_with_timeout(self, seconds: float) -> None:
        self._expects_pushes = False
        self.set_timeout(seconds)

    def set_timeout(self, seconds: float) -> None:
        """Set the timeout of each answer, and of the silence after which a ping is sent."""
        self._timeout = seconds

    def _check_usable(self) -> None:
        if self._torn:
            self.close(ConnectionLost(f"a message with {self.name} was interrupted"))
        if self.closed:
            raise self.lost()

    def _leave(self) -> None:
        """End the use of the connection."""
        self._in_use = False
        self._taker = 0
        if self._torn:
            with self._lock:
                # Another thread may only have been in the middle of sending.
                if self._torn:
                    self.close(ConnectionLost(f"a message with {self.name} was interrupted"))
        elif self.closed:
            self._free_descriptor()

    # Receiving.

    def _receive_until(self, reply: Reply) -> None:
        """Receive until *reply* is done, within the timeout of an answer."""
        until = self.deadline or time.monotonic() + self._timeout
        while not reply.done and not self.closed:
            # Check the deadline first. Otherwise a slow trickle of bytes could extend it.
            if not self._receive_some(until):
                self.close(TimedOut(f"no answer from {self.name} within {self._timeout:g} s"))

    def _receive_push(self, reply: Reply) -> None:
        """Receive until *reply* is done, however long it takes. Ping while nothing arrives."""
        pinged = False
        seen = self._message_count
        until = time.monotonic() + self._timeout
        while not reply.done and not self.closed:
            self._receive_some(until)
            if self._message_count == seen and time.monotonic() < until:
                continue
            if self._message_count != seen:
                pinged = False
            elif pinged:
                self.close(TimedOut(f"{self.name} sent nothing for {self._timeout:g} s"))
                return
            else:
                # The server may be silent or dead. A ping finds out.
                pinged = True
                self.post([("ping",)])
            seen = self._message_count
            until = time.monotonic() + self._timeout

    def _receive_some(self, until: float) -> bool:
        """Receive available bytes. Returns False if none arrived before the time *until*."""
        waits_for = select.POLLIN
        if self._tls:
            # The TLS layer may hold received bytes, which poll does not see.
            waits_for = 0
            if time.monotonic() >= until:
                return False
        while True:
            if waits_for and not self._wait_for(waits_for, until):
                return False
            with self._lock:
                if self.closed:
                    return True
                self._torn = True
                try:
                    data = self._socket.recv(RECEIVE_SIZE_MAX)
                except (BlockingIOError, ssl.SSLWantReadError):
                    waits_for = select.POLLIN
                except ssl.SSLWantWriteError:
                    waits_for = select.POLLOUT
                except OSError as error:
                    self._break(error)
                    return True
                else:
                    if data:
                        self.receive(data)
                    else:
                        self.close()
                    self._torn = False
                    return True
                self._torn = False

    def _wait_for(self, event: int, until: float) -> bool:
        """Wait for the socket. Returns False if it was not ready before the time *until*."""
        left = until - time.monotonic()
        if left <= 0:
            return False
        try:
            poll = self._polls.pop()
        except IndexError:
            # This one is in use: a signal handler interrupted the wait.
            poll = select.poll()
        poll.register(self._socket, event)
        ready = poll.poll(1000 * (left if left < _POLL_S_MAX else _POLL_S_MAX))
        self._polls.append(poll)
        return bool(ready)

    # Sending. The lock is held.

    def _send(self, data: bytes, alone: bool) -> None:  # noqa: ARG002
        self._torn = True
        rest = memoryview(data)
        until: float | None = None
        while True:
            waits_for = select.POLLOUT
            try:
                rest = rest[self._socket.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                pass
            except ssl.SSLWantReadError:
                waits_for = select.POLLIN
            except OSError as error:
                self._break(error)
                return
            if not rest:
                break
            if until is None:
                until = time.monotonic() + self._timeout
            if not self._wait_for(waits_for, until):
                self._torn = False
                self.close(TimedOut(f"{self.name} accepted no request within {self._timeout:g} s"))
                return
        self._torn = False

    def _break(self, error: OSError) -> None:
        self._torn = False
        self.close(ConnectionLost(f"the connection with {self.name} broke: {error}"))

    # Closing.

    def close(self, reason: HeadwaterError | None = None) -> None:
        if not self.closed:
            self.reason = reason
            self.closed = True
        # This wakes a thread that waits for the socket, so it comes before the lock.
        self._shut()
        with self._lock:
            self._torn = False
            self._finish()
        self._free_descriptor()

    def _shut(self) -> None:
        try:
            # The method of SSLSocket would take the TLS state away from a thread that uses it.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass  # The peer has closed it already.

    def _free_descriptor(self) -> None:
        """Close the socket. If another thread uses it, that thread closes it later."""
        if self._using.acquire(blocking=False):
            try:
                with self._lock:
                    self._socket.close()
            finally:
                self._using.release()

    def abandon(self) -> None:
        # Another thread may have held the locks in the parent. It does not exist here.
        self._using = threading.RLock()
        self._lock = threading.RLock()
        self._taking = threading.RLock()
        super().abandon()
        # This closes only the child's descriptor. A shutdown would affect the parent's connection.
        self._socket.close()

    def _wake(self, _sleeper: Any) -> None:
        raise AssertionError("no task parks on a blocking connection")
