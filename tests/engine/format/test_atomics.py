"""Atomic operations: their results for every kind of stored value."""

import msgpack
import pytest

from headwater_protocol.errors import NotANumber
from headwater_server.engine.format.atomics import INTEGER_MAX, INTEGER_MIN, Atomic, apply_atomic


def applied(operation: str, number: float, stored: float | None) -> float:
    packed = None if stored is None else msgpack.packb(stored)
    result: float = msgpack.unpackb(apply_atomic(Atomic(operation, number), packed))
    return result


@pytest.mark.parametrize("operation", ["add", "min", "max"])
def test_a_missing_key_gets_the_operand_as_its_value(operation: str) -> None:
    assert applied(operation, 7, None) == 7
    assert applied(operation, -7, None) == -7


@pytest.mark.parametrize(
    ("operation", "number", "stored", "result"),
    [
        ("add", 2, 5, 7),
        ("add", -2, 5, 3),
        ("add", 0.5, 1, 1.5),
        ("min", 2, 5, 2),
        ("min", 5, 2, 2),
        ("max", 2, 5, 5),
        ("max", 5, 2, 5),
        ("max", 2.5, 2, 2.5),
    ],
)
def test_an_operation_is_applied_to_what_is_stored(
    operation: str, number: float, stored: float, result: float
) -> None:
    assert applied(operation, number, stored) == result


def test_sums_can_reach_but_not_exceed_the_ends_of_the_range() -> None:
    assert applied("add", 1, INTEGER_MAX - 1) == INTEGER_MAX
    assert applied("add", -1, INTEGER_MIN + 1) == INTEGER_MIN
    with pytest.raises(NotANumber, match="outside"):
        applied("add", 1, INTEGER_MAX)
    with pytest.raises(NotANumber, match="outside"):
        applied("add", -1, INTEGER_MIN)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\xc1",
        msgpack.packb("7"),
        msgpack.packb(True),
        msgpack.packb(None),
        msgpack.packb([7]),
        msgpack.packb(float("nan")),
        msgpack.packb(7) + b"\0",
        msgpack.packb("7" * 100)[:-1],
    ],
    ids=["empty", "reserved", "text", "boolean", "nil", "list", "nan", "and more", "cut off"],
)
@pytest.mark.parametrize("operation", ["add", "min", "max"])
def test_a_value_that_is_not_a_number_is_refused(operation: str, stored: bytes) -> None:
    with pytest.raises(NotANumber, match="not a msgpack number"):
        apply_atomic(Atomic(operation, 1), stored)


@pytest.mark.parametrize("operation", ["add", "min", "max"])
def test_an_error_does_not_show_what_is_stored(operation: str) -> None:
    # Whoever may write a key may not be allowed to read it.
    with pytest.raises(NotANumber) as caught:
        apply_atomic(Atomic(operation, 1), b"confidential")
    assert "confidential" not in caught.value.message
    stored = INTEGER_MAX - 5
    with pytest.raises(NotANumber) as caught:
        applied("add", 7, stored)
    assert str(stored) not in caught.value.message
    assert str(stored + 7) not in caught.value.message


def test_a_sum_that_is_not_a_number_is_refused() -> None:
    # inf - inf is NaN, which is neither less nor greater than any number. So min and max would
    # depend on the order of writes. The protocol refuses NaN as an operand for the same reason.
    with pytest.raises(NotANumber, match="NaN"):
        applied("add", float("-inf"), float("inf"))


def test_sums_of_floats_may_be_rounded_or_infinite() -> None:
    assert applied("add", 0.5, INTEGER_MAX) == float(INTEGER_MAX)
    assert applied("add", 1e308, 1e308) == float("inf")
