"""Codecs: how values, event data and states become the bytes that the server stores.

The server never looks inside them, except that add, min and max read and write msgpack numbers.
So a codec is a choice of the application, and all who share a database must make the same one.

MsgpackCodec has the extension types 0 to 31 for types that msgpack lacks
(headwater.codecs.extensions); an application that brings its own `default` should use 32 to 127.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from headwater.codecs.extensions import EXTENSIONS_RESERVED, from_extension, to_extension
from headwater.errors import InvalidArgument, Undecodable


class Codec(Protocol):
    """Turns values into bytes and back.

    It may also have `to_stored(event)` and `from_stored(event)`, which are given each Event
    before it is encoded and each RecordedEvent after it was decoded, and return what is to be in
    its place; TypedCodec has both.
    """

    def encode(self, value: Any) -> bytes:
        """The bytes of *value*; TypeError, ValueError or OverflowError if there are none."""

    def decode(self, data: bytes) -> Any:
        """The value that `encode` made *data* of; ValueError if it made it of none."""


class RawCodec:
    """Bytes are stored as they are."""

    def encode(self, value: Any) -> bytes:
        """Raises TypeError unless *value* is bytes-like."""
        if isinstance(value, bytes):
            return value
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        raise TypeError(f"the raw codec stores bytes, not {type(value).__name__}")

    def decode(self, data: bytes) -> bytes:
        """*data* itself."""
        return data


class MsgpackCodec:
    """Everything that msgpack has, and some types more.

    None, bool, int of 64 bits, float, str, bytes, list, dict with any of these as keys, aware
    datetimes (which come back in UTC), UUID, Decimal, date, set, frozenset, ExtType. A tuple
    comes back as a list, in a set as a tuple.

    Args:
        default: called for a value of another type; returns one of the types above.
        ext_hook: called with the type and bytes of an extension of 32 or above; returns its
            value.
    """

    def __init__(
        self,
        *,
        default: Callable[[Any], Any] | None = None,
        ext_hook: Callable[[int, bytes], Any] = msgpack.ExtType,
    ) -> None:
        self._default = default
        self._own_ext_hook = ext_hook
        # Looked up once, and only ever called for what msgpack itself does not know.
        self._ext_hook = self._extended
        # One packer for all calls: building one costs more than packing a small value.
        self._pack: Callable[[Any], bytes] = msgpack.Packer(
            default=self._stand_in, use_bin_type=True, datetime=True
        ).pack

    def encode(self, value: Any) -> bytes:
        """Raises TypeError, ValueError or OverflowError if msgpack cannot hold *value*."""
        return self._pack(value)

    def decode(self, data: bytes) -> Any:
        """Raises ValueError if *data* is no msgpack value."""
        return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=self._ext_hook)

    def _stand_in(self, value: Any) -> Any:
        extension = to_extension(value, self._pack_apart)
        if extension is not None:
            return extension
        if self._default is None:
            raise TypeError(f"msgpack has no {type(value).__name__}: {value!r:.60}")
        return self._default(value)

    def _extended(self, code: int, data: bytes) -> Any:
        if 0 <= code < EXTENSIONS_RESERVED:
            return from_extension(code, data, self._unpack_hashable)
        return self._own_ext_hook(code, data)

    def _pack_apart(self, value: Any) -> bytes:
        # The packer is in the middle of another value.
        packed: bytes = msgpack.packb(
            value, default=self._stand_in, use_bin_type=True, datetime=True
        )
        return packed

    def _unpack_hashable(self, data: bytes) -> Any:
        return msgpack.unpackb(
            data, timestamp=3, strict_map_key=False, use_list=False, ext_hook=self._ext_hook
        )


def encode_with(codec: Codec, value: Any, place: str) -> bytes:
    """Encode *value*, or raise InvalidArgument that says *place*."""
    try:
        return codec.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"{place} cannot be encoded: {error}") from error


def decode_with(codec: Codec, data: bytes, place: str) -> Any:
    """Decode *data*, or raise Undecodable that says *place*."""
    try:
        return codec.decode(data)
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise Undecodable(
            f"{place} cannot be decoded, its {len(data)} bytes may be of another codec: {error}"
        ) from error
