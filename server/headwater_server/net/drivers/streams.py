"""Streams: two tasks for each connection, over any trio stream.

TLS connections use this, since trio's SSLStream handles TLS records, and so do memory streams in
simulation and tests. The session is the same as on plain sockets; here one task reads its bytes
and one writes them.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from headwater_protocol.errors import HeadwaterError
from headwater_server.net.drivers.tls import Certificate
from headwater_server.net.service import Service
from headwater_server.net.session.certificates import TlsFacts, user_of
from headwater_server.net.session.session import open_session

_log = structlog.get_logger(__name__)


class _StreamConnection:
    """A stream and its session."""

    def __init__(self, stream: trio.abc.Stream, service: Service, peer: str) -> None:
        self._stream = stream
        self._receive_size = service.settings.session.receive_size
        self._output = trio.lowlevel.ParkingLot()
        self._input = trio.lowlevel.ParkingLot()
        self.session = open_session(service, peer, self._wake)

    def _wake(self) -> None:
        self._output.unpark()
        self._input.unpark()

    async def read(self) -> None:
        """Feed received bytes to the session while it wants input; return once it is over."""
        session = self.session
        while not session.ended:
            if session.runnable:
                session.run()
                await trio.lowlevel.checkpoint()
            elif session.wants_input:
                data = await self._stream.receive_some(self._receive_size)
                if not data:
                    session.close()
                    break
                session.receive(bytes(data))
            else:
                # Input is wanted again only together with new output, which wakes us.
                await self._input.park()
        while not (session.aborted or session.closed):
            await self._input.park()

    async def write(self) -> None:
        """Send the session's output; return when it is closing and everything is sent."""
        session = self.session
        while True:
            session.notified = False
            output = session.output()
            if output:
                await self._stream.send_all(output)
                session.sent(len(output))
                self._input.unpark()
            elif session.closing:
                return
            elif session.runnable:
                # A delayed request can continue. Run it here, as the other task may wait for input.
                session.run()
                await trio.lowlevel.checkpoint()
            else:
                self._input.unpark()
                await self._output.park()


async def serve_stream(
    stream: trio.abc.Stream, service: Service, *, peer: str, tls: TlsFacts | None = None
) -> None:
    """Serve one connection until either end closes it. *tls*: what TLS proves of the client."""
    try:
        connection = _StreamConnection(stream, service, peer)
    except HeadwaterError as error:
        service.note_refusal(peer, error)
        await _refuse(stream, service.refusal(error))
        return
    if tls is not None:
        service.strangers.introduce(connection.session, tls)
    try:
        async with trio.open_nursery() as nursery:
            for carry in (connection.read, connection.write):
                nursery.start_soon(_cancel_after, carry, nursery.cancel_scope)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        # The client closed the connection during a call.
        pass
    finally:
        connection.session.close()
        await _close(stream)


async def _cancel_after(carry: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await carry()
    scope.cancel()


async def _refuse(stream: trio.abc.Stream, refusal: bytes) -> None:
    with trio.move_on_after(1):
        try:
            await stream.send_all(refusal)
        except trio.BrokenResourceError:
            pass
    await _close(stream)


async def _close(stream: trio.abc.Stream) -> None:
    # A graceful close needs the client's help; give it a bounded time.
    with trio.move_on_after(1, shield=True):
        try:
            await stream.aclose()
        except trio.BrokenResourceError:
            pass


async def serve_tls(
    stream: trio.SocketStream,
    *,
    service: Service,
    certificate: Certificate,
    handshake_ms_max: int,
) -> None:
    """Serve a TCP connection of a TLS listener."""
    try:
        host, port, *_ = stream.socket.getpeername()
    except OSError:
        # The client closed before we got the connection.
        await trio.aclose_forcefully(stream)
        return
    peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        service.check_descriptor(stream.socket.fileno())
        service.check_room(peer)
    except HeadwaterError as error:
        # Refuse before the handshake: a slow handshake must not hold a descriptor.
        service.note_refusal(peer, error)
        await trio.aclose_forcefully(stream)
        return
    identity = certificate.identity
    encrypted = trio.SSLStream(stream, identity.context, server_side=True, https_compatible=True)
    service.strangers.begin(peer)
    try:
        with trio.fail_after(handshake_ms_max / 1000):
            await encrypted.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        _log.info("no TLS handshake", peer=peer, error=repr(error.__cause__ or error))
        await trio.aclose_forcefully(stream)
        return
    finally:
        # From here on, the session counts as the unauthenticated connection.
        service.strangers.end(peer)
    shown = encrypted.getpeercert()
    facts = TlsFacts(
        identity.binding,
        has_certificate=bool(shown),
        user=user_of(shown) if shown else None,
        login=certificate.login,
    )
    await serve_stream(encrypted, service, peer=peer, tls=facts)
