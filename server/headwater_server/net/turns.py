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

    Attributes:
        ends: when the turn is over, in seconds of the clock.
        now: the clock.
    """

    __slots__ = ("_length_s", "ends", "now")

    def __init__(self, length_ms: int, now: Callable[[], float]) -> None:
        self._length_s = length_ms / 1000
        self.now = now
        self.ends = 0.0

    def begin(self) -> None:
        """A new turn begins."""
        self.ends = self.now() + self._length_s

    @property
    def over(self) -> bool:
        """Whether others should be served first."""
        return self.now() >= self.ends
