"""A set of names in a fixed amount of memory: a Bloom filter (Bloom 1970).

    add("order-7")        sets four bits of the array, chosen by the name's hash
    may_have("order-7")   whether all four of a name's bits are set

"No" is always right. "Yes" may be wrong, so whoever gets it must look the name up. With a million
names in the default size that happens for about 2 names in a thousand; with ten million it happens
for most, and the filter saves nothing but is still right. A name is never removed.

One thread adds; others may ask meanwhile.
"""

from typing import Final

BIT_COUNT: Final = 2**24
"""Bits of the array: 2 MiB, allocated with the first name."""

_PROBES: Final = 4
"""Bits of each name. More would fill the array sooner, fewer would make more answers wrong."""

_STEP_SHIFT: Final = 32


class NameFilter:
    """Names that were added, and a few others by mistake. It is false while it has none."""

    __slots__ = ("_bit_count", "_bits")

    def __init__(self, bit_count: int = BIT_COUNT) -> None:
        assert bit_count % 8 == 0
        self._bit_count = bit_count
        self._bits = bytearray()

    def __bool__(self) -> bool:
        return bool(self._bits)

    def add(self, name: str) -> None:
        """Add a name."""
        if not self._bits:
            self._bits = bytearray(self._bit_count // 8)
        for bit in self._places(name):
            self._bits[bit >> 3] |= 1 << (bit & 7)

    def may_have(self, name: str) -> bool:
        """Whether a name was added; sometimes true for one that was not."""
        bits = self._bits
        if not bits:
            return False
        return all(bits[bit >> 3] & (1 << (bit & 7)) for bit in self._places(name))

    def _places(self, name: str) -> list[int]:
        # Two halves of one hash make as good probes as four hashes (Kirsch, Mitzenmacher 2008).
        found = hash(name)
        step = (found >> _STEP_SHIFT) | 1
        return [(found + probe * step) % self._bit_count for probe in range(_PROBES)]
