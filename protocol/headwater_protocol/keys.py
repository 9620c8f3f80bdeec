"""Keys: tuples as bytes that sort as the tuples do.

    ("balance", "ann", 7)  ->  02 62 61 6c 61 6e 63 65 00   02 61 6e 6e 00   15 07

The encoding is that of FoundationDB's tuple layer, for the types that both have
(https://github.com/apple/foundationdb/blob/main/design/tuple.md), so most languages have a library
for it. Each member is a byte for its type and then its value, in a form that sorts and has a
recognizable end. A tuple is the concatenation of its members. Hence a tuple sorts directly before
the longer tuples that begin with it, and all of these are one range (prefix_range).

    type            code        then
    None            00          in an inner tuple: ff
    bytes           01          the bytes, 00 as 00 ff; 00
    str             02          the UTF-8 bytes, 00 as 00 ff; 00
    tuple           05          its members; 00
    int < 0         0b 0c..13   0c..13: 14 minus the count of bytes; 0b: count ^ ff; the bytes
    0               14
    int > 0         15..1c 1d   15..1c: 14 plus the count of bytes; 1d: count; the bytes
    float           21          IEEE 754, big-endian; sign bit flipped, or all if negative
    False, True     26, 27
    UUID            30          16 bytes
    datetime        40          microseconds since 1970 UTC plus 2**63, 8 bytes big-endian

The type comes first, so every int sorts before every float, whatever their values. In return each
value keeps its type. -0.0 becomes 0.0, which it equals. NaN is refused, since it equals nothing,
not even itself. A datetime must have a time zone; decoding gives it in UTC. One that is outside of
the years 1 to 9999 in UTC, as `datetime.max` in New York, is decoded in another zone, in which it
is equal. Each tuple has exactly one encoding, and decode_key refuses all others.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from struct import Struct
from typing import Final, TypeAlias
from uuid import UUID

from headwater_protocol.errors import InvalidArgument, TooLarge, shown
from headwater_protocol.limits import DEPTH_MAX, KEY_SIZE_MAX

Key: TypeAlias = bool | int | float | str | bytes | UUID | datetime | tuple["Key", ...] | None
KeyTuple: TypeAlias = tuple[Key, ...]

INT_SIZE_MAX: Final = 255
"""Bytes of an int's magnitude, since their count is stored in one byte."""

_NONE, _BYTES, _STR, _TUPLE, _ZERO, _FLOAT = 0x00, 0x01, 0x02, 0x05, 0x14, 0x21
_NEGATIVE, _POSITIVE = 0x0B, 0x1D
_FALSE, _TRUE, _UUID, _DATETIME = 0x26, 0x27, 0x30, 0x40

_U64: Final = Struct(">Q")
_DOUBLE: Final = Struct(">d")
_SIGN: Final = 1 << 63
_ALL: Final = (1 << 64) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_OFFSET_MAX: Final = timedelta(days=1) - _MICROSECOND
"""The largest offset of a zone."""


