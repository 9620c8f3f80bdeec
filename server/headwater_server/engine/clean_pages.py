"""Clean pages: runs of neighbouring keys as the files have them, kept in memory for scans.

    keys of the files     a b c   f g h i j   m n o      t
    pages                 [a b c      )[h i j )          [t      )
                          start       end

A page knows every key of the files from its start up to its end, so a scan that begins within
one reads no file up to there; a key that the page does not have does not exist. Pages never
overlap. What is in the memtables is laid on top by who asks, as it is over the files.

The files change under the pages while a checkpoint is written, and that is no harm: what changed
is in the frozen memtable, too, which is asked first. Once that is dropped, the pages would be
wrong: `forget_all` makes them of no use at that moment. They go one by one, when they are met or
in the way, for to free all of them at once would hold up whoever waits.
"""

from bisect import bisect_right
from typing import Final

SIZE_MAX: Final = 16 * 1024 * 1024
"""Bytes of all pages together, about."""

PAGE_SIZE_MAX: Final = SIZE_MAX // 16
"""Bytes of a page that is kept: a larger one would push too many others out."""

KEYS_MIN: Final = 32
"""Keys that are read for a page at least, if there are as many: opening a scan costs the same as
twelve of them."""

_PAGE_OVERHEAD: Final = 500
_KEY_OVERHEAD: Final = 90
"""Bytes that a page, and a key in it, cost beside keys and values: headers of objects, places in
lists. Measured with tracemalloc on CPython 3.11."""


class CleanPage:
    """Every key of the files in [start, end).

    Attributes:
        start, end: the range; *end* is not part of it.
        keys: in order.
        values: of the keys; None for one whose newest version is a deletion.
        newest: the newest commit that wrote any of them. A view before it must ask the files.
        size: bytes of memory, about.
        generation: see `CleanPages`.
    """

    __slots__ = ("end", "generation", "keys", "newest", "size", "start", "values")

    def __init__(
        self, start: bytes, end: bytes, keys: list[bytes], values: list[bytes | None], newest: int
    ) -> None:
        self.start = start
        self.end = end
        self.keys = keys
        self.values = values
        self.newest = newest
        self.generation = 0
        size = _PAGE_OVERHEAD + _KEY_OVERHEAD * len(keys) + sum(map(len, keys))
        for value in values:
            if value is not None:
                size += len(value)
        self.size = size


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
        """Keep a page, whose range no other one touches; those unused for the longest go."""
        if page.size > PAGE_SIZE_MAX:
            return
        place = bisect_right(self._starts, page.start)
        assert place == len(self._starts) or page.end <= self._starts[place], "no page overlaps"
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

    def _drop(self, place: int, page: CleanPage) -> None:
        assert self._starts[place] == page.start
        del self._starts[place]
        self.size -= page.size
