"""Pacing: how a checkpoint, which runs in a thread of its own, yields the GIL to the server.

Only one thread can hold the GIL. The server releases it at each system call, and if the checkpoint
takes it then, the server must wait until it is released. So the checkpoint works in short slices
and sleeps in between. While it sleeps, the server's system calls cost nothing extra. While the
server waits for the disk or for requests, the checkpoint computes.

    server      serve 32 | sync |.| serve 32 ......... | sync |.| serve 32
    checkpoint  sleeps . | slice  | sleeps, as long as | slice  | sleeps
                                    RESTS_MAX slices

It sleeps for as long as its schedule allows: the remaining work should be spread evenly over the
time until the active memtable is filled to FILL_AT_END. A checkpoint that is ahead sleeps longer,
and one that is late sleeps less. The amount of work is estimated from the last checkpoint, in
proportion to how full the memtable is.
"""

from collections.abc import Callable
from typing import Final, Protocol

YieldGil = Callable[[], None]
"""A function that long computations call whenever other threads may take the GIL for a while."""

SLICE_S: Final = 0.0003
"""Seconds of work between two sleeps. The server may wait for a whole slice."""

RESTS_MAX: Final = 4.0
"""The longest sleep, in slices."""

RESTS_MIN: Final = 1.0
"""The shortest sleep, in slices, while the active memtable is not full. A checkpoint that does not
sleep takes the GIL at each system call of the server."""

FILL_AT_END: Final = 0.75
"""How full the active memtable should be when the checkpoint ends. The rest is a reserve for what
cannot be paced: syncs, and other load on the machine."""

WORK_S_GUESSED: Final = 0.2
"""Seconds of work for a full memtable, assumed until the first checkpoint was measured. If this is
too large, the first checkpoint sleeps less."""

_LEFT_MIN: Final = 0.1
"""The least work that is assumed to be left, as a share of the work done. It is used when there is
more work than expected."""


def unpaced() -> None:
    """Never yield the GIL."""


class Pacing(Protocol):
    """Decides when checkpoints yield the GIL, one checkpoint after the other."""

    def begin(self, frozen_fill: float) -> None:
        """Begin a checkpoint of a memtable; *frozen_fill* is how full it is."""
        ...

    def __call__(self) -> None:
        """Yield the GIL if it is time."""
        ...

    def end(self, frozen_fill: float) -> None:
        """Record how much work the checkpoint was, for the next one."""
        ...


class Unpaced:
    """Never yields the GIL: for recovery, simulation and tests."""

    def begin(self, frozen_fill: float) -> None:
        """Do nothing."""

    def __call__(self) -> None:
        """Do nothing."""

    def end(self, frozen_fill: float) -> None:
        """Do nothing."""


UNPACED: Final = Unpaced()


class Pacer:
    """Sleeps after each slice of work, in one checkpoint after the other.

    Args:
        monotonic: a monotonic clock, in seconds.
        sleep: sleeps for a number of seconds.
        fill: returns how full the active memtable is; 1 is full.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        fill: Callable[[], float],
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._fill = fill
        self._work_s_per_fill = WORK_S_GUESSED
        self.begin(1.0)

    def begin(self, frozen_fill: float) -> None:
        """Begin with a checkpoint of a memtable that is so full."""
        self._expected = self._work_s_per_fill * frozen_fill
        self._worked = 0.0
        self._fill_at_begin = self._fill()
        self._began = self._slice_began = self._monotonic()

    def end(self, frozen_fill: float) -> None:
        """Take note of what the checkpoint's work was, for the next."""
        # In a small checkpoint, fixed costs dominate, so it says little about a large one.
        if frozen_fill >= 0.5:
            self._work_s_per_fill = self._worked / frozen_fill

    def __call__(self) -> None:
        """Sleep if a slice has passed since the last sleep."""
        now = self._monotonic()
        worked = now - self._slice_began
        if worked < SLICE_S:
            return
        # If the disk made a slice longer, the sleep should not grow with it.
        worked = min(worked, 2 * SLICE_S)
        self._worked += worked
        rests = self._rests(now)
        if rests > 0.0:
            self._sleep(worked * rests)
        self._slice_began = self._monotonic()

    def _rests(self, now: float) -> float:
        """The length of the next sleep, in slices."""
        fill = self._fill()
        least = RESTS_MIN if fill < 1.0 else 0.0
        if fill >= FILL_AT_END:
            return least
        filled = fill - self._fill_at_begin
        if filled <= 0.0:
            return RESTS_MAX
        seconds_left = (FILL_AT_END - fill) * (now - self._began) / filled
        work_left = max(self._expected - self._worked, _LEFT_MIN * self._worked)
        return min(max(seconds_left / work_left - 1.0, least), RESTS_MAX)
