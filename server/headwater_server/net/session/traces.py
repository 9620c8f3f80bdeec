"""Which requests of a connection belong to which trace.

A client sends `trace` with a traceparent and a number n before n requests. Their ids follow the id
of that request, so a request is found by its id, also if its answer comes later.
"""

from collections import deque
from typing import Final

KEPT_MAX: Final = 64
"""Announcements that are remembered of a connection. As many tasks may have requests on their way,
and the trace of an older one is only missing where it would be told."""


class Traces:
    """The traces of one connection."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: deque[tuple[int, int, str]] = deque(maxlen=KEPT_MAX)

    def announce(self, first: int, count: int, traceparent: str) -> None:
        """The requests with *count* ids from *first* on belong to a trace."""
        self._ranges.append((first, first + count, traceparent))

    def of(self, request_id: int) -> str:
        """The traceparent of a request, or ""."""
        for first, end, traceparent in reversed(self._ranges):
            if first <= request_id < end:
                return traceparent
        return ""
