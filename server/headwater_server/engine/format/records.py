"""Records of the write-ahead log: what a commit did, as results.

    commit    [1, 1, commit, transaction, time, user, writes, first_position, events, event_ids,
               nil]
    abort     [1, 2, transaction, time, user, nil]
    tick      [1, 3, time, horizon, forget_before, nil]

Every record begins with its layout version and its kind, and ends with extensions, which are nil
today. A record with an unknown version or kind, or with an extension, was written by a newer
version of Headwater and is refused, because skipping it would lose a commit.

`writes` is flat: key, value, key, value, …; a value of nil deletes the key. Keys include the byte
of their key space. `first_position` is the position of the first event, or of the next event to
come if there are none. `events` are stored events. `event_ids` is flat too: place among the events,
id, …, only for ids that users gave; the others are not indexed. A tick records the log's clock and
what depends on it; see log_clock.py.

A record holds the results of validation, atomic operations and range deletes. So applying it needs
only the state that earlier records made.

Format 3 had no version and no kind: a commit had the eight members from `commit` to `event_ids`,
an abort was [0, transaction, time, user]. Such records are still read.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

from msgpack import Packer, unpackb

from headwater_protocol.errors import FormatTooNew
from headwater_protocol.messages import (
    BIN_HEADERS,
    LastPacked,
    NumberPacker,
    array_header,
    bin_header,
)
from headwater_server.engine.format.planned import ABORT, COMMIT, TICK

_pack: Final = Packer(use_bin_type=True, autoreset=True).pack

VERSION: Final = 1
"""The version of the record layout."""

# How a commit record begins, in msgpack:
# 9b 01 01  cf commit 8 | c4 10 transaction 16 | cf time 8 | cf user 8 | writes | cf position 8
# 96 01 02  c4 10 transaction 16 | cf time 8 | cf user 8 | c0
_pack_abort: Final = Struct(">5s16sBQBQB").pack
_ABORT_HEAD: Final = b"\x96\x01\x02\xc4\x10"
# 96 01 03  cf time 8 | cf horizon 8 | cf forget_before 8 | c0
_pack_tick: Final = Struct(">4sQBQBQB").pack
_TICK_HEAD: Final = b"\x96\x01\x03\xcf"
_COMMIT_HEAD: Final = b"\x9b\x01\x01\xcf"
_FIXARRAYS: Final = [array_header(count) for count in range(16)]
_NIL: Final = b"\xc0"
_NOBODY: Final = bytes(8)
_commits: Final = NumberPacker()
_times: Final = LastPacked()
_positions: Final = LastPacked()
_NO_EVENTS: Final = array_header(0) + array_header(0) + _NIL

# How many members a record of format 3 has. No record of a later version has as many.
_OLD_COMMIT: Final = 8
_OLD_ABORT: Final = 4


class Record(NamedTuple):
    """A decoded record of the log. Members that its kind does not have are 0 or empty."""

    commit: int
    transaction: bytes
    time: int
    user: int
    writes: Sequence[bytes | None] = ()
    first_position: int = 0
    events: Sequence[bytes] = ()
    event_ids: Sequence[Any] = ()
    kind: int = COMMIT
    horizon: int = 0
    forget_before: int = 0


def encode_commit(
    commit: int,
    transaction: bytes,
    time: int,
    user: int,
    writes: Sequence[bytes | None],
    first_position: int,
    events: Sequence[bytes],
    event_ids: Sequence[Any],
) -> bytes:
    """The bytes of a commit record."""
    # Packed by hand in a fifth of msgpack's time; this is why numbers have a fixed width.
    assert len(transaction) == 16
    count = len(writes)
    if count == 2 and not events:
        key, value = writes
        if key is not None and value is not None:
            # The most frequent record, in one step.
            return b"\x9b\x01\x01\xcf%b\xc4\x10%b\xcf%b\xcf%b\x92%b%b%b%b\xcf%b\x90\x90\xc0" % (
                _commits.pack(commit),
                transaction,
                _times.pack(time),
                user.to_bytes(8, "big") if user else _NOBODY,
                BIN_HEADERS[len(key)] if len(key) < 256 else bin_header(len(key)),
                key,
                BIN_HEADERS[len(value)] if len(value) < 256 else bin_header(len(value)),
                value,
                _positions.pack(first_position),
            )
    head = b"\x9b\x01\x01\xcf%b\xc4\x10%b\xcf%b\xcf%b%b" % (
        _commits.pack(commit),
        transaction,
        _times.pack(time),
        user.to_bytes(8, "big") if user else _NOBODY,
        _FIXARRAYS[count] if count < 16 else array_header(count),
    )
    parts = [head]
    for member in writes:
        if member is None:
            parts.append(_NIL)
        else:
            size = len(member)
            parts.append(BIN_HEADERS[size] if size < 256 else bin_header(size))
            parts.append(member)
    parts.append(b"\xcf")
    parts.append(_positions.pack(first_position))
    if not events:
        parts.append(_NO_EVENTS)
        return b"".join(parts)
    count = len(events)
    parts.append(_FIXARRAYS[count] if count < 16 else array_header(count))
    for event in events:
        size = len(event)
        parts.append(BIN_HEADERS[size] if size < 256 else bin_header(size))
        parts.append(event)
    parts.append(_pack(event_ids))
    parts.append(_NIL)
    return b"".join(parts)


def encode_abort(transaction: bytes, time: int, user: int) -> bytes:
    """The bytes of an abort record."""
    assert len(transaction) == 16
    packed: bytes = _pack_abort(_ABORT_HEAD, transaction, 0xCF, time, 0xCF, user, 0xC0)
    return packed


def encode_tick(time: int, horizon: int, forget_before: int) -> bytes:
    """The bytes of a tick of the log's clock."""
    packed: bytes = _pack_tick(_TICK_HEAD, time, 0xCF, horizon, 0xCF, forget_before, 0xC0)
    return packed


