import math
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headwater_protocol.errors import InvalidArgument, TooLarge
from headwater_protocol.keys import (
    INT_SIZE_MAX,
    Key,
    decode_key,
    encode_key,
    key_after,
    prefix_range,
)
from headwater_protocol.limits import DEPTH_MAX, KEY_SIZE_MAX

INT_MAX = 2 ** (8 * INT_SIZE_MAX) - 1

INTS = (
    st.integers(-300, 300)
    | st.integers(-(2**65), 2**65)
    | st.integers(-INT_MAX, INT_MAX)
    | st.sampled_from(
        [s * 2**n + d for n in (8, 16, 56, 63, 64, 72) for s in (1, -1) for d in (-1, 0, 1)]
    )
)


def of_minutes(minutes: int) -> timezone:
    return timezone(timedelta(minutes=minutes))


EASTERNMOST = timezone(timedelta(days=1) - timedelta.resolution)
WESTERNMOST = timezone(timedelta.resolution - timedelta(days=1))

SCALARS = (
    st.none()
    | st.booleans()
    | INTS
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.text(alphabet="\0\x01aÿ\U0010ffff", max_size=4)
    | st.binary(max_size=12)
    | st.lists(st.sampled_from([0, 1, 0xFE, 0xFF]), max_size=4).map(bytes)
    | st.uuids()
    | st.datetimes(timezones=st.integers(-1439, 1439).map(of_minutes))
)
MEMBERS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
KEYS = st.lists(MEMBERS, min_size=1, max_size=4).map(tuple)

# The order of types in the module's docstring.
RANKS = [type(None), bytes, str, tuple, int, float, bool, UUID, datetime]


def in_order(value: Any) -> Any:
    """A value that Python orders as the keys must sort."""
    rank = RANKS.index(type(value))
    match value:
        case None:
            return (rank,)
        case tuple():
            return (rank, [in_order(member) for member in value])
        case _:
            return (rank, value)


@pytest.mark.parametrize(
    ("key", "encoded"),
    [
        # Examples from FoundationDB's specification, so that its libraries are compatible.
        (None, "00"),
        (b"foo\x00bar", "01 66 6f 6f 00 ff 62 61 72 00"),
        ("F\u00d4O\u0000bar", "02 46 c3 94 4f 00 ff 62 61 72 00"),
        (((b"foo\x00bar", None, ()),), "05 01 66 6f 6f 00 ff 62 61 72 00 00 ff 05 00 00"),
        (-5551212, "11 ab 4b 93"),
        (-42.0, "21 3f ba ff ff ff ff ff ff"),
        # Our own examples.
        (0, "14"),
        (1, "15 01"),
        (-1, "13 fe"),
        (255, "15 ff"),
        (256, "16 01 00"),
        (2**64 - 1, "1c ff ff ff ff ff ff ff ff"),
        (2**64, "1d 09 01 00 00 00 00 00 00 00 00"),
        (-(2**64), "0b f6 fe ff ff ff ff ff ff ff ff"),
        (False, "26"),
        (True, "27"),
        (0.0, "21 80 00 00 00 00 00 00 00"),
        (UUID(int=1), "30 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 01"),
        (datetime(1970, 1, 1, tzinfo=UTC), "40 80 00 00 00 00 00 00 00"),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), "40 7f ff ff ff ff ff ff ff"),
        (("balance", "ann", 7), "02 62 61 6c 61 6e 63 65 00 02 61 6e 6e 00 15 07"),
    ],
)
def test_the_encoding_of_each_type(key: Key, encoded: str) -> None:
    assert encode_key(key).hex(" ") == encoded
    assert decode_key(bytes.fromhex(encoded)) == (key if isinstance(key, tuple) else (key,))


