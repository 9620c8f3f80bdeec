"""Messages: the msgpack array in the body of a frame, decoded within limits.

    request     [request_id, operation, arguments…]
    response    [request_id, status, payload]

A msgpack header of five bytes can announce four billion members, and a list of empty lists takes
64 bytes of memory for each byte of input. So a body is decoded in one of two ways:

    small body              the C decoder. Arrays are limited to so few members that even 1024
    (nearly all)            nested ones, its maximum, take little memory.
    large body, or one      first a scan of the headers, which checks nesting, members, types and
    that the C decoder      ends and allocates nothing. Then the C decoder.
    refuses

The scan also finds the error and its byte offset for the message, so the fast path need not.

Some features of msgpack are not allowed: extension types (including timestamps), map keys that are
not str, str that is not UTF-8, bytes after the array.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from msgpack import Packer, unpackb

from headwater_protocol.errors import ProtocolError
from headwater_protocol.limits import (
    DEPTH_MAX,
    MEMBERS_MAX,
    STR_SIZE_MAX,
    UNSCANNED_MEMBERS_MAX,
)

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")

# All messages share one packer, which keeps a buffer of the size of the largest message. While it
# packs these types it runs no Python code and so keeps the GIL, so threads can share it.
_packer: Final = Packer(autoreset=True)
encode: Final = _packer.pack
"""Encode a value as msgpack."""

_ARRAY_HEADERS: Final = tuple(bytes([0x90 + count]) for count in range(16))
BIN_HEADERS: Final = tuple(b"\xc4" + bytes([size]) for size in range(256))
"""The headers of short bins by size, for hot paths that avoid the call of bin_header."""


SMALL_NUMBERS: Final = tuple(_U32.pack(number) for number in range(512))
"""Small numbers as four bytes."""

_BYTES: Final = tuple(bytes([number]) for number in range(256))


class NumberPacker:
    """Packs numbers as eight bytes, big-endian; fast if each is near the one before it.

    Packing a number takes three times as long as joining two strings of bytes. Commit numbers,
    positions and times grow slowly, so the upper bytes are nearly always those of the last number.
    """

    __slots__ = ("_upper",)

    def __init__(self) -> None:
        # In one tuple, so that several threads can share a packer.
        self._upper: tuple[int, bytes] = 0, bytes(7)

    def pack(self, number: int) -> bytes:
        """The eight bytes of *number*."""
        upper = number >> 8
        known, packed = self._upper
        if upper != known:
            packed = upper.to_bytes(7, "big")
            self._upper = upper, packed
        return packed + _BYTES[number & 0xFF]


class LastPacked:
    """Packs numbers as eight bytes, big-endian; fast if they repeat, as times do."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[int, bytes] = 0, bytes(8)

    def pack(self, number: int) -> bytes:
        """The eight bytes of *number*."""
        known, packed = self._last
        if number != known:
            packed = number.to_bytes(8, "big")
            self._last = number, packed
        return packed


def array_header(count: int) -> bytes:
    """The header of an array of *count* members."""
    if count < 16:
        return _ARRAY_HEADERS[count]
    if count < 1 << 16:
        return b"\xdc" + _U16.pack(count)
    return b"\xdd" + _U32.pack(count)


def bin_header(size: int) -> bytes:
    """The header of a bin of *size* bytes."""
    if size < 1 << 8:
        return BIN_HEADERS[size]
    if size < 1 << 16:
        return b"\xc5" + _U16.pack(size)
    return b"\xc6" + _U32.pack(size)


def encode_array(members: Sequence[bytes]) -> bytes:
    """An array of members that are already encoded."""
    return b"".join((array_header(len(members)), *members))


def _refuse(*_: Any) -> Any:
    raise ValueError("not allowed; the scan finds the place")


def _only_str_keys(map_: dict[Any, Any]) -> dict[str, Any]:
    # The C decoder accepts str and bytes as keys.
    for key in map_:
        if type(key) is not str:
            _refuse()
    return map_


