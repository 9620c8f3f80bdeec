"""Codecs: values that can be encoded, and values that cannot."""

import threading
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headwater.codecs.codec import MsgpackCodec, RawCodec, decode_with, encode_with
from headwater.errors import InvalidArgument, Undecodable


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**64 - 1,
        1.5,
        float("inf"),
        "Zürich \0 ☃",
        b"\0\xff",
        [1, [2, {"a": [None]}]],
        {"a": 1, 2: "b", b"c": None},
        datetime(2013, 1, 1, 12, 30, 59, 999_999, tzinfo=UTC),
        UUID(int=7),
        Decimal("1.10"),
        Decimal("-0"),
        Decimal("1E+1000"),
        Decimal("Infinity"),
        date(2013, 1, 31),
        {1, "1", b"1", (1, 2)},
        frozenset({frozenset({1}), UUID(int=1)}),
        set(range(20)),
        set(range(70_000)),
        set(),
        {"deep": [{Decimal(1): {"at": datetime(2013, 1, 1, tzinfo=UTC)}}]},
        msgpack.ExtType(31, b"of a newer version"),
        msgpack.ExtType(40, b"mine"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_decoded_value_equals_the_encoded_one_and_has_its_type(value: Any) -> None:
    codec = MsgpackCodec()
    back = codec.decode(codec.encode(value))
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, set | frozenset)