def _encode_large_int(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    if size > INT_SIZE_MAX:
        raise InvalidArgument(f"key: an int of {size} bytes; the maximum is {INT_SIZE_MAX}")
    if value >= 0:
        digits = value.to_bytes(size, "big")
        return (bytes((_ZERO + size,)) if size <= 8 else bytes((_POSITIVE, size))) + digits
    # One's complement, so that a smaller number has smaller bytes.
    digits = (value + (1 << 8 * size) - 1).to_bytes(size, "big")
    return (bytes((_ZERO - size,)) if size <= 8 else bytes((_NEGATIVE, size ^ 0xFF))) + digits


# Most ints in keys are small: counters, years, quantities.
_SMALL_INTS: Final = tuple(_encode_large_int(value) for value in range(1024))


def _encode_int(value: int) -> bytes:
    if 0 <= value < 1024:
        return _SMALL_INTS[value]
    return _encode_large_int(value)


def _encode_str(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"key: {shown(value)} has a lone surrogate, which UTF-8 cannot encode"
        ) from error
    if 0 in data:
        data = data.replace(b"\0", b"\0\xff")
    return b"\x02" + data + b"\0"


def _encode_bytes(value: bytes) -> bytes:
    return b"\x01" + value.replace(b"\0", b"\0\xff") + b"\0"


def _encode_float(value: float) -> bytes:
    if value != value:
        raise InvalidArgument("key: NaN cannot be ordered")
    # Adding 0.0 turns -0.0 into 0.0.
    bits: int = _U64.unpack(_DOUBLE.pack(value + 0.0))[0]
    return b"\x21" + _U64.pack(bits ^ (_ALL if bits & _SIGN else _SIGN))


def _encode_datetime(value: datetime) -> bytes:
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidArgument(
            f"key: {value!r} has no time zone; use for example datetime.now(UTC)"
            f" or .replace(tzinfo=UTC)"
        )
    return b"\x40" + _U64.pack((value - _EPOCH) // _MICROSECOND + _SIGN)


_ENCODERS: Final[dict[type, Callable[..., bytes]]] = {
    str: _encode_str,
    int: _encode_int,
    bytes: _encode_bytes,
    float: _encode_float,
    bool: lambda value: b"\x27" if value else b"\x26",
    type(None): lambda _: b"\0",
    UUID: lambda value: b"\x30" + value.bytes,
    datetime: _encode_datetime,
}
_find_encoder = _ENCODERS.get


def _encode_other(value: object, depth: int) -> bytes:
    """Encode a tuple, or a value of a subclass of an allowed type; refuse anything else."""
    if isinstance(value, tuple):
        if depth == DEPTH_MAX:
            raise InvalidArgument(
                f"key: tuples nested {depth + 1} levels deep; allowed are {DEPTH_MAX}"
            )
        inner = [
            b"\0\xff" if member is None else _encode_member(member, depth + 1) for member in value
        ]
        return b"\x05" + b"".join(inner) + b"\0"
    for known, encode in _ENCODERS.items():
        if isinstance(value, known):
            return encode(value)
    raise InvalidArgument(
        f"key: {type(value).__name__} {shown(value)}; a key may contain None, bool, int, float,"
        f" str, bytes, UUID, datetime and tuples of them"
    )


def _encode_member(value: object, depth: int) -> bytes:
    encode = _find_encoder(type(value))
    return encode(value) if encode is not None else _encode_other(value, depth)


def _encode_tuple(key: object) -> bytes:
    if type(key) is not tuple and not isinstance(key, tuple):
        key = (key,)
    encoded = b""
    for member in key:
        encode = _find_encoder(type(member))
        encoded += encode(member) if encode is not None else _encode_other(member, 1)
    if len(encoded) > KEY_SIZE_MAX:
        raise TooLarge(f"key: {len(encoded)} bytes encoded; allowed are 1 to {KEY_SIZE_MAX}")
    return encoded


def encode_key(key: Key) -> bytes:
    """Encode *key*, a tuple. A single value counts as a tuple of one.

    Raises:
        InvalidArgument: it is empty, or has a member that a key cannot contain.
        TooLarge: it takes more than KEY_SIZE_MAX bytes.
    """
    encoded = _encode_tuple(key)
    if not encoded:
        raise InvalidArgument("key: the empty tuple is not a key, but the prefix of all keys")
    return encoded


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """The range [start, end) of exactly the keys that begin with *prefix*.

    It includes the key that equals the prefix. The empty tuple gives the range of all keys.

    Raises:
        InvalidArgument, TooLarge: as encode_key.
    """
    start = _encode_tuple(prefix)
    if len(start) < KEY_SIZE_MAX:
        # No type has the code ff. Inside a member, ff follows 00 only as an escape.
        return start, start + b"\xff"
    return start, key_after(start)


def key_after(key: bytes) -> bytes:
    """The smallest possible key after *key*, from which a scan continues."""
    if len(key) < KEY_SIZE_MAX:
        return key + b"\0"
    # No key is longer, so the next key of the same length is the successor.
    trimmed = key.rstrip(b"\xff")
    assert trimmed, "no tuple is encoded as ff only"
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))


# Decoding. Each decoder takes the bytes and the offset of the value after its code. It returns the
# value and the offset of the next member.


def _wrong(data: bytes, at: int, what: str) -> InvalidArgument:
    return InvalidArgument(f"key {data[:40].hex(' ')}: byte {at}: {what}")


