"""The log's clock: the time that records carry, and all that depends on time goes by.

Every record has a time, and times never go back from one record to the next. What depends on age
(retention by age, the history window, the forgetting of transactions) follows these times and
not the clock of the machine that is asked. So two nodes with the same log give the same answers.

While there is work, a tick about once a second says the time, the oldest commit that can be read
(the horizon), and the time before which transactions are forgotten.

The wall clock may be wrong. It is compared with a monotonic clock, which nobody sets:

    off by at most the bound     believed; the log's time waits while the wall clock is behind it
    further off than that        not believed: time goes on from the last one that was, by the
                                 monotonic clock

At a start there is nothing to compare the wall clock with but the log. One that is ahead of the
log is believed, since the server may have been off for as long. One that is behind by more than
the bound is not: then the newest commits are dated in the future, and time goes on from theirs.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

COMPARED_US: Final = 1_000_000
"""Microseconds of the wall clock between two comparisons of the clocks."""


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
        offset_us: by how much the wall clock is ahead of the log's time, while it is further off
            than it may be; else 0. Negative: it is behind.
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
        self._compare(wall())

    def now(self) -> int:
        """The time for the next record, in microseconds; never before that of an earlier one."""
        wall = self._wall()
        if self._time <= wall < self._compared + COMPARED_US and not self.offset_us:
            # A step of less than that needs no second opinion.
            self._time = wall
            return wall
        return self._compare(wall)

    def _compare(self, wall: int) -> int:
        """The time, by both clocks."""
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