@given(KEYS)
@example((INT_MAX, -INT_MAX))
@example((((),), ((None,),), ""))
@example((datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)))
@example((datetime.max.replace(tzinfo=WESTERNMOST), datetime.min.replace(tzinfo=EASTERNMOST)))
def test_a_decoded_key_equals_the_key_and_has_its_types(key: tuple[Any, ...]) -> None:
    def types(value: Any) -> Any:
        return [types(member) for member in value] if type(value) is tuple else type(value)

    found = decode_key(encode_key(key))
    assert found == key
    assert types(found) == types(key)


@given(KEYS, KEYS)
@example(("a",), ("a\0",))
@example(("a", 1), ("a\0", 0))
@example((b"\xff",), (b"\xff\x00",))
@example(((), 1), ((None,),))
@example((1, "z"), (1,))
@example((-1,), (-256,))
@example((-(2**64),), (-(2**64) + 1,))
@example((2**64,), (2**64 - 1,))
@example((math.inf,), (-math.inf,))
@example((5e-324,), (-5e-324,))
@example((datetime.max.replace(tzinfo=WESTERNMOST),), (datetime.max.replace(tzinfo=UTC),))
def test_bytes_sort_as_the_tuples_do(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    before = in_order(one) < in_order(other)
    equal = in_order(one) == in_order(other)
    assert (encode_key(one) < encode_key(other)) == before
    assert (encode_key(one) == encode_key(other)) == equal


@given(st.lists(INTS, min_size=2, max_size=20))
def test_ints_of_any_size_sort_by_value(values: list[int]) -> None:
    assert sorted(values) == [decode_key(key)[0] for key in sorted(map(encode_key, values))]


@given(KEYS, KEYS)
@example(("a",), ("a\0",))
@example(("a",), ("a\0b", 1))
@example(((),), ((None,),))
@example((255,), (256,))
def test_a_prefix_range_has_exactly_the_keys_that_begin_with_the_prefix(
    prefix: tuple[Any, ...], key: tuple[Any, ...]
) -> None:
    start, end = prefix_range(prefix)
    begins = [in_order(member) for member in key[: len(prefix)]] == [*map(in_order, prefix)]
    assert (start <= encode_key(key) < end) == begins
    assert start <= encode_key(prefix + key) < end
    assert start <= encode_key(prefix) < end


@given(KEYS)
def test_the_empty_prefix_is_the_prefix_of_all_keys(key: tuple[Any, ...]) -> None:
    start, end = prefix_range(())
    assert (start, end) == (b"", b"\xff")
    assert start <= encode_key(key) < end


def test_a_single_value_is_a_tuple_of_one() -> None:
    assert encode_key("ann") == encode_key(("ann",))
    assert decode_key(encode_key("ann")) == ("ann",)
    assert prefix_range("ann") == prefix_range(("ann",))


def test_the_range_of_a_prefix_of_the_largest_size_ends_at_a_key() -> None:
    prefix = (b"x" * (KEY_SIZE_MAX - 2),)
    start, end = prefix_range(prefix)
    assert len(start) == KEY_SIZE_MAX >= len(end)
    assert start == encode_key(prefix) < end
    _, end = prefix_range((b"x" * (KEY_SIZE_MAX - 4), 255))
    assert end.endswith(b"x\x00\x16")


@given(KEYS, KEYS)
def test_no_key_lies_between_a_key_and_key_after(
    one: tuple[Any, ...], other: tuple[Any, ...]
) -> None:
    key, another = encode_key(one), encode_key(other)
    assert (key_after(key) <= another) == (key < another)


def test_key_after_a_key_of_the_largest_size_is_a_key() -> None:
    key = encode_key(b"x" * (KEY_SIZE_MAX - 2))
    assert len(key) == KEY_SIZE_MAX == len(key_after(key))
    assert key < key_after(key)
    assert key_after(key[:-1] + b"\xff") == key[:-2] + b"y"


def test_minus_zero_becomes_zero() -> None:
    assert encode_key(-0.0) == encode_key(0.0)
    assert math.copysign(1, decode_key(encode_key(-0.0))[0]) == 1  # type: ignore[arg-type]


def test_a_datetime_of_any_zone_keeps_its_point_in_time() -> None:
    moment = datetime(2024, 5, 17, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    (found,) = decode_key(encode_key(moment))
    assert found == moment
    assert isinstance(found, datetime)
    assert found.tzinfo is UTC


def test_a_value_of_a_subclass_is_encoded_like_its_base_class() -> None:
    class Level(IntEnum):
        HIGH = 3

    class Name(str):
        __slots__ = ()

    assert encode_key((Level.HIGH, Name("ann"))) == encode_key((3, "ann"))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((), "the empty tuple is not a key"),
        (math.nan, "NaN cannot be ordered"),
        (("at", datetime(2024, 1, 1)), "has no time zone"),  # noqa: DTZ001
        (["a"], "list of 1; a key may contain None, bool"),
        (("a", {"b": 1}), "dict of 1; a key may contain"),
        (("a", 1j), "complex 1j; a key may contain"),
        (bytearray(b"a"), "bytearray of 1; a key may contain"),
        ("\ud800", "lone surrogate"),
        (INT_MAX + 1, "an int of 256 bytes; the maximum is 255"),
        (-INT_MAX - 1, "an int of 256 bytes; the maximum is 255"),
    ],
)
def test_an_invalid_key_is_refused_with_its_type(key: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        encode_key(key)


def test_tuples_nest_up_to_the_limit() -> None:
    key: Any = "core"
    for _ in range(DEPTH_MAX):
        key = (key,)
    assert decode_key(encode_key(key)) == key
    with pytest.raises(InvalidArgument, match="nested 17 levels deep; allowed are 16"):
        encode_key((key,))
    with pytest.raises(InvalidArgument, match="nested 17 levels deep; allowed are 16"):
        decode_key(b"\x05" * DEPTH_MAX + b"\x14" + b"\0" * DEPTH_MAX)


def test_a_key_that_is_too_long_is_refused_with_its_size_and_the_limit() -> None:
    encode_key("x" * (KEY_SIZE_MAX - 2))
    with pytest.raises(TooLarge, match="key: 8193 bytes encoded; allowed are 1 to 8192"):
        encode_key("x" * (KEY_SIZE_MAX - 1))


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("", "no bytes"),
        ("02 61", "has no end"),
        ("02 61 00 ff", "has no end"),
        ("02 ff 00", "not UTF-8"),
        ("05 14", "the tuple has no end"),
        ("16 01", "expected 2 bytes; 1 are left"),
        ("16 00 01", "more bytes than it needs"),
        ("13 ff", "more bytes than it needs"),
        ("1d 08 ff ff ff ff ff ff ff ff", "more bytes than it needs"),
        ("1d", "expected 1 bytes; 0 are left"),
        ("21 7f ff ff ff ff ff ff ff", "NaN or -0.0"),
        ("21 ff ff ff ff ff ff ff ff", "NaN or -0.0"),
        ("30 00", "expected 16 bytes; 1 are left"),
        ("40 ff ff ff ff ff ff ff ff", "outside years 1 to 9999"),
        ("20 00 00 00 00", "byte 0: no type has the code 0x20"),
        ("15 01 ff", "byte 2: no type has the code 0xff"),
    ],
)
def test_bytes_that_are_not_a_key_are_refused_and_shown(encoded: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        decode_key(bytes.fromhex(encoded))


@given(
    st.binary(max_size=40)
    | st.lists(
        st.sampled_from(
            [0, 1, 2, 5, 0x0B, 0x13, 0x14, 0x15, 0x1D, 0x21, 0x26, 0x30, 0x40, 0x61, 0xFE, 0xFF]
        ),
        max_size=24,
    ).map(bytes)
)
def test_decodable_bytes_are_the_only_encoding_of_their_key(data: bytes) -> None:
    try:
        key = decode_key(data)
    except InvalidArgument:
        return
    assert encode_key(key) == data
