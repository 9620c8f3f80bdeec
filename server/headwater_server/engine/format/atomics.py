"""Atomic operations: add, min and max, evaluated when the transaction commits.

For isolation they count as neither reads nor writes, so a thousand of them on one key do not
conflict: each is applied to the newest value at the time when its commit is sequenced. A key that
does not exist gets the operand. Numbers are stored as msgpack.
"""

from typing import Final, NamedTuple

import msgpack

from headwater_protocol.errors import NotANumber

INTEGER_MIN: Final = -(2**63)
"""The smallest integer that msgpack can hold."""

INTEGER_MAX: Final = 2**64 - 1
"""The largest integer that msgpack can hold."""


class Atomic(NamedTuple):
    """One atomic operation: "add", "min" or "max", and its operand."""

    operation: str
    number: int | float


def apply_atomic(atomic: Atomic, stored: bytes | None) -> bytes:
    """The value of a key after an atomic operation on its stored value.

    Raises:
        NotANumber: the stored value is not a msgpack number, or the sum is outside of the range
            that msgpack can hold.
    """
    if stored is None:
        result = atomic.number
    else:
        current = _number(stored, atomic)
        if atomic.operation == "add":
            result = current + atomic.number
        elif atomic.operation == "min":
            result = min(current, atomic.number)
        else:
            assert atomic.operation == "max"
            result = max(current, atomic.number)
    # NaN has no order, so min and max would depend on the order of the operations.
    if result != result or (isinstance(result, int) and not INTEGER_MIN <= result <= INTEGER_MAX):
        # Leave out the result: a user who may write a key may not be allowed to read it.
        raise NotANumber(
            f"{atomic.operation} {atomic.number}: the result is NaN, or outside {INTEGER_MIN} to "
            f"{INTEGER_MAX}"
        )
    packed: bytes = msgpack.packb(result)
    return packed


def stored_number(stored: bytes | None) -> int | float | None:
    """The number in a stored value; None if it is none, or there is no value."""
    if stored is None:
        return None
    try:
        value = msgpack.unpackb(stored)
    except (ValueError, msgpack.UnpackException):
        return None
    if type(value) not in (int, float) or value != value:
        return None
    number: int | float = value
    return number


def _number(stored: bytes, atomic: Atomic) -> int | float:
    number = stored_number(stored)
    if number is None:
        raise NotANumber(
            f"{atomic.operation} {atomic.number} on a value that is not a msgpack number"
        )
    return number
