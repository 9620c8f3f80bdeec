"""Ways to corrupt bytes and messages. All use the random source that they are given."""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

NUMBERS: Final = (0, 1, -1, 2, 23, 127, 128, 255, 256, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63)
"""Numbers at which encodings change their form, and limits."""

CODES: Final = (
    *(b"\xc0", b"\xc1", b"\xc4\xff", b"\xc6\xff\xff\xff\xff", b"\xd9\xff", b"\xdb\xff\xff\xff\xff"),
    *(b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff"),
    *(b"\x9f", b"\x8f", b"\xdd\x00\x00\x00\x00", b"\xdc\x00\x00", b"\x81\xc4\x01k\xc0"),
    *(b"\xd4\x01\x00", b"\xc7\x00\x05", b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf8" + bytes(6)),
    *(b"\xa4\xff\xfe\xfd\xfc", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
)
"""Headers of msgpack that announce large values, are invalid, or are not allowed."""


def value(source: random.Random) -> Any:
    """A value that is valid somewhere in a message, but mostly not where it is put."""
    match source.randrange(15):
        case 0 | 1:
            return source.choice(NUMBERS)
        case 2:
            return source.choice((None, True, False, 0.0, float("nan"), float("inf"), -1e308))
        case 3:
            return source.choice(("", "x", "a\0b", "é" * 200, "n" * 300, "s" * 70_000))
        case 4 | 5:
            sizes = (0, 1, 15, 16, 17, 100, 8192, 8193)
            return source.randbytes(source.choice(sizes))
        case 6:
            return [value(source) for _ in range(source.randrange(4))]
        case 7:
            return {source.choice(("k", "", "types")): value(source)}
        case 8:
            return [source.choice((None, 0, b"", [], "put"))] * source.choice((1, 17, 1000, 5000))
        case 9:
            return nested(source.choice((2, 7, 15, 16, 17, 40)), source)
        case 10:
            return source.choice(("put", "delete", "append", "get", "scan", "version", "absent"))
        case 11:
            return source.randrange(-(2**40), 2**40)
        case 12:
            return source.choice(("account-1", "order", "snapshot", "serializable", "Happened"))
        case 13:
            # Values that msgpack has and the protocol refuses.
            return source.choice(
                ({b"k": 1}, {1: 1}, {None: []}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1))
            )
        case _:
            return bytes(range(16))


def nested(deep: int, source: random.Random) -> Any:
    """A value in *deep* nested lists."""
    found: Any = source.choice((1, [], {}, b""))
    for _ in range(deep):
        found = [found]
    return found


def altered(message: Any, source: random.Random) -> Any:
    """Replace, remove, duplicate or add something in a message, in place."""
    at = message
    # Choose a list at a random level, rarely the deepest.
    while True:
        inner = [each for each in at if isinstance(each, list) and each]
        if not inner or source.random() < 0.4:
            break
        at = source.choice(inner)
    place = source.randrange(len(at))
    match source.randrange(6):
        case 0 | 1 | 2:
            at[place] = value(source)
        case 3:
            del at[place]
        case 4:
            at.insert(place, value(source))
        case _:
            at.insert(place, at[source.randrange(len(at))])
    return message


def corrupted(data: bytes, source: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Bytes after one or several corruptions."""
    found = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        source.choice(_WAYS)(found, source)
    if others and source.random() < 0.1:
        # The start of one message and the end of another.
        other = source.choice(others)
        found = found[: source.randint(0, len(found))] + other[source.randint(0, len(other)) :]
    return bytes(found)


def _flip(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _replace(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] = source.randrange(256)


def _insert_code(data: bytearray, source: random.Random) -> None:
    at = source.randint(0, len(data))
    data[at:at] = source.choice(CODES)


def _overwrite_code(data: bytearray, source: random.Random) -> None:
    at = source.randint(0, len(data))
    code = source.choice(CODES)
    data[at : at + len(code)] = code


def _cut(data: bytearray, source: random.Random) -> None:
    del data[source.randint(0, len(data)) :]


def _remove(data: bytearray, source: random.Random) -> None:
    at = source.randint(0, len(data))
    del data[at : at + source.randint(1, 8)]


def _repeat(data: bytearray, source: random.Random) -> None:
    at = source.randint(0, len(data))
    data[at:at] = data[at : at + source.randint(1, 40)] * source.choice((1, 2, 50))


def _add_noise(data: bytearray, source: random.Random) -> None:
    at = source.randint(0, len(data))
    data[at:at] = source.randbytes(source.randint(1, 20))


_WAYS: Final[Sequence[Callable[[bytearray, random.Random], None]]] = (
    *(_flip, _replace, _insert_code, _overwrite_code, _cut, _remove, _repeat, _add_noise),
)
