"""The time index: finds the position of the first event at or after a time.

Times never decrease from one commit to the next, so a time divides the events in two. A binary
search in the commit log finds where. For events older than its records, it searches the events.
"""

from collections.abc import Callable
from typing import Final

from headwater_protocol.errors import NoSuchCommit
from headwater_server.engine.format.events import StoredEvent, decode_event
from headwater_server.engine.state.layers import State

_LOOKED_AT: Final = 256


def position_before(state: State, time: int, published: int) -> int:
    """The last position before a time in microseconds; later events have that time or a later one.

    *published* is the newest commit that readers see.
    """
    if time <= 0:
        return 0
    commit = min(state.commit_at(time - 1), published)
    oldest = int(state.files.oldest_commit)
    if commit >= oldest or commit == 0:
        return state.position_at(commit)
    # The commit is older than the commit log, so search the events.
    return _last_before(state, _time_of, time, state.commit_record(oldest).first_position - 1)


def position_at_commit(state: State, commit: int, published: int) -> int:
    """The position of the newest event at a commit, also if its record was trimmed.

    Raises:
        NoSuchCommit: it does not exist yet.
    """
    if commit > published:
        raise NoSuchCommit(f"commit {commit} was not made yet; the newest is {published}")
    oldest = int(state.files.oldest_commit)
    if commit >= oldest or commit == 0:
        return state.position_at(commit)
    return _last_before(
        state, _commit_of, commit + 1, state.commit_record(oldest).first_position - 1
    )


def _commit_of(event: StoredEvent) -> int:
    return event.commit


def _time_of(event: StoredEvent) -> int:
    return event.time


def _last_before(state: State, member: Callable[[StoredEvent], int], end: int, upto: int) -> int:
    """The last position up to *upto* whose event has a commit or a time below *end*."""
    low, high = 0, upto
    while low < high:
        middle = (low + high + 1) // 2
        found = _next_event(state, middle, high)
        if found is None:
            # All of these were removed, so either side is a correct choice.
            high = middle - 1
        elif member(found[1]) < end:
            low = found[0]
        else:
            high = middle - 1
    return low


def _next_event(state: State, position: int, upto: int) -> tuple[int, StoredEvent] | None:
    """The first event from *position* on that was not removed, and its position."""
    while position <= upto:
        positions = range(position, min(position + _LOOKED_AT, upto + 1))
        for place, stored in zip(positions, state.events(positions), strict=True):
            if stored:
                return place, decode_event(stored)
        position = positions.stop
    return None
