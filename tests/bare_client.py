"""A client that uses only a socket, msgpack and docs/protocol.md.

It was written from that page alone and imports nothing from Headwater, like a client in another
language. Operations have the names of the page: `client.call("get", None, key)`.
"""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
import time
from collections import defaultdict, deque
from typing import Any

import msgpack


class ErrorAnswer(Exception):
    """The server answered with status 1."""

    def __init__(self, code: str, message: str, retryable: bool, details: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.retryable, self.details = code, message, retryable, details


class BareClient:
    """One connection. `call` sends a request and waits; `send` and `answer` do these separately."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self._certificate: bytes | None = None
        if tls is not None:
            secure = tls.wrap_socket(self.socket, server_hostname=host)
            self._certificate = secure.getpeercert(binary_form=True)
            self.socket = secure
        self._received = self.socket.makefile("rb")
        self._request_id = 0
        self._answers: dict[int, tuple[int, Any]] = {}
        self._pushes: defaultdict[int, deque[Any]] = defaultdict(deque)

    def close(self) -> None:
        self._received.close()
        self.socket.close()

    def call(self, operation: str, *arguments: Any) -> Any:
        return self.answer(self.send(operation, *arguments))

    def send(self, operation: str, *arguments: Any) -> int:
        self._request_id += 1
        self.send_body(msgpack.packb([self._request_id, operation, *arguments]))
        return self._request_id

    def send_body(self, body: bytes) -> None:
        self.socket.sendall(struct.pack(">I", len(body)) + body)

    def answer(self, request_id: int) -> Any:
        while request_id not in self._answers:
            self._receive()
        status, payload = self._answers.pop(request_id)
        if status == 1:
            raise ErrorAnswer(*payload[:4])
        return payload

    def push(self, subscription: int) -> Any:
        while not self._pushes[subscription]:
            self._receive()
        return self._pushes[subscription].popleft()

    def _receive(self) -> None:
        header = self._received.read(4)
        if not header:
            raise ConnectionError("the server closed the connection")
        body = self._received.read(*struct.unpack(">I", header))
        request_id, status, payload = msgpack.unpackb(body)
        if status == 2:
            self._pushes[request_id].append(payload)
        else:
            self._answers[request_id] = status, payload

    def authenticate(self, user: str, password: str) -> None:
        """Log in with SCRAM-SHA-256. Passwords must be ASCII, which SASLprep does not change.

        With TLS the log-in is bound to the certificate. Its signature must be one with SHA-256.
        """
        mechanism, header, bound = "SCRAM-SHA-256", "n,,", b""
        if self._certificate is not None:
            mechanism, header = "SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,"
            bound = hashlib.sha256(self._certificate).digest()
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
        answer = self.call("authenticate", mechanism, f"{header}{first}".encode())[1].decode()
        fields = dict(field.split("=", 1) for field in answer.split(","))
        assert fields["r"].startswith(nonce), "the server's nonce does not begin with ours"

        salt, iterations = base64.b64decode(fields["s"]), int(fields["i"])
        salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        binding = base64.b64encode(header.encode() + bound).decode()
        final = f"c={binding},r={fields['r']}"
        signed = f"{first},{answer},{final}".encode()
        mask = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, mask, strict=True)))
        message = final.encode() + b",p=" + proof
        server_final = self.call("authenticate", mechanism, message)[1]

        signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        assert server_final == b"v=" + base64.b64encode(signature), (
            "the server does not know the password"
        )


def new_transaction_id() -> bytes:
    """A UUID of version 7: milliseconds in 48 bits, the version, random bits."""
    head, tail = struct.pack(">Q", time.time_ns() // 1_000_000)[2:], os.urandom(10)
    return head + bytes([tail[0] & 0x0F | 0x70, tail[1], tail[2] & 0x3F | 0x80]) + tail[3:]


def encode_key(*members: str | int | bytes) -> bytes:
    """The bytes of a tuple, as a key or as the prefix of keys."""
    key = b""
    for member in members:
        if isinstance(member, int):
            size = (member.bit_length() + 7) // 8
            assert size <= 8, "this client does not encode longer ints"
            code, offset = (0x14 + size, 0) if member >= 0 else (0x14 - size, 256**size - 1)
            key += bytes([code]) + (member + offset).to_bytes(size, "big")
        else:
            code, data = (1, member) if isinstance(member, bytes) else (2, member.encode())
            key += bytes([code]) + data.replace(b"\0", b"\0\xff") + b"\0"
    return key
