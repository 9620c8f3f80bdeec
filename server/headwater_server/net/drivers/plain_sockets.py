"""Plain sockets: one task that serves all ready connections at each wake-up.

With a task for each connection, every request would cost a task switch and a wait. Here all sockets
are in one set (readiness.py), and trio waits for its descriptor (epoll on Linux, kqueue on macOS):

    trio --wake-up--> ready() --> each readable connection: recv
                              --> each of those: session.receive
                              --> while there are commits and more connections are ready: serve them
                              --> one sync for all
                              --> each served connection: send its output
                              --> if it was only one: linger for its next request (lingering.py)
                              --> back to trio, where the committer starts its sync

So one wake-up serves every ready connection, all their commits go into one group, and each
connection costs one read and one write. Fairness: each connection is served in turns that are
bounded in time, and so is the turn of all. A second task serves the rest in between. That task also
sends the output that a sync or a subscription produces outside of a wake-up.

This module knows no protocol. When a session does not want input, its socket is not read and fills
up, and TCP slows the client down.
"""

import errno
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError
from headwater_server.net.drivers.lingering import Lingering
from headwater_server.net.drivers.readiness import READ, WRITE, Readiness, open_readiness
from headwater_server.net.service import Service
from headwater_server.net.session.session import Session, open_session

_log = structlog.get_logger(__name__)

CONNECTIONS_PER_TURN_MAX: Final = 256
"""Connections served before other tasks get their turn: a few milliseconds. Their commits still
make large groups."""

FLUSHES_PER_TURN_MAX: Final = 128
"""Connections flushed before other tasks get their turn: about a millisecond."""

LOOKS_MAX: Final = 4
"""How often we poll for ready sockets before other tasks get their turn: about a millisecond."""

READY_MIN: Final = 2
"""If fewer connections were ready together, polling again right away would seldom find more."""

GATHERINGS_MAX: Final = 8
"""How often we poll for more commits that can share a sync, before we start it."""

_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Connection:
    """A socket and its session."""

    __slots__ = ("interest", "output_full", "session", "socket")

    def __init__(self, client: socket.socket) -> None:
        self.socket = client
        self.session: Session
        self.interest = READ
        self.output_full = False


class _Listener:
    """A listening socket."""

    __slots__ = ("name", "socket")

    def __init__(self, listener: socket.socket, name: str) -> None:
        self.socket = listener
        self.name = name


_Registered = _Connection | _Listener


