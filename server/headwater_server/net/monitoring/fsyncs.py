"""The durations of fsyncs of commit groups, on the event loop and in the worker thread."""

from collections.abc import Callable
from typing import TypeVar

from headwater_server.net.histograms import durations
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync

T = TypeVar("T")


class FsyncDurations:
    """Measures the fsyncs that an AdaptiveFsync decides about.

    Attributes:
        on_event_loop, in_thread: durations in nanoseconds, by where the fsync was made.
    """

    def __init__(self, adaptive_fsync: AdaptiveFsync, clock: Callable[[], int]) -> None:
        self._adaptive_fsync = adaptive_fsync
        self._clock = clock
        self.on_event_loop = durations()
        self.in_thread = durations()

    def timed(self, call: Callable[[], T]) -> T:
        """Make the call in the current thread. Only one is made at a time."""
        fast = self._adaptive_fsync.on_event_loop
        began = self._clock()
        try:
            return self._adaptive_fsync.timed(call)
        finally:
            (self.on_event_loop if fast else self.in_thread).add(self._clock() - began)
