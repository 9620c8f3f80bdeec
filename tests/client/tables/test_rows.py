"""Rows of plain values, for tables."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.tables.plain_json import plain_json


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    y: tuple[int, ...]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (b"\xff\x00", "/wA="),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (datetime(2013, 1, 1, tzinfo=UTC), "2013-01-01T00:00:00+00:00"),
        (date(2013, 1, 31), "2013-01-31"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        ((1, [2, {3}]), [1, [2, [3]]]),
        (
            {1: "a", (2, 3): "b", None: "c", b"k": "d"},
            {"1": "a", "[2, 3]": "b", "null": "c", "aw==": "d"},
        ),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, (2, 3)), {"x": 1, "y": [2, 3]}),
        (UTC, "UTC"),
        (2**80, 2**80),
    ],
)
def test_a_value_is_plain_json(value: object, expected: object) -> None:
    assert json.loads(plain_json(value)) == expected


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_json_has_stays_as_it_is(value: object) -> None:
    assert json.loads(plain_json(value)) == value