class PlainSockets:
    """Drives all TCP and Unix connections without TLS.

    Attributes:
        to_flush: connections that have output.
    """

    def __init__(
        self,
        service: Service,
        *,
        readiness: Readiness[Any] | None = None,
        wait_readable: Callable[[int], Awaitable[None]] = trio.lowlevel.wait_readable,
    ) -> None:
        """Simulation passes a *readiness* of sockets in memory, and its own way to wait for it."""
        self._service = service
        self._wait_readable = wait_readable
        self._settings = service.settings
        self._receive_size = service.settings.session.receive_size
        self._readiness: Readiness[_Registered] = readiness or open_readiness()
        self._turn_of_all = service.connections_turn
        self._lingering = Lingering(self._readiness.wait, service.connections_turn.now)
        self._listeners: list[_Listener] = []
        self._accepting = True
        self._connections: dict[_Connection, None] = {}
        self.to_flush: list[_Connection] = []
        self._to_run: list[_Connection] = []
        self._idle = trio.lowlevel.ParkingLot()

    def listen(self, listener: socket.socket, name: str) -> None:
        """Accept connections from a listening socket. *name* is its address, for logs."""
        listener.setblocking(False)
        self._listeners.append(_Listener(listener, name))
        self._readiness.register(listener, READ, self._listeners[-1])

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_ready)
            nursery.start_soon(self._serve_others)

    async def _serve_ready(self) -> None:
        descriptor = self._readiness.fileno()
        while True:
            await self._wait_readable(descriptor)
            for _ in range(LOOKS_MAX):
                ready = self._readiness.ready()
                for start in range(0, len(ready), CONNECTIONS_PER_TURN_MAX):
                    if start:
                        await trio.lowlevel.checkpoint()
                    self._turn(ready[start : start + CONNECTIONS_PER_TURN_MAX])
                # A pass through the event loop costs as much as a few requests. Under load more
                # sockets are ready already. But the end of a running sync must not wait for us.
                if len(ready) < READY_MIN or self._service.group_commit.busy:
                    break
            if len(ready) == 1 and self._lingering.begin_row():
                self._linger()

    def _linger(self) -> None:
        """Serve further requests that come soon, while no other task here has work."""
        group_commit = self._service.group_commit
        while not self.to_flush and not self._to_run and not group_commit.busy:
            if not self._lingering.comes():
                return
            self._turn(self._readiness.ready()[:CONNECTIONS_PER_TURN_MAX])

    async def _serve_others(self) -> None:
        running, searches = self._service.long_requests.running, self._service.searches
        while True:
            if not self.to_flush and not self._to_run:
                await self._idle.park()
            runnable, self._to_run = self._to_run, []
            for connection in runnable:
                session = connection.session
                if not session.closed:
                    long = session in running or session in searches
                    if long and _has_left(connection.socket):
                        self._close(connection)
                        continue
                    session.notified = True
                    session.run()
                    self._send(connection)
                    await trio.lowlevel.checkpoint()
            self.flush(FLUSHES_PER_TURN_MAX)
            await trio.lowlevel.checkpoint()

    def _turn(self, ready: list[tuple[_Registered, int]]) -> None:
        """Serve everything that is ready."""
        served: list[_Connection] = []
        group_commit = self._service.group_commit
        group_commit.begin_turn()
        self._turn_of_all.begin()
        self._serve(ready, served)
        for _ in range(GATHERINGS_MAX):
            # Requests that arrived meanwhile can share the sync that is due now.
            if not group_commit.gathering or len(served) >= CONNECTIONS_PER_TURN_MAX:
                break
            if self._turn_of_all.over:
                break
            ready = self._readiness.ready()
            if not ready:
                break
            self._serve(ready, served)
        group_commit.end_turn()
        # Send only after serving everyone. An earlier send could wake a client on this CPU and
        # preempt us.
        for connection in served:
            self._send(connection)

    def _serve(self, ready: list[tuple[_Registered, int]], served: list[_Connection]) -> None:
        """Read from the ready sockets, then serve their requests; add the served to *served*.

        Alternating between the two would switch between kernel and our code each time, and both
        would find the processor's caches cold.
        """
        size = self._receive_size
        received: list[tuple[_Connection, bytes]] = []
        for connection, events in ready:
            if isinstance(connection, _Listener):
                self._accept(connection)
                continue
            session = connection.session
            if events & WRITE:
                connection.output_full = False
                self._send(connection)
            if events & READ and not session.wants_input and not session.closed:
                # Nothing was sent since it takes no input, as when it ends and a commit still
                # waits. The socket stays readable, so waiting for that would spin.
                self._watch(connection)
            elif events & READ and not session.closed:
                try:
                    data = connection.socket.recv(size)
                except (BlockingIOError, InterruptedError):
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._close(connection)
                    continue
                received.append((connection, data))
        turn = self._turn_of_all
        for connection, data in received:
            session = connection.session
            if not session.closed:
                # No notify is needed: `_turn` sends the output.
                session.notified = True
                session.receive(data, later=turn.over)
                served.append(connection)

    # Output.

    def _notify(self, connection: _Connection) -> None:
        if not self.to_flush:
            self._idle.unpark()
        self.to_flush.append(connection)

    def flush(self, count_max: int | None = None) -> None:
        """Send to the connections that have output, at most *count_max* of them."""
        connections = self.to_flush
        if count_max is not None and len(connections) > count_max:
            self.to_flush = connections[count_max:]
            del connections[count_max:]
            self._idle.unpark()
        else:
            self.to_flush = []
        for connection in connections:
            self._send(connection)

    def _send(self, connection: _Connection) -> None:
        """Send as much as the socket takes; then run the session, wait again, or close."""
        session = connection.session
        if session.closed:
            return
        session.notified = False
        while session.output_size and not connection.output_full:
            output = session.output()
            try:
                size = connection.socket.send(output)
            except (BlockingIOError, InterruptedError):
                size = 0
            except OSError:
                self._close(connection)
                return
            # A socket that took only a part is full: another call would only say so.
            connection.output_full = size < len(output)
            session.sent(size)
        if session.closing and not session.output_size:
            self._close(connection)
        elif not session.wants_input or connection.interest != READ or connection.output_full:
            if session.runnable:
                self._to_run.append(connection)
                self._idle.unpark()
            self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        """Tell the selector which events to wait for."""
        interest = READ if connection.session.wants_input else 0
        if connection.output_full:
            interest |= WRITE
        if interest == connection.interest:
            return
        if not interest:
            self._readiness.unregister(connection.socket)
        elif not connection.interest:
            self._readiness.register(connection.socket, interest, connection)
        else:
            self._readiness.modify(connection.socket, interest, connection)
        connection.interest = interest

    # Connections come and go.

    def _accept(self, listener: _Listener) -> None:
        for _ in range(self._settings.accepts_per_turn_max):
            try:
                client, address = listener.socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    # The listener stays readable, so waiting would spin until a connection closes.
                    self._pause_accepting(error)
                    return
                # The client closed before the accept: ECONNABORTED and the like.
                continue
            self._open(client, _peer_name(address, listener.name))

    def _open(self, client: socket.socket, peer: str) -> None:
        client.setblocking(False)
        connection = _Connection(client)
        try:
            self._service.check_descriptor(client.fileno())
            session = open_session(self._service, peer, partial(self._notify, connection))
        except HeadwaterError as error:
            self._service.note_refusal(peer, error)
            refuse(client, self._service.refusal(error))
            return
        set_socket_options(client)
        connection.session = session
        self._connections[connection] = None
        self._readiness.register(client, READ, connection)

    def _close(self, connection: _Connection) -> None:
        if connection not in self._connections:
            return
        del self._connections[connection]
        if connection.interest:
            self._readiness.unregister(connection.socket)
        connection.socket.close()
        connection.session.close()
        self.resume_accepting()

    def _pause_accepting(self, error: OSError) -> None:
        _log.error("no connections are accepted for now", reason=str(error))
        if self._accepting:
            self._accepting = False
            for listener in self._listeners:
                self._readiness.unregister(listener.socket)

    def resume_accepting(self) -> None:
        """Try again after descriptors ran out: when a connection closes, and periodically."""
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._readiness.register(listener.socket, READ, listener)

    def stop_accepting(self) -> None:
        """Close the listening sockets."""
        if self._accepting:
            for listener in self._listeners:
                self._readiness.unregister(listener.socket)
        for listener in self._listeners:
            listener.socket.close()
        self._listeners = []

    def close(self) -> None:
        """Close every socket, after a last try to send its output."""
        self.stop_accepting()
        self.flush()
        for connection in list(self._connections):
            self._close(connection)
        self._readiness.close()


def set_socket_options(client: socket.socket) -> None:
    """Send small answers without delay, and detect dead peers."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if client.family != socket.AF_UNIX:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The default of Linux is two hours, and meanwhile a peer that lost power would hold read
        # views and memory. macOS does not have the option.
        if hasattr(socket, "TCP_KEEPIDLE"):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def refuse(client: socket.socket, refusal: bytes) -> None:
    """Send the refusal as far as the socket takes it, and close."""
    with client:
        try:
            client.send(refusal)
            # Closing with unread input resets the connection, and the client may lose the refusal.
            client.shutdown(socket.SHUT_WR)
            client.recv(16 * 1024)
        except OSError:
            pass


def _has_left(client: socket.socket) -> bool:
    """Whether the client has closed its connection, and nothing that it sent is unread."""
    try:
        return not client.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def _peer_name(address: object, listener_name: str) -> str:
    match address:
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return listener_name
