"""Stored events: the form in which an event lies in the log and goes out to readers.

    [position, stream, version, commit, time, id, type, data, metadata, tags]    one msgpack array

It is made once, when the event is committed, and from then on only copied: into the WAL, the
event log, and every answer. Data and metadata are the client's bytes, never looked at; nil in
the place of data says that they were erased. Tags stand in the order in which they were given.
An event that was written before there were tags has nine members, and no tags.

An event that came without an id gets one that is derived from its transaction's id and its
place among the transaction's events, so a repeated commit gives the same ids without an index.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgpack

_LOW: Final = 2**32
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack

pack_event: Final = _pack
"""`encode_event` of a tuple of its arguments, without a call in between: for many events."""


class StoredEvent(NamedTuple):
    """An event as it was committed, taken apart."""

    position: int
    stream: str
    version: int
    commit: int
    time: int
    id: bytes
    type: str
    data: bytes | None
    metadata: bytes | None
    tags: tuple[str, ...] = ()


def encode_event(
    position: int,
    stream: str,
    version: int,
    commit: int,
    time: int,
    event_id: bytes,
    event_type: str,
    data: bytes | None,
    metadata: bytes | None,
    tags: Sequence[str] = (),
) -> bytes:
    """The stored form of an event."""
    packed: bytes = _pack(
        (position, stream, version, commit, time, event_id, event_type, data, metadata, tags)
    )
    return packed


def decode_event(stored: bytes) -> StoredEvent:
    """Take a stored event apart."""
    return StoredEvent(*msgpack.unpackb(stored, use_list=False)[:10])


def erase_event(stored: bytes) -> bytes:
    """The stored form of an event without its data and metadata."""
    members = msgpack.unpackb(stored, use_list=True)
    members[7] = members[8] = None
    packed: bytes = _pack(members)
    return packed


def category_of(stream: str) -> str:
    """The category of a stream: its name up to the first "-", or all of it."""
    return stream.partition("-")[0]


def derive_event_id(transaction: bytes, place: int) -> bytes:
    """The id of the event at *place* of a transaction, where none was given."""
    return derive_event_ids(transaction, place, 1)[0]


def derive_event_ids(transaction: bytes, first: int, count: int) -> list[bytes]:
    """The ids of *count* events of a transaction from place *first* on, where none are given.

    An event's place (0, 1, 2 …) among those of its transaction is added to the last 32 bits of
    the transaction's id. Ids of two transactions that agree in the other 96 bits do not occur:
    those hold the time and 42 random bits.
    """
    prefix = transaction[:12]
    low = int.from_bytes(transaction[12:], "big") + first
    return [prefix + (number % _LOW).to_bytes(4, "big") for number in range(low, low + count)]
