"""Histograms: how many values fell into each bucket. A bucket is twice as wide as the one before.

    values up to    16 µs   32 µs   64 µs   …   16.8 s   more
    counts              3     190      41   …        0      0

Adding a value allocates nothing and loops over the buckets below it, so a histogram of small values
costs little. It is on the path of each request while monitoring is on.
"""

from typing import Final

DURATION_NS_MIN: Final = 16_000
"""Upper bound of the first bucket of durations, in nanoseconds: most reads take about as long."""

DURATION_BUCKETS: Final = 21
"""Buckets of durations with an upper bound, up to 16.8 s. One more bucket has the rest."""


class Histogram:
    """Counts of integers.

    Attributes:
        first: the upper bound of the first bucket; each value up to it counts there.
        counts: values in each bucket. The last has what is above all bounds.
        sum: of all values.
    """

    __slots__ = ("counts", "first", "sum")

    def __init__(self, first: int, buckets: int) -> None:
        self.first = first
        self.counts = [0] * (buckets + 1)
        self.sum = 0

    def add(self, value: int) -> None:
        """Count a value."""
        counts = self.counts
        last = len(counts) - 1
        bound, place = self.first, 0
        while value > bound and place < last:
            bound += bound
            place += 1
        counts[place] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[int, int]]:
        """For each bucket with a bound: the bound, and how many values are at or below it."""
        rows: list[tuple[int, int]] = []
        bound, total = self.first, 0
        for count in self.counts[:-1]:
            total += count
            rows.append((bound, total))
            bound += bound
        return rows

    def quantile(self, share: float) -> int | None:
        """A bound that at least this share of the values does not exceed; None above all bounds."""
        wanted = share * self.count
        for bound, total in self.cumulative():
            if total >= wanted:
                return bound
        return None


def durations() -> Histogram:
    """A histogram of durations in nanoseconds."""
    return Histogram(DURATION_NS_MIN, DURATION_BUCKETS)
