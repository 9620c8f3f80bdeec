"""What an erasure takes along in consumer groups: the reasons why erased events failed.

A reason is the text of an exception, and often quotes the data: `KeyError: 'Bob'`. It is stored
with a parked event, with one that is to be tried again, and with the next event of a stream.
"""

from collections.abc import Iterable

from headwater_server.engine.consumer_groups.records import (
    Definition,
    read_entries,
    without_reason,
)
from headwater_server.engine.format.events import stream_name
from headwater_server.engine.state.layers import State


def without_reasons(
    state: State, definitions: Iterable[Definition], positions: set[int]
) -> list[bytes | None]:
    """The writes that remove the reasons of erased events: key, value, and so on."""
    streams = {stream_name(stored).decode() for stored in state.events(sorted(positions)) if stored}
    writes: list[bytes | None] = []
    for definition in definitions:
        number = definition.number
        for key, value in read_entries(state, state.last_commit, number, sorted(streams)):
            cleared = without_reason(key, value, positions)
            if cleared != value:
                writes += (key, cleared)
    return writes