def test_equal_sets_have_the_same_encoding_whatever_their_insertion_order() -> None:
    codec = MsgpackCodec()
    # These numbers have the same slot in the hash table, so the insertion order is the order of
    # iteration.
    forth, back = ({*order} for order in ((0, 8, 16), (16, 8, 0)))
    assert [*forth] != [*back]
    assert codec.encode(forth) == codec.encode(back)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (UUID(int=1), b"\xd8\x01" + bytes(15) + b"\x01"),
        (Decimal("1.10"), b"\xd6\x021.10"),
        (date(2013, 1, 31), b"\xc7\x0a\x032013-01-31"),
        ({2, 1}, b"\xc7\x03\x04\x92\x01\x02"),
        (frozenset("a"), b"\xc7\x03\x05\x91\xa1a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_extensions_are_encoded_as_the_protocol_page_shows(value: Any, stored: bytes) -> None:
    assert MsgpackCodec().encode(value) == stored


@pytest.mark.parametrize(
    "stored",
    [b"\xd4\x01x", b"\xd6\x02wild", b"\xd6\x032013", b"\xd4\x04\x07", b"\xc7\x02\x04\x91\x80"],
)
def test_a_malformed_extension_is_undecodable(stored: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_with(MsgpackCodec(), stored, "value of x")


def test_a_time_without_a_zone_is_refused_with_advice() -> None:
    with pytest.raises(InvalidArgument, match=r"no time zone.*datetime\.now\(UTC\)"):
        encode_with(MsgpackCodec(), datetime(2013, 1, 1), "value of x")  # noqa: DTZ001


def test_a_tuple_is_decoded_as_a_list_and_a_time_in_utc() -> None:
    codec = MsgpackCodec()
    assert codec.decode(codec.encode((1, 2))) == [1, 2]
    east = datetime(2013, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert codec.decode(codec.encode(east)).tzinfo == UTC


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {object()}, 2**64, -(2**63) - 1, datetime(2013, 1, 1), nested(2000), "\ud800", 1j],  # noqa: DTZ001
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_encoded_is_refused_and_does_not_affect_the_next(value: Any) -> None:
    codec = MsgpackCodec()
    with pytest.raises(InvalidArgument, match="value of x cannot be encoded"):
        encode_with(codec, [1, "half", value], "value of x")
    # All calls share one packer, so the part that was packed before the error must be dropped.
    assert codec.encode(1) == b"\x01"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01\x02", b"\xa5abc", b"\x91"])
def test_damaged_bytes_are_undecodable(data: bytes) -> None:
    with pytest.raises(Undecodable, match=f"its {len(data)} bytes"):
        decode_with(MsgpackCodec(), data, "value of x")


def test_other_types_can_be_encoded_by_functions_of_the_application() -> None:
    codec = MsgpackCodec(
        default=lambda value: msgpack.ExtType(42, str(value).encode()),
        ext_hook=lambda code, data: complex(data.decode()) if code == 42 else None,
    )
    assert codec.decode(codec.encode([1j, 2])) == [1j, 2]


def test_the_raw_codec_takes_only_bytes() -> None:
    codec = RawCodec()
    assert codec.encode(bytearray(b"a")) == codec.encode(memoryview(b"a")) == b"a"
    assert codec.decode(b"\xc1") == b"\xc1"
    with pytest.raises(InvalidArgument, match="stores bytes, not str"):
        encode_with(codec, "a", "value of x")


# One encoder is never used for two values at once.
#
# A packer calls Python functions for types that msgpack lacks. Meanwhile another thread may encode
# a value, or the function itself may. When all calls shared one packer, both values could be
# truncated or mixed. The server acknowledged them, and nobody could read them again.


class Amount:
    """A class that msgpack does not know. The application's `default` encodes it."""


def test_a_default_may_encode_with_the_same_codec() -> None:
    def default(value: Any) -> Any:
        assert isinstance(value, Amount)
        return msgpack.ExtType(40, codec.encode({"amount": UUID(int=3)}))

    codec = MsgpackCodec(default=default)
    back = codec.decode(codec.encode(["before", Amount(), "after"]))
    assert back[0] == "before"
    assert codec.decode(back[1].data) == {"amount": UUID(int=3)}
    assert back[2] == "after"


def test_threads_that_share_a_codec_do_not_disturb_each_other() -> None:
    encoded: list[bytes] = []

    def default(value: Any) -> Any:
        assert isinstance(value, Amount)
        # Let the other thread encode while this value is half encoded.
        other = threading.Thread(target=lambda: encoded.append(codec.encode({"other": "x" * 100})))
        other.start()
        other.join()
        return "amount"

    codec = MsgpackCodec(default=default)
    assert codec.decode(codec.encode(["before", Amount(), "after"])) == [
        "before",
        "amount",
        "after",
    ]
    assert [codec.decode(data) for data in encoded] == [{"other": "x" * 100}]


def test_an_encoding_that_fails_does_not_affect_the_next() -> None:
    codec = MsgpackCodec()
    for _ in range(3):
        with pytest.raises(TypeError):
            codec.encode(["a part of it is packed", object()])
        assert codec.decode(codec.encode([1, 2])) == [1, 2]


# Every encoded value is decoded to an equal value.


def of_minutes(minutes: int) -> timezone:
    return timezone(timedelta(minutes=minutes))


MEMBERS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.dates(),
    # No zones with summer time: when the clock is set forward, a datetime in the skipped hour is
    # not equal to any datetime of another zone.
    st.datetimes(timezones=st.integers(-1439, 1439).map(of_minutes)),
)
# What msgpack encodes by itself, and what the codec must look for: codes of its own, and times that
# would be decoded as another class.
OF_MSGPACK: st.SearchStrategy[Any] = st.one_of(
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    st.builds(msgpack.Timestamp, st.integers(0, 2**40), st.integers(0, 10**9 - 1)),
    st.uuids().map(lambda each: msgpack.ExtType(1, each.bytes)),
    st.just(msgpack.ExtType(2, b"1.10")),
    st.just(msgpack.ExtType(4, b"\x91\x01")),
)
HASHABLE = st.recursive(
    MEMBERS | OF_MSGPACK,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
VALUES = st.recursive(
    MEMBERS | OF_MSGPACK,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.sets(HASHABLE, max_size=4),
    ),
    max_leaves=10,
)


@settings(deadline=None, print_blob=True)
@given(VALUES)
@example({(1, 2): "rook"})
@example({((1, 2), frozenset({3})): {(4,): [5]}})
@example(datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))))
@example(datetime.min.replace(tzinfo=timezone(timedelta(hours=23, minutes=59))))
@example([{datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, minutes=59)))}])
@example([{datetime.max.replace(tzinfo=timezone(-timedelta(days=1) + timedelta.resolution))}])
@example([msgpack.ExtType(1, bytes(16))])
@example({"x": {msgpack.ExtType(3, b"2013-01-31")}})
@example({msgpack.Timestamp(0, 1): 1})
def test_every_accepted_value_is_decoded_to_an_equal_one(value: Any) -> None:
    codec = MsgpackCodec()
    try:
        data = codec.encode(value)
    except (TypeError, ValueError, OverflowError):
        return
    assert codec.decode(data) == value


