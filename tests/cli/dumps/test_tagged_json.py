"""Values as JSON and back, byte for byte."""

import json
import struct
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgpack import ExtType, packb

from headwater.cli.dumps.tagged_json import from_json, to_json, value_from_json, value_to_json
from headwater.errors import InvalidArgument

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.builds(ExtType, st.integers(0, 127), st.binary(max_size=5))
)
keys = st.text() | st.integers(-100, 100) | st.binary(max_size=4) | st.just("$bytes")
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20
)


@given(values)
@example(struct.unpack(">d", bytes.fromhex("7ff7ffffffffffff"))[0])
@example([struct.unpack(">d", bytes.fromhex("fff8000000000000"))[0]])
def test_stored_bytes_come_back_unchanged(value: Any) -> None:
    stored = packb(value)
    assert value_from_json(json.loads(json.dumps(value_to_json(stored)))) == stored


@given(st.binary(max_size=40))
def test_bytes_of_any_codec_come_back(stored: bytes) -> None:
    assert value_from_json(json.loads(json.dumps(value_to_json(stored)))) == stored


@given(st.text(), st.binary(), st.uuids(), st.floats(allow_nan=False), st.datetimes())
def test_members_of_keys_come_back(
    text: str, data: bytes, identity: UUID, number: float, time: datetime
) -> None:
    inner = (text, data, identity, number, time, (None, (True,)))
    assert from_json(json.loads(json.dumps(to_json(inner)))) == inner


def test_plain_values_stay_plain() -> None:
    value = {"type": "Opened", "amounts": [1, 2.5, None, True]}
    assert value_to_json(packb(value)) == value
    assert to_json(UUID(int=1)) == {"$uuid": "00000000-0000-0000-0000-000000000001"}


def test_an_unknown_tag_is_refused() -> None:
    for wrong in ({"$bits": "AA=="}, {"$bytes": 1}, {"$bytes": "AA==", "more": 1}):
        with pytest.raises(InvalidArgument, match="unknown tag"):
            from_json(wrong)
