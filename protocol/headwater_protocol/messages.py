"""Messages: the msgpack array in a frame's body, decoded within bounds.

    request     [request_id, operation, arguments…]
    response    [request_id, status, payload]

A msgpack header of five bytes can claim four billion members, and a list of empty lists takes
64 bytes of memory for each byte of input. So a body is decoded in one of two ways:

    small body              the C decoder, with arrays bounded so low that even its deepest
    (nearly all)            nesting, 1024, cannot claim much. It only looks at each byte once.
    large body, or one      a scan of the headers first, without building anything: nesting,
    that the C decoder      members, types, ends. Then the C decoder.
    refuses

The scan also is what says what is wrong and at which byte, so the fast way need not.

Not allowed, although msgpack has them: extension types (timestamps too), map keys that are not
str, str that is not UTF-8, bytes after the array.
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

# One packer for all, so that the buffer of the largest message is kept once. It runs no Python
# code while it packs these types, so threads cannot meet in it.
_packer: Final = Packer(autoreset=True)
encode: Final = _packer.pack
"""The msgpack of a value."""

_ARRAY_HEADERS: Final = tuple(bytes([0x90 + count]) for count in range(16))
BIN_HEADERS: Final = tuple(b"\xc4" + bytes([size]) for size in range(256))
"""What stands before bytes, by their number: for who cannot afford a call."""


def array_header(count: int) -> bytes:
    """What stands before the *count* members of an array."""
    if count < 16:
        return _ARRAY_HEADERS[count]
    if count < 1 << 16:
        return b"\xdc" + _U16.pack(count)
    return b"\xdd" + _U32.pack(count)


def bin_header(size: int) -> bytes:
    """What stands before *size* bytes."""
    if size < 1 << 8:
        return BIN_HEADERS[size]
    if size < 1 << 16:
        return b"\xc5" + _U16.pack(size)
    return b"\xc6" + _U32.pack(size)


def encode_array(members: Sequence[bytes]) -> bytes:
    """An array of members that are msgpack already: they are copied, not decoded."""
    return b"".join((array_header(len(members)), *members))


def _refuse(*_: Any) -> Any:
    raise ValueError("not allowed here; the scan says where")


def _only_str_keys(map_: dict[Any, Any]) -> dict[str, Any]:
    # The C decoder lets through str and bytes.
    for key in map_:
        if type(key) is not str:
            _refuse()
    return map_


def decode(body: bytes, unscanned_size_max: int, items_max: int) -> Any:
    """The value in *body*; if it is larger than *unscanned_size_max* bytes, it is scanned first.

    A body that is scanned may hold *items_max* values, over all its arrays and maps.

    Raises:
        ProtocolError: it is no msgpack, or not within the bounds; the message says where.
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
            # Wrong, or only with more members than are allowed unscanned: the scan knows.
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
        raise ProtocolError(f"byte {at} of the body: a str that is not UTF-8") from error
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"a body that is no msgpack: {error}") from error


def depth(value: Any) -> int:
    """How deep arrays and maps are nested in *value*, empty ones not counted, without recursion."""
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
    """The request id at the start of a body that is otherwise wrong; 0 if it cannot be read."""
    first = body[0]
    at = 1 if 0x90 <= first <= 0x9F else {0xDC: 3, 0xDD: 5}.get(first, len(body))
    code = body[at] if at < len(body) else 0xC1
    if code < 0x80:
        return code
    width = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(code, 0)
    digits = body[at + 1 : at + 1 + width]
    return int.from_bytes(digits, "big") if width and len(digits) == width else 0


def _widths() -> list[int]:
    """By first byte: the bytes of a value whose size its first byte tells; else 0."""
    widths = [0] * 256
    # An empty array or map (80, 90) is among them: it nests nothing.
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
    """Look at every header of *body*, building nothing, and refuse what is not allowed.

    Raises:
        ProtocolError: what is wrong, and at which byte of the body.
    """
    size = len(body)
    widths = _WIDTHS
    outer: list[tuple[int, bool]] = []
    remaining, is_map = 1, False  # members that the innermost array or map still wants
    items = 1
    at = 0
    while True:
        while remaining:
            if at >= size:
                raise ProtocolError(f"the body ends at byte {size}, inside its value")
            code = body[at]
            # A map's members are key, value, key, value: it wants an even number before a key.
            if is_map and not remaining & 1 and code not in _STR_CODES:
                raise ProtocolError(f"byte {at} of the body: a map key that is not str")
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
                    f"byte {at} of the body: nesting of {DEPTH_MAX + 1}; allowed are {DEPTH_MAX}"
                )
            count, at = _members(body, at, code)
            items += count
            if items > items_max:
                raise ProtocolError(
                    f"byte {at} of the body: more than the {items_max} values allowed in a body"
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
    """Where a bin or str with a length of its own ends; it may be past the body's end."""
    width = _BIN_AND_STR[code]
    length = int.from_bytes(body[at + 1 : at + 1 + width], "big")
    if code >= 0xD9 and length > STR_SIZE_MAX:
        raise ProtocolError(
            f"byte {at} of the body: str of {length} bytes; allowed are {STR_SIZE_MAX}"
        )
    return at + 1 + width + length


def _members(body: bytes, at: int, code: int) -> tuple[int, int]:
    """How many values are in the array or map at *at*, and where the first of them is."""
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
        raise ProtocolError(f"byte {at} of the body: 0x{code:02x} is no msgpack")
    if count > MEMBERS_MAX:
        raise ProtocolError(f"byte {at} of the body: {count} members; allowed are {MEMBERS_MAX}")
    if 0x80 <= code <= 0x8F or code >= 0xDE:
        count *= 2
    # Each member takes a byte at least.
    if count > len(body) - start:
        raise ProtocolError(
            f"byte {at} of the body: {count} values are announced,"
            f" and {len(body) - start} bytes are left"
        )
    return count, start