def test_damaged_values_of_special_types_are_undecodable() -> None:
    codec = MsgpackCodec()
    for data in (b"", b"\xc1", b"\x81\x90", b"\xd6\xff\0\0", b"\xc7\x0c\xff" + b"\xff" * 12):
        with pytest.raises(Undecodable):
            decode_with(codec, data, "it")


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [0, 1, 2, 4, 8, 16, 300, 70_000])
def test_the_codecs_own_extension_types_are_refused(code: int, size: int) -> None:
    """ExtType(1, …) of 16 bytes came back as a UUID, and any other was never readable."""
    with pytest.raises(InvalidArgument, match=f"the extension type {code} belongs to MsgpackCodec"):
        encode_with(MsgpackCodec(), {"a": [1.5, msgpack.ExtType(code, bytes(size))]}, "it")


def test_a_default_may_not_use_the_codecs_own_extension_types() -> None:
    codec = MsgpackCodec(default=lambda _: [msgpack.ExtType(1, bytes(16))])
    with pytest.raises(InvalidArgument, match="the extension type 1 belongs to MsgpackCodec"):
        encode_with(codec, {1j}, "it")


class Moment(datetime):
    """As libraries for times derive them."""


def test_a_class_derived_from_datetime_is_a_time() -> None:
    codec = MsgpackCodec()
    moment = Moment(2013, 1, 1, 12, tzinfo=of_minutes(90))
    assert codec.decode(codec.encode([moment])) == [moment]
    with pytest.raises(InvalidArgument, match="no time zone"):
        encode_with(codec, Moment(2013, 1, 1), "it")


def in_sets(depth: int) -> Any:
    value: Any = "core"
    for _ in range(depth):
        value = frozenset((value,))
    return value


def test_sets_in_sets_have_a_bound_in_both_directions() -> None:
    """200 levels could be written, and ended the process of everybody who read them."""
    codec = MsgpackCodec()
    assert codec.decode(codec.encode(in_sets(32))) == in_sets(32)
    with pytest.raises(InvalidArgument, match="sets nested 33 levels deep; the maximum is 32"):
        encode_with(codec, in_sets(33), "it")
    data = b"\xa4core"
    for _ in range(1000):
        data = b"\xc9" + (len(data) + 1).to_bytes(4) + b"\x05\x91" + data
    with pytest.raises(Undecodable, match="nested more than 32 levels"):
        decode_with(codec, data, "it")


def test_a_value_of_any_depth_that_is_accepted_can_be_read_from_any_depth_of_calls() -> None:
    """A rare value is decoded without a Python call for each of its levels."""
    codec = MsgpackCodec()
    value: Any = {(1, 2): datetime.max.replace(tzinfo=of_minutes(-60))}
    for _ in range(500):
        value = [value]

    def deep(calls: int) -> Any:
        return deep(calls - 1) if calls else codec.decode(data)

    data = codec.encode(value)
    back, expected = deep(600), value
    for _ in range(500):
        (back,), (expected,) = back, expected
    assert back == expected


class Odd(Exception):
    """An error that is no ValueError."""


class OddCodec:
    """A codec of the application whose errors have a class of their own."""

    def encode(self, value: Any) -> bytes:
        raise Odd(value)

    def decode(self, data: bytes) -> Any:
        raise Odd(data)


def test_whatever_a_codec_raises_the_caller_is_told_in_our_words() -> None:
    with pytest.raises(InvalidArgument, match="it cannot be encoded: 7"):
        encode_with(OddCodec(), 7, "it")
    with pytest.raises(Undecodable, match="it cannot be decoded"):
        decode_with(OddCodec(), b"7", "it")
