"""Ranges of keys: the arguments of a scan as an encoded range."""

from dataclasses import dataclass

from headwater.errors import InvalidArgument
from headwater_protocol.keys import Key, encode_key, prefix_range


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from *start* to before *end*; None: from the first, to the last."""

    start: Key | None = None
    end: Key | None = None


def range_of(keys: Key | KeyRange) -> tuple[bytes, bytes | None]:
    """The encoded range of a prefix or a KeyRange."""
    if isinstance(keys, KeyRange):
        return key_range(None, keys.start, keys.end)
    return key_range(keys, None, None)


def key_range(prefix: Key | None, start: Key | None, end: Key | None) -> tuple[bytes, bytes | None]:
    """The encoded range [start, end) that the arguments of a scan mean.

    Raises:
        InvalidArgument: both a prefix and a start or end are given.
    """
    if prefix is None:
        first = b"" if start is None or start == () else encode_key(start)
        return first, None if end is None else encode_key(end)
    if start is not None or end is not None:
        raise InvalidArgument("a range is a prefix, or start= and end=, not both")
    if prefix == ():
        return b"", None
    return prefix_range(prefix)
