"""Turns: how long one client may keep the event loop before others are served.

Requests, steps of feeds and deliveries of groups differ in cost by a factor of thousands, so a
count of them says little about time. Whoever does several in a row asks after each whether its turn
is over. A single one is never interrupted; the engine bounds its work (engine/work_budget.py).
"""

from collections.abc import Callable


class Turn:
    """The end of the current turn.

    The clock is read after every request, so a server reads the system's, which is a tenth of the
    event loop's. Tests and simulation use the loop's clock: simulated time never ends a turn.

    On a busy machine the clock also counts the time in which other processes have the processor. If
    turns ended by it alone, the commits of a turn would go into several groups, each with its own
    sync. So once the clock says that a turn is over, *used* must agree.

    Attributes:
        ends: when the turn is over, in seconds of the clock.
        now: the clock.
    """

    __slots__ = ("_length_s", "_used", "_used_at_end", "ends", "now")

    def __init__(
        self,
        length_ms: int,
        now: Callable[[], float],
        used: Callable[[], float] | None = None,
    ) -> None:
        """*used* returns the processor time of this thread, in seconds; None: the clock decides."""
        self._length_s = length_ms / 1000
        self._used = used
        self._used_at_end = 0.0
        self.now = now
        self.ends = 0.0

    def begin(self) -> None:
        """A new turn begins."""
        self.ends = self.now() + self._length_s
        if self._used is not None:
            self._used_at_end = self._used() + self._length_s

    @property
    def over(self) -> bool:
        """Whether others should be served first."""
        now = self.now()
        if now < self.ends:
            return False
        if self._used is None:
            return True
        left_s = self._used_at_end - self._used()
        if left_s <= 0.0:
            return True
        self.ends = now + left_s
        return False
