"""Stored events: their form, their categories, and ids that nobody gave."""

from typing import Any

import pytest

from headwater_server.engine.events import (
    StoredEvent,
    category_of,
    decode_event,
    derive_event_id,
    derive_event_ids,
    encode_event,
    encode_events,
    stream_name,
)


def test_a_stored_event_comes_out_as_it_went_in() -> None:
    event = StoredEvent(
        2**62, "account-ann", 7, 9, 1_700_000_000_000_000, bytes(16), "Opened", b"\xc1", b""
    )
    assert decode_event(encode_event(*event)) == event


def test_a_stored_event_is_one_array_of_ten_as_the_wire_has_it() -> None:
    stored = encode_event(1, "a", 1, 1, 0, bytes(16), "T", b"d", b"m", ["x"])
    nine = b"\x01\xa1a\x01\x01\x00\xc4\x10" + bytes(16) + b"\xa1T\xc4\x01d\xc4\x01m"
    assert stored == b"\x9a" + nine + b"\x91\xa1x"


@pytest.mark.parametrize("count", [1, 3, 4, 5, 40])
# Numbers on both sides of each width that msgpack has for them.
@pytest.mark.parametrize("number", [1, 120, 127, 128, 250, 65_530, 65_536, 2**32 - 20, 2**40])
def test_many_events_are_stored_as_each_of_them_would_be(number: int, count: int) -> None:
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


def test_an_event_from_before_there_were_tags_has_none() -> None:
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
def test_the_stream_of_an_event_is_found_without_taking_it_apart(position: int, size: int) -> None:
    name = "\u00e4" * (size // 2) + "a" * (size % 2)
    stored = encode_event(position, name, 1, 1, 0, bytes(16), "T", b"d", b"m", ["x"])
    assert stream_name(stored) == name.encode() == decode_event(stored).stream.encode()
    # As it was stored before there were tags.
    assert stream_name(b"\x99" + stored[1:]) == name.encode()
