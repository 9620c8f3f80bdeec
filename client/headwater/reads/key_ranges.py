"""Ranges of keys: the arguments of a scan as an encoded range."""

from dataclasses import dataclass

from headwater.errors import InvalidArgument
from headwater_protocol.keys import Key, encode_key, prefix_range


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from *start* to before *end*. None means from the first, or to the last key."""

    start: Key | None = None
    end: Key | None = None


def range_of(keys: Key | KeyRange) -> tuple[bytes, bytes | None]:
    """Encode the range of a prefix or a KeyRange."""
    if isinstance(keys, KeyRange):
        return key_range(None, keys.start, keys.end)
    return key_range(keys, None, None)


def key_range(prefix: Key | None, start: Key | None, end: Key | None) -> tuple[bytes, bytes | None]:
    """Encode the arguments of a scan as a range [start, end).

    Raises:
        InvalidArgument: there is a prefix and also a start or an end.
    """
    if prefix is None:
        first = b"" if start is None or start == () else encode_key(start)
        return first, None if end is None else encode_key(end)
    if start is not None or end is not None:
        raise InvalidArgument("give either a prefix, or start= and end=")
    if prefix == ():
        return b"", None
    return prefix_range(prefix)


def deleted_range(
    prefix: Key | None, start: Key | None, end: Key | None
) -> tuple[bytes, bytes | None]:
    """Encode the arguments of a range deletion.

    Raises:
        InvalidArgument: nothing is given, or the range ends before it begins.
    """
    if prefix is None and start is None and end is None:
        raise InvalidArgument(
            "delete_range: give a prefix, or start= and end=; the prefix () is all keys"
        )
    first, last = key_range(prefix, start, end)
    if last is not None and first >= last:
        raise InvalidArgument(f"delete_range: start {start!r:.80} is not before end {end!r:.80}")
    return first, last
