import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater_protocol.errors import ProtocolError
from headwater_protocol.limits import (
    BODY_SIZE_MAX,
    DEPTH_MAX,
    MEMBERS_MAX,
    MIB,
    REQUEST_ITEMS_MAX,
    STR_SIZE_MAX,
    UNSCANNED_MEMBERS_MAX,
)
from headwater_protocol.messages import (
    LastPacked,
    NumberPacker,
    array_header,
    bin_header,
    decode,
    depth,
    encode,
    encode_array,
    plain_put,
    request_id_of,
)


def decode_both(body: bytes) -> list[Any]:
    """Decode on the fast path and after a scan."""
    return [decode(body, size, REQUEST_ITEMS_MAX) for size in (BODY_SIZE_MAX, 0)]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=30,
)


@given(VALUES)
@example(["x" * STR_SIZE_MAX, bytes(70_000), "y" * 300, [1] * 70_000])
@example({str(number): number for number in range(70_000)})
@example([0] * MEMBERS_MAX)
def test_a_value_is_decoded_on_the_fast_path_and_after_a_scan(value: Any) -> None:
    assert decode_both(encode(value)) == [value, value]


REFUSED = [
    ("", "the body ends at byte 0, inside its value"),
    ("92 01", "byte 0 of the body: 2 values are announced, but 1 bytes are left"),
    ("91 a3 61", "the body ends at byte 3, inside its value"),
    ("91 c4", "the body ends at byte 2, inside its value"),
    ("91 c6 ff ff ff ff", "the body ends at byte 6, inside its value"),
    ("91 cf 00", "the body ends at byte 3, inside its value"),
    ("91 01 02", "byte 2 of the body: 1 bytes after the value"),
    ("91 c1", "byte 1 of the body: 0xc1 is not msgpack"),
    ("91 d4 01 00", "byte 1 of the body: an extension type (0xd4)"),
    ("91 c7 00 01", "byte 1 of the body: an extension type (0xc7)"),
    ("91 d6 ff 00 00 00 00", "byte 1 of the body: an extension type (0xd6)"),
    ("91 c7 00 ff", "byte 1 of the body: an extension type (0xc7)"),
    ("dd ff ff ff ff", "byte 0 of the body: 4294967295 members; allowed are 100000"),
    ("91 df ff ff ff ff", "byte 1 of the body: 4294967295 members; allowed are 100000"),
    ("dc ff ff 01", "byte 0 of the body: 65535 values are announced, but 1 bytes are left"),
    ("dd 00", "the body ends at byte 2, inside its value"),
    ("91 db 00 01 00 01", "byte 1 of the body: str of 65537 bytes; allowed are 65536"),
    ("91 81 01 02", "byte 2 of the body: the map key is not a str"),
    ("91 81 c4 01 61 02", "byte 2 of the body: the map key is not a str"),
    ("91 81 90 02", "byte 2 of the body: the map key is not a str"),
    ("91 82 a1 61 90 c0 02", "byte 5 of the body: the map key is not a str"),
    ("92 01 a2 61 ff", "byte 4 of the body: the str is not UTF-8"),
    ("91 a3 ed a0 80", "byte 2 of the body: the str is not UTF-8"),
    ("91 " * DEPTH_MAX + "91 c0", "byte 16 of the body: 17 nested levels; allowed are 16"),
    ("81 a1 61 " * DEPTH_MAX + "91 c0", "byte 48 of the body: 17 nested levels; allowed are 16"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_an_invalid_body_is_refused_with_its_place(body: str, message: str) -> None:
    data = bytes.fromhex(body)
    with pytest.raises(ProtocolError) as found:
        decode(data, 0, REQUEST_ITEMS_MAX)
    assert found.value.message == message


@pytest.mark.parametrize(("body", "message"), [case for case in REFUSED if "nested" not in case[1]])
def test_the_fast_path_refuses_with_the_same_message(body: str, message: str) -> None:
    with pytest.raises(ProtocolError) as found:
        decode(bytes.fromhex(body), BODY_SIZE_MAX, REQUEST_ITEMS_MAX)
    assert found.value.message == message


def test_nesting_up_to_the_limit_passes() -> None:
    value = decode(b"\x91" * DEPTH_MAX + b"\x90", 0, REQUEST_ITEMS_MAX)
    assert depth(value) == DEPTH_MAX


@pytest.mark.slow
def test_more_values_than_a_body_may_have_are_refused_before_they_are_built() -> None:
    # Lists of empty lists take 64 bytes of memory for each byte.
    inner = array_header(MEMBERS_MAX) + b"\x90" * MEMBERS_MAX
    body = encode_array([inner] * 21)
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="more than 2000000 values, the maximum of a body"):
        decode(body, 65536, REQUEST_ITEMS_MAX)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


@pytest.mark.parametrize(
    "header",
    [
        b"\xdd" + struct.pack(">I", UNSCANNED_MEMBERS_MAX),
        b"\xdc" + struct.pack(">H", UNSCANNED_MEMBERS_MAX),
        b"\xdd" + struct.pack(">I", MEMBERS_MAX),
        b"\xdd\xff\xff\xff\xff",
        b"\x91",
        b"\xde\x0f\xff\xa1a",
    ],
)
def test_the_deepest_nesting_of_the_largest_headers_takes_bounded_memory(header: bytes) -> None:
    body = (header * 65536)[:65536]
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        decode(body, 65536, REQUEST_ITEMS_MAX)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MIB


def test_a_long_array_in_a_small_body_is_scanned_and_accepted() -> None:
    value = [0] * (UNSCANNED_MEMBERS_MAX + 1)
    assert decode_both(encode(value)) == [value, value]


@given(
    st.binary(max_size=64)
    | st.lists(
        st.sampled_from([*b"\x00\x81\x82\x91\x92\xa1\xc0\xc1\xc4\xcc\xd9\xdc\xdd\xde\xdf\xd4\xca"]),
        max_size=40,
    ).map(bytes)
)
def test_the_scan_and_the_decoder_agree_on_every_byte_string(body: bytes) -> None:
    """The scan accepts exactly the bodies that the decoder can decode, except as noted below."""
    outcomes = []
    for unscanned in (BODY_SIZE_MAX, 0):
        try:
            outcomes.append(repr(decode(body, unscanned, REQUEST_ITEMS_MAX)))
        except ProtocolError as error:
            outcomes.append(error.message)
    fast, scanned = outcomes
    assert fast == scanned or "nested" in scanned
    try:
        msgpack.unpackb(body)
    except (ValueError, TypeError):
        # The scan never accepts what msgpack itself refuses.
        assert "byte" in scanned
    else:
        if "byte" in scanned:
            assert any(word in scanned for word in ("map key", "extension", "nested"))


@given(st.lists(VALUES, max_size=40))
@pytest.mark.slow
def test_an_array_of_encoded_members_equals_the_encoded_array(members: list[Any]) -> None:
    assert encode_array([*map(encode, members)]) == encode(members)


@pytest.mark.parametrize("count", [0, 15, 16, 65535, 65536, 100_000])
def test_an_array_header_is_as_short_as_possible(count: int) -> None:
    assert array_header(count) == encode([None] * count)[: -count or None]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 2**16 - 1, 2**16])
