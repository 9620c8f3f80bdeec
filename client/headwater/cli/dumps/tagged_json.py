"""Values as JSON, with a tag for each type that JSON does not have.

    bytes        {"$bytes": "base64"}           float nan    {"$float": "nan"}
    datetime     {"$datetime": "2013-01-01T…"}  tuple        {"$tuple": [...]}
    UUID         {"$uuid": "…"}                 ExtType      {"$ext": [code, "base64"]}
    Decimal      {"$decimal": "1.10"}           date         {"$date": "2013-01-31"}
    dict with keys that are not str, or start with "$"       {"$map": [[key, value], …]}
    stored bytes that are not msgpack as this library writes it           {"$raw": "base64"}

`value_to_json` and `value_from_json` give back the stored bytes, byte for byte.
"""

import base64
import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from msgpack import ExtType

from headwater.codecs.codec import MsgpackCodec
from headwater.errors import HeadwaterError, InvalidArgument
from headwater_protocol.keys import decode_key, encode_key

_codec: Final = MsgpackCodec()


def value_to_json(stored: bytes) -> Any:
    """The stored bytes of a value, in a form that json can write."""
    try:
        tagged = to_json(_codec.decode(stored))
        # Check that this converts back to the same bytes. There are many NaNs, for example, and
        # "nan" is only one of them.
        if value_from_json(tagged) == stored:
            return tagged
    except (HeadwaterError, ValueError, TypeError, OverflowError):
        pass
    return {"$raw": _base64(stored)}


def value_from_json(tagged: Any) -> bytes:
    """The inverse of value_to_json: the stored bytes of a value."""
    if isinstance(tagged, dict) and tagged.keys() == {"$raw"}:
        return base64.b64decode(tagged["$raw"], validate=True)
    return _codec.encode(from_json(tagged))


def key_to_json(key: bytes) -> Any:
    """An encoded key, in a form that json can write. If it is not a tuple, its bytes."""
    try:
        tagged = [to_json(member) for member in decode_key(key)]
        if key_from_json(tagged) == key:
            return tagged
    except (HeadwaterError, ValueError, TypeError, OverflowError):
        pass
    return {"$raw": _base64(key)}


def key_from_json(tagged: Any) -> bytes:
    """The inverse of key_to_json: the encoded key."""
    if isinstance(tagged, dict) and tagged.keys() == {"$raw"}:
        return base64.b64decode(tagged["$raw"], validate=True)
    return encode_key(tuple(from_json(member) for member in tagged))


def to_json(value: Any) -> Any:
    """A value of msgpack, or a member of a key, in a form that json can write."""
    match value:
        case None | bool() | str():
            return value
        case float() if not math.isfinite(value):
            return {"$float": repr(value)}
        # ExtType is a tuple too.
        case ExtType():
            return {"$ext": [value.code, _base64(value.data)]}
        case int() | float():
            return value
        case bytes():
            return {"$bytes": _base64(value)}
        case datetime():
            return {"$datetime": value.isoformat()}
        case date():
            return {"$date": value.isoformat()}
        case UUID():
            return {"$uuid": str(value)}
        case Decimal():
            return {"$decimal": str(value)}
        case tuple():
            return {"$tuple": [to_json(member) for member in value]}
        case list():
            return [to_json(member) for member in value]
        case dict() if all(isinstance(key, str) and key[:1] != "$" for key in value):
            return {key: to_json(member) for key, member in value.items()}
        case dict():
            return {"$map": [[to_json(key), to_json(inner)] for key, inner in value.items()]}
        case _:
            raise InvalidArgument(f"a value of type {type(value).__name__} has no form in JSON")


def from_json(tagged: Any) -> Any:
    """The inverse of to_json: the value that *tagged* stands for.

    Raises:
        InvalidArgument: a tag is unknown.
    """
    match tagged:
        case list():
            return [from_json(member) for member in tagged]
        case dict() if not any(key[:1] == "$" for key in tagged):
            return {key: from_json(member) for key, member in tagged.items()}
        case {"$bytes": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case {"$float": str(text), **rest} if not rest:
            return float(text)
        case {"$datetime": str(text), **rest} if not rest:
            return datetime.fromisoformat(text)
        case {"$date": str(text), **rest} if not rest:
            return date.fromisoformat(text)
        case {"$uuid": str(text), **rest} if not rest:
            return UUID(text)
        case {"$decimal": str(text), **rest} if not rest:
            return Decimal(text)
        case {"$tuple": list(members), **rest} if not rest:
            return tuple(from_json(member) for member in members)
        case {"$ext": [int(code), str(text)], **rest} if not rest:
            return ExtType(code, base64.b64decode(text, validate=True))
        case {"$map": list(pairs), **rest} if not rest:
            return {_hashable(from_json(key)): from_json(inner) for key, inner in pairs}
        case dict():
            raise InvalidArgument(f"{tagged!r:.80} has an unknown tag")
        case _:
            return tagged


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