def decode_record(data: bytes) -> Record:
    """Decode a record.

    The log's checksum covers the bytes, so a record that does not decode is a bug of ours, and
    fails an assertion.

    Raises:
        FormatTooNew: a newer version of Headwater wrote it.
    """
    (members,) = unpack_records([data])
    return record_of(members)


class RecordHead(NamedTuple):
    """The members of a record that say what and when it is; 0 and empty as in Record."""

    kind: int
    commit: int
    transaction: bytes
    time: int


def head_of(data: bytes) -> RecordHead:
    """The head of a record, without decoding the rest of a commit.

    Raises:
        FormatTooNew: a newer version of Headwater wrote it.
    """
    if data.startswith(_COMMIT_HEAD):
        # Numbers have a fixed width, so these are at fixed places.
        return RecordHead(
            COMMIT,
            int.from_bytes(data[4:12], "big"),
            data[14:30],
            int.from_bytes(data[31:39], "big"),
        )
    record = decode_record(data)
    return RecordHead(record.kind, record.commit, record.transaction, record.time)


def unpack_records(encoded: Sequence[bytes]) -> Sequence[tuple[Any, ...]]:
    """The members of records as tuples, undecoded; arrays within them are tuples too."""
    if len(encoded) == 1:
        return [unpackb(encoded[0], use_list=False, strict_map_key=False)]
    # Unpacked as one array, because a call costs as much as a small record.
    joined = array_header(len(encoded)) + b"".join(encoded)
    members: tuple[tuple[Any, ...], ...] = unpackb(joined, use_list=False, strict_map_key=False)
    return members


def record_of(members: tuple[Any, ...]) -> Record:
    """The record with these members.

    Raises:
        FormatTooNew: a newer version of Headwater wrote it.
    """
    match members:
        case (1, 1, commit, transaction, time, user, writes, position, events, event_ids, None):
            return Record(commit, transaction, time, user, writes, position, events, event_ids)
        case (1, 2, transaction, time, user, None):
            return Record(0, transaction, time, user, kind=ABORT)
        case (1, 3, time, horizon, forget_before, None):
            return Record(0, b"", time, 0, kind=TICK, horizon=horizon, forget_before=forget_before)
    if len(members) == _OLD_COMMIT:
        return Record(*members)
    if len(members) == _OLD_ABORT:
        _, transaction, time, user = members
        return Record(0, transaction, time, user, kind=ABORT)
    assert len(members) > 1, "a record has a version and a kind"
    raise FormatTooNew(
        f"a record of version {members[0]!r} and kind {members[1]!r} with {len(members)} members: "
        "a newer version of Headwater wrote it"
    )
