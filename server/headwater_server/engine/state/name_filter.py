"""A set of names in a fixed amount of memory: a Bloom filter (Bloom 1970).

    add("order-7")        sets four bits of the array, chosen by the name's hash
    may_have("order-7")   whether all four of a name's bits are set

"No" is always right. "Yes" may be wrong, so the caller must then look the name up. In the default
size, a million names give about 2 wrong answers in a thousand. With ten million names most answers
are wrong; the filter then saves nothing but stays correct. Names are never removed.

One thread may add names while others ask.
"""

from typing import Final

BIT_COUNT: Final = 2**24
"""Bits of the array: 2 MiB, allocated with the first name."""

_PROBES: Final = 4
"""Bits of each name. More would fill the array sooner; fewer would give more wrong answers."""

_STEP_SHIFT: Final = 32


class NameFilter:
    """A Bloom filter of names; false while it is empty."""

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
        # Two halves of one hash serve as well as four hashes (Kirsch, Mitzenmacher 2008).
        found = hash(name)
        step = (found >> _STEP_SHIFT) | 1
        return [(found + probe * step) % self._bit_count for probe in range(_PROBES)]
