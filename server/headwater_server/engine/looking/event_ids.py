"""Finds an event by its id, without its stream; format/event_ids.py has the index.

    memtables   the ids that clients gave, stream by stream; the ids of transactions, commit by
                commit: as many look-ups as there are, some milliseconds at most
    files       one look-up for a given id, one for a derived one

Only events up to a position count, so an id can be looked up as of a commit.
"""

from itertools import islice
from typing import Final

from headwater_server.engine.format.event_ids import (
    META_EVENT_IDS,
    bucket_key,
    given_key,
    own_entries,
    parse_first_events,
    parse_given,
    parse_indexed,
    place_of,
)
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.retention.rules import visibility_at
from headwater_server.engine.state.layers import State
from headwater_server.storage.store.interface import Family

_OWN_ENTRIES: Final = 64
"""Transactions with the first 12 bytes of an id that are tried. More than one has been made up."""

_EXAMINED: Final = 1_000
"""Events that are looked through for a derived id, from where it is expected: 2 ms."""

_AT_ONCE: Final = 8
"""Of these, how many are read at a time. Nearly always it is the first."""


def find_event(state: State, view: int, position: int, event_id: bytes) -> bytes | None:
    """The stored event with this id that was appended last, up to a position, or None.

    An event that retention hides at the commit *view* is not found.
    """
    shows = visibility_at(state, view, position).shows if state.retention.hiding else None
    for found in sorted(set(_positions(state, position, event_id)), reverse=True):
        stored = state.events([found])[0]
        if stored and decode_event(stored).id == event_id and (shows is None or shows(stored)):
            return stored
    return None


def not_indexed(state: State) -> int:
    """The position up to which events are not in the index; 0: all are."""
    entry = state.files.store.get(Family.INDEX, META_EVENT_IDS)
    indexed = parse_indexed(entry)
    applied = int(state.files.applied_position)
    if indexed is None or indexed.upto < applied:
        return applied
    return indexed.after


def _positions(state: State, upto: int, event_id: bytes) -> list[int]:
    """The positions up to one at which an event with this id may be."""
    found: list[int] = []
    # Of transactions to which the id may belong: the place that the event then has, and the
    # position of the first event.
    places: list[tuple[int, int]] = []
    for table in state.memtables():
        for tail in table.streams.values():
            version = tail.event_ids.get(event_id)
            if version is not None:
                found.append(tail.positions[version - tail.base_version - 1])
        for planned in table.commits:
            # The comparison of `place_of`, without a call for each commit.
            if planned.event_count and planned.transaction[:12] == event_id[:12]:
                _add(places, event_id, planned.transaction, planned.first_position)
    store = state.files.store
    found += parse_given(store.get(Family.INDEX, given_key(event_id)))
    key = bucket_key(event_id)
    for transaction, first in parse_first_events(key, store.get(Family.INDEX, key) or b""):
        _add(places, event_id, transaction, first)
    for own_key, entry in islice(store.scan(Family.INDEX, *own_entries(event_id)), _OWN_ENTRIES):
        for transaction, first in parse_first_events(own_key, entry):
            _add(places, event_id, transaction, first)
    derived = _by_place(state, upto, event_id, places)
    if derived is not None:
        found.append(derived)
    return [position for position in found if position <= upto]


def _add(
    places: list[tuple[int, int]], event_id: bytes, transaction: bytes, first_position: int
) -> None:
    place = place_of(event_id, transaction)
    if place is not None:
        places.append((place, first_position))


def _by_place(
    state: State, upto: int, event_id: bytes, places: list[tuple[int, int]]
) -> int | None:
    """The position of the event with a derived id, or None.

    Its transaction is nearly always that from which it has the least place.
    """
    left = _EXAMINED
    for place, first in sorted(set(places)):
        # Events that were stored before have places too, so the event may be before its place.
        position = min(first + place, upto)
        while position >= first and left > 0:
            below = max(first, position - min(left, _AT_ONCE) + 1)
            for stored in state.events(range(position, below - 1, -1)):
                if stored and decode_event(stored).id == event_id:
                    return decode_event(stored).position
            left -= position - below + 1
            position = below - 1
    return None
