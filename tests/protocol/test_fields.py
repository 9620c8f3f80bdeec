from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import HeadwaterError, InvalidArgument, TooLarge
from headwater_protocol.fields import (
    Argument,
    Binary,
    Boolean,
    Choice,
    Field,
    Integer,
    ListOf,
    MapOf,
    Nullable,
    Number,
    Record,
    Tagged,
    Text,
)
from headwater_protocol.operations import OPERATIONS

PAIR = Record([Argument("name", Text(1, 8)), Argument("count", Integer(0, 9))])
SHORT = Record(
    [Argument("name", Text(1, 8)), Argument("count", Integer(0, 9), required=False, default=0)],
    may_be_short=True,
)
TAGGED = Tagged({"put": PAIR, "nothing": Record([])})
MAP = MapOf({"name": Text(1, 8), "counts": ListOf(Integer(0, 9), 3, count_min=1)})

ACCEPTED: list[tuple[Field, Any]] = [
    (Binary(1, 3), b"a"),
    (Binary(1, 3), b"abc"),
    (Text(1, 8), "a"),
    (Text(1, 8), "ab\u00e4\u00f6cd"),
    (Text(0, 8), ""),
    (Integer(-2, 9), -2),
    (Integer(-2, 9), 9),
    (Number(), 2**64 - 1),
    (Number(), -(2**63)),
    (Number(), float("inf")),
    (Boolean(), False),
    (Choice(("a", "b")), "b"),
    (Nullable(Binary(1, 3)), None),
    (ListOf(Integer(0, 9), 2), []),
    (ListOf(Integer(0, 9), 2), [1, 2]),
    (ListOf(Text(1, 8), 2, unique=True), []),
    (ListOf(Text(1, 8), 2, unique=True), ["a", "b"]),
    (PAIR, ["ann", 3]),
    (SHORT, ["ann"]),
    (SHORT, ["ann", 3]),
    (ListOf(SHORT, 2), [["ann"], ["bob", 3]]),
    (TAGGED, ["put", "ann", 3]),
    (TAGGED, ["nothing"]),
    (MAP, {}),
    (MAP, {"counts": [1], "name": "x"}),
]

REFUSED: list[tuple[Field, Any, type[HeadwaterError], str]] = [
    (Binary(1, 3), "abc", InvalidArgument, "at: expected bin of 1 to 3 bytes; got str 'abc'"),
    (Binary(1, 3), b"", InvalidArgument, "at: 0 bytes; allowed are 1 to 3"),
    (Binary(1, 3), b"abcd", TooLarge, "at: 4 bytes; allowed are 1 to 3"),
    (
        Text(1, 8),
        b"abc",
        InvalidArgument,
        "at: expected str of 1 to 8 UTF-8 bytes; got bytes b'abc'",
    ),
    (Text(1, 8), "", InvalidArgument, "at: 0 bytes; allowed are 1 to 8"),
    (Text(1, 8), "\u00e4" * 5, TooLarge, "at: 10 bytes; allowed are 1 to 8"),
    (Text(1, 8), "a\0b", InvalidArgument, r"at: 'a\x00b' contains U+0000"),
    (Text(1, 8), "abcdef\ud800", InvalidArgument, r"at: 'abcdef\ud800' contains a lone surrogate"),
    (Integer(0, 9), True, InvalidArgument, "at: expected int of 0 to 9; got bool True"),
    (Integer(0, 9), 1.0, InvalidArgument, "at: expected int of 0 to 9; got float 1.0"),
    (Integer(0, 9), 10, InvalidArgument, "at: 10; allowed are 0 to 9"),
    (Number(), float("nan"), InvalidArgument, "at: expected int or float, not NaN; got float nan"),
    (Number(), True, InvalidArgument, "at: expected int or float, not NaN; got bool True"),
    (
        Number(),
        2**64,
        InvalidArgument,
        "at: 18446744073709551616; allowed are -9223372036854775808 to 18446744073709551615",
    ),
    (Boolean(), 1, InvalidArgument, "at: expected bool; got int 1"),
    (Choice(("a", "b")), "c", InvalidArgument, 'at: expected "a" or "b"; got str \'c\''),
    (Nullable(Boolean()), 1, InvalidArgument, "at: expected bool; got int 1"),
    (
        ListOf(Boolean(), 2),
        True,
        InvalidArgument,
        "at: expected array of 0 to 2: bool; got bool True",
    ),
    (ListOf(Boolean(), 2), [True] * 3, TooLarge, "at: 3 items; allowed are 0 to 2"),
    (ListOf(Boolean(), 2, 1), [], InvalidArgument, "at: 0 items; allowed are 1 to 2"),
    (ListOf(Boolean(), 2), [True, 0], InvalidArgument, "at[1]: expected bool; got int 0"),
    (
        ListOf(Text(1, 8), 3, unique=True),
        ["a", "b", "a"],
        InvalidArgument,
        "at: 'a' occurs more than once",
    ),
    (SHORT, [], InvalidArgument, "at: 0 members; expected [name, count]"),
    (SHORT, ["ann", 11], InvalidArgument, "at: count: 11; allowed are 0 to 9"),
    (SHORT, ["ann", 1, 1], InvalidArgument, "at: 3 members; expected [name, count]"),
    (PAIR, ["ann"], InvalidArgument, "at: 1 members; expected [name, count]"),
    (PAIR, {"name": 1}, InvalidArgument, "at: expected an array [name, count]; got dict of 1"),
    (PAIR, ["ann", -1], InvalidArgument, "at: count: -1; allowed are 0 to 9"),
    (
        TAGGED,
        [],
        InvalidArgument,
        "at: expected array that starts with one of nothing, put; got list of 0",
    ),
    (TAGGED, ["set", 1], InvalidArgument, "at: expected one of nothing, put; got str 'set'"),
    (TAGGED, [["put"], 1], InvalidArgument, "at: expected one of nothing, put; got list of 1"),
    (TAGGED, ["put", "ann", 11], InvalidArgument, "at: put: count: 11; allowed are 0 to 9"),
    (TAGGED, ["put", "ann"], InvalidArgument, "at: put: 1 members; expected [name, count]"),
    (MAP, [], InvalidArgument, "at: expected map with any of counts, name; got list of 0"),
    (MAP, {"size": 1}, InvalidArgument, "at: 'size' is not one of counts, name"),
    (MAP, {1: 1}, InvalidArgument, "at: 1 is not one of counts, name"),
    (
        MAP,
        {"counts": [1, "x"]},
        InvalidArgument,
        "at: counts[1]: expected int of 0 to 9; got str 'x'",
    ),
]


