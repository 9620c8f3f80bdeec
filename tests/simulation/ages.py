"""Retention by age: which events a read may return.

That depends on the log's time at the read view. Clients cannot read the ticks of the log's clock,
but they know the times of commits, and the log's time is between that of the view and that of the
next commit:

    the event was too old at the time of the view            it must be hidden
    it was young enough at the time of the next commit       it must be returned
    otherwise                                                either, but the same in all reads
                                                             of a view

The name of a stream includes its maximum age, so the age never changes.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from tests.simulation.history import Seen

CATEGORY: Final = "aged"
NEVER: Final = 2**63
"""A commit number and a time that are never reached."""


def stream_kept_for(age_ms: int) -> str:
    """The name of the stream with this maximum age."""
    return f"{CATEGORY}-{age_ms}"


def age_us(stream: str) -> int | None:
    """Maximum age of the events of a stream in microseconds; None: no limit."""
    category, _, age_ms = stream.partition("-")
    return int(age_ms) * 1000 if category == CATEGORY else None


class Ages:
    """The streams with a maximum age, as one view has shown them.

    *times* are the times of all commits, in order.
    """

    def __init__(self, times: Sequence[int], view: int) -> None:
        self._times = times
        self._at_least = times[view - 1] if 0 < view <= len(times) else 0
        self._at_most = times[view] if view < len(times) else NEVER
        self._first: dict[str, tuple[int, int]] = {}

    def readable(self, events: Sequence[Seen], found: Iterable[str]) -> list[Seen]:
        """The events that a read must return, of those that exist without expiry."""
        elements = {*found}
        by_stream: dict[str, list[Seen]] = {}
        for event in events:
            # The reader's own events have no commit yet, so no age.
            if event.commit and age_us(event.stream) is not None:
                by_stream.setdefault(event.stream, []).append(event)
        first = {name: self._first_of(name, each, elements) for name, each in by_stream.items()}
        return [event for event in events if event.version >= first.get(event.stream, 0)]

    def _first_of(self, stream: str, events: list[Seen], found: set[str]) -> int:
        """The first version that this read must return."""
        age = age_us(stream)
        assert age is not None
        low, high = self._first.get(stream, (1, NEVER))
        for event in events:
            time = self._times[event.commit - 1]
            if time < self._at_least - age:
                low = max(low, event.version + 1)
            if time >= self._at_most - age:
                high = min(high, event.version)
        there = [event.version for event in events if event.element in found]
        if there:
            high_found = min(high, there[0])
            low_found = max([low, *(e.version + 1 for e in events if e.version < there[0])])
        else:
            high_found, low_found = high, max([low, *(e.version + 1 for e in events)])
        if low_found > high_found:
            # No first version makes this read right. Report the difference to a possible one.
            return min(low, high)
        self._first[stream] = low_found, high_found
        return low_found
