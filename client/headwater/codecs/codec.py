"""Codecs turn values, event data and states into the bytes that the server stores.

The server never decodes these bytes, except that add, min and max read and write msgpack numbers.
So the application chooses the codec. All applications that share a database must use the same one.

MsgpackCodec uses the extension types 0 to 31 for types that msgpack lacks (see extensions.py). An
application with its own `default` should use 32 to 127.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgpack

from headwater.codecs.extensions import EXTENSIONS_RESERVED, from_extension, to_extension
from headwater.codecs.rare_values import unpack_rare
from headwater.errors import InvalidArgument, Undecodable


class Codec(Protocol):
    """Turns values into bytes and back.

    A codec may also have two methods for events. `to_stored(event)` receives each Event before it
    is encoded, `from_stored(event)` each RecordedEvent after it was decoded. Each returns the event
    to use instead. TypedCodec has both.
    """

    def encode(self, value: Any) -> bytes:
        """Encode *value*. Raises TypeError, ValueError or OverflowError if that is impossible."""

    def decode(self, data: bytes) -> Any:
        """Decode what `encode` returned. Raises ValueError for other bytes."""


class RawCodec:
    """Stores bytes unchanged."""

    def encode(self, value: Any) -> bytes:
        """Return *value* as bytes. Raises TypeError unless it is bytes-like."""
        if isinstance(value, bytes):
            return value
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)
        raise TypeError(f"RawCodec stores bytes, not {type(value).__name__}")

    def decode(self, data: bytes) -> bytes:
        """Return *data* unchanged."""
        return data


class MsgpackCodec:
    """All types of msgpack, and some more.

    These are None, bool, int of 64 bits, float, str, bytes, list, dict with any of these as keys,
    datetime with a time zone (decoded in UTC, where that is possible), UUID, Decimal, date, set,
    frozenset and ExtType. A tuple is decoded as a list; inside of a set or as a key, as a tuple.

    Args:
        default: called for a value of any other type; returns one of the types above.
        ext_hook: called with the type and the bytes of an extension of 32 or above; returns its
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
        # Bound once. msgpack calls it only for extensions.
        self._ext_hook = self._extended
        # Packers that no call is using. Taking one off a list and putting it back is safe between
        # threads, and creating one would cost more than packing a small value.
        self._idle: list[msgpack.Packer] = []

    def encode(self, value: Any) -> bytes:
        """Encode *value*. Raises TypeError, ValueError or OverflowError if msgpack cannot.

        Threads may share a codec, and `default` may call this.
        """
        # A packer is never used for two values at once. It calls back into Python for types that
        # msgpack lacks, and there another thread, or `default`, may encode. Both values would go
        # into one buffer, and neither could be decoded again.
        try:
            packer = self._idle.pop()
        except IndexError:
            packer = msgpack.Packer(default=self._stand_in, use_bin_type=True, datetime=True)
        try:
            data: bytes = packer.pack(value)
            return data
        finally:
            self._idle.append(packer)

    def decode(self, data: bytes) -> Any:
        """Decode *data*. Raises ValueError if it is no msgpack value."""
        try:
            return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=self._ext_hook)
        except (TypeError, ValueError, OverflowError):
            return unpack_rare(data, self._extended_rarely, hashable=False)

    def _stand_in(self, value: Any) -> Any:
        extension = to_extension(value, self.encode)
        if extension is not None:
            return extension
        if self._default is None:
            raise TypeError(f"msgpack has no {type(value).__name__}: {value!r:.60}")
        return self._default(value)

    def _extended(self, code: int, data: bytes) -> Any:
        if 0 <= code < EXTENSIONS_RESERVED:
            return from_extension(code, data, self._unpack_hashable)
        return self._own_ext_hook(code, data)

    def _extended_rarely(self, code: int, data: bytes) -> Any:
        if 0 <= code < EXTENSIONS_RESERVED:
            return from_extension(code, data, self._unpack_rarely)
        return self._own_ext_hook(code, data)

    def _unpack_rarely(self, data: bytes) -> Any:
        return unpack_rare(data, self._extended_rarely, hashable=True)

    def _unpack_hashable(self, data: bytes) -> Any:
        return msgpack.unpackb(
            data, timestamp=3, strict_map_key=False, use_list=False, ext_hook=self._ext_hook
        )


def encode_with(codec: Codec, value: Any, place: str) -> bytes:
    """Encode *value*, or raise InvalidArgument with *place* in its message."""
    try:
        return codec.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"{place} cannot be encoded: {error}") from error


def decode_with(codec: Codec, data: bytes, place: str) -> Any:
    """Decode *data*, or raise Undecodable with *place* in its message."""
    try:
        return codec.decode(data)
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise Undecodable(
            f"{place} cannot be decoded, its {len(data)} bytes may be of another codec: {error}"
        ) from error
