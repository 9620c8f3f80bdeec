"""The index of event ids: finds an event by its id alone, without its stream.

    INDEX    "i"   event id(16)       ->  positions(8n): events with this id, which clients gave
             "d"   16 ms(6)           ->  transaction(16) position(8) ...
                   transaction(16)    ->  position(8)
             "m"   "event_ids"        ->  after(8) upto(8): all events in between are in the index

An id that was not given is that of the transaction plus a place, so "d" has one member for each
transaction with events: its id, and the position of its first event. Ids of the same 16 ms share an
entry, as in TRANSACTIONS; a full entry leaves the rest to entries of their own.

Given ids are unique in a stream only. Of an id that many streams have, the newest POSITIONS_MAX
positions are kept.
"""

import struct
from array import array
from typing import Final, NamedTuple

from headwater_server.engine.format.index_keys import (
    IDS_END,
    META,
    NUMBER,
    id_bucket_key,
    pack_positions,
    unpack_positions,
)

GIVEN: Final = b"i"
FIRST_EVENT: Final = b"d"
META_EVENT_IDS: Final = META + b"event_ids"

POSITIONS_MAX: Final = 64
"""Positions kept of one id. Who gives the same id to each event gets an entry of 512 bytes."""

ENTRY_SIZE: Final = 24
"""Bytes of a transaction in an entry of "d"."""

BUCKET_MAX: Final = 1024
"""Transactions in one entry: 24 KiB, as in TRANSACTIONS."""

_PREFIX_SIZE: Final = 12
_LOW: Final = 2**32
_RANGE: Final = struct.Struct(">QQ")


class Indexed(NamedTuple):
    """The events after *after* up to *upto* can be found by their ids."""

    after: int
    upto: int


def given_key(event_id: bytes) -> bytes:
    """The key of an id that clients gave."""
    return GIVEN + event_id


def given_value(positions: "array[int]") -> bytes:
    """The value of an id that clients gave: the newest of the sorted positions."""
    return pack_positions(positions[-POSITIONS_MAX:])


def parse_given(entry: bytes | None) -> "array[int]":
    """The positions of an id that clients gave, in order."""
    return unpack_positions(entry or b"")


def bucket_key(transaction: bytes) -> bytes:
    """The key of the entry that a transaction belongs to."""
    if transaction >= IDS_END:
        return FIRST_EVENT + transaction
    return FIRST_EVENT + id_bucket_key(transaction)


def parse_first_events(key: bytes, entry: bytes) -> list[tuple[bytes, int]]:
    """The transactions of an entry of "d", each with the position of its first event."""
    if not entry:
        return []
    if len(key) == 1 + 16:
        return [(key[1:], NUMBER.unpack(entry)[0])]
    return [
        (entry[at : at + 16], NUMBER.unpack_from(entry, at + 16)[0])
        for at in range(0, len(entry), ENTRY_SIZE)
    ]


def own_entries(event_id: bytes) -> tuple[bytes, bytes]:
    """The range of the entries of transactions to which an id can belong, of their own."""
    prefix = FIRST_EVENT + event_id[:_PREFIX_SIZE]
    return prefix + bytes(4), prefix + b"\xff" * 5


def place_of(event_id: bytes, transaction: bytes) -> int | None:
    """The place of an event in a transaction, if the id derives from that of the transaction."""
    if event_id[:_PREFIX_SIZE] != transaction[:_PREFIX_SIZE]:
        return None
    low, base = int.from_bytes(event_id[12:], "big"), int.from_bytes(transaction[12:], "big")
    return (low - base) % _LOW


def indexed_value(indexed: Indexed) -> bytes:
    """The value of "m" "event_ids"."""
    return _RANGE.pack(*indexed)


def parse_indexed(entry: bytes | None) -> Indexed | None:
    """What the index covers; None: a version without it wrote all events."""
    return None if entry is None else Indexed(*_RANGE.unpack(entry))
