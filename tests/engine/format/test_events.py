"""Stored events: their encoding, their categories, and derived event ids."""

import hashlib
import struct
from typing import Any

import msgpack
import pytest

from headwater_server.engine.format.events import (
    StoredEvent,
    category_of,
    decode_event,
    derive_event_id,
    derive_event_ids,
    encode_event,
    encode_events,
    erase_event,
    stream_name,
)


def test_a_stored_event_decodes_to_what_was_encoded() -> None:
    event = StoredEvent(
        2**62, "account-ann", 7, 9, 1_700_000_000_000_000, bytes(16), "Opened", b"\xc1", b""
    )
    assert decode_event(encode_event(*event)) == event


def test_a_stored_event_is_an_array_of_ten_as_on_the_wire() -> None:
    stored = encode_event(1, "a", 1, 1, 0, bytes(16), "T", b"d", b"m", ["x"])
    nine = b"\x01\xa1a\x01\x01\x00\xc4\x10" + bytes(16) + b"\xa1T\xc4\x01d\xc4\x01m"
    assert stored == b"\x9a" + nine + b"\x91\xa1x"


@pytest.mark.parametrize("count", [1, 3, 4, 5, 40])
# Numbers on both sides of each width that msgpack has for them.
@pytest.mark.parametrize("number", [1, 120, 127, 128, 250, 65_530, 65_536, 2**32 - 20, 2**40])
def test_events_encoded_together_are_the_same_as_one_by_one(number: int, count: int) -> None:
    forms: list[list[Any]] = [
        [None, "Happened", b"data", b""],
        [None, "Happened", bytes(200), b"", []],
        [b"\x07" * 16, "Happened", bytes(300), b"m"],
        [None, "Ended", bytes(70_000), bytes(256), ["tag", "\u00e4"]],
        [None, "Happened", b"", b"", ["tag"]],
    ]
    events = [forms[place % len(forms)] for place in range(count)]
    ids = derive_event_ids(bytes(15) + b"\x09", 3, count)
    stored = encode_events(number, "account-ann", number + 7, 9, 10**15, ids, events)
    assert stored == [
        encode_event(
            number + place,
            "account-ann",
            number + 7 + place,
            9,
            10**15,
            ids[place] if event[0] is None else event[0],
            *event[1:],
        )
        for place, event in enumerate(events)
    ]


def test_an_event_that_was_stored_before_tags_existed_has_no_tags() -> None:
    stored = encode_event(1, "a", 1, 1, 0, bytes(16), "T", b"d", b"m")
    assert stored[-1:] == b"\x90"
    old = b"\x99" + stored[1:-1]
    assert (
        decode_event(old)
        == decode_event(stored)
        == (StoredEvent(1, "a", 1, 1, 0, bytes(16), "T", b"d", b"m", ()))
    )


def test_an_event_whose_data_was_erased_says_so() -> None:
    event = decode_event(encode_event(1, "a", 1, 1, 0, bytes(16), "T", None, None, ["x", "y"]))
    assert (event.data, event.metadata, event.tags) == (None, None, ("x", "y"))


SALT, HASH, TRACE, DATABASE, UNKNOWN_ODD, UNKNOWN_EVEN = 1, 2, 3, 4, 99, 98


def salted_hash(salt: bytes, data: bytes, metadata: bytes) -> bytes:
    """The hash that docs/format.md defines."""
    return hashlib.sha256(salt + struct.pack(">I", len(data)) + data + metadata).digest()


def extended(event: StoredEvent, *extensions: Any) -> bytes:
    """An event as a later version would store it."""
    packed: bytes = msgpack.packb([*event, list(extensions)])
    return packed


def some_event(number: int) -> StoredEvent:
    data, metadata = b"secret %d" % number, b"metadata of %d" % number
    return StoredEvent(number, "a-1", number, 9, 10**15, bytes(16), "T", data, metadata, ("x",))


def test_extensions_that_are_not_known_are_ignored() -> None:
    event = some_event(1)
    stored = extended(event, TRACE, b"trace", UNKNOWN_ODD, {"any": [1, None]}, DATABASE, 7)
    assert decode_event(stored) == event
    assert stream_name(stored) == b"a-1"


def test_an_erasure_destroys_the_salt_and_a_chain_of_hashes_still_verifies() -> None:
    def chain(events: list[bytes]) -> bytes:
        end = bytes(32)
        for stored in events:
            members = msgpack.unpackb(stored, use_list=True)
            extensions = dict(zip(members[10][::2], members[10][1::2], strict=True))
            if members[7] is not None:
                given = salted_hash(extensions[SALT], members[7], members[8])
                assert given == extensions[HASH], "data and hash agree while the data is there"
            end = hashlib.sha256(end + extensions[HASH]).digest()
        return end

    events = []
    for number in range(1, 6):
        event = some_event(number)
        assert event.data is not None
        assert event.metadata is not None
        salt = bytes([number]) * 16
        hashed = salted_hash(salt, event.data, event.metadata)
        events.append(
            extended(event, SALT, salt, HASH, hashed, UNKNOWN_ODD, "x", UNKNOWN_EVEN, [5])
        )
    before = chain(events)
    erased = erase_event(events[2])
    assert len(erased) < len(events[2])
    assert b"secret" not in erased
    assert b"metadata" not in erased
    assert bytes([3]) * 16 not in erased
    assert decode_event(erased) == some_event(3)._replace(data=None, metadata=None)
    # An erasure keeps unknown extensions with even numbers and removes those with odd ones.
    assert msgpack.unpackb(erased)[10][2:] == [UNKNOWN_EVEN, [5]]
    assert erase_event(erased) == erased
    events[2] = erased
    assert chain(events) == before


@pytest.mark.parametrize(
    ("stream", "category"),
    [("account-ann", "account"), ("a-b-c", "a"), ("plain", "plain"), ("-x", ""), ("ü-1", "ü")],
)
def test_the_category_is_the_name_up_to_the_first_dash(stream: str, category: str) -> None:
    assert category_of(stream) == category


def test_derived_ids_differ_by_place_and_wrap_within_their_last_four_bytes() -> None:
    transaction = b"\x55" * 12 + b"\xff\xff\xff\xfe"
    found = [derive_event_id(transaction, place) for place in range(4)]
    assert [identity[12:] for identity in found] == [
        b"\xff\xff\xff\xfe",
        b"\xff\xff\xff\xff",
        bytes(4),
        b"\0\0\0\x01",
    ]
    assert {identity[:12] for identity in found} == {b"\x55" * 12}
    assert derive_event_ids(transaction, 0, 4) == found
    assert derive_event_ids(transaction, 1, 2) == found[1:3]


@pytest.mark.parametrize("size", [1, 31, 32, 255, 256, 512])
@pytest.mark.parametrize("position", [1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32])
def test_the_stream_of_an_event_is_found_without_decoding_it(position: int, size: int) -> None:
    name = "\u00e4" * (size // 2) + "a" * (size % 2)
    stored = encode_event(position, name, 1, 1, 0, bytes(16), "T", b"d", b"m", ["x"])
    assert stream_name(stored) == name.encode() == decode_event(stored).stream.encode()
    # The format of events that were stored before tags existed.
    assert stream_name(b"\x99" + stored[1:]) == name.encode()
