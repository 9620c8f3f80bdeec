"""A scripted server on a real socket, for tests of the client.

It speaks the protocol through ServerConnection and does what the test says:

    with FakeServer() as server:
        server.on("get", b"\\xc3")                  # this answer, always
        server.on("get", server.DROP, b"\\xc3")     # close the connection, then this answer
        server.on("get", lambda request: ...)       # a function of the request
    server.requests                                 # all requests: (connection, name, arguments)

The last entry of a script is repeated for ever. An error is sent as an error answer, and a
bytearray as raw bytes. HANG never answers, DROP closes the connection, STOP closes the server.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from headwater_protocol.connection import Refused, Request, ServerConnection, Violation
from headwater_protocol.errors import HeadwaterError


class Received(NamedTuple):
    connection: int
    name: str
    arguments: list[Any]


@dataclass
class Peer:
    """The server's end of one connection."""

    number: int
    socket: socket.socket
    protocol: ServerConnection = field(default_factory=ServerConnection)
    in_order: Any = field(default_factory=threading.RLock)
    receives: int = 0

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def push(self, subscription: int, payload: Any) -> None:
        self.send(self.protocol.push(subscription, payload))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


Answer = Callable[[Request], Any]


class FakeServer:
    """Listens on a free port of this machine."""

    DROP: Final = object()
    HANG: Final = object()
    STOP: Final = object()

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Received] = []
        self.peers: list[Peer] = []
        self._tls = tls
        self._scripts: dict[str, list[Any]] = {}
        self._came = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"headwater://127.0.0.1:{self.port}"
        self.on("hello", [1, "fake", [], [], b"0" * 16])
        self.on("rollback", None)
        self.on("begin", [7])
        self.on("write", None)
        self.on("commit", [8, 1_000_000, None, None, {}])
        self.on("execute", [[8, 1_000_000, None, None, {}], []])
        self.on("credit", None)
        self.on("subscribe", None)
        self.on("unsubscribe", None)
        self.on("ping", [7, 1_000_000])

    def on(self, name: str, *script: Any) -> None:
        """Answer requests of this name from a script, one entry for each request."""
        self._scripts[name] = list(script)

    def named(self, name: str) -> list[Received]:
        return [came for came in self.requests if came.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[Received]:
        """Wait for *count* requests of this name, and return them."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.named(name)) >= count, timeout=10)
            return self.named(name)

    def stop(self) -> None:
        """Close the port and all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self.peers:
            peer.close()

    def drop_all(self) -> None:
        """End all connections after the bytes that were already sent."""
        for peer in self.peers:
            # Closing a socket with unread bytes sends a reset, and the client would lose bytes that
            # it has not read yet.
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_WR)

    def __enter__(self) -> "FakeServer":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(len(self.peers), sock)
            self.peers.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        try:
            if self._tls is not None:
                peer.socket = self._tls.wrap_socket(peer.socket, server_side=True)
            while data := peer.socket.recv(1 << 20):
                peer.receives += 1
                with peer.in_order:
                    peer.send(b"".join(self._answers(peer, data)))
        except OSError:
            pass
        finally:
            peer.close()

    def _answers(self, peer: Peer, data: bytes) -> Iterator[bytes]:
        for item in peer.protocol.receive(data):
            if isinstance(item, Refused):
                yield peer.protocol.error(item.request_id, item.error)
                continue
            if isinstance(item, Violation):
                # A client that tries TLS sends bytes that are not a frame.
                peer.close()
                return
            with self._came:
                self.requests.append(Received(peer.number, item.name, item.arguments))
                self._came.notify_all()
            script = self._scripts[item.name]
            entry = script.pop(0) if len(script) > 1 else script[0]
            answer = entry(item) if callable(entry) else entry
            if answer is self.DROP:
                peer.close()
                return
            if answer is self.STOP:
                self.stop()
                return
            if isinstance(answer, bytearray):
                yield bytes(answer)
                continue
            if answer is self.HANG:
                continue
            if isinstance(answer, HeadwaterError):
                yield peer.protocol.error(item.request_id, answer)
            else:
                yield peer.protocol.answer(item.request_id, answer)
