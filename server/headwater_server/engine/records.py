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

from typing import Any, Final, NamedTuple

from msgpack import Packer, unpackb

_pack: Final = Packer(use_bin_type=True, autoreset=True).pack


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
    packed: bytes = _pack(record)
    return packed


def encode_writes(
    commit: int,
    transaction: bytes,
    time: int,
    user: int,
    writes: list[bytes | None],
    first_position: int,
) -> bytes:
    """The bytes of the record of a commit without events."""
    packed: bytes = _pack((commit, transaction, time, user, writes, first_position, (), ()))
    return packed


def encode_abort(transaction: bytes, time: int, user: int) -> bytes:
    """The bytes of an abort record."""
    packed: bytes = _pack((0, transaction, time, user))
    return packed


def decode_record(data: bytes) -> Record:
    """Take a record apart.

    The log's checksum has vouched for the bytes, so a record that does not decode is our own
    mistake, and an assertion.
    """
    return record_of(unpack_record(data))


def unpack_record(data: bytes) -> list[Any]:
    """The members of a record, as they stand in it."""
    members: list[Any] = unpackb(data, use_list=True)
    return members


def record_of(members: list[Any]) -> Record:
    """The record that has these members."""
    assert len(members) >= 4, "a record is an array of at least four"
    if members[0] == 0:
        return Record(0, members[1], members[2], members[3], [], 0, [], [])
    return Record(*members[:8])