def decode(body: bytes, unscanned_size_max: int, items_max: int) -> Any:
    """Decode *body*, after a scan if it is larger than *unscanned_size_max* bytes.

    A scanned body may have *items_max* values over all its arrays and maps.

    Raises:
        ProtocolError: it is not msgpack, or exceeds a limit; the message says where.
    """
    if len(body) <= unscanned_size_max:
        try:
            return unpackb(
                body,
                object_hook=_only_str_keys,
                ext_hook=_refuse,
                max_array_len=UNSCANNED_MEMBERS_MAX,
                max_map_len=UNSCANNED_MEMBERS_MAX,
                max_str_len=STR_SIZE_MAX,
                max_ext_len=0,
            )
        except (ValueError, TypeError):
            # The body is wrong, or has arrays that are too long to decode unscanned. The scan
            # tells.
            pass
    scan(body, items_max)
    try:
        return unpackb(
            body,
            object_hook=_only_str_keys,
            ext_hook=_refuse,
            max_array_len=MEMBERS_MAX,
            max_map_len=MEMBERS_MAX,
            max_str_len=STR_SIZE_MAX,
            max_ext_len=0,
        )
    except UnicodeDecodeError as error:
        at = body.find(error.object) + error.start
        raise ProtocolError(f"byte {at} of the body: the str is not UTF-8") from error
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"the body is not msgpack: {error}") from error


PLAIN_PUT: Final = 0x96
"""The first byte of all bodies that `plain_put` takes apart: an array of six members."""

_PUT: Final = b"\xa7execute\xc4\x10"
_PUT_WRITES: Final = b"\x90\x90\x91\x93\xa3put\xc4"


def plain_put(body: bytes) -> tuple[int, bytes, bytes, bytes]:
    """Take apart the most frequent body, an execute that puts one key, without msgpack.

        96  id  a7 execute  c4 10 transaction 16  90 90  91 93 a3 put  c4 key  c4 or c5 value

    `decode` would return the same, in a list of lists. That takes three times as long.

    Returns:
        request id, transaction, key and value. The request id is 0 for any other body, and also
        for a body that only `decode` can judge.
    """
    size = len(body)
    if size < 41 or body[0] != PLAIN_PUT:
        return 0, b"", b"", b""
    request_id = body[1]
    at = 2
    if request_id >= 0x80:
        if request_id == 0xCC:
            request_id, at = body[2], 3
        elif request_id == 0xCD:
            request_id, at = body[2] << 8 | body[3], 4
        elif request_id == 0xCE:
            request_id = body[2] << 24 | body[3] << 16 | body[4] << 8 | body[5]
            at = 6
        else:
            return 0, b"", b"", b""
    key_at = at + 36
    if size < key_at + 2 or body[at : at + 10] != _PUT or body[at + 26 : key_at - 1] != _PUT_WRITES:
        return 0, b"", b"", b""
    value_at = key_at + body[key_at - 1]
    if value_at == key_at or size < value_at + 2:
        return 0, b"", b"", b""
    first = value_at + 2
    value_size = body[value_at + 1]
    if body[value_at] == 0xC5 and size > first:
        value_size = value_size << 8 | body[first]
        first += 1
    elif body[value_at] != 0xC4:
        return 0, b"", b"", b""
    if first + value_size != size:
        return 0, b"", b"", b""
    return request_id, body[at + 10 : at + 26], body[key_at:value_at], body[first:]


def depth(value: Any) -> int:
    """Levels of nested arrays and maps in *value*, without empty ones. Not recursive."""
    level = [value]
    deep = 0
    while True:
        inner: list[Any] = []
        for item in level:
            if type(item) is list:
                inner += item
            elif type(item) is dict:
                inner += item.values()
        if not inner:
            return deep
        deep += 1
        level = inner


def request_id_of(body: bytes) -> int:
    """The request id of a body that is otherwise wrong; 0 if it cannot be read."""
    first = body[0]
    at = 1 if 0x90 <= first <= 0x9F else {0xDC: 3, 0xDD: 5}.get(first, len(body))
    code = body[at] if at < len(body) else 0xC1
    if code < 0x80:
        return code
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(code, 0)
    digits = body[at + 1 : at + 1 + width]
    return int.from_bytes(digits, "big") if width and len(digits) == width else 0


