"""Decodes values that msgpack's plain decoder cannot decode, or decodes as another type.

Members of a set must be hashable, so arrays in them are decoded as tuples. There are also two kinds
of values that msgpack can encode but cannot decode:

- A map with a tuple as key. The decoder makes a list of it, which cannot be a key. Here it is
  decoded as a tuple.
- A time that is before year 1 or after year 9999 when converted to UTC, such as `datetime.max` in
  New York, which applications use for "without end". No datetime in UTC can hold it. Here it is
  decoded in another zone, in which it is equal to the original.

This is slower, so MsgpackCodec tries the plain decoder first.
"""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

import msgpack

ExtHook = Callable[[int, bytes], Any]

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - the zone is added at the end
_OFFSET: Final = timedelta(days=1) - timedelta.resolution
"""The largest offset of a zone, so every datetime can be expressed in one of the two zones."""


def unpack_members(data: bytes, ext_hook: ExtHook) -> Any:
    """Decode the members of a set.

    Raises:
        ValueError, TypeError, OverflowError: *data* is no msgpack value, or is a rare one.
    """
    return _unpack_on_heap(data, timestamp=3, ext_hook=ext_hook, use_list=False)


def unpack_rare_members(data: bytes, ext_hook: ExtHook) -> Any:
    """Decode the members of a set, which may be rare values.

    Raises:
        ValueError, TypeError, OverflowError: *data* is no msgpack value.
    """
    return _revived(
        _unpack_on_heap(
            data,
            timestamp=0,
            ext_hook=ext_hook,
            object_pairs_hook=_map_of,
            list_hook=lambda members: tuple(map(_revived, members)),
        )
    )


def unpack_rare(data: bytes, ext_hook: ExtHook) -> Any:
    """Decode *data*, which may be a rare value.

    Raises:
        ValueError, TypeError, OverflowError: *data* is not a msgpack value, or a key of a map
            cannot be hashed.
    """
    # The hooks are called from the inside out, so nothing here has to descend into the value.
    return _revived(
        msgpack.unpackb(
            data,
            timestamp=0,
            strict_map_key=False,
            ext_hook=ext_hook,
            object_pairs_hook=_map_of,
            list_hook=lambda members: list(map(_revived, members)),
        )
    )


def _unpack_on_heap(data: bytes, **options: Any) -> Any:
    # msgpack.unpackb keeps 40 KiB on the C stack. Sets in sets would take it once for each level.
    unpacker = msgpack.Unpacker(strict_map_key=False, max_buffer_size=len(data), **options)
    unpacker.feed(data)
    try:
        value = unpacker.unpack()
    except msgpack.OutOfData as error:
        raise ValueError("the members of a set are cut off") from error
    if unpacker.tell() != len(data):
        raise ValueError("there are bytes behind the members of a set")
    return value


def _map_of(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_hashable(_revived(key)): _revived(value) for key, value in pairs}


def _hashable(key: Any) -> Any:
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


def _revived(value: Any) -> Any:
    return _time_of(value) if isinstance(value, msgpack.Timestamp) else value


def _time_of(stamp: msgpack.Timestamp) -> datetime:
    offset = -_OFFSET if stamp.seconds > 0 else _OFFSET
    try:
        time: datetime = stamp.to_datetime()
        return time
    except (OverflowError, ValueError):
        since = timedelta(seconds=stamp.seconds, microseconds=stamp.nanoseconds // 1000)
        return (_EPOCH + (since + offset)).replace(tzinfo=timezone(offset))
