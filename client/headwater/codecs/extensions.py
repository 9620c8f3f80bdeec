"""Extension types of msgpack for types that it lacks, so that values are decoded equal.

    code  type        bytes
    1     UUID        its 16 bytes
    2     Decimal     its digits in ASCII: "1.10", "-0", "1E+3", "NaN"
    3     date        ISO 8601 in ASCII: "2013-01-31"
    4     set         a msgpack array of its members, in the order of their encoded bytes
    5     frozenset   the same

Each type has its own code, so a Decimal is never decoded as a str. The order in a set is fixed, so
equal sets have equal bytes and `require` can compare them. A datetime is encoded as msgpack's own
timestamp (type -1). One without a time zone is refused, because it is no point in time.

msgpack calls these functions only for types that it does not know, so other values cost nothing.
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
    """The extension of *value*, or None if its type has none.

    Raises:
        TypeError: *value* is a datetime without a time zone.
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
    """Decode an extension below EXTENSIONS_RESERVED. An unknown code stays an ExtType.

    *unpack* must decode arrays as tuples, because the members of a set have to be hashable.

    Raises:
        ValueError, TypeError: `to_extension` never makes such bytes.
    """
    decode = _DECODERS.get(code)
    if decode is not None:
        return decode(data)
    if code in (SET_CODE, FROZENSET_CODE):
        members = unpack(data)
        return set(members) if code == SET_CODE else frozenset(members)
    # A newer client wrote it. As an ExtType it can be written back unchanged.
    return ExtType(code, data)


def _decimal(data: bytes) -> Decimal:
    try:
        return Decimal(data.decode("ascii"))
    except ArithmeticError as error:
        raise ValueError(f"{data[:40]!r} is not a decimal number") from error


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
