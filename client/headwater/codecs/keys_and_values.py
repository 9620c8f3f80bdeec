"""Keys and their values as the server sends them, decoded with errors that name the key."""

from contextlib import suppress
from typing import Any, Final

from headwater.codecs.codec import Codec, MsgpackCodec, decode_with
from headwater.errors import InvalidArgument, Undecodable
from headwater_protocol.keys import KeyTuple, decode_key

_OF_THE_LIBRARY: Final = b"\x02$"
"""How keys begin whose first member is a str with "$" in front: those of projections."""

_LIBRARY_CODEC: Final = MsgpackCodec()


def key_of(encoded: bytes) -> KeyTuple:
    """Decode a key.

    Raises:
        Undecodable: another client wrote what is no key of this encoding. details["key"] has it.
    """
    try:
        return decode_key(encoded)
    except InvalidArgument as error:
        raise Undecodable(
            f"a key of {len(encoded)} bytes cannot be decoded: {error.message}",
            details={"key": encoded},
        ) from error


def value_of(codec: Codec, encoded: bytes, data: bytes) -> Any:
    """Decode the value of a key.

    The records of projections are msgpack, whatever the codec of the application is. So a scan of
    all keys, or a feed of them, does not fail at them.

    Raises:
        Undecodable: the codec cannot decode it. details["key"] has the encoded key.
    """
    try:
        return codec.decode(data)
    except Exception:
        if encoded.startswith(_OF_THE_LIBRARY):
            with suppress(Exception):
                return _LIBRARY_CODEC.decode(data)
        try:
            return decode_with(codec, data, f"value of {key_of(encoded)!r:.80}")
        except Undecodable as error:
            error.details.setdefault("key", encoded)
            raise
