"""Backoff: growing random pauses between attempts that fail."""

import random
from typing import Final

PAUSE_FIRST: Final = 0.05
"""Seconds to wait after the first failed attempt to connect. Each further one doubles it."""

PAUSE_MAX: Final = 2.0
"""The longest pause in seconds, so that a server that restarts is found soon."""


class Backoff:
    """Growing, random pauses, so that clients that failed together do not retry together."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._next = first
        self._longest = longest

    def next(self) -> float:
        """The length of the next pause, in seconds."""
        pause = self._next
        self._next = min(pause * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self._next = self._first
