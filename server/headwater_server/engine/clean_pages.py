"""Clean pages: neighbouring keys as the files have them, kept in memory for scans.

    keys of the files     a b c   f g h i j   m n o      t
    pages                 [a b c      )[h i j )          [t      )
                          start       end

A page knows every key of the files from its start up to its end, so a scan that begins within
one reads no file up to there; a key that the page does not have does not exist. Pages never
overlap. What is in the memtables is laid on top by who asks, as it is over the files.

What a page holds is packed as it goes out, one key behind the other in one piece:

    keys          h         i         j
    packed        h value   i value   j value
    offsets       0         9         18        27

So a hundred keys of it are a slice of bytes, found by two searches, and nobody looks at them one
by one. Pages that touch are joined as long as they are small; a scan then rarely crosses from one
into the next, however its neighbours were asked for.

The files change under the pages while a checkpoint is written, and that is no harm: what changed
is in the frozen memtable, too, which is asked first. Once that is dropped, the pages would be
wrong: `forget_all` makes them of no use at that moment. They go one by one, when they are met or
in the way, for to free all of them at once would hold up whoever waits.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from headwater_protocol.messages import bin_header

SIZE_MAX: Final = 16 * 1024 * 1024
"""Bytes of all pages together, about."""

PAGE_SIZE_MAX: Final = SIZE_MAX // 16
"""Bytes of a page that is kept: a larger one would push too many others out."""

JOINED_SIZE_MAX: Final = 128 * 1024
"""Bytes of a page that is made of two: more than most scans ask for. Joining copies both, and a
view of the past finds a page useless for a single key in it that is newer."""

KEYS_MIN: Final = 32
"""Keys that are read for a page at least, if there are as many: opening a scan costs the same as
twelve of them."""

_PAGE_OVERHEAD: Final = 400
_KEY_OVERHEAD: Final = 50
"""Bytes that a page, and a key in it, cost beside the keys and what is packed: headers of objects,
places in the list and in the array. Measured with tracemalloc on CPython 3.11."""


class KeyRun:
    """Neighbouring keys that are in order.

    Attributes:
        keys: as they are stored. In reverse the last comes first.
        low, high: places in *keys*: what lies between is the run, and the rest another's.
        rest: where the range goes on: the start of what is left of it, in reverse the end. None
            if nothing is.
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
    """A run of keys that exist at a view, with what goes out of them.

    Attributes:
        packed: of all keys, one behind the other, the msgpack of the key, without the byte of its
            space, and of its value.
        offsets: where in *packed* each begins; one more at the end.
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
    """The run of those keys that have a value."""
    existing: list[bytes] = []
    items: list[bytes] = []
    for key, value in zip(keys, values, strict=True):
        if value is not None:
            existing.append(key)
            name = key[1:]
            items.append(bin_header(len(name)) + name + bin_header(len(value)) + value)
    offsets = array("I", accumulate(map(len, items), initial=0))
    return PackedRun(existing, b"".join(items), offsets, 0, len(existing), rest)


class CleanPage:
    """Every key of the files in [start, end).

    Attributes:
        start, end: the range; *end* is not part of it.
        keys, packed, offsets: as in PackedRun, at the newest version of each key.
        newest: the newest commit that wrote any of them, or deleted one in the range. A view
            before it must ask the files.
        size: bytes of memory, about.
        generation: see `CleanPages`.
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
            _PAGE_OVERHEAD
            + _KEY_OVERHEAD * len(self.keys)
            + sum(map(len, self.keys))
            + len(self.packed)
        )

    def run(self, start: bytes, end: bytes, count_max: int) -> PackedRun:
        """The first keys of [start, end) that the page knows of."""
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

    def joined(self, behind: "CleanPage") -> "CleanPage":
        """This page and the one that begins where it ends, as one."""
        assert self.end == behind.start
        size = len(self.packed)
        offsets = self.offsets[:-1]
        offsets.extend(array("I", [size + offset for offset in behind.offsets]))
        keys = self.keys + behind.keys
        content = PackedRun(keys, self.packed + behind.packed, offsets, 0, len(keys), None)
        return CleanPage(self.start, behind.end, content, max(self.newest, behind.newest))


class CleanPages:
    """The pages that were used last, of SIZE_MAX bytes at most.

    Attributes:
        size: bytes of all pages, about.
    """

    def __init__(self, size_max: int = SIZE_MAX) -> None:
        self._size_max = size_max
        self._starts: list[bytes] = []
        # The one that was used last comes last.
        self._pages: dict[bytes, CleanPage] = {}
        self._generation = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._pages)

    def find(self, key: bytes) -> CleanPage | None:
        """The page that knows whether the files have *key*."""
        place = bisect_right(self._starts, key) - 1
        if place < 0:
            return None
        start = self._starts[place]
        page = self._pages.pop(start)
        if page.generation != self._generation:
            self._drop(place, page)
            return None
        self._pages[start] = page
        return page if key < page.end else None

    def next_start(self, key: bytes, end: bytes) -> bytes:
        """Where the next page after *key* starts, or *end* if none does before."""
        while (place := bisect_right(self._starts, key)) < len(self._starts):
            start = self._starts[place]
            if start >= end:
                return end
            page = self._pages[start]
            if page.generation == self._generation:
                return start
            del self._pages[start]
            self._drop(place, page)
        return end

    def add(self, page: CleanPage) -> None:
        """Keep a page, whose range no other one touches; those unused for the longest go.

        Its neighbours become part of it where all together are small.
        """
        if page.size > PAGE_SIZE_MAX:
            return
        place = bisect_right(self._starts, page.start)
        assert place == len(self._starts) or page.end <= self._starts[place], "no page overlaps"
        if place < len(self._starts):
            behind = self._pages[self._starts[place]]
            if behind.start == page.end and self._may_join(page, behind):
                del self._pages[behind.start]
                self._drop(place, behind)
                page = page.joined(behind)
        if place > 0:
            before = self._pages[self._starts[place - 1]]
            if before.end == page.start and self._may_join(page, before):
                place -= 1
                del self._pages[before.start]
                self._drop(place, before)
                page = before.joined(page)
        page.generation = self._generation
        self._starts.insert(place, page.start)
        self._pages[page.start] = page
        self.size += page.size
        while self.size > self._size_max:
            start, oldest = next(iter(self._pages.items()))
            del self._pages[start]
            self._drop(bisect_right(self._starts, start) - 1, oldest)

    def forget_all(self) -> None:
        """From now on no page is found: the files have changed."""
        self._generation += 1

    def _may_join(self, page: CleanPage, neighbour: CleanPage) -> bool:
        size = page.size + neighbour.size
        return neighbour.generation == self._generation and size <= JOINED_SIZE_MAX

    def _drop(self, place: int, page: CleanPage) -> None:
        assert self._starts[place] == page.start
        del self._starts[place]
        self.size -= page.size
