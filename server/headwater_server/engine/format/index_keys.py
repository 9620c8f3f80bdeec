"""Keys and values of the state store's families. Only this module packs and unpacks them.

    LATEST         key                                  ->  commit(8) flags(1) value
    HISTORY        size(4) key until(8)                 ->  commit(8) flags(1) value
    CHANGES        last commit(8) number(4)             ->  changes of some commits, see below
    TRANSACTIONS   16 ms(6)                             ->  transaction(16) commit(8) ...
                   transaction(16)                      ->  commit(8), or 0(8) time(8): aborted
    INDEX    "m"   name                                 ->  see below
             "s" "c" "t" "g"                            ->  head: id(8) count(8) last(8) tail(8n)
                   stream, category, type, tag
             "S"   id(8) version(8)                     ->  positions(8n) of that version and on
             "C" "T" "G"  id(8) position(8)             ->  positions(8n), that one the first
             "e"   stream id(8) event id(16)            ->  version(8)
             "r"   view(8) commit(8) key                ->  older(8): a version kept for one view
             "a"   time(8) transaction(16)              ->  nothing: aborted, in order of time
             "p"   stream                               ->  version(8): events up to it are gone

    "m" "applied"      commit(8) position(8) time(8): what the last checkpoint made durable
    "m" "horizon"      commit(8): every commit from here on can be read
    "m" "collected"    commit(8) count(4): garbage collection has looked at the changes before
                       this commit, and at so many of its own
    "m" "forgotten"    commit(8): transaction ids of this commit and earlier ones are forgotten
    "m" "unfinished"   commit(8) log_index(8): a checkpoint up to here was begun; gone once applied

Numbers are big-endian, so that they sort. Lists of positions are little-endian instead, so that
they can be used as arrays without conversion on common machines.

The flags of a version are 1, or 0 for a deleted key. A version with unknown flags is refused,
because a newer version of Headwater wrote it. A HISTORY entry is the former LATEST entry that the
commit in its key replaced.

A CHANGES entry holds changes in the order of commits, each as commit(8) flags(1) size(4) key. Its
key has the last commit, so that a seek finds the entry of a commit. The flags are CHANGE_EXISTS and
CHANGE_REPLACED. One entry has hundreds of changes, because
an entry costs the store twenty times as much as a few more bytes in one.

Transaction ids that are made of the time (below IDS_END) are grouped: all ids of the same 16 ms,
which share their first 44 bits, are in one entry, an id bucket. An id has an entry of its own if
its bucket is full (ID_BUCKET_IDS_MAX), or if it is any other kind of id.

The id of a stream, a category or a type is the position of its first event. That needs no counter,
and a repeated checkpoint gives the same id. The id of a tag is 256 times the position of its first
event, plus the tag's place among the tags of that event.

INDEX kinds with the high bit set are reserved for several databases in one directory; there the
number(u32) of the database comes before the rest of the key.
"""

import struct
import sys
from array import array
from typing import Any, Final, NamedTuple, NoReturn

from headwater_protocol.errors import FormatTooNew
from headwater_server.engine.log_clock import LogTime

NUMBER: Final = struct.Struct(">Q")
NUMBER_END: Final = 2**64 - 1
"""Above every commit number, position, version and time."""

_TWO_NUMBERS: Final = struct.Struct(">QQ")
_THREE_NUMBERS: Final = struct.Struct(">QQQ")
_TRANSACTION: Final = struct.Struct(">16sQ")
_FOUR_NUMBERS: Final = struct.Struct(">QQQQ")
_LENGTH: Final = struct.Struct(">I")
_COMMIT_AND_FLAGS: Final = struct.Struct(">QB")
VALUE: Final = 1
"""The flags of a version that is a value. Greater ones are of later versions of Headwater."""
_NUMBER_AND_COUNT: Final = struct.Struct(">QI")
_CHANGE: Final = struct.Struct(">QBI")
_POSTING: Final = struct.Struct(">cQQ")

_LAST_BYTES: Final = bytes(range(256))

_LENGTHS: Final = [_LENGTH.pack(length) for length in range(256)]
"""The packed lengths of nearly all keys. Packing takes four times as long as a look-up here."""

_TAG_PLACES: Final = 256
"""More than the tags of any event; several tags may have the same first event."""

# Kinds of INDEX entries, by their first byte.
META: Final = b"m"
STREAM: Final = b"s"
CATEGORY: Final = b"c"
TYPE: Final = b"t"
TAG: Final = b"g"
EVENT_ID: Final = b"e"
RETAINED: Final = b"r"
ABORTED: Final = b"a"
REMOVED: Final = b"p"
POSTINGS: Final = {STREAM: b"S", CATEGORY: b"C", TYPE: b"T", TAG: b"G"}