def test_the_header_of_bytes_is_as_short_as_possible(size: int) -> None:
    assert bin_header(size) + bytes(size) == encode(bytes(size))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_request_id_of_a_broken_body_is_found(request_id: int, members: int) -> None:
    body = encode([request_id, *["x"] * members])
    assert request_id_of(body) == request_id
    assert request_id_of(body[:-1] + b"\xc1") == request_id
    wide = b"\xdc\x00\x03" + encode(request_id) + b"\xc1"
    assert request_id_of(wide) == request_id


@pytest.mark.parametrize(
    "body",
    ["c0", "91", "91 ce 00 00", "91 cf 00 00 00 00 00 00 00 01", "91 ff", "91 a1 61", "dc 00"],
)
def test_a_request_id_that_cannot_be_read_is_0(body: str) -> None:
    assert request_id_of(bytes.fromhex(body)) == 0


def test_depth_counts_nonempty_arrays_and_maps_at_any_depth() -> None:
    values: list[Any] = [1, "x", [], {}, [[]], [1], {"a": [1]}, [1, {"a": {"b": 2}}]]
    assert [depth(value) for value in values] == [0, 0, 0, 0, 1, 1, 2, 3]
    deep: Any = [1]
    for _ in range(5000):
        deep = [deep]
    assert depth(deep) == 5001


def test_a_failed_encoding_leaves_nothing_in_the_packer() -> None:
    for value in (["x", 2**64], ["x", object()], ["x", "\ud800"]):
        with pytest.raises((OverflowError, TypeError, UnicodeEncodeError)):
            encode(value)
        assert encode([1]) == b"\x91\x01"


def plain_put_of(message: Any) -> tuple[int, bytes, bytes, bytes]:
    """What `plain_put` should return for a decoded message."""
    match message:
        case [
            int(number),
            "execute",
            bytes(transaction),
            [],
            [],
            [["put", bytes(key), bytes(value)]],
        ]:
            if 0 < number < 2**32 and len(transaction) == 16 and 0 < len(key) < 256:
                return number, transaction, key, value
    return 0, b"", b"", b""


PUTS = st.tuples(
    st.sampled_from([0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32]),
    st.just("execute"),
    st.binary(min_size=16, max_size=16),
    st.just([]),
    st.just([]),
    st.lists(
        st.tuples(
            st.just("put"),
            st.sampled_from([0, 1, 2, 255, 256]).map(bytes),
            st.sampled_from([0, 1, 100, 255, 256, 65_535, 65_536]).map(bytes),
        ),
        min_size=1,
        max_size=1,
    ),
)


@given(PUTS)
def test_a_plain_put_is_taken_apart_as_it_is_decoded(members: Any) -> None:
    body = encode(members)
    expected = plain_put_of(decode(body, BODY_SIZE_MAX, REQUEST_ITEMS_MAX))
    if expected[0] and len(expected[3]) < 65_536:
        assert plain_put(body) == expected
    else:
        assert plain_put(body)[0] == 0, "such a body is left to decode"


@given(PUTS, st.data())
def test_a_changed_plain_put_is_never_taken_for_what_decode_does_not_return(
    members: Any, data: st.DataObject
) -> None:
    body = bytearray(encode(members))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(body), 60) - 1))
        match data.draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "change":
                body[place] = data.draw(st.integers(0, 255))
            case "remove" if len(body) > 1:
                del body[place]
            case "insert":
                body.insert(place, data.draw(st.integers(0, 255)))
            case _:
                del body[max(place, 1) :]
    found = plain_put(bytes(body))
    if found[0]:
        assert found == plain_put_of(decode(bytes(body), BODY_SIZE_MAX, REQUEST_ITEMS_MAX))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(250, 260) | st.integers(65_530, 65_540)))
def test_a_packed_number_does_not_depend_on_those_before_it(numbers: list[int]) -> None:
    near, last = NumberPacker(), LastPacked()
    for number in numbers:
        assert near.pack(number) == last.pack(number) == number.to_bytes(8, "big")
