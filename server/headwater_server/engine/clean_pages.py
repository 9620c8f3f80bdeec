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

What a page holds is packed as it goes out, so that a scan joins bytes and does no more.
"""

from bisect import bisect_left, bisect_right
from typing import Final, NamedTuple

from headwater_protocol.messages import encode

SIZE_MAX: Final = 16 * 1024 * 1024
"""Bytes of all pages together, about."""

PAGE_SIZE_MAX: Final = SIZE_MAX // 16
"""Bytes of a page that is kept: a larger one would push too many others out."""

KEYS_MIN: Final = 32
"""Keys that are read for a page at least, if there are as many: opening a scan costs the same as
twelve of them."""

_PAGE_OVERHEAD: Final = 600
_KEY_OVERHEAD: Final = 130
"""Bytes that a page, and a key in it, cost beside keys and values: headers of objects, places in
lists. Measured with tracemalloc on CPython 3.11."""


BIN_HEADERS: Final = tuple(b"\xc4" + bytes([size]) for size in range(256))
"""What stands before bytes in msgpack, by their number."""


def bytes_packed(value: bytes) -> bytes:
    """The msgpack of bytes."""
    size = len(value)
    # Short ones are most, and a concatenation costs a third of a call of the packer.
    return BIN_HEADERS[size] + value if size < 256 else encode(value)


def key_packed(key: bytes) -> bytes:
    """The msgpack of a stored key, without the byte of its space."""
    return bytes_packed(key[1:])


class KeyRun(NamedTuple):
    """Neighbouring keys at a view, with what goes out of them.

    Attributes:
        keys: as they are stored.
        heads: of each, the msgpack of the key.
        items: of each, that of the key and of its value; empty if it does not exist.
        rest: where the range goes on: the start of what is left of it, in reverse the end. None
            if nothing is.
    """

    keys: list[bytes]
    heads: list[bytes]
    items: list[bytes]
    rest: bytes | None


class CleanPage:
    """Every key of the files in [start, end).

    Attributes:
        start, end: the range; *end* is not part of it.
        keys, heads, items: as in KeyRun, at the newest version of each key.
        newest: the newest commit that wrote any of them. A view before it must ask the files.
        size: bytes of memory, about.
        generation: see `CleanPages`.
    """

    __slots__ = ("end", "generation", "heads", "items", "keys", "newest", "size", "start")

    def __init__(
        self,
        start: bytes,
        end: bytes,
        keys: list[bytes],
        values: list[bytes | None],
        newest: int,
    ) -> None:
        self.start = start
        self.end = end
        self.keys = keys
        self.heads = [key_packed(key) for key in keys]
        self.items = [
            b"" if value is None else head + bytes_packed(value)
            for head, value in zip(self.heads, values, strict=True)
        ]
        self.newest = newest
        self.generation = 0
        self.size = (
            _PAGE_OVERHEAD
            + _KEY_OVERHEAD * len(keys)
            + 2 * sum(map(len, keys))
            + sum(map(len, self.items))
        )

    def add_to(self, run: KeyRun, start: bytes, end: bytes, count_max: int) -> bytes:
        """Put keys of [start, end) at the end of a run; returns where the range goes on."""
        low = bisect_left(self.keys, start)
        high = len(self.keys) if self.end <= end else bisect_left(self.keys, end)
        rest = min(self.end, end)
        if high - low > count_max:
            high = low + count_max
            rest = self.keys[high]
        run.keys.extend(self.keys[low:high])
        run.heads.extend(self.heads[low:high])
        run.items.extend(self.items[low:high])
        return rest


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
