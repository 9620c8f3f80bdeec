"""Extension types of msgpack for types that it lacks, so that values are decoded equal.

    code  type        bytes
    1     UUID        its 16 bytes
    2     Decimal     its digits in ASCII: "1.10", "-0", "1E+3", "NaN"
    3     date        ISO 8601 in ASCII: "2013-01-31"
    4     set         a msgpack array of its members, in the order of their encoded bytes
    5     frozenset   the same

Each type has its own code, so a Decimal is never decoded as a str. The order in a set is fixed, so
equal sets have equal bytes and `require` can compare them. A datetime is encoded as msgpack's own
timestamp (type -1). One without a time zone is refused, because it is not a point in time.

An ExtType or Timestamp of the application that would be decoded as one of these is refused too:
what is stored is decoded equal, or it is not stored.

msgpack calls these functions only for types that it does not know, so other values cost nothing.
"""

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from msgpack import ExtType, Timestamp

EXTENSIONS_RESERVED: Final = 32
"""Extension types below this one belong to MsgpackCodec."""

UUID_CODE: Final = 1
DECIMAL_CODE: Final = 2
DATE_CODE: Final = 3
SET_CODE: Final = 4
FROZENSET_CODE: Final = 5

SETS_DEPTH_MAX: Final = 32
"""Levels of sets in sets. msgpack's decoder takes 40 KiB of the C stack for each, so deep enough
ones would end the process that reads them."""

_SHORT_SIZE_MAX: Final = 2048
"""Bytes up to which deleting bytes from data is faster than searching for each of them."""

_HEADS: Final = b"\xd8\xd7\xd6\xd5\xd4\xc7\xc8\xc9"
"""The bytes with which msgpack begins an extension."""

Pack = Callable[[Any], bytes]
Unpack = Callable[[bytes], Any]


def may_have_extensions(data: bytes) -> bool:
    """Whether encoded data may contain an extension. It may be wrong, but misses none."""
    if len(data) <= _SHORT_SIZE_MAX:
        return len(data.translate(None, _HEADS)) != len(data)
    return any(head in data for head in _HEADS)


def check_reserved(value: Any) -> None:
    """Refuse what msgpack can encode, and what would be decoded as something else.

    msgpack encodes an ExtType and a Timestamp itself, wherever they are in *value*, so they have
    to be searched for.

    Raises:
        ValueError: there is an ExtType with a code of this module, or a Timestamp.
    """
    left = [value]
    while left:
        inner = left.pop()
        if type(inner) in _HARMLESS:
            continue
        match inner:
            case ExtType():
                if UUID_CODE <= inner.code <= FROZENSET_CODE:
                    raise ValueError(
                        f"the extension type {inner.code} belongs to MsgpackCodec; use a type from "
                        f"{EXTENSIONS_RESERVED} up"
                    )
            case Timestamp():
                raise ValueError("a msgpack.Timestamp would be decoded as a datetime; use that")
            case dict():
                left += inner.keys()
                left += inner.values()
            case list() | tuple() | set() | frozenset():
                left += inner


def to_extension(value: Any, packer: Callable[[], Pack]) -> Any:
    """The extension of *value*, or what stands for it; None if its type has none.

    *packer* makes a function that encodes the members of a set.

    Raises:
        TypeError: *value* is a datetime without a time zone.
    """
    match value:
        case UUID():
            return ExtType(UUID_CODE, value.bytes)
        case Decimal():
            return ExtType(DECIMAL_CODE, str(value).encode())
        case datetime() if value.utcoffset() is not None:
            # msgpack takes the class itself only, and no class that is derived from it.
            return datetime.combine(value.date(), value.time(), value.tzinfo)
        case datetime():
            raise TypeError(
                f"{value!r} has no time zone, so it is no point in time; use for example "
                "datetime.now(UTC)"
            )
        case date():
            return ExtType(DATE_CODE, value.isoformat().encode())
        case set():
            return ExtType(SET_CODE, _packed_members(value, packer()))
        case frozenset():
            return ExtType(FROZENSET_CODE, _packed_members(value, packer()))
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


_HARMLESS: Final = frozenset(
    (type(None), bool, int, float, str, bytes, datetime, date, UUID, Decimal)
)
"""Types that `check_reserved` need not look into."""

_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    UUID_CODE: lambda data: UUID(bytes=data),
    DECIMAL_CODE: _decimal,
    DATE_CODE: lambda data: date.fromisoformat(data.decode("ascii")),
}
