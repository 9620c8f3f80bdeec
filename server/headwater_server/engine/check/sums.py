"""Compares two sets that are too large for memory and come in different orders.

    events   in order of position      (stream, version, position) ...   sum by bucket:  a b c d
    index    in order of stream        (stream, version, position) ...   sum by bucket:  a b X d

Each member is hashed to 64 bits, and the hashes are added up. Sums do not depend on the order, so
equal sets have equal sums; unequal sets have equal sums with a chance of 1 in 2^64. Members are
divided by name into a few thousand buckets. If sums differ, a second pass compares only the members
of those buckets, one by one.

The hash is Python's own: it is fast, and both sides are hashed in the same process with the same
random seed.
"""

from collections.abc import Hashable
from typing import Final

BUCKETS: Final = 4096
"""Number of sums. With ten million members, a second pass for one bucket compares 2,500."""

DIFFERING_MAX: Final = 32
"""Buckets that a second pass compares. If more differ, details would not help."""

_MASK: Final = 2**64 - 1


class Sums:
    """The sums of two sets, which should be the same."""

    def __init__(self) -> None:
        self._sums = [0] * BUCKETS
        self.left = 0
        self.right = 0

    def add_left(self, name: Hashable, member: Hashable) -> None:
        """Add a member of the first set; *name* decides its bucket."""
        self._sums[hash(name) % BUCKETS] += hash(member) & _MASK
        self.left += 1

    def add_right(self, name: Hashable, member: Hashable) -> None:
        """Add a member of the second set."""
        self._sums[hash(name) % BUCKETS] -= hash(member) & _MASK
        self.right += 1

    @property
    def differing(self) -> set[int]:
        """The buckets in which the two differ."""
        return {bucket for bucket, each in enumerate(self._sums) if each & _MASK}

    @staticmethod
    def bucket(name: Hashable) -> int:
        """The bucket of a name."""
        return hash(name) % BUCKETS
