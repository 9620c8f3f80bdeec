"""Backoff: growing random pauses between attempts that fail."""

import random
from typing import Final

PAUSE_FIRST: Final = 0.05
"""Seconds after a first failed attempt to connect; doubled by each further one."""

PAUSE_MAX: Final = 2.0
"""Seconds between attempts at most: a server that restarts is found soon."""


class Backoff:
    """Growing, uneven backoff, so that many who failed together do not come back together."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._next = first
        self._longest = longest

    def next(self) -> float:
        """Seconds of the next pause."""
        pause = self._next
        self._next = min(pause * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """All is well again."""
        self._next = self._first