@pytest.mark.parametrize(("field", "value"), ACCEPTED)
def test_a_valid_value_is_accepted(field: Field, value: Any) -> None:
    field.check(value)
    field(value, "at")


@pytest.mark.parametrize(("field", "value", "error", "message"), REFUSED)
def test_an_invalid_value_is_refused_with_its_place(
    field: Field, value: Any, error: type[HeadwaterError], message: str
) -> None:
    with pytest.raises(error) as found:
        field(value, "at")
    assert found.value.message == message
    assert type(found.value) is error
    with pytest.raises(error) as found:
        field.check(value)
    assert type(found.value) is error


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=4)
    | st.sampled_from(["put", "nothing", "name", "counts", "a"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(st.sampled_from([field for field, _ in ACCEPTED]), VALUES)
def test_the_check_without_places_agrees_with_the_one_with_places(field: Field, value: Any) -> None:
    def refuses(call: Any) -> bool:
        try:
            call()
        except (InvalidArgument, TooLarge):
            return True
        return False

    assert refuses(lambda: field.check(value)) == refuses(lambda: field(value, "at"))


def test_the_defaults_of_missing_arguments_are_added() -> None:
    record = Record(
        [
            Argument("key", Binary(1, 3)),
            Argument("limit", Integer(1, 9), required=False, default=5),
            Argument("filter", MAP, required=False, default={}),
        ]
    )
    assert record.complete([b"a"], "scan") == [b"a", 5, {}]
    assert record.complete([b"a", 2], "scan") == [b"a", 2, {}]
    assert record.complete([b"a", 2, {"name": "x"}], "scan") == [b"a", 2, {"name": "x"}]
    with pytest.raises(
        InvalidArgument, match=r"^scan: 0 arguments; expected \[key, limit, filter\]$"
    ):
        record.complete([], "scan")
    with pytest.raises(InvalidArgument, match=r"^scan: 4 arguments"):
        record.complete([b"a", 2, {}, 4], "scan")
    with pytest.raises(InvalidArgument, match=r"^scan: limit: 10; allowed are 1 to 9$"):
        record.complete([b"a", 10], "scan")


def test_a_mutable_default_is_not_shared() -> None:
    commit = OPERATIONS["commit"].arguments
    first = commit.complete([bytes(16)], "commit")
    first[1].append("a write")
    assert commit.complete([bytes(16)], "commit") == [bytes(16), []]


def test_a_message_about_a_huge_value_is_short_and_cheap() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in (bytes(2**23), "x" * 2**23, [0] * 10**5, deep, {"a": deep}, 2**9999):
        with pytest.raises(InvalidArgument) as found:
            Boolean()(value, "at")
        assert len(found.value.message) < 300
