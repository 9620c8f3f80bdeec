"""Codecs, and what cannot be encoded."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgpack
import pytest

from headwater.codec import MsgpackCodec, RawCodec, decode_with, encode_with
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
        msgpack.ExtType(40, b"mine"),
    ],
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    codec = MsgpackCodec()
    assert codec.decode(codec.encode(value)) == value


def test_a_tuple_comes_back_as_a_list_and_a_time_in_utc() -> None:
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
    [object(), {1, 2}, 2**64, -(2**63) - 1, datetime(2013, 1, 1), nested(2000), "\ud800", 1j],  # noqa: DTZ001
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_encoded_is_said_and_leaves_nothing_behind(value: Any) -> None:
    codec = MsgpackCodec()
    with pytest.raises(InvalidArgument, match="value of x cannot be encoded"):
        encode_with(codec, [1, "half", value], "value of x")
    # The packer is shared by all calls: what it had packed so far must be gone.
    assert codec.encode(1) == b"\x01"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01\x02", b"\xa5abc", b"\x91"])
def test_what_cannot_be_decoded_is_said(data: bytes) -> None:
    with pytest.raises(Undecodable, match=f"its {len(data)} bytes"):
        decode_with(MsgpackCodec(), data, "value of x")


def test_types_of_ones_own_are_encoded_by_a_function() -> None:
    codec = MsgpackCodec(
        default=lambda value: msgpack.ExtType(42, str(value).encode()),
        ext_hook=lambda code, data: complex(data.decode()) if code == 42 else None,
    )
    assert codec.decode(codec.encode([1j, 2])) == [1j, 2]


def test_the_raw_codec_takes_bytes_alone() -> None:
    codec = RawCodec()
    assert codec.encode(bytearray(b"a")) == codec.encode(memoryview(b"a")) == b"a"
    assert codec.decode(b"\xc1") == b"\xc1"
    with pytest.raises(InvalidArgument, match="stores bytes, not str"):
        encode_with(codec, "a", "value of x")
