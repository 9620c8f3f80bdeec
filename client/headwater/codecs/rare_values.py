"""Decodes two kinds of rare values that msgpack can encode, and its unpacker cannot decode.

- A map with a tuple as key. The unpacker makes a list of it, which cannot be a key. Here it is
  decoded as a tuple.
- A time whose zone takes it beyond year 1 or 9999 in UTC, such as `datetime.max` in New York,
  which applications use for "without end". No datetime in UTC can hold it. Here it is decoded in
  another zone, in which it is equal to the original.

This is slower, so MsgpackCodec tries the unpacker first.
"""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import msgpack

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is added at the end
_OFFSET: Final = timedelta(hours=23, minutes=59)
"""The largest offset of a zone, so every datetime can be expressed in one of the two zones."""


class _Map(list[tuple[Any, Any]]):
    """The members of a map, before its keys are made hashable."""


def unpack_rare(data: bytes, ext_hook: Callable[[int, bytes], Any], *, hashable: bool) -> Any:
    """Decode *data*. With *hashable*, arrays are decoded as tuples.

    Raises:
        ValueError, TypeError, OverflowError: *data* is no msgpack value, or a key of a map cannot
            be hashed.
    """
    unpacked = msgpack.unpackb(
        data, timestamp=0, strict_map_key=False, ext_hook=ext_hook, object_pairs_hook=_Map
    )
    return _revived(unpacked, hashable=hashable)


def _revived(value: Any, *, hashable: bool) -> Any:
    match value:
        case _Map():
            return {
                _revived(key, hashable=True): _revived(inner, hashable=hashable)
                for key, inner in value
            }
        case list():
            members = [_revived(inner, hashable=hashable) for inner in value]
            return tuple(members) if hashable else members
        case msgpack.Timestamp():
            return _time_of(value)
        case _:
            return value


def _time_of(stamp: msgpack.Timestamp) -> datetime:
    offset = -_OFFSET if stamp.seconds > 0 else _OFFSET
    try:
        time: datetime = stamp.to_datetime()
        return time
    except (OverflowError, ValueError):
        since = timedelta(seconds=stamp.seconds, microseconds=stamp.nanoseconds // 1000)
        return (_EPOCH + (since + offset)).replace(tzinfo=timezone(offset))