META_APPLIED: Final = META + b"applied"
META_CLOCK: Final = META + b"clock"
META_HORIZON: Final = META + b"horizon"
META_COLLECTED: Final = META + b"collected"
META_FORGOTTEN: Final = META + b"forgotten"
META_UNFINISHED: Final = META + b"unfinished"

POSTING_COUNT_MAX: Final = 8192
"""Positions in one posting: 64 KiB, read and checked whole."""

ID_BUCKET_ENTRY_SIZE: Final = 24
"""Bytes of a transaction in an id bucket."""

ID_BUCKET_IDS_MAX: Final = 1024
"""Ids in one bucket, so that a look-up reads at most 24 KiB. This is enough for 64,000 commits a
second, and it bounds the bucket if clients make ids with wrong times."""

IDS_END: Final = b"\x02"
"""UUIDv7 ids grow with time and stay below this until the year 2039. Below it, a new id is greater
than nearly all stored ones and needs no look-up (seen_ids.py). Only an id that is repeated, late,
or not made of the time needs one."""

_HIGH_NIBBLES: Final = [bytes([value & 0xF0]) for value in range(256)]

TAIL_COUNT_MAX: Final = 32
"""Positions in a head itself. So a short stream needs one look-up, and a stream with one event per
checkpoint writes a posting only in every 33rd checkpoint. The price is up to 256 more bytes in each
head."""


class Applied(NamedTuple):
    """What the last checkpoint made durable.

    "m" "applied" -> commit(8) position(8) time(8) log_index(8)
    """

    commit: int
    position: int
    time: int
    """Of that commit, in microseconds since 1970."""
    log_index: int
    """A log entry that was durable then; a log without it is damaged."""


class Stored(NamedTuple):
    """A version of a key: its commit, and its value or None if the commit deleted the key."""

    commit: int
    value: bytes | None


class IndexHead(NamedTuple):
    """The end of a stream, a category, a type or a tag.

    Attributes:
        id: the position of its first event; for a tag, its `tag_id`.
        version: how many events it has.
        last_position: the position of its newest event.
        tail: the positions of the newest events, which are not in postings yet.
    """

    id: int
    version: int
    last_position: int
    tail: "array[int]"


# Keys' versions.


def latest_value(commit: int, value: bytes | None) -> bytes:
    """The value of a LATEST entry."""
    if value is None:
        return _COMMIT_AND_FLAGS.pack(commit, 0)
    return _COMMIT_AND_FLAGS.pack(commit, VALUE) + value


def parse_latest(entry: bytes) -> Stored:
    """The newest version of a key, from its LATEST entry."""
    commit, flags = _COMMIT_AND_FLAGS.unpack_from(entry)
    if flags > VALUE:
        _refuse_flags(flags)
    return Stored(commit, entry[_COMMIT_AND_FLAGS.size :] if flags else None)


def parse_latest_value(entry: bytes) -> bytes | None:
    """The value of a LATEST entry, without its commit; None for a deletion."""
    flags = entry[8]
    if flags > VALUE:
        _refuse_flags(flags)
    return entry[9:] if flags else None


def _refuse_flags(flags: int) -> NoReturn:
    """Raise, because the bytes after unknown flags cannot be interpreted."""
    raise FormatTooNew(
        f"a version of a key has flags {flags}; this version of Headwater knows 0 and {VALUE}",
        details={"found": flags, "known": VALUE},
    )


def latest_commit(entry: bytes) -> int:
    """The commit of a LATEST entry, without its value."""
    commit: int = NUMBER.unpack_from(entry)[0]
    return commit


HEAD_SIZE: Final = 9
"""Bytes of a version before its value."""

DELETED: Final = b"\0"
"""The flags of a deletion, as they follow its commit."""


def version_heads(first: int, last: int) -> bytes:
    """The commits and flags of versions of each commit from *first* up to *last*.

    HEAD_SIZE bytes each; the first eight are the packed commit, which is also used in keys. Packing
    numbers in bulk costs almost nothing; packing a single one costs as much as four slices.
    """
    blocks: list[bytes] = []
    for high in range(first >> 8, (last >> 8) + 1):
        # 256 commits, which differ in their last byte.
        block = bytearray((high.to_bytes(7, "big") + b"\0\1") * 256)
        block[7::HEAD_SIZE] = _LAST_BYTES
        blocks.append(bytes(block))
    skipped = HEAD_SIZE * (first & 0xFF)
    return b"".join(blocks)[skipped : skipped + HEAD_SIZE * (last + 1 - first)]


