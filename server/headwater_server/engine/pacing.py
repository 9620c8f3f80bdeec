"""Pacing: how a checkpoint, which computes in a thread of its own, gives way to the server.

Both need the interpreter, which only one can have. The server lets go of it at each system call,
and if the other is waiting then, has to wait itself until that one lets go. So it works in short
slices and sleeps in between. While it sleeps, the server's calls cost nothing; while the server
waits for the disk or for requests, it computes.

    server      serve 32 | sync |.| serve 32 ......... | sync |.| serve 32
    checkpoint  sleeps . | slice  | sleeps, as long as | slice  | sleeps
                                    RESTS_MAX slices

It sleeps for as long as its schedule allows: the work that is left should be spread evenly over the
time until the memtable that gathers commits meanwhile is filled to FILL_AT_END. A checkpoint that
is ahead sleeps longer, one that is late sleeps less. How much work there is, the last checkpoint
tells: a memtable takes as long as it is full.
"""

from collections.abc import Callable
from typing import Final, Protocol

YieldGil = Callable[[], None]
"""Called by who computes for long, whenever others may have the interpreter for a while."""

SLICE_S: Final = 0.0003
"""Seconds of work after which the checkpoint sleeps; somebody may have waited for all of them."""

RESTS_MAX: Final = 4.0
"""Slices that a sleep is long at most."""

RESTS_MIN: Final = 1.0
"""Slices that a sleep is long at least, while the memtable that gathers commits is not full. A
checkpoint that does not sleep takes the interpreter at each system call of the server."""

FILL_AT_END: Final = 0.75
"""How full that memtable should be when the checkpoint ends. The rest is for what cannot be paced:
syncs, and a machine that others use."""

WORK_S_GUESSED: Final = 0.2
"""Seconds of work for a full memtable, until the first one has told. One that is too large makes
the first checkpoint sleep less."""

_LEFT_MIN: Final = 0.1
"""Share of the work done that is left at least, when there is more than was expected."""


def unpaced() -> None:
    """Give way to nobody."""


class Pacing(Protocol):
    """Decides how one checkpoint after the other gives way."""

    def begin(self, frozen_fill: float) -> None:
        """Begin with a checkpoint of a memtable that is so full."""
        ...

    def __call__(self) -> None:
        """Give way if it is time."""
        ...

    def end(self, frozen_fill: float) -> None:
        """Take note of what the checkpoint's work was, for the next."""
        ...


class Unpaced:
    """Gives way to nobody: for recovery, simulation and tests."""

    def begin(self, frozen_fill: float) -> None:
        """Do nothing."""

    def __call__(self) -> None:
        """Do nothing."""

    def end(self, frozen_fill: float) -> None:
        """Do nothing."""


UNPACED: Final = Unpaced()


class Pacer:
    """Gives way after each slice of work, in one checkpoint after the other.

    Args:
        monotonic: seconds from any beginning.
        sleep: sleeps for so many seconds.
        fill: how full the active memtable is; 1 is full.
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
        # A small one has little but fixed costs, which would be taken for those of a large one.
        if frozen_fill >= 0.5:
            self._work_s_per_fill = self._worked / frozen_fill

    def __call__(self) -> None:
        """Sleep, if a slice has passed since the last sleep."""
        now = self._monotonic()
        worked = now - self._slice_began
        if worked < SLICE_S:
            return
        # A slice that the disk made long is no reason to sleep as long.
        worked = min(worked, 2 * SLICE_S)
        self._worked += worked
        rests = self._rests(now)
        if rests > 0.0:
            self._sleep(worked * rests)
        self._slice_began = self._monotonic()

    def _rests(self, now: float) -> float:
        """How many slices the next sleep should be long."""
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
