"""Pacing: how a checkpoint, which computes in a thread of its own, gives way to the server.

Both need the interpreter, which only one can have. The server lets go of it at each system call,
and if the other is waiting then, has to wait itself until that one lets go. So it works in short
slices and sleeps in between. While it sleeps, the server's calls cost nothing; while the server
waits for the disk or for requests, it computes.

    server      serve 32 | sync |.| serve 32 ......... | sync |.| serve 32
    checkpoint  sleeps . | slice  | sleeps, as long as | slice  | sleeps
                                    RESTS_MAX slices

It sleeps the less, the fuller the memtable is that gathers commits meanwhile: once that is full
too, writers would have to wait for the checkpoint (checkpointing.py).
"""

from collections.abc import Callable
from typing import Final

GiveWay = Callable[[], None]
"""Called by who computes for long, whenever others may have the interpreter for a while."""

SLICE_S: Final = 0.0003
"""Seconds of work after which the checkpoint sleeps; somebody may have waited for all of them."""

RESTS_MAX: Final = 4.0
"""Slices that a sleep is long, while the memtable is empty that gathers commits."""


def on_and_on() -> None:
    """Give way to nobody."""


class Pacer:
    """Gives way after each slice of work.

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
        self._began = monotonic()

    def __call__(self) -> None:
        """Sleep, if a slice has passed since the last sleep."""
        worked = self._monotonic() - self._began
        if worked < SLICE_S:
            return
        rests = RESTS_MAX * (1.0 - self._fill())
        if rests > 0.0:
            # A slice that the disk made long is no reason to sleep as long.
            self._sleep(min(worked, 2 * SLICE_S) * rests)
        self._began = self._monotonic()
