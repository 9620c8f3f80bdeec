"""Records of the write-ahead log: what a commit did, as results.

    commit record    [commit, transaction, time, user, writes, first_position, events, event_ids]
    abort record     [0, transaction, time, user]

`writes` is flat: key, value, key, value, …; a value of nil deletes the key. Keys carry the byte
of their key space. `first_position` is that of the first event, or, if there are none, of the
next one to come; `events` are stored events. `event_ids` is flat too: place among the events,
id, …, for the ids that users gave, which alone are indexed.

The record holds what came out of validation, atomic operations and range deletes, so applying
it needs no state but what the records before it made: recovery, and later a replica, install
records through the same code as the commit that wrote them.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from msgpack import Packer, unpackb

from headwater_protocol.messages import BIN_HEADERS, array_header, bin_header

_pack: Final = Packer(use_bin_type=True, autoreset=True).pack

# How a commit record begins, in msgpack:
# 98 cf  commit 8 | c4 10  transaction 16 | cf  time 8 | cf  user 8 | writes | cf  first position 8
_pack_head: Final = Struct(">2sQ2s16sBQBQ").pack
_pack_position: Final = Struct(">BQ").pack
_NIL: Final = b"\xc0"
_NONE: Final = array_header(0)


class Record(NamedTuple):
    """One record of the log, taken apart. `commit` 0 is an abort, and has no more than a time."""

    commit: int
    transaction: bytes
    time: int
    user: int
    writes: list[bytes | None]
    first_position: int
    events: list[bytes]
    event_ids: list[Any]


def encode_commit(record: Record) -> bytes:
    """The bytes of a commit record."""
    commit, transaction, time, user, writes, first_position, events, event_ids = record
    parts = _encoded_writes(commit, transaction, time, user, writes, first_position)
    parts.append(array_header(len(events)))
    for event in events:
        size = len(event)
        parts.append(BIN_HEADERS[size] if size < 256 else bin_header(size))
        parts.append(event)
    # Most events have no id of their own.
    parts.append(_pack(event_ids) if event_ids else _NONE)
    return b"".join(parts)


def encode_writes(
    commit: int,
    transaction: bytes,
    time: int,
    user: int,
    writes: list[bytes | None],
    first_position: int,
) -> bytes:
    """The bytes of the record of a commit without events."""
    parts = _encoded_writes(commit, transaction, time, user, writes, first_position)
    parts.append(_NONE)
    parts.append(_NONE)
    return b"".join(parts)


def _encoded_writes(
    commit: int,
    transaction: bytes,
    time: int,
    user: int,
    writes: list[bytes | None],
    first_position: int,
) -> list[bytes]:
    """The members of a commit record up to the first position, encoded."""
    # By hand, in a third of the time that packing it takes; hence the numbers of fixed width.
    assert len(transaction) == 16
    head: bytes = _pack_head(b"\x98\xcf", commit, b"\xc4\x10", transaction, 0xCF, time, 0xCF, user)
    parts = [head, array_header(len(writes))]
    for member in writes:
        if member is None:
            parts.append(_NIL)
        else:
            size = len(member)
            parts.append(BIN_HEADERS[size] if size < 256 else bin_header(size))
            parts.append(member)
    position: bytes = _pack_position(0xCF, first_position)
    parts.append(position)
    return parts


def encode_abort(transaction: bytes, time: int, user: int) -> bytes:
    """The bytes of an abort record."""
    packed: bytes = _pack((0, transaction, time, user))
    return packed


def decode_record(data: bytes) -> Record:
    """Take a record apart.

    The log's checksum has vouched for the bytes, so a record that does not decode is our own
    mistake, and an assertion.
    """
    (members,) = unpack_records([data])
    return record_of(members)


def unpack_records(encoded: Sequence[bytes]) -> Sequence[tuple[Any, ...]]:
    """The members of records as they stand in them, each record and each array in it a tuple."""
    if len(encoded) == 1:
        return [unpackb(encoded[0], use_list=False)]
    # As one array that has them all: what a call costs is as much as what a small record does.
    joined = array_header(len(encoded)) + b"".join(encoded)
    members: tuple[tuple[Any, ...], ...] = unpackb(joined, use_list=False)
    return members


def record_of(members: tuple[Any, ...]) -> Record:
    """The record that has these members."""
    assert len(members) >= 4, "a record is an array of at least four"
    if members[0] == 0:
        return Record(0, members[1], members[2], members[3], [], 0, [], [])
    commit, transaction, time, user, writes, first_position, events, event_ids = members[:8]
    return Record(
        commit, transaction, time, user, list(writes), first_position, list(events), list(event_ids)
    )