def history_prefix(key: bytes) -> bytes:
    """The prefix of a key's HISTORY keys. The length separates keys with a common prefix."""
    size = len(key)
    return (_LENGTHS[size] if size < len(_LENGTHS) else _LENGTH.pack(size)) + key


def history_key(key: bytes, until: int) -> bytes:
    """The HISTORY key of the version that the commit *until* replaced."""
    return history_prefix(key) + NUMBER.pack(until)


def parse_history_key(entry_key: bytes) -> tuple[bytes, int]:
    """The key that a HISTORY entry is of, and the commit that replaced the version."""
    return entry_key[_LENGTH.size : -NUMBER.size], NUMBER.unpack(entry_key[-NUMBER.size :])[0]


Change = tuple[int, int, bytes]
"""What a commit did to a key: the commit, flags, the key."""

CHANGE_EXISTS: Final = 1
"""The commit gave the key a value; without this flag, it deleted the key."""

CHANGE_REPLACED: Final = 2
"""The version that the commit replaced was put into HISTORY."""

_FLAGS: Final = [bytes([flags]) for flags in range(4)]


def changes_key(commit: int) -> bytes:
    """A lower bound of the CHANGES entries with changes of a commit or of later ones."""
    return NUMBER.pack(commit)


def changes_entry_key(last: bytes, number: int) -> bytes:
    """The key of a CHANGES entry whose last change is of the packed commit *last*.

    *number* separates entries that end with the same commit.
    """
    return last + _LENGTH.pack(number)


def change_end(prefix: bytes, flags: int) -> bytes:
    """The part of a change after its commit; *prefix* is the `history_prefix` of its key."""
    return _FLAGS[flags] + prefix


def parse_changes(entry: bytes) -> list[Change]:
    """The changes of a CHANGES entry, in the order of commits.

    Raises:
        struct.error: it is damaged.
    """
    if not entry:
        return []
    unpack = _CHANGE.unpack_from
    key_size: int = unpack(entry)[2]
    step = _CHANGE.size + key_size
    sizes = (entry[9::step], entry[10::step], entry[11::step], entry[12::step])
    if len(entry) % step == 0 and all(len(set(each)) == 1 for each in sizes):
        # Keys often have the same size; this takes less than half the time.
        return list(struct.iter_unpack(f">QB4x{key_size}s", entry))
    changes: list[Any] = []
    at = 0
    while at < len(entry):
        # Any: mypyc must not unbox the numbers and box them again.
        commit: Any
        flags: Any
        commit, flags, size = unpack(entry, at)
        at += _CHANGE.size + size
        changes.append((commit, flags, entry[at - size : at]))
    if at > len(entry):
        raise struct.error(f"the last change goes on for {at - len(entry)} bytes more")
    return changes


def collected_value(commit: int, count: int) -> bytes:
    """The value of "m" "collected"."""
    return _NUMBER_AND_COUNT.pack(commit, count)


def parse_collected(entry: bytes | None) -> tuple[int, int]:
    """The commit before which all changes were examined, and how many of its own were."""
    return (0, 0) if entry is None else _NUMBER_AND_COUNT.unpack(entry)


def retained_key(view: int, commit: int, key: bytes) -> bytes:
    """The key for a version that only a read view keeps and that *commit* replaced."""
    return RETAINED + _TWO_NUMBERS.pack(view, commit) + key


def parse_retained_key(entry_key: bytes) -> tuple[int, int, bytes]:
    """The view, the commit that replaced the version, and the key."""
    view, commit = _TWO_NUMBERS.unpack_from(entry_key, 1)
    return view, commit, entry_key[1 + _TWO_NUMBERS.size :]


# Streams, categories, types, tags.


def tag_id(position: int, place: int) -> int:
    """The id of a tag whose first event is at *position* and has it as the tag at *place*."""
    assert place < _TAG_PLACES
    return position * _TAG_PLACES + place


def first_position(kind: bytes, identity: int) -> int:
    """The position of the first event of the stream, category, type or tag with this id."""
    return identity // _TAG_PLACES if kind == TAG else identity


def head_key(kind: bytes, name: str) -> bytes:
    """The key of the head of a stream, a category, a type or a tag."""
    return kind + name.encode()


def head_value(identity: int, version: int, last_position: int, tail: "array[int]") -> bytes:
    """The value of a head."""
    return _THREE_NUMBERS.pack(identity, version, last_position) + pack_positions(tail)


def parse_head(entry: bytes) -> IndexHead:
    """A head, from its entry."""
    identity, version, last_position = _THREE_NUMBERS.unpack_from(entry)
    tail = unpack_positions(entry[_THREE_NUMBERS.size :])
    return IndexHead(identity, version, last_position, tail)