def _widths() -> list[int]:
    """Total bytes of a value by its first byte; 0 if the first byte does not determine them."""
    widths = [0] * 256
    # Includes the empty array and the empty map (90, 80), which nest nothing.
    for code in (*range(0x81), 0x90, 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100)):
        widths[code] = 1
    for code in range(0xA0, 0xC0):
        widths[code] = 1 + (code & 0x1F)
    for code, width in {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.items():
        widths[code] = 1 + width
    for code, width in {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}.items():
        widths[code] = 1 + width
    return widths


_WIDTHS: Final = _widths()
# Bytes of the length or count that follows the first byte.
_BIN_AND_STR: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAYS_AND_MAPS: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_EXTENSIONS: Final = frozenset((0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))
_STR_CODES: Final = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB))


def scan(body: bytes, items_max: int) -> None:
    """Check all headers of *body* without building values.

    Raises:
        ProtocolError: the body is wrong; the message says what and at which byte.
    """
    size = len(body)
    widths = _WIDTHS
    outer: list[tuple[int, bool]] = []
    remaining, is_map = 1, False  # missing members of the innermost array or map
    items = 1
    at = 0
    while True:
        while remaining:
            if at >= size:
                raise ProtocolError(f"the body ends at byte {size}, inside its value")
            code = body[at]
            # Keys and values of a map alternate, so before a key an even number is missing.
            if is_map and not remaining & 1 and code not in _STR_CODES:
                raise ProtocolError(f"byte {at} of the body: the map key is not a str")
            remaining -= 1
            width = widths[code]
            if width:
                at += width
                continue
            if code in _BIN_AND_STR:
                at = _after_bin_or_str(body, at, code)
                continue
            if len(outer) == DEPTH_MAX:
                raise ProtocolError(
                    f"byte {at} of the body: {DEPTH_MAX + 1} nested levels; allowed are {DEPTH_MAX}"
                )
            count, at = _members(body, at, code)
            items += count
            if items > items_max:
                raise ProtocolError(
                    f"byte {at} of the body: more than {items_max} values, the maximum of a body"
                )
            outer.append((remaining, is_map))
            remaining, is_map = count, 0x80 <= code <= 0x8F or code >= 0xDE
        if not outer:
            break
        remaining, is_map = outer.pop()
    if at > size:
        raise ProtocolError(f"the body ends at byte {size}, inside its value")
    if at < size:
        raise ProtocolError(f"byte {at} of the body: {size - at} bytes after the value")


def _after_bin_or_str(body: bytes, at: int, code: int) -> int:
    """The end of a bin or str with a length field. It may be beyond the end of the body."""
    width = _BIN_AND_STR[code]
    length = int.from_bytes(body[at + 1 : at + 1 + width], "big")
    if code >= 0xD9 and length > STR_SIZE_MAX:
        raise ProtocolError(
            f"byte {at} of the body: str of {length} bytes; allowed are {STR_SIZE_MAX}"
        )
    return at + 1 + width + length


def _members(body: bytes, at: int, code: int) -> tuple[int, int]:
    """The number of values in the array or map at *at*, and the offset of the first."""
    if 0x80 <= code <= 0x9F:
        count, start = code & 0x0F, at + 1
    elif code in _ARRAYS_AND_MAPS:
        start = at + 1 + _ARRAYS_AND_MAPS[code]
        count = int.from_bytes(body[at + 1 : start], "big")
        if start > len(body):
            raise ProtocolError(f"the body ends at byte {len(body)}, inside its value")
    elif code in _EXTENSIONS:
        raise ProtocolError(f"byte {at} of the body: an extension type (0x{code:02x})")
    else:
        raise ProtocolError(f"byte {at} of the body: 0x{code:02x} is not msgpack")
    if count > MEMBERS_MAX:
        raise ProtocolError(f"byte {at} of the body: {count} members; allowed are {MEMBERS_MAX}")
    if 0x80 <= code <= 0x8F or code >= 0xDE:
        count *= 2
    # Each member takes at least one byte.
    if count > len(body) - start:
        raise ProtocolError(
            f"byte {at} of the body: {count} values are announced,"
            f" but {len(body) - start} bytes are left"
        )
    return count, start
