"""What a commit appended: the answer that it got, made again from the indexes.

    positions   41   42   43   44   45   46          42 is of stream b: its version at 46, and
    stream       a    b    b    a    b    a          the positions of what it got since 42, are
                                                     one look into its index, and settle 43, 45
A commit may have 100,000 events and 32 MiB of them, mostly of few streams. So one event of each
stream is taken apart, and not every one.
"""

from typing import Final

from headwater_server.engine.format.events import decode_event
from headwater_server.engine.state.layers import State

_LOOKED_UP_MAX: Final = 256
"""Streams that are looked up: a look costs as much as taking 20 to 50 events apart. A commit of
more has few events each, and those are taken apart."""


def versions_after(state: State, first: int, last: int) -> dict[str, int]:
    """The versions that streams had after the events at positions *first* to *last*.

    Of events that were removed since, nobody knows the stream; they are left out.
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
        for stored in filter(None, state.events(rest)):
            event = decode_event(stored)
            versions[event.stream] = event.version
    return versions
