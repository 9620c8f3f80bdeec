"""How many events of a group wait behind parked ones.

    parked 17 | 18 21 30 wait, as long as 17 is neither replayed nor discarded

They are not stored, so they are counted when somebody asks. Counting is bounded: beyond the bound,
the number says how many there are at least.
"""

from dataclasses import dataclass, replace
from typing import Final

from headwater_server.engine.consumer_groups.records import (
    HOLD,
    Definition,
    read_parked,
    read_replays,
)
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.state.layers import State

WAITING_COUNTED_MAX: Final = 1000
"""Events that are counted for one request. Each is read."""

STREAMS_LOOKED_AT_MAX: Final = 200
"""Held streams that one request looks at, of all groups together."""

PARKED_LOOKED_AT_MAX: Final = 1000
"""Parked events of a group in which its held streams are looked for."""


@dataclass(slots=True)
class WaitingCount:
    """Counts for one request.

    Attributes:
        events: how many more events may be counted.
        streams: how many more streams may be looked at.
    """

    events: int = WAITING_COUNTED_MAX
    streams: int = STREAMS_LOOKED_AT_MAX

    def of(self, state: State, view: int, reader: Reader, definition: Definition) -> int:
        """The events of a group that wait behind parked ones."""
        if definition.settings.parked_stream != HOLD:
            return 0
        number = definition.number
        held: dict[str, list[int]] = {}
        for position, parked in read_parked(state, view, number, 0, PARKED_LOOKED_AT_MAX):
            held.setdefault(parked.stream, []).append(position)
        if not held:
            return 0
        replayed = {position: entry.stream for position, entry in read_replays(state, view, number)}
        total = 0
        for stream, positions in held.items():
            if not self.streams or not self.events:
                break
            self.streams -= 1
            first = positions[0]
            wanted: EventFilter = replace(definition.wanted, stream=stream)
            # Events that are parked themselves do not wait, and what is tried again is counted so.
            apart = {*positions, *(at for at, name in replayed.items() if name == stream)}
            page = reader.read_all(first, wanted, self.events + len(apart), False)
            if reader.position < first or not page.events:
                continue
            count = len(page.events) - sum(at > first for at in apart)
            total += max(0, min(count, self.events))
            self.events -= min(len(page.events), self.events)
        return total
