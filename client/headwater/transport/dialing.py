"""Dialing: connecting to a host that may have several addresses, some of them dead (RFC 8305).

    address 1   connect ............................ no answer
    address 2        0.25 s later: connect ... connected: this one is used, the others are closed

Without this, an address that drops packets would cost the whole connect timeout. trio does it by
itself; asyncio_runtime.py does it with tasks, and this module with `poll`.
"""

import errno
import itertools
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from headwater.transport.stopping import Stopped
from headwater_protocol.address import Address

STAGGER_S: Final = 0.25
"""Seconds after which the next address is tried beside the others, as RFC 8305 recommends."""

_LOOK_S: Final = 0.1
"""Seconds between two looks at whether the database was closed."""

AddressInfo = tuple[Any, Any, int, str, Any]
"""A result of getaddrinfo: family, type, protocol, canonical name, socket address."""


def in_turn(found: list[AddressInfo]) -> list[AddressInfo]:
    """The addresses with their families alternating, so that a dead family costs one attempt."""
    families: dict[Any, list[AddressInfo]] = {}
    for info in found:
        families.setdefault(info[0], []).append(info)
    rounds = itertools.zip_longest(*families.values())
    return [info for each in rounds for info in each if info is not None]


def set_options(sock: Any) -> None:
    """Send requests at once, and let the system notice dead peers."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def dial(address: Address, timeout: float, stopped: Callable[[], bool]) -> socket.socket:
    """Connect a socket to the host of an address, without an event loop.

    Raises:
        OSError: no address could be connected to. It is the error of the first one.
        Stopped: *stopped* returned True meanwhile.
    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    until = time.monotonic() + timeout
    return _Dialing(deque(in_turn(found))).run(until, stopped)


class _Dialing:
    """Attempts to connect that run beside each other."""

    def __init__(self, waiting: deque[AddressInfo]) -> None:
        self._waiting = waiting
        self._running: dict[int, socket.socket] = {}
        self._errors: list[OSError] = []
        self._poll = select.poll()

    def run(self, until: float, stopped: Callable[[], bool]) -> socket.socket:
        next_start = 0.0
        try:
            while True:
                now = time.monotonic()
                if stopped():
                    raise Stopped
                if now >= until:
                    raise TimeoutError
                if self._waiting and (now >= next_start or not self._running):
                    self._start(self._waiting.popleft())
                    next_start = now + STAGGER_S
                    continue
                if not self._running:
                    raise self._errors[0]
                next_look = min(until, now + _LOOK_S)
                if self._waiting:
                    next_look = min(next_look, next_start)
                connected = self._finished(max(0.0, next_look - now))
                if connected is not None:
                    set_options(connected)
                    return connected
        finally:
            for sock in self._running.values():
                sock.close()

    def _start(self, info: AddressInfo) -> None:
        family, kind, protocol, _, target = info
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self._errors.append(error)
            return
        sock.setblocking(False)
        code = sock.connect_ex(target)
        if code not in (0, errno.EINPROGRESS):
            self._errors.append(OSError(code, os.strerror(code)))
            sock.close()
            return
        self._running[sock.fileno()] = sock
        self._poll.register(sock, select.POLLOUT)

    def _finished(self, seconds: float) -> socket.socket | None:
        """Wait for attempts to end. Returns a connected socket, if one of them succeeded."""
        for descriptor, _ in self._poll.poll(seconds * 1000):
            self._poll.unregister(descriptor)
            sock = self._running.pop(descriptor)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            self._errors.append(OSError(code, os.strerror(code)))
            sock.close()
        return None
