"""Stop: ends the waits of other tasks or threads, when a database or a feed is closed.

    waiting:   with stop.calling(wake):        closing:   stop.set()  --> wake()
                   wait

Whoever waits registers a function that wakes it. `set` calls all of them, from any thread. A stop
is never unset, and a wait that begins later ends at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headwater.errors import ConnectionLost


class Stopped(Exception):
    """The wait was ended by a Stop."""


class Stop:
    """A flag that wakes those who wait when it is set.

    Attributes:
        stopped: whether it was set.
    """

    __slots__ = ("_callbacks", "stopped")

    def __init__(self) -> None:
        self.stopped = False
        # Single operations on a dict are atomic, so threads need no lock.
        self._callbacks: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """End all waits, now and from now on."""
        self.stopped = True
        for callback in list(self._callbacks.values()):
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Call *callback* if the stop is set during the block, or was set before."""
        key = object()
        self._callbacks[key] = callback
        try:
            # Looked at after registering, so that a set() at the same time is not missed.
            if self.stopped:
                callback()
            yield
        finally:
            del self._callbacks[key]


def closed_by_user() -> ConnectionLost:
    """The error of what is asked of a database after close()."""
    return ConnectionLost("the database was closed by close()", retryable=False)
