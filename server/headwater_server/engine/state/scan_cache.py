"""The scan cache: ranges of neighbouring keys of the files, in memory.

    keys of the files     a b c   f g h i j   m n o      t
    cached ranges         [a b c      )[h i j )          [t      )
                          start       end

A cached range has every key of the files from its start up to its end. A scan within it reads no
file, and a key that is not in it does not exist. Ranges never overlap. Scans merge the memtables'
keys on top, as they do with the files.

A range is packed in the form in which answers are sent, all keys in one piece:

    keys          h         i         j
    packed        h value   i value   j value
    offsets       0         9         18        27

So a hundred keys are a slice of bytes, found by two searches, and no key is handled by itself.
Adjacent ranges are joined while they are small, so that scans rarely cross from one to the next.

The files change while a checkpoint is written. This is harmless, because the changes are also in
the frozen memtable, which is asked first. When the frozen memtable is dropped, the cache becomes
stale, so `forget_all` invalidates it at that moment. Stale ranges are freed lazily, on look-up;
freeing them all together would block the event loop.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from headwater_protocol.messages import bin_header

SIZE_MAX: Final = 16 * 1024 * 1024
"""Approximate bytes of all cached ranges."""

RANGE_SIZE_MAX: Final = SIZE_MAX // 16
"""Bytes of the largest range that is cached. A larger one would evict too many others."""

JOINED_SIZE_MAX: Final = 128 * 1024
"""Bytes of the largest joined range: more than most scans need. Joining copies both ranges, and a
view of the past cannot use a range in which a single key is newer."""

KEYS_MIN: Final = 32
"""Keys that are at least read for a range. Opening a scan of the store costs as much as reading
twelve keys."""

_RANGE_OVERHEAD: Final = 400
_KEY_OVERHEAD: Final = 50
"""Bytes of a range, and of a key in it, besides the keys and the packed data: object headers, and
slots of the list and the array. Measured with tracemalloc on CPython 3.11."""


class KeyRun:
    """Neighbouring keys, in order.

    Attributes:
        keys: stored keys; in a reverse scan the last comes first.
        low, high: the run is `keys[low:high]`; the list may be shared with others.
        rest: where to continue in the range: the start of the rest, or its end in reverse. None at
            the end of the range.
    """

    __slots__ = ("high", "keys", "low", "rest")

    def __init__(self, keys: list[bytes], low: int, high: int, rest: bytes | None) -> None:
        self.keys = keys
        self.low = low
        self.high = high
        self.rest = rest


class ValueRun(KeyRun):
    """A run with the value of each key, None if the key does not exist at the view."""

    __slots__ = ("values",)

    def __init__(
        self, keys: list[bytes], values: Sequence[bytes | None], rest: bytes | None
    ) -> None:
        self.keys = keys
        self.low = 0
        self.high = len(keys)
        self.rest = rest
        self.values = values


class PackedRun(KeyRun):
    """A run of keys that exist at a view, packed for an answer.

    Attributes:
        packed: the msgpack of each key, without the byte of its key space, and of its value.
        offsets: where in *packed* each key begins, and one more for the end.
    """

    __slots__ = ("offsets", "packed")

    def __init__(
        self,
        keys: list[bytes],
        packed: bytes,
        offsets: "array[int]",
        low: int,
        high: int,
        rest: bytes | None,
    ) -> None:
        self.keys = keys
        self.packed = packed
        self.offsets = offsets
        self.low = low
        self.high = high
        self.rest = rest


def packed_run(keys: list[bytes], values: Sequence[bytes | None], rest: bytes | None) -> PackedRun:
    """The packed run of the keys that have a value."""
    existing: list[bytes] = []
    items: list[bytes] = []
    for key, value in zip(keys, values, strict=True):
        if value is not None:
            existing.append(key)
            name = key[1:]
            items.append(bin_header(len(name)) + name + bin_header(len(value)) + value)
    offsets = array("I", accumulate(map(len, items), initial=0))
    return PackedRun(existing, b"".join(items), offsets, 0, len(existing), rest)


class CachedRange:
    """Every key of the files in [start, end).

    Attributes:
        start, end: the range; *end* is not part of it.
        keys, packed, offsets: as in PackedRun, at the newest version of each key.
        newest: the newest commit that wrote or deleted a key in the range. A view before it must
            read the files.
        size: approximate bytes of memory.
        generation: see `ScanCache`.
    """

    __slots__ = ("end", "generation", "keys", "newest", "offsets", "packed", "size", "start")

    def __init__(self, start: bytes, end: bytes, content: PackedRun, newest: int) -> None:
        self.start = start
        self.end = end
        self.keys = content.keys
        self.packed = content.packed
        self.offsets = content.offsets
        self.newest = newest
        self.generation = 0
        self.size = (
            _RANGE_OVERHEAD
            + _KEY_OVERHEAD * len(self.keys)
            + sum(map(len, self.keys))
            + len(self.packed)
        )

    def run(self, start: bytes, end: bytes, count_max: int) -> PackedRun:
        """The first keys of [start, end) in this range, at most *count_max*."""
        keys = self.keys
        low = bisect_left(keys, start)
        rest: bytes | None = None
        if self.end <= end:
            high = len(keys)
            if self.end < end:
                rest = self.end
        else:
            high = bisect_left(keys, end, low)
        if high - low > count_max:
            high = low + count_max
            rest = keys[high]
        return PackedRun(keys, self.packed, self.offsets, low, high, rest)

    def joined(self, behind: "CachedRange") -> "CachedRange":
        """Join this range with the one that begins where it ends."""
        assert self.end == behind.start
        size = len(self.packed)
        offsets = self.offsets[:-1]
        offsets.extend(array("I", [size + offset for offset in behind.offsets]))
        keys = self.keys + behind.keys
        content = PackedRun(keys, self.packed + behind.packed, offsets, 0, len(keys), None)
        return CachedRange(self.start, behind.end, content, max(self.newest, behind.newest))


class ScanCache:
    """The most recently used ranges, bounded by SIZE_MAX.

    Attributes:
        size: approximate bytes of all ranges.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self._size_max = size_max
        self._starts: list[bytes] = []
        # In the order of last use.
        self._ranges: dict[bytes, CachedRange] = {}
        self._generation = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._ranges)

    def find(self, key: bytes) -> CachedRange | None:
        """The cached range that covers *key*, or None."""
        place = bisect_right(self._starts, key) - 1
        if place < 0:
            return None
        start = self._starts[place]
        cached = self._ranges.pop(start)
        if cached.generation != self._generation:
            self._drop(place, cached)
            return None
        self._ranges[start] = cached
        return cached if key < cached.end else None

    def next_start(self, key: bytes, end: bytes) -> bytes:
        """Where the next cached range after *key* starts; *end* if none does before that."""
        while (place := bisect_right(self._starts, key)) < len(self._starts):
            start = self._starts[place]
            if start >= end:
                return end
            cached = self._ranges[start]
            if cached.generation == self._generation:
                return start
            del self._ranges[start]
            self._drop(place, cached)
        return end

    def add(self, cached: CachedRange) -> None:
        """Add a range that overlaps no other; evict the least recently used ones.

        Small adjacent ranges are joined with it.
        """
        if cached.size > RANGE_SIZE_MAX:
            return
        place = bisect_right(self._starts, cached.start)
        assert place == len(self._starts) or cached.end <= self._starts[place], "no ranges overlap"
        if place < len(self._starts):
            behind = self._ranges[self._starts[place]]
            if behind.start == cached.end and self._may_join(cached, behind):
                del self._ranges[behind.start]
                self._drop(place, behind)
                cached = cached.joined(behind)
        if place > 0:
            before = self._ranges[self._starts[place - 1]]
            if before.end == cached.start and self._may_join(cached, before):
                place -= 1
                del self._ranges[before.start]
                self._drop(place, before)
                cached = before.joined(cached)
        cached.generation = self._generation
        self._starts.insert(place, cached.start)
        self._ranges[cached.start] = cached
        self.size += cached.size
        while self.size > self._size_max:
            start, oldest = next(iter(self._ranges.items()))
            del self._ranges[start]
            self._drop(bisect_right(self._starts, start) - 1, oldest)

    def forget_all(self) -> None:
        """Invalidate all ranges, because the files have changed."""
        self._generation += 1

    def _may_join(self, cached: CachedRange, neighbour: CachedRange) -> bool:
        size = cached.size + neighbour.size
        return neighbour.generation == self._generation and size <= JOINED_SIZE_MAX

    def _drop(self, place: int, cached: CachedRange) -> None:
        assert self._starts[place] == cached.start
        del self._starts[place]
        self.size -= cached.size
