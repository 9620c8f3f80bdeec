"""Codecs turn values, event data and states into the bytes that the server stores.

The server never decodes these bytes, except that add, min and max read and write msgpack numbers.
So the application chooses the codec. All applications that share a database must use the same one.

MsgpackCodec uses the extension types 0 to 31 for types that msgpack lacks (see extensions.py). An
application with its own `default` should use 32 to 127.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgpack

from headwater.codecs.extensions import (
    EXTENSIONS_RESERVED,
    SETS_DEPTH_MAX,
    check_reserved,
    from_extension,
    may_have_extensions,
    to_extension,
)
from headwater.codecs.rare_values import unpack_members, unpack_rare, unpack_rare_members
from headwater.errors import InvalidArgument, Undecodable


class Codec(Protocol):
    """Turns values into bytes and back.

    A codec may also have three methods for events. `to_stored(event)` receives each Event before it
    is encoded, and returns the event to store instead. If there is one, `check_stored(type, data)`
    receives the type and the encoded data, and raises InvalidArgument if they could not be read
    again. `from_stored(event)` receives a RecordedEvent after it was decoded, and returns one whose
    data and metadata are used instead; all else stays as it was stored. TypedCodec has all three.

    Events are decoded when their data is asked for, by the thread or task that asks.
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
        # msgpack calls them only for extensions.
        self._ext_hook = partial(self._extended, unpack_members, 0)
        self._rare_ext_hook = partial(self._extended, unpack_rare_members, 0)
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
            packer = self._packer(0)
        try:
            data: bytes = packer.pack(value)
        finally:
            self._idle.append(packer)
        if may_have_extensions(data):
            check_reserved(value)
        return data

    def decode(self, data: bytes) -> Any:
        """Decode *data*. Raises ValueError if it is not a msgpack value."""
        try:
            return msgpack.unpackb(data, timestamp=3, strict_map_key=False, ext_hook=self._ext_hook)
        except (TypeError, ValueError, OverflowError):
            return unpack_rare(data, self._rare_ext_hook)

    def _packer(self, depth: int) -> msgpack.Packer:
        """A packer for the members of sets that are nested *depth* levels deep."""
        return msgpack.Packer(
            default=partial(self._stand_in, depth), use_bin_type=True, datetime=True
        )

    def _stand_in(self, depth: int, value: Any) -> Any:
        # `encode` of the members of a set is a packer of their own, because this one is in use.
        extension = to_extension(value, lambda: self._packer_of_members(depth + 1))
        if extension is not None:
            return extension
        if self._default is None:
            raise TypeError(f"msgpack has no {type(value).__name__}: {value!r:.60}")
        standing = self._default(value)
        check_reserved(standing)
        return standing

    def _packer_of_members(self, depth: int) -> Callable[[Any], bytes]:
        if depth > SETS_DEPTH_MAX:
            raise ValueError(f"sets nested {depth} levels deep; the maximum is {SETS_DEPTH_MAX}")
        pack: Callable[[Any], bytes] = self._packer(depth).pack
        return pack

    def _extended(
        self,
        unpack: Callable[[bytes, Callable[[int, bytes], Any]], Any],
        depth: int,
        code: int,
        data: bytes,
    ) -> Any:
        if not 0 <= code < EXTENSIONS_RESERVED:
            return self._own_ext_hook(code, data)
        if depth == SETS_DEPTH_MAX:
            raise ValueError(f"sets nested more than {SETS_DEPTH_MAX} levels deep")
        hook = partial(self._extended, unpack, depth + 1)
        return from_extension(code, data, lambda members: unpack(members, hook))


def encode_with(codec: Codec, value: Any, place: str) -> bytes:
    """Encode *value*, or raise InvalidArgument with *place* in its message."""
    try:
        return codec.encode(value)
    except MemoryError:
        raise
    except Exception as error:
        # Whatever a codec, or a function of the application that it calls, raises.
        raise InvalidArgument(f"{place} cannot be encoded: {_told(error)}") from error


def decode_with(codec: Codec, data: bytes, place: str) -> Any:
    """Decode *data*, or raise Undecodable with *place* in its message."""
    try:
        return codec.decode(data)
    except MemoryError:
        raise
    except Exception as error:
        raise Undecodable(
            f"{place} cannot be decoded, its {len(data)} bytes may be of another codec: "
            f"{_told(error)}"
        ) from error


def _told(error: Exception) -> str:
    # Some errors of msgpack have no message.
    return str(error) or type(error).__name__
