"""The answer to a commit that appended events, reconstructed from the indexes.

    positions   41   42   43   44   45   46          42 is of stream b. One look-up in b's index
    stream       a    b    b    a    b    a          gives its version at 46 and the positions of
                                                     its later events, so 43 and 45 need no decoding
A commit may have 100,000 events or 32 MiB of them, usually of a few streams. So only one event of
each stream is decoded.
"""

from typing import Final

from headwater_server.engine.format.events import decode_event
from headwater_server.engine.state.layers import State

_LOOKED_UP_MAX: Final = 256
"""Streams that are looked up; a look-up costs as much as decoding 20 to 50 events. A commit with
more streams has few events of each, so the rest are decoded one by one."""


def versions_after(state: State, first: int, last: int) -> dict[str, int]:
    """The versions of streams after the events at positions *first* to *last*.

    Events that were removed since are left out, because their stream is unknown.
    """
    versions: dict[str, int] = {}
    settled = bytearray(last - first + 1)
    place = settled.find(0)
    while place >= 0 and len(versions) < _LOOKED_UP_MAX:
        settled[place] = 1
        (stored,) = state.events([first + place])
        if stored:
            event = decode_event(stored)
            head = state.head(event.stream)
            version = versions[event.stream] = state.version_at(event.stream, head, last)
            for position in state.stream_positions(event.stream, head, event.version, version):
                settled[position - first] = 1
        place = settled.find(0, place)
    if place >= 0:
        rest = [first + place for place, is_settled in enumerate(settled) if not is_settled]
        for stored in filter(None, state.each_event(rest)):
            event = decode_event(stored)
            versions[event.stream] = event.version
    return versions
