"""Key spaces: what a stored key belongs to, by its first byte.

    01  keys of users
    02  snapshots of aggregates     stream 00 name 00 schema(u32) version(u64)  ->  state
    03  accounts                    name  ->  msgpack of the account

Everything in the state store is a versioned key, so snapshots and accounts are transactional,
have a history, and are collected as garbage, without code of their own.
"""

import struct
from typing import Final, NamedTuple

USER: Final = b"\x01"
SNAPSHOTS: Final = b"\x02"
ACCOUNTS: Final = b"\x03"

USER_END: Final = b"\x02"
SNAPSHOTS_END: Final = b"\x03"
ACCOUNTS_END: Final = b"\x04"

_SCHEMA_AND_VERSION: Final = struct.Struct(">IQ")


class SnapshotKey(NamedTuple):
    """What a snapshot is of, and by which code."""

    stream: str
    name: str
    schema: int
    version: int


def snapshot_key(stream: str, name: str, schema: int, version: int) -> bytes:
    """The key of a snapshot. Names hold no U+0000, so it ends them."""
    return (
        SNAPSHOTS
        + stream.encode()
        + b"\0"
        + name.encode()
        + b"\0"
        + _SCHEMA_AND_VERSION.pack(schema, version)
    )


def snapshot_range(stream: str, name: str, schema: int, version_max: int) -> tuple[bytes, bytes]:
    """The range of keys of the snapshots of one code, up to and with a version."""
    return snapshot_key(stream, name, schema, 0), snapshot_key(
        stream, name, schema, version_max + 1
    )


def parse_snapshot_key(key: bytes) -> SnapshotKey:
    """Take a snapshot's key apart."""
    stream, name, _ = key[1:].split(b"\0", 2)
    schema, version = _SCHEMA_AND_VERSION.unpack(key[-_SCHEMA_AND_VERSION.size :])
    return SnapshotKey(stream.decode(), name.decode(), schema, version)
