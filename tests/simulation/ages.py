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
"""A commit that is never made, and a time that never comes."""


def stream_kept_for(age_ms: int) -> str:
    """The stream whose events are kept for so long."""
    return f"{CATEGORY}-{age_ms}"


def age_us(stream: str) -> int | None:
    """For how many microseconds the events of a stream are kept; None: for ever."""
    category, _, age_ms = stream.partition("-")
    return int(age_ms) * 1000 if category == CATEGORY else None


class Ages:
    """What one view showed of streams whose events grow old.

    *times* are those of all commits, the first one's first.
    """

    def __init__(self, times: Sequence[int], view: int) -> None:
        self._times = times
        self._at_least = times[view - 1] if 0 < view <= len(times) else 0
        self._at_most = times[view] if view < len(times) else NEVER
        self._first: dict[str, tuple[int, int]] = {}

    def readable(self, events: Sequence[Seen], found: Iterable[str]) -> list[Seen]:
        """The events that a read must have found, of those that would be there without ages."""
        elements = {*found}
        by_stream: dict[str, list[Seen]] = {}
        for event in events:
            # One of the reader's own has no commit yet, and no age.
            if event.commit and age_us(event.stream) is not None:
                by_stream.setdefault(event.stream, []).append(event)
        first = {name: self._first_of(name, each, elements) for name, each in by_stream.items()}
        return [event for event in events if event.version >= first.get(event.stream, 0)]

    def _first_of(self, stream: str, events: list[Seen], found: set[str]) -> int:
        """The first version that this read must have found."""
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
            # No first version makes this read right. Any that was possible shows what is wrong.
            return min(low, high)
        self._first[stream] = low_found, high_found
        return low_found
