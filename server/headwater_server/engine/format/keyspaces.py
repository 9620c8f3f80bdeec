"""Key spaces: the first byte of a stored key says what it is for.

    01  keys of users
    02  snapshots of aggregates     stream 00 name 00 schema(u32) version(u64)  ->  state
    03  accounts                    name  ->  msgpack of the account
    04  consumer groups             see consumer_groups/records.py
    05  expiries                    key  ->  time(u64): the user's key expires then
    06  due keys                    time(u64) key  ->  nothing: the same, in order of time
    f0  retention of streams        stream  ->  msgpack of the rule, see rules.py in retention
    f1  erasures                    position(u64)  ->  nothing: the event there is erased

Everything in the state store is a versioned key. So snapshots, accounts and groups are
transactional, have a history, and are garbage-collected, without code of their own. Keys of
retention come last in a log record, so a look at the last key is enough to detect them.

Reserved for several databases in one directory. Database 0 has the spaces above:

    81  82  83  84   number(u32) …      as 01 to 04, of the database with that number
    f2               number(u32) stream  as f0; erasures need none: all databases share positions
"""

import struct
from typing import Final, NamedTuple

USER: Final = b"\x01"
SNAPSHOTS: Final = b"\x02"
ACCOUNTS: Final = b"\x03"
GROUPS: Final = b"\x04"
EXPIRIES: Final = b"\x05"
DUE: Final = b"\x06"

RETENTION: Final = b"\xf0"
ERASURES: Final = b"\xf1"

RESERVED: Final = frozenset({b"\x81", b"\x82", b"\x83", b"\x84", b"\xf2"})
"""First bytes that no key has today; a later version may use them."""

USER_END: Final = b"\x02"
SNAPSHOTS_END: Final = b"\x03"
ACCOUNTS_END: Final = b"\x04"
RETENTION_END: Final = b"\xf1"
ERASURES_END: Final = b"\xf2"
GROUPS_END: Final = b"\x05"
EXPIRIES_END: Final = b"\x06"
DUE_END: Final = b"\x07"

_SCHEMA_AND_VERSION: Final = struct.Struct(">IQ")
_POSITION: Final = struct.Struct(">Q")
_TIME: Final = struct.Struct(">Q")


class SnapshotKey(NamedTuple):
    """The stream and version of a snapshot, and the name and schema of the code that made it."""

    stream: str
    name: str
    schema: int
    version: int


def snapshot_key(stream: str, name: str, schema: int, version: int) -> bytes:
    """The key of a snapshot. Names contain no U+0000, so it can end them."""
    return (
        SNAPSHOTS
        + stream.encode()
        + b"\0"
        + name.encode()
        + b"\0"
        + _SCHEMA_AND_VERSION.pack(schema, version)
    )


def snapshot_range(stream: str, name: str, schema: int, version_max: int) -> tuple[bytes, bytes]:
    """The key range of the snapshots with one name and schema, up to a version, included."""
    return snapshot_key(stream, name, schema, 0), snapshot_key(
        stream, name, schema, version_max + 1
    )


def parse_snapshot_key(key: bytes) -> SnapshotKey:
    """Decode a snapshot's key."""
    stream, name, _ = key[1:].split(b"\0", 2)
    schema, version = _SCHEMA_AND_VERSION.unpack(key[-_SCHEMA_AND_VERSION.size :])
    return SnapshotKey(stream.decode(), name.decode(), schema, version)


def snapshots_of(stream: str) -> tuple[bytes, bytes]:
    """The key range of all snapshots of a stream."""
    prefix = SNAPSHOTS + stream.encode()
    return prefix + b"\0", prefix + b"\x01"


def retention_key(stream: str) -> bytes:
    """The key of a stream's retention rule."""
    return RETENTION + stream.encode()


def stream_of_rule(key: bytes) -> str:
    """The stream of a retention rule's key."""
    return key[1:].decode()


def erasure_key(position: int) -> bytes:
    """The key that marks the event at a position as erased."""
    return ERASURES + _POSITION.pack(position)


def erased_position(key: bytes) -> int:
    """The position of an erasure's key."""
    position: int = _POSITION.unpack(key[1:])[0]
    return position


def expiry_key(key: bytes) -> bytes:
    """The key of the expiry of a user's stored key."""
    return EXPIRIES + key[1:]


def pack_expiry(time: int) -> bytes:
    """An expiry as it is stored."""
    return _TIME.pack(time)


def parse_expiry(stored: bytes) -> int:
    """Decode a stored expiry: microseconds of the log's time."""
    time: int = _TIME.unpack(stored)[0]
    return time


def due_key(time: int, key: bytes) -> bytes:
    """The key that says when a user's stored key expires."""
    return DUE + _TIME.pack(time) + key[1:]


def parse_due_key(key: bytes) -> tuple[int, bytes]:
    """The time of a due key, and the user's stored key that expires then."""
    time: int = _TIME.unpack_from(key, 1)[0]
    return time, USER + key[1 + _TIME.size :]