def _decode_escaped(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\0", at)
    while end >= 0 and data[end + 1 : end + 2] == b"\xff":
        end = data.find(b"\0", end + 2)
    if end < 0:
        raise _wrong(data, at, "the str or bytes has no end")
    return data[at:end].replace(b"\0\xff", b"\0"), end + 1


def _decode_str(data: bytes, at: int) -> tuple[str, int]:
    raw, end = _decode_escaped(data, at)
    try:
        return raw.decode(), end
    except UnicodeDecodeError as error:
        raise _not_utf8(data, at) from error


def _not_utf8(data: bytes, at: int) -> InvalidArgument:
    return _wrong(data, at, "the str is not UTF-8")


def _fixed(data: bytes, at: int, size: int) -> bytes:
    raw = data[at : at + size]
    if len(raw) != size:
        raise _wrong(data, at, f"expected {size} bytes; {len(raw)} are left")
    return raw


def _decode_int(data: bytes, at: int, code: int) -> tuple[int, int]:
    negative = code < _ZERO
    start = at
    if code in (_NEGATIVE, _POSITIVE):
        size = _fixed(data, at, 1)[0] ^ (0xFF if negative else 0)
        start = at + 1
    else:
        size = abs(code - _ZERO)
    value = int.from_bytes(_fixed(data, start, size), "big")
    if negative:
        value -= (1 << 8 * size) - 1
    # Each int has one encoding: the fewest bytes, and no count if it has up to 8 bytes.
    if (abs(value).bit_length() + 7) // 8 != size or (start > at and size <= 8):
        raise _wrong(data, at, "the int has more bytes than it needs")
    return value, start + size


def _decode_float(data: bytes, at: int) -> tuple[float, int]:
    bits: int = _U64.unpack(_fixed(data, at, 8))[0]
    value: float = _DOUBLE.unpack(_U64.pack(bits ^ (_SIGN if bits & _SIGN else _ALL)))[0]
    if value != value or bits == _SIGN - 1:
        raise _wrong(data, at, "the float is NaN or -0.0")
    return value, at + 8


def _decode_datetime(data: bytes, at: int) -> tuple[datetime, int]:
    microseconds = _U64.unpack(_fixed(data, at, 8))[0] - _SIGN
    try:
        return _EPOCH + timedelta(microseconds=microseconds), at + 8
    except OverflowError:
        return _decode_far_datetime(data, at, microseconds), at + 8


def _decode_far_datetime(data: bytes, at: int, microseconds: int) -> datetime:
    """A time that is in year 1 or 9999 in some zone, and not in UTC."""
    offset = -_OFFSET_MAX if microseconds > 0 else _OFFSET_MAX
    local = _EPOCH.replace(tzinfo=timezone(offset))
    try:
        return local + (timedelta(microseconds=microseconds) + offset)
    except OverflowError as error:
        raise _wrong(data, at, f"{microseconds} microseconds are outside years 1 to 9999") from (
            error
        )


def _decode_tuple(data: bytes, at: int, depth: int) -> tuple[KeyTuple, int]:
    if depth == DEPTH_MAX:
        raise _wrong(data, at, f"tuples nested {depth + 1} levels deep; allowed are {DEPTH_MAX}")
    members: list[Key] = []
    while True:
        if at >= len(data):
            raise _wrong(data, at, "the tuple has no end")
        if data[at] != _NONE:
            member, at = _decode_member(data, at, depth + 1)
            members.append(member)
        elif data[at + 1 : at + 2] == b"\xff":
            members.append(None)
            at += 2
        else:
            return tuple(members), at + 1


def _decode_member(data: bytes, at: int, depth: int) -> tuple[Key, int]:
    code = data[at]
    at += 1
    if code == _STR:
        return _decode_str(data, at)
    if _NEGATIVE <= code <= _POSITIVE:
        return _decode_int(data, at, code)
    match code:
        case 0x00:
            return None, at
        case 0x01:
            return _decode_escaped(data, at)
        case 0x05:
            return _decode_tuple(data, at, depth)
        case 0x21:
            return _decode_float(data, at)
        case 0x26 | 0x27:
            return code == _TRUE, at
        case 0x30:
            return UUID(bytes=_fixed(data, at, 16)), at + 16
        case 0x40:
            return _decode_datetime(data, at)
        case _:
            raise _wrong(data, at - 1, f"no type has the code 0x{code:02x}")


def member_end(data: bytes, at: int) -> int:
    """Where the member of a key ends that begins at an offset.

    Raises:
        InvalidArgument: there is no member.
    """
    if at >= len(data):
        raise _wrong(data, at, "the key has no further member")
    return _decode_member(data, at, 0)[1]


def decode_key(data: bytes) -> KeyTuple:
    """Decode a key to a tuple. A single value comes back as a tuple of one.

    Raises:
        InvalidArgument: *data* is not the encoding of a key.
    """
    if not data:
        raise InvalidArgument("key: no bytes; the empty tuple is not a key")
    members: list[Key] = []
    at, size = 0, len(data)
    while at < size:
        code = data[at]
        # Scans decode many keys, and most members are short strs and positive ints. All other
        # members, and wrong ones, are decoded by _decode_member below.
        if code == _STR:
            end = data.find(b"\0", at)
            if end > 0 and (end + 1 == size or data[end + 1] != 0xFF):
                try:
                    members.append(data[at + 1 : end].decode())
                except UnicodeDecodeError as error:
                    raise _not_utf8(data, at + 1) from error
                at = end + 1
                continue
        elif _ZERO < code < _POSITIVE:
            end = at + 1 + code - _ZERO
            if end <= size and data[at + 1]:
                members.append(int.from_bytes(data[at + 1 : end], "big"))
                at = end
                continue
        member, at = _decode_member(data, at, 1)
        members.append(member)
    return tuple(members)
