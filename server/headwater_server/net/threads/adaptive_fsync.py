"""Adaptive fsync: decides whether to fsync on the event loop or in the worker thread.

    fast:  end of a turn --> fsync here --> publish --> answer       no task switch, no thread
    slow:  end of a turn --> wake the committer --> fsync in the thread --> publish --> answer

Switching to the thread and back takes longer than an fsync on a fast disk, and both threads wait
for the interpreter lock meanwhile. On a slow disk the event loop must not wait. So the caller times
every fsync, and the measured times decide.
"""

from collections.abc import Callable
from math import inf
from typing import Final, TypeVar

T = TypeVar("T")

FAST_FSYNC_S_MAX: Final = 0.001
"""Seconds that an fsync on the event loop may take on average. All clients wait meanwhile. Serving
the requests of one wake-up takes about as long."""

FSYNCS_AVERAGED: Final = 32
"""Number of calls in the moving average, and of calls in the thread before the first decision."""

FSYNCS_IN_THREAD_MAX: Final = 4096
"""Calls that go to the thread, at most, before the next decision."""


class AdaptiveFsync:
    """Decides from measured times whether an fsync is fast enough for the event loop.

    On the event loop the average of the last calls decides. One call of 32 ms or more is enough
    to send the next calls to the thread, so others wait for one slow call only.

    In the thread the fastest of the last calls decides. A call there seems slow when the thread
    has to wait for the interpreter lock at its end, however fast the disk is; by the average, a
    fast disk would never be found fast again. If the decision was wrong, the next attempt comes
    later: the number of calls in the thread doubles.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._fast = False
        self._average_s = 0.0
        self._least_s = inf
        self._calls = 0
        self._calls_in_thread = FSYNCS_AVERAGED

    @property
    def on_event_loop(self) -> bool:
        """Whether the next fsync is to be made on the event loop."""
        return self._fast

    def timed(self, call: Callable[[], T]) -> T:
        """Make the call in the current thread and measure how long it takes."""
        began = self._monotonic()
        try:
            return call()
        finally:
            self._record(self._monotonic() - began)

    def _record(self, took_s: float) -> None:
        self._calls += 1
        if self._fast:
            self._average_s += (took_s - self._average_s) / FSYNCS_AVERAGED
            if self._average_s > FAST_FSYNC_S_MAX:
                self._fast = False
                soon = self._calls < self._calls_in_thread
                longer = min(2 * self._calls_in_thread, FSYNCS_IN_THREAD_MAX)
                self._calls_in_thread = longer if soon else FSYNCS_AVERAGED
                self._calls = 0
            return
        self._least_s = min(self._least_s, took_s)
        if self._calls >= self._calls_in_thread:
            self._fast = self._least_s <= FAST_FSYNC_S_MAX
            self._average_s, self._least_s = self._least_s, inf
            self._calls = 0
