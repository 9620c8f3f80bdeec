"""Stored events: the form in which an event is stored and sent to readers.

    [position, stream, version, commit, time, id, type, data, metadata, tags]    one msgpack array
    [ …                                                             …, tags, extensions]

An event is encoded once, when it is committed, and then only copied: into the write-ahead log, the
event log, and every answer. Data and metadata are the client's bytes and never interpreted; nil as
data means that they were erased. Tags keep the order in which they were given. Events of versions
without tags have nine members.

Extensions are for later versions; none is written today. They are a flat array of number, value,
number, value, …, because clients accept maps only with names as keys. Unknown numbers are ignored.
Extensions with odd numbers are erased with the data and those with even numbers stay, so that every
version erases correctly. docs/format.md lists them.

An event without an id gets one derived from its transaction's id and its place among the
transaction's events. So a repeated commit gives the same ids, without an index.
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
"""Size of a packed number by its first byte; a first byte below 128 is the number itself."""
_STR_8: Final = 0xD9
_STR_16: Final = 0xDA
_TIME: Final = 4
"""The place of an event's time among its members."""
_EXTENSIONS: Final = 10
"""The place of an event's extensions among its members."""
_FEW: Final = 3
"""Up to this many events are packed one by one, which is faster."""


class StoredEvent(NamedTuple):
    """A stored event, decoded."""

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
    """The stored forms of events of one stream, as they come in a request.

    The first event gets *position* and *version*, the others the following ones. *ids* are for
    events without an id. The result is that of `encode_event` for each, but common members are
    packed once, and data is copied only once.
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
    """The msgpack of consecutive numbers."""
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
    """Decode a stored event."""
    return StoredEvent(*msgpack.unpackb(stored, use_list=False)[:10])


def stream_name(stored: bytes) -> bytes:
    """The UTF-8 of a stored event's stream, without decoding the rest of the event."""
    assert stored[0] & 0xF0 == 0x90, "an event is an array of fewer than 16 members"
    at = 1 + _NUMBER_SIZES.get(stored[1], 1)
    header = stored[at]
    if header < _STR_8:
        return stored[at + 1 : at + 1 + (header & 0x1F)]
    if header == _STR_8:
        return stored[at + 2 : at + 2 + stored[at + 1]]
    # Names have at most 512 bytes, so longer forms do not occur.
    assert header == _STR_16
    return stored[at + 3 : at + 3 + (stored[at + 1] << 8) + stored[at + 2]]


def erase_event(stored: bytes) -> bytes:
    """The stored form of an event without its data, metadata and extensions with odd numbers.

    It is never longer than before; a segment's offsets rely on that.
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
    """The id of the event at *place* of a transaction, if none was given."""
    return derive_event_ids(transaction, place, 1)[0]


def derive_event_ids(transaction: bytes, first: int, count: int) -> list[bytes]:
    """The ids of *count* events of a transaction from place *first* on, if none were given.

    An event's place (0, 1, 2 …) in its transaction is added to the last 32 bits of the
    transaction's id. The other 96 bits hold the time and 42 random bits, so the ids of two
    transactions do not collide.
    """
    if count == 1 and first == 0:
        # The first event's id is the transaction's id itself.
        return [transaction]
    prefix = transaction[:12]
    low = int.from_bytes(transaction[12:], "big") + first
    if low + count > _LOW:
        return [prefix + (number % _LOW).to_bytes(4, "big") for number in range(low, low + count)]
    block = struct.pack(f">{count}I", *range(low, low + count))
    return [prefix + block[at : at + 4] for at in range(0, 4 * count, 4)]
