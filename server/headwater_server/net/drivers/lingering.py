"""Lingering: a short wait for the next request of a lone client, outside of the event loop.

    wake-up --> turn --> linger --request--> turn --> linger --request--> turn --> event loop
                           |                                                         ^
                           '---- nothing within WAIT_S, or ROW_S_MAX is over --------'

A pass through the event loop takes longer than a get. Under load it serves many connections at
once. A client that sends one request after the other pays for a pass with each. It usually sends
the next one within the time of a pass, so a wait of that length saves the pass.

Timers and other tasks wait meanwhile, at most ROW_S_MAX and one turn. After a wait in vain the next
ones are left out, twice as many after each, so a client that thinks between its requests costs
hardly anything.
"""

from collections.abc import Callable
from typing import Final

WAIT_S: Final = 0.0002
"""Seconds to wait for a request. A client in Python takes a third of that from an answer to its
next request."""

ROW_S_MAX: Final = 0.001
"""Seconds after which the event loop must run. A turn of all connections may take twice as long."""

ROW_WAITS_MAX: Final = 64
"""Waits after which the event loop must run, whatever the clock says."""

LEFT_OUT_MAX: Final = 64
"""Rows that are left out after waits in vain, at most."""


class Lingering:
    """Decides whether to wait for a request, and for how many in a row.

    Args:
        wait: waits up to so many seconds; whether a socket is ready.
        now: a clock, in seconds.
    """

    __slots__ = ("_left_out", "_now", "_penalty", "_until", "_wait", "_waits")

    def __init__(self, wait: Callable[[float], bool], now: Callable[[], float]) -> None:
        self._wait = wait
        self._now = now
        self._until = 0.0
        self._waits = 0
        self._left_out = 0
        self._penalty = 1

    def begin_row(self) -> bool:
        """Begin a row of waits; whether to wait at all."""
        if self._left_out:
            self._left_out -= 1
            return False
        self._waits = 0
        self._until = self._now() + ROW_S_MAX
        return True

    def comes(self) -> bool:
        """Wait for a request; whether there is one and the row may go on."""
        if self._waits >= ROW_WAITS_MAX or self._now() >= self._until:
            return False
        self._waits += 1
        if self._wait(WAIT_S):
            self._penalty = 1
            return True
        self._left_out = self._penalty
        self._penalty = min(2 * self._penalty, LEFT_OUT_MAX)
        return False
