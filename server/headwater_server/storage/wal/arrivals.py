"""Waiting for entries of a log, in threads that have nothing else to do.

A writer without readers that wait pays for one comparison.
"""

import threading
from collections.abc import Callable


class Arrivals:
    """Wakes the readers of a log when there are new entries."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting = 0

    def wait(self, arrived: Callable[[], bool], seconds: float) -> bool:
        """Block until *arrived*, which is asked at each arrival; False after that time."""
        with self._condition:
            # Before asking: an entry that arrives after that is announced.
            self._waiting += 1
            try:
                return self._condition.wait_for(arrived, seconds)
            finally:
                self._waiting -= 1

    def announce(self) -> None:
        """Entries have become durable."""
        if self._waiting:
            with self._condition:
                self._condition.notify_all()
