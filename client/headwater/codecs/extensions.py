"""Types that msgpack lacks, as its extension types, so that values come back equal.

    code  type        bytes
    1     UUID        its 16 bytes
    2     Decimal     its digits in ASCII: "1.10", "-0", "1E+3", "NaN"
    3     date        ISO 8601 in ASCII: "2013-01-31"
    4     set         a msgpack array of its members, in the order of their encoded bytes
    5     frozenset   the same

Each type has a code of its own, so what comes back is never a str that was a Decimal. The order
in a set is fixed, so equal sets are equal bytes, and `require` may compare them. A datetime is
msgpack's own timestamp (type -1); one without a time zone names no moment and is refused.

msgpack asks these functions only for what it does not know by itself, so values without such
types pay nothing for them.
"""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from msgpack import ExtType

EXTENSIONS_RESERVED: Final = 32
"""Extension types below this one belong to MsgpackCodec."""

UUID_CODE: Final = 1
DECIMAL_CODE: Final = 2
DATE_CODE: Final = 3
SET_CODE: Final = 4
FROZENSET_CODE: Final = 5

Pack = Callable[[Any], bytes]
Unpack = Callable[[bytes], Any]


def to_extension(value: Any, pack: Pack) -> ExtType | None:
    """The extension that stands for *value*; None if none does.

    Raises:
        TypeError: a datetime without a time zone.
    """
    match value:
        case UUID():
            return ExtType(UUID_CODE, value.bytes)
        case Decimal():
            return ExtType(DECIMAL_CODE, str(value).encode())
        case datetime():
            raise TypeError(
                f"{value!r} has no time zone, so it is no point in time; use for example "
                "datetime.now(UTC)"
            )
        case date():
            return ExtType(DATE_CODE, value.isoformat().encode())
        case set():
            return ExtType(SET_CODE, _packed_members(value, pack))
        case frozenset():
            return ExtType(FROZENSET_CODE, _packed_members(value, pack))
        case _:
            return None


def from_extension(code: int, data: bytes, unpack: Unpack) -> Any:
    """The value of an extension below EXTENSIONS_RESERVED; ExtType if its code is not known.

    *unpack* makes tuples of arrays: the members of a set must be hashable.

    Raises:
        ValueError, TypeError: the bytes are none that to_extension makes.
    """
    decode = _DECODERS.get(code)
    if decode is not None:
        return decode(data)
    if code in (SET_CODE, FROZENSET_CODE):
        members = unpack(data)
        return set(members) if code == SET_CODE else frozenset(members)
    # Of a newer version: it can be carried on, and written back as it was.
    return ExtType(code, data)


def _decimal(data: bytes) -> Decimal:
    try:
        return Decimal(data.decode("ascii"))
    except ArithmeticError as error:
        raise ValueError(f"{data[:40]!r} is no decimal number") from error


def _packed_members(members: set[Any] | frozenset[Any], pack: Pack) -> bytes:
    packed = sorted(pack(member) for member in members)
    count = len(packed)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 1 << 16:
        head = b"\xdc" + count.to_bytes(2)
    else:
        head = b"\xdd" + count.to_bytes(4)
    return head + b"".join(packed)


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    UUID_CODE: lambda data: UUID(bytes=data),
    DECIMAL_CODE: _decimal,
    DATE_CODE: lambda data: date.fromisoformat(data.decode("ascii")),
}
