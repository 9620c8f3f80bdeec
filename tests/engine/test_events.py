"""Stored events: their form, their categories, and ids that nobody gave."""

import pytest

from headwater_server.engine.events import (
    StoredEvent,
    category_of,
    decode_event,
    derive_event_id,
    derive_event_ids,
    encode_event,
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