def posting_key(kind: bytes, identity: int, first: int) -> bytes:
    """The key of a posting; *first* is the version (streams) or position of its first event."""
    return _POSTING.pack(POSTINGS[kind], identity, first)


def parse_posting_key(entry_key: bytes) -> tuple[int, int]:
    """The id and the first version or position of a posting."""
    _, identity, first = _POSTING.unpack(entry_key)
    return identity, first


def event_id_key(stream_id: int, event_id: bytes) -> bytes:
    """The key of an event id that a user gave."""
    return EVENT_ID + NUMBER.pack(stream_id) + event_id


def parse_event_id_key(entry_key: bytes) -> tuple[int, bytes]:
    """The stream's id and the event's id."""
    return NUMBER.unpack_from(entry_key, 1)[0], entry_key[1 + NUMBER.size :]


def removed_key(stream: str) -> bytes:
    """The key of the version up to which a stream's events were removed from the log."""
    return REMOVED + stream.encode()


def pack_positions(positions: "array[int]") -> bytes:
    """Positions as they are stored."""
    if sys.byteorder == "big":
        positions = positions[:]
        positions.byteswap()
    return positions.tobytes()


def unpack_positions(entry: bytes) -> "array[int]":
    """Positions, from how they are stored."""
    positions = array("Q")
    positions.frombytes(entry)
    if sys.byteorder == "big":
        positions.byteswap()
    return positions


# Commits and transactions.


def applied_value(applied: Applied) -> bytes:
    """The value of "m" "applied"."""
    return _FOUR_NUMBERS.pack(*applied)


def parse_applied(entry: bytes | None) -> Applied:
    """The applied commit; all zero for an empty store."""
    return Applied(0, 0, 0, 0) if entry is None else Applied(*_FOUR_NUMBERS.unpack(entry))


def clock_value(time: LogTime) -> bytes:
    """The value of "m" "clock"."""
    return _THREE_NUMBERS.pack(*time)


def parse_clock(entry: bytes) -> LogTime:
    """The LogTime in "m" "clock"."""
    return LogTime(*_THREE_NUMBERS.unpack(entry))


def unfinished_value(commit: int, log_index: int) -> bytes:
    """The value of "m" "unfinished": the checkpoint's last commit, and a durable log entry."""
    return _TWO_NUMBERS.pack(commit, log_index)


def parse_unfinished(entry: bytes | None) -> tuple[int, int]:
    """Commit and log index of an unfinished checkpoint; zero if there is none."""
    return (0, 0) if entry is None else _TWO_NUMBERS.unpack(entry)


def parse_number(entry: bytes | None) -> int:
    """A number; 0 if there is no entry."""
    return 0 if entry is None else int(NUMBER.unpack_from(entry)[0])


def id_bucket_key(transaction: bytes) -> bytes:
    """The key of an id's bucket: the TRANSACTIONS entry for all ids of the same 16 ms."""
    return transaction[:5] + _HIGH_NIBBLES[transaction[5]]


def id_bucket_end(entry_key: bytes) -> bytes:
    """An id above all others of a bucket's 16 ms."""
    return entry_key[:5] + bytes([entry_key[5] | 0x0F]) + b"\xff" * 10


def id_bucket_entry(transaction: bytes, commit: int) -> bytes:
    """The part of an id bucket for one transaction."""
    return transaction + NUMBER.pack(commit)


def find_in_id_bucket(entry: bytes, transaction: bytes) -> int | None:
    """The commit of a transaction in an id bucket, or None."""
    at = entry.find(transaction)
    # The bytes of the id may first occur across two other entries.
    while at >= 0 and at % ID_BUCKET_ENTRY_SIZE:
        at = entry.find(transaction, at + 1)
    return None if at < 0 else parse_number(entry[at + 16 :])


def parse_transactions(entry_key: bytes, entry: bytes) -> list[tuple[bytes, int]]:
    """The ids and commits (0: aborted) of a TRANSACTIONS entry."""
    if len(entry_key) == 16:
        return [(entry_key, parse_number(entry))]
    return list(_TRANSACTION.iter_unpack(entry))


def aborted_value(time: int) -> bytes:
    """The TRANSACTIONS value of a transaction that was fenced."""
    return _TWO_NUMBERS.pack(0, time)


def aborted_key(time: int, transaction: bytes) -> bytes:
    """The key of an aborted transaction in the order of time."""
    return ABORTED + NUMBER.pack(time) + transaction


def parse_aborted_key(entry_key: bytes) -> tuple[int, bytes]:
    """The time at which a transaction was fenced, and its id."""
    return NUMBER.unpack_from(entry_key, 1)[0], entry_key[1 + NUMBER.size :]
