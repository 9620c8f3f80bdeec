"""Requests of each protocol as bytes, made without a client library.

Headwater     frames of msgpack; a transaction's id is a UUIDv7 whose last eight bytes count
Redis         RESP arrays
PostgreSQL    the extended protocol: prepared once, then Bind and Execute, and one Sync a trip
etcd          JSON over HTTP, the gateway that etcd itself serves
"""

import base64
import json
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgpack import packb

from bench.load import Step

_U32: Final = struct.Struct(">I")

MARK: Final = b"\xfa\xce\xfa\xce\xfa\xce\xfa\xce"
"""Placeholder for the last half of a transaction id."""

TIME_MARK: Final = b"\xfb\xce\xfb\xce\xfb\xce\x7b\xce"
"""Placeholder for the first half: the time and the UUID version."""

NOW: Final = 2**64 - 1
"""Makes load.c write the start of a UUIDv7 with the time of the request."""

COUNT: Final = 0xFBCD_FBCD_FBCD_FBCD
"""Placeholder for a number that counts from 0. It has nine bytes in msgpack."""

COUNT_MARK: Final = COUNT.to_bytes(8, "big")

# Headwater.


class Transactions:
    """The transaction ids of one connection. They are unique over connections and runs."""

    def __init__(self) -> None:
        self.id: Final = TIME_MARK + MARK
        self.base: Final = 1 << 63 | int.from_bytes(os.urandom(4), "big") << 30

    @property
    def marks(self) -> Mapping[bytes, int]:
        """Marks for a step: the id starts with the time, like a client's, and counts up."""
        return {TIME_MARK: NOW, MARK: self.base}

    def first(self, request: bytes) -> bytes:
        """The request with the first id, to send it without the generator."""
        return request.replace(TIME_MARK, bytes(8)).replace(MARK, self.base.to_bytes(8, "big"))


def frame(*members: Any) -> bytes:
    """A request's frame."""
    body: bytes = packb(members)
    return _U32.pack(len(body)) + body


HELLO: Final = Step(frame(1, "hello", 1, "bench"))


# Redis.


def command(*words: bytes) -> bytes:
    """A command of Redis."""
    parts = [b"*%d\r\n" % len(words)]
    parts += (b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    return b"".join(parts)


# PostgreSQL.

_INT8: Final = 20
_TEXT: Final = 25
_BYTEA: Final = 17
TYPES: Final = {"int8": _INT8, "text": _TEXT, "bytea": _BYTEA}

SYNC: Final = b"S" + _U32.pack(4)


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + _U32.pack(len(body) + 4) + body


def startup(statements: Mapping[str, tuple[str, Sequence[str]]]) -> Step:
    """Log in and prepare *statements*: name, text, types of the parameters."""
    words = b"user\0postgres\0database\0postgres\0\0"
    data = _U32.pack(len(words) + 8) + _U32.pack(196608) + words
    for name, (text, types) in statements.items():
        oids = b"".join(_U32.pack(TYPES[each]) for each in types)
        body = name.encode() + b"\0" + text.encode() + b"\0"
        data += _message(b"P", body + struct.pack(">H", len(types)) + oids)
    return Step(data + SYNC, 2)


def execute(name: str, *parameters: bytes) -> bytes:
    """Bind and Execute of a prepared statement, all binary, without a Sync."""
    values = b"".join(_U32.pack(len(value)) + value for value in parameters)
    bind = b"".join(
        (
            b"\0" + name.encode() + b"\0",
            struct.pack(">HHH", 1, 1, len(parameters)),
            values,
            struct.pack(">HH", 1, 1),
        )
    )
    return _message(b"B", bind) + _message(b"E", b"\0" + _U32.pack(0))


def int8(number: int) -> bytes:
    """A number as PostgreSQL's int8, binary."""
    return number.to_bytes(8, "big")


# etcd.


def post(path: str, **members: bytes) -> bytes:
    """A request to etcd's JSON gateway."""
    encoded = {name: base64.b64encode(value).decode() for name, value in members.items()}
    body = json.dumps(encoded).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        len(body),
        body,
    )
