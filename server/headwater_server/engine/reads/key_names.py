"""Keys without their values: pages of keys, counts, and the distinct beginnings of keys.

    keys        ("a", 1)  ("a", 2)  ("b", 1, 7)  ("b", 2)
    count       4
    prefixes    ("a",)  ("b",)            behind (): one seek each, whatever lies under them

One read is bounded by keys and bytes, and says where it goes on.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from headwater_protocol.errors import InvalidArgument
from headwater_protocol.keys import member_end
from headwater_protocol.limits import KEY_SIZE_MAX, PAGE_SIZE_MAX
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.range_merge import RUN_KEYS, RangeSink, merge_range
from headwater_server.engine.state.scan_cache import KeyRun, PackedRun

EXAMINED_KEYS_MAX: Final = 20_000
"""Keys that one read meets, deleted ones included: some ten milliseconds."""

EXAMINED_SIZE_MAX: Final = 4 * PAGE_SIZE_MAX
"""Bytes of keys and values that one read meets: the values are stored beside the keys."""

PREFIXES_MAX: Final = 1_000
"""Prefixes in one page. Each costs a seek."""

_MET_AT_ONCE: Final = 16
"""Keys that are met in one seek, to get past deleted ones."""


class KeysPage(NamedTuple):
    """Stored keys in order, their number, and where the range continues; None: it is complete."""

    keys: list[bytes]
    key_count: int
    rest: bytes | None
    examined: int


class _Keys(RangeSink):
    """Takes keys and drops their values.

    Attributes:
        keys: the stored keys, unless only their count is wanted.
        count: how many there were.
        size: bytes of keys and values.
        last: the last stored key.
    """

    def __init__(self, count_max: int, *, named: bool) -> None:
        super().__init__()
        self._count_max = count_max
        self._named = named
        self.keys: list[bytes] = []
        self.count = 0
        self.size = 0
        self.last = b""

    def add_run(self, run: KeyRun, low: int, high: int) -> None:
        assert isinstance(run, PackedRun)
        room = self._count_max - self.count
        if high - low > room:
            high = low + room
            self.more = True
        if low >= high:
            return
        self.count += high - low
        self.size += run.offsets[high] - run.offsets[low]
        self.last = run.keys[high - 1]
        if self._named:
            self.keys += run.keys[low:high]

    def add_key(self, key: bytes, value: bytes) -> None:
        if self.count >= self._count_max:
            self.more = True
            return
        self.count += 1
        self.size += len(key) + len(value)
        self.last = key
        if self._named:
            self.keys.append(key)


def key_names(
    state: State,
    start: bytes,
    end: bytes,
    view: int,
    *,
    limit: int,
    reverse: bool = False,
    named: bool = True,
) -> KeysPage:
    """The stored keys of [start, end) at a commit, at most *limit*; unless *named*, their count."""
    sink = _Keys(limit, named=named)
    examined = 0
    while start < end:
        run = state.files.run(
            start, end, view, count_max=RUN_KEYS, size_max=PAGE_SIZE_MAX, reverse=reverse
        )
        rest = merge_range(
            sink,
            state.active,
            state.frozen,
            run,
            start,
            end,
            view,
            count_max=RUN_KEYS,
            reverse=reverse,
        )
        examined += RUN_KEYS
        if sink.more:
            rest = sink.last if reverse else after_key(sink.last)
            return KeysPage(sink.keys, sink.count, rest, examined)
        if rest is None:
            break
        if examined >= EXAMINED_KEYS_MAX or sink.size >= EXAMINED_SIZE_MAX:
            if not reverse and len(rest) > 1 + KEY_SIZE_MAX:
                rest = after_key(rest[:-1])
            return KeysPage(sink.keys, sink.count, rest, examined)
        if reverse:
            end = rest
        else:
            start = rest
    return KeysPage(sink.keys, sink.count, None, examined)


def key_prefixes(
    state: State,
    start: bytes,
    end: bytes,
    view: int,
    *,
    size: int,
    delimiter: bytes | None,
    limit: int,
) -> KeysPage:
    """The distinct beginnings of the keys of [start, end), which share their first *size* bytes.

    A beginning goes to the end of the member of the key there, or behind the first *delimiter*.
    """
    found: list[bytes] = []
    examined = 0
    at: bytes | None = start
    while at is not None and at < end:
        if len(found) >= min(limit, PREFIXES_MAX) or examined >= EXAMINED_KEYS_MAX:
            return KeysPage(found, len(found), at, examined)
        items, at = state.first_items(at, end, view, count_max=_MET_AT_ONCE)
        examined += _MET_AT_ONCE
        if items:
            beginning = beginning_of(items[0][0], size, delimiter)
            found.append(beginning)
            at = after_prefix(beginning)
    return KeysPage(found, len(found), None, examined)


def own_key_names(
    found: Iterator[tuple[bytes, bytes]], limit: int, *, reverse: bool = False, named: bool = True
) -> KeysPage:
    """As `key_names`, of keys that come one by one, with a transaction's own writes."""
    sink = _Keys(limit, named=named)
    for key, value in found:
        if sink.count >= limit or sink.size >= EXAMINED_SIZE_MAX:
            rest = sink.last if reverse else after_key(sink.last)
            return KeysPage(sink.keys, sink.count, rest, sink.count)
        sink.add_key(key, value)
    return KeysPage(sink.keys, sink.count, None, sink.count)


def own_prefixes(
    scan_from: Callable[[bytes], Iterator[tuple[bytes, bytes]]],
    start: bytes,
    *,
    size: int,
    delimiter: bytes | None,
    limit: int,
) -> KeysPage:
    """As `key_prefixes`, of keys that a function finds, with a transaction's own writes."""
    found: list[bytes] = []
    at = start
    while len(found) < min(limit, PREFIXES_MAX):
        item = next(scan_from(at), None)
        if item is None:
            return KeysPage(found, len(found), None, len(found))
        found.append(beginning_of(item[0], size, delimiter))
        at = after_prefix(found[-1])
    is_over = at[:1] != start[:1]
    return KeysPage(found, len(found), None if is_over else at, len(found))


def beginning_of(key: bytes, size: int, delimiter: bytes | None) -> bytes:
    """The beginning of a stored key, whose first *size* bytes are shared with the others."""
    if delimiter is not None:
        place = key.find(delimiter, size)
        if place >= 0:
            return key[: place + len(delimiter)]
    try:
        return key[: member_end(key, size)]
    except InvalidArgument:
        # Another client wrote what is no tuple.
        return key


def after_key(key: bytes) -> bytes | None:
    """The first possible stored key after a key; None: there is none in its key space."""
    if len(key) <= KEY_SIZE_MAX:
        return key + b"\0"
    # No key is longer.
    after = after_prefix(key)
    return after if after[:1] == key[:1] else None


def after_prefix(prefix: bytes) -> bytes:
    """The first possible key behind all that begin with a prefix."""
    trimmed = prefix.rstrip(b"\xff")
    assert trimmed, "the byte of the key space is not ff"
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))
