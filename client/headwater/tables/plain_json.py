"""Decoded values as plain JSON, as tools that analyse data read it.

bytes become base64, datetimes and dates ISO 8601, UUIDs and Decimals text, tuples and sets lists,
objects their members. Unlike the JSON of a dump, it does not say which type a value had.
"""

import base64
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID


def plain_json(value: Any) -> str:
    """A value as JSON text."""
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            # Before its value's own type: an IntEnum is an int, too.
            return _plain(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case date():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
        case Mapping():
            return {_name(key): _plain(member) for key, member in value.items()}
        case Sequence() | AbstractSet():
            return [_plain(member) for member in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            members = dataclasses.fields(value)
            return {member.name: _plain(getattr(value, member.name)) for member in members}
        case _ if hasattr(value, "model_dump"):  # pydantic
            return _plain(value.model_dump())
        case _ if hasattr(value, "__struct_fields__"):  # msgspec
            return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        case _:
            return str(value)


def _name(key: Any) -> str:
    """JSON's names are text."""
    if isinstance(key, str):
        return key
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
