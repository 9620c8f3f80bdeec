"""Stored events: the form in which an event lies in the log and goes out to readers.

    [position, stream, version, commit, time, id, type, data, metadata, tags]    one msgpack array
    [ …                                                             …, tags, extensions]

It is made once, when the event is committed, and from then on only copied: into the WAL, the
event log, and every answer. Data and metadata are the client's bytes, never looked at; nil in
the place of data says that they were erased. Tags stand in the order in which they were given.
An event that was written before there were tags has nine members, and no tags.

Extensions are for later versions, and none is written today: a flat array of number, value, number,
value, …, because a client takes a map only with names. Who does not know a number ignores it. What
an erasure does is decided by the number, so that every version does it right: extensions with odd
numbers are erased with the data, those with even numbers stay. docs/format.md lists them.

An event that came without an id gets one that is derived from its transaction's id and its
place among the transaction's events, so a repeated commit gives the same ids without an index.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

from headwater_protocol.messages import BIN_HEADERS, bin_header

_LOW: Final = 2**32
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack

_SMALL_NUMBERS: Final[list[bytes]] = [_pack(number) for number in range(256)]
_TEN_MEMBERS: Final = b"\x9a"
_ID_HEADER: Final = b"\xc4\x10"
_NO_METADATA_NO_TAGS: Final = b"\xc4\x00\x90"
_NUMBER_SIZES: Final = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""Bytes of a packed number by the first of them; below 128 that is the number itself."""
_STR_8: Final = 0xD9
_STR_16: Final = 0xDA
_TIME: Final = 4
"""The place of an event's time among its members."""
_EXTENSIONS: Final = 10
"""The place of an event's extensions among its members."""
_FEW: Final = 3
"""Events that are sooner packed one by one."""


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


def encode_events(
    position: int,
    stream: str,
    version: int,
    commit: int,
    time: int,
    ids: Sequence[bytes],
    events: Sequence[list[Any]],
) -> list[bytes]:
    """The stored forms of events for one stream, as they stand in a request.

    The first gets *position* and *version*, the others those that follow; *ids* are used for
    those that bring none. As `encode_event` of each, but what they have in common is packed once,
    and data goes from the request's bytes to the stored ones in a single step.
    """
    if len(events) <= _FEW:
        return [
            _pack(
                (
                    position + place,
                    stream,
                    version + place,
                    commit,
                    time,
                    ids[place] if event[0] is None else event[0],
                    event[1],
                    event[2],
                    event[3],
                    event[4] if len(event) == 5 else (),
                )
            )
            for place, event in enumerate(events)
        ]
    positions = _packed_numbers(position, len(events))
    versions = _packed_numbers(version, len(events))
    of_stream: bytes = _pack(stream)
    of_commit: bytes = _pack(commit) + _pack(time) + _ID_HEADER
    stored: list[bytes] = []
    last_type = ""
    of_type = b""
    for place, event in enumerate(events):
        given_id: bytes | None = event[0]
        event_type: str = event[1]
        data: bytes = event[2]
        size = len(data)
        metadata: bytes = event[3]
        if event_type != last_type:
            last_type, of_type = event_type, _pack(event_type)
        if metadata or len(event) == 5:
            end = bin_header(len(metadata)) + metadata + _pack(event[4] if len(event) == 5 else ())
        else:
            end = _NO_METADATA_NO_TAGS
        stored.append(
            b"".join(
                (
                    _TEN_MEMBERS,
                    positions[place],
                    of_stream,
                    versions[place],
                    of_commit,
                    ids[place] if given_id is None else given_id,
                    of_type,
                    BIN_HEADERS[size] if size < 256 else bin_header(size),
                    data,
                    end,
                )
            )
        )
    return stored


def _packed_numbers(first: int, count: int) -> list[bytes]:
    """The msgpack of numbers that follow each other."""
    end = first + count
    if end <= len(_SMALL_NUMBERS):
        return _SMALL_NUMBERS[first:end]
    if len(_SMALL_NUMBERS) <= first and end <= 1 << 16:
        block = struct.pack(f">{count}H", *range(first, end))
        return [b"\xcd" + block[at : at + 2] for at in range(0, 2 * count, 2)]
    if first < 1 << 16 or end > _LOW:
        return [_pack(number) for number in range(first, end)]
    block = struct.pack(f">{count}I", *range(first, end))
    return [b"\xce" + block[at : at + 4] for at in range(0, 4 * count, 4)]


def decode_event(stored: bytes) -> StoredEvent:
    """Take a stored event apart."""
    return StoredEvent(*msgpack.unpackb(stored, use_list=False)[:10])


def stream_name(stored: bytes) -> bytes:
    """The UTF-8 of a stored event's stream, without taking the rest of the event apart."""
    assert stored[0] & 0xF0 == 0x90, "an event is an array of fewer than 16 members"
    at = 1 + _NUMBER_SIZES.get(stored[1], 1)
    header = stored[at]
    if header < _STR_8:
        return stored[at + 1 : at + 1 + (header & 0x1F)]
    if header == _STR_8:
        return stored[at + 2 : at + 2 + stored[at + 1]]
    # Names have at most 512 bytes, so there is no longer form.
    assert header == _STR_16
    return stored[at + 3 : at + 3 + (stored[at + 1] << 8) + stored[at + 2]]


def erase_event(stored: bytes) -> bytes:
    """The stored form of an event without its data, metadata and extensions with odd numbers.

    It is never longer than the event was: a segment's offsets rely on that.
    """
    members = msgpack.unpackb(stored, use_list=True)
    members[7] = members[8] = None
    if len(members) > _EXTENSIONS:
        extensions = members[_EXTENSIONS]
        members[_EXTENSIONS] = [
            member
            for number, value in zip(extensions[::2], extensions[1::2], strict=True)
            if number % 2 == 0
            for member in (number, value)
        ]
    packed: bytes = _pack(members)
    return packed


def redate_event(stored: bytes, time: int) -> bytes:
    """The stored form of an event with another time, of the same size."""
    members = msgpack.unpackb(stored, use_list=True)
    members[_TIME] = time
    packed: bytes = _pack(members)
    # From an hour after 1970 on, all times take nine bytes.
    assert len(packed) == len(stored)
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
    if count == 1 and first == 0:
        # Nothing is added to it.
        return [transaction]
    prefix = transaction[:12]
    low = int.from_bytes(transaction[12:], "big") + first
    if low + count > _LOW:
        return [prefix + (number % _LOW).to_bytes(4, "big") for number in range(low, low + count)]
    block = struct.pack(f">{count}I", *range(low, low + count))
    return [prefix + block[at : at + 4] for at in range(0, 4 * count, 4)]
