"""Keys and their values as the server sends them, decoded with errors that name the key."""

from typing import Any

from headwater.codecs.codec import Codec, decode_with
from headwater.errors import InvalidArgument, Undecodable
from headwater_protocol.keys import KeyTuple, decode_key


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

    Raises:
        Undecodable: the codec cannot decode it. details["key"] has the encoded key.
    """
    try:
        return codec.decode(data)
    except Exception:
        try:
            return decode_with(codec, data, f"value of {key_of(encoded)!r:.80}")
        except Undecodable as error:
            error.details.setdefault("key", encoded)
            raise
