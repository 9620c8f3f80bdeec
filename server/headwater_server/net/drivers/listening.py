"""Listening: the addresses, the sockets, and which addresses need a user.

A database without users authenticates nobody. So it listens only on loopback addresses and Unix
sockets, and the server refuses any other address before it opens it.
"""

import errno
import ipaddress
import os
import socket
import stat

from headwater_protocol.errors import HeadwaterError
from headwater_server.net.settings import Address, ServerSettings


class CannotListen(HeadwaterError, code="cannot_listen"):
    """We cannot listen on an address; the message says which, why, and what to do."""


class Listeners:
    """Bound sockets, which do not listen yet.

    Attributes:
        tcp, unix: the sockets.
        local_only: no other machine can reach any of them.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.tcp: list[socket.socket] = []
        self.unix: list[socket.socket] = []
        self._unix_path = settings.unix
        try:
            for address in settings.listen:
                self.tcp += bind_tcp(address)
            if settings.unix is not None:
                self.unix.append(_bind_unix(settings.unix))
        except BaseException:
            self.close()
            raise
        self.local_only = all(map(is_local, self.tcp))

    def check_allowed(self, *, has_users: bool, data: str) -> None:
        """Refuse addresses that other machines can reach while there is no user.

        Raises:
            CannotListen: see the message.
        """
        if has_users or self.local_only:
            return
        exposed = [name_of(listener) for listener in self.tcp if not is_local(listener)]
        raise CannotListen(
            f"other machines can reach {', '.join(exposed)}, and this database has no users, so "
            f"anybody could use it. Add a user first: headwater user add NAME --data {data}"
        )

    def listen(self, backlog: int) -> list[str]:
        """Begin to listen; return the addresses, with the real port where 0 was asked for."""
        for listener in (*self.tcp, *self.unix):
            listener.listen(backlog)
        return [name_of(listener) for listener in (*self.tcp, *self.unix)]

    def close(self) -> None:
        """Close the sockets, and remove the Unix socket's file."""
        for listener in (*self.tcp, *self.unix):
            listener.close()
        if self.unix and self._unix_path is not None:
            try:
                os.unlink(self._unix_path)
            except FileNotFoundError:
                pass


def name_of(listener: socket.socket) -> str:
    """The address of a bound socket, as clients write it."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{address}"
    return str(Address(address[0], address[1]))


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can reach a bound TCP socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def bind_tcp(address: Address) -> list[socket.socket]:
    """A socket for each address that the host name resolves to.

    Raises:
        CannotListen: see the message.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise CannotListen(f"{address}: there is no such host: {error}") from error
    bound: list[socket.socket] = []
    failed: OSError | None = None
    for family, kind, protocol, _, where in dict.fromkeys(found):
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # An IPv6 address means IPv6 alone, not IPv4 too.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
        except OSError as error:
            listener.close()
            failed = error
            # "localhost" also resolves to ::1, which a machine without IPv6 does not have.
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue
            break
        bound.append(listener)
    else:
        if bound:
            return bound
    for listener in bound:
        listener.close()
    assert failed is not None, "a name resolves to one address at least"
    raise CannotListen(f"{address}: {_why(failed)}") from failed


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use, perhaps by another server; take another HOST:PORT"
    if error.errno == errno.EACCES:
        return "ports below 1024 need more rights; take another HOST:PORT"
    return error.strerror or str(error)


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        # For a path above some 100 bytes, Python raises an OSError without errno.
        raise CannotListen(f"{path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket file that a crashed server left behind."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise CannotListen(f"{path}: there is a file of this name that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise CannotListen(f"{path}: another server listens on it")
