"""The log's clock: the times of records, which everything that depends on time uses.

Every record has a time, and times never decrease from one record to the next. Whatever depends on
age (retention by age, the history window, forgetting transactions) uses these times and not the
clock of the machine. So two nodes with the same log give the same answers.

While there are commits, a tick about once a second records the time, the oldest readable commit
(the horizon), and the time before which transactions are forgotten.

The wall clock may be wrong, so it is compared with a monotonic clock:

    off by at most the bound     accepted; the log's time stands still until the wall clock has
                                 caught up with it
    off by more                  rejected: time continues from the last accepted time, by the
                                 monotonic clock

At a start, the wall clock can only be compared with the log. If it is ahead of the log it is
accepted, because the server may have been off that long. If it is behind by more than the bound it
is rejected: then the newest commits are dated in the future, and time continues from theirs.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

COMPARED_US: Final = 1_000_000
"""Microseconds of the wall clock between two comparisons of the clocks."""

HELD_US_MIN: Final = 3_600_000_000
"""The first time, in microseconds after 1970, at which the clock may be held. From there on all
times have the same encoded size, which a repair relies on."""


class LogTime(NamedTuple):
    """What the newest record says about time.

    Attributes:
        time: microseconds since 1970-01-01 UTC.
        horizon: every commit from here on can be read.
        forget_before: transactions that ended before this time are forgotten.
    """

    time: int = 0
    horizon: int = 0
    forget_before: int = 0


class LogClock:
    """Gives records their times.

    Attributes:
        offset_us: how far a rejected wall clock is ahead of the log's time (negative: behind); 0
            if it is accepted.
    """

    def __init__(
        self,
        wall: Callable[[], int],
        monotonic: Callable[[], int],
        *,
        jump_us_max: int,
        newest: int,
    ) -> None:
        """*newest* is the time of the log's newest record, 0 if it has none."""
        self._wall = wall
        self._monotonic = monotonic
        self._jump_us_max = jump_us_max
        self._time = max(newest, wall())
        self._compared = self._time
        self._seen = monotonic()
        self.offset_us = 0
        self._holding = False
        self._held = 0
        self._compare(wall())

    def hold(self) -> None:
        """Stop until `release`. Requests that arrived together get one time, read once."""
        self._holding = True

    def release(self) -> None:
        """Go on."""
        self._holding = False
        self._held = 0

    def now(self) -> int:
        """The time for the next record, in microseconds; never less than that of an earlier one."""
        if self._held:
            return self._held
        time = self._wall()
        if self._time <= time < self._compared + COMPARED_US and not self.offset_us:
            # The step is too small to need a comparison.
            self._time = time
        else:
            time = self._compare(time)
        if self._holding:
            self._held = time
        return time

    def _compare(self, wall: int) -> int:
        """The time according to both clocks."""
        seen = self._monotonic()
        expected = max(self._compared + max(seen - self._seen, 0), self._time)
        self._seen = seen
        off = wall - expected
        if -self._jump_us_max <= off <= self._jump_us_max:
            self.offset_us = 0
            if wall > self._time:
                self._time = wall
        else:
            self.offset_us = off
            self._time = expected
        self._compared = self._time
        return self._time
