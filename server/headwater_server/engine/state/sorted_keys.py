"""Sorted keys: the keys of a memtable in order, as a list of short lists.

    blocks    [a c d]  [g h k l]  [m p]       each has at most _BLOCK_KEYS_MAX
    lasts       d          l         p        the greatest of each

A search in `lasts` finds the block, and a search in the block finds the place of a key. Inserting
moves at most the rest of one short list. Two levels suffice because moving a list of thousands
takes a microsecond; this is the idea of the package sortedcontainers (Grant Jenks). This module has
only what a memtable needs, in a form that mypyc can compile: every scan asks each memtable, even
one that has no key in the range.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Final

from headwater_server.engine.pacing import YieldGil

_BLOCK_KEYS_MAX: Final = 1024
"""Keys of the largest block; a larger one is split. An insertion moves at most 8 KiB."""

_ITERATED_KEYS: Final = 256
"""Keys that an iterator fetches at a time."""


class SortedKeys:
    """A set of keys, in order."""

    __slots__ = ("_blocks", "_count", "_lasts")

    def __init__(self) -> None:
        self._blocks: list[list[bytes]] = []
        self._lasts: list[bytes] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, keys: list[bytes]) -> None:
        """Add keys in any order; none of them may be in the set."""
        self._count += len(keys)
        if len(keys) * 8 > self._count:
            # Sorting is fast if most keys are in order already.
            everything = [key for block in self._blocks for key in block]
            everything += keys
            everything.sort()
            half = _BLOCK_KEYS_MAX // 2
            starts = range(0, len(everything), half)
            self._blocks = [everything[start : start + half] for start in starts]
            self._lasts = [block[-1] for block in self._blocks]
        else:
            for key in keys:
                self._insert(key)

    def _insert(self, key: bytes) -> None:
        lasts = self._lasts
        place = bisect_left(lasts, key)
        if place == len(lasts):
            place -= 1
            block = self._blocks[place]
            block.append(key)
            lasts[place] = key
        else:
            block = self._blocks[place]
            insort(block, key)
        if len(block) > _BLOCK_KEYS_MAX:
            half = len(block) // 2
            self._blocks.insert(place + 1, block[half:])
            del block[half:]
            lasts.insert(place, block[-1])

    def take_apart(self, yield_gil: YieldGil) -> None:
        """Free the keys, block by block."""
        while self._blocks:
            self._count -= len(self._blocks.pop())
            self._lasts.pop()
            yield_gil()

    def first(
        self, start: bytes, end: bytes | None, count_max: int, *, reverse: bool = False
    ) -> list[bytes]:
        """The first keys of [start, end), at most *count_max*; in reverse the last come first."""
        if reverse:
            return self._last(start, end, count_max)
        found: list[bytes] = []
        place = bisect_left(self._lasts, start)
        while place < len(self._blocks):
            block = self._blocks[place]
            low = 0 if found else bisect_left(block, start)
            high = len(block)
            place += 1
            if end is not None and block[-1] >= end:
                # Every scan asks every memtable, so often the range is empty here.
                high = low if block[low] >= end else bisect_left(block, end, low)
                place = len(self._blocks)
            found += block[low : min(high, low + count_max - len(found))]
            if len(found) >= count_max:
                break
        return found

    def _last(self, start: bytes, end: bytes | None, count_max: int) -> list[bytes]:
        found: list[bytes] = []
        lasts = self._lasts
        place = len(lasts)
        high = 0
        if end is not None:
            place = bisect_left(lasts, end)
            if place < len(lasts):
                # This block may begin before *end* and continues after it.
                high = bisect_left(self._blocks[place], end)
        while True:
            if high == 0:
                place -= 1
                if place < 0:
                    return found
                high = len(self._blocks[place])
            block = self._blocks[place]
            low = max(bisect_left(block, start, 0, high), high - count_max + len(found))
            found += block[low:high][::-1]
            if low > 0 or len(found) >= count_max:
                return found
            high = 0

    def between(self, start: bytes, end: bytes | None, *, reverse: bool = False) -> Iterator[bytes]:
        """All keys of [start, end). No key may be added while the iterator is in use."""
        while True:
            found = self.first(start, end, _ITERATED_KEYS, reverse=reverse)
            yield from found
            if len(found) < _ITERATED_KEYS:
                return
            if reverse:
                end = found[-1]
            else:
                start = found[-1] + b"\0"
