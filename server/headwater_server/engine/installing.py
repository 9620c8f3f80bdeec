"""Installing a record: the one way in which anything gets into the memtable.

A commit installs what it just evaluated; recovery, and later a replica, install what they read
from the log. Both come through here, so a database that was replayed is the one that ran.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from headwater_server.engine import keyspaces
from headwater_server.engine.events import decode_event
from headwater_server.engine.records import Record
from headwater_server.engine.state import State
from headwater_server.storage.commit_log import CommitRecord

_new: Final = tuple.__new__


def install(
    state: State,
    record: Record,
    runs: list[tuple[str, str, int]] | None = None,
    tags: Mapping[int, Sequence[str]] | None = None,
) -> None:
    """Apply the next record to the state.

    *runs* has the stream, the type and the count of events that follow each other, and *tags* the
    tags of those that have any by their place, if the caller knows them already.
    """
    commit, transaction, time, user, writes, position, events, _ = record
    if commit == 0:
        state.active.add_abort(transaction, time)
        return
    install_writes(state, commit, position, writes)
    if events:
        if runs is None:
            taken_apart = [decode_event(stored) for stored in record.events]
            placed = groupby((event.stream, event.type) for event in taken_apart)
            runs = [(stream, name, len(list(run))) for (stream, name), run in placed]
            tags = {place: event.tags for place, event in enumerate(taken_apart) if event.tags}
        _install_events(state, record, runs)
        if tags:
            for place, names in tags.items():
                state.active.add_tags(position + place, names)
    install_end(state, commit, transaction, time, user, position, len(events))


def install_writes(state: State, commit: int, position: int, writes: list[bytes | None]) -> None:
    """The first part of `install`: the keys. A commit without events is this and the end."""
    active = state.active
    assert commit == active.last_commit + 1, "records are installed in commit order"
    assert position == active.last_position + 1, "and positions are dense"
    if writes:
        active.put(commit, writes)
        last_key = writes[-2]
        assert last_key is not None
        if last_key >= keyspaces.RETENTION:
            state.retention.note(commit, writes)


def install_end(
    state: State,
    commit: int,
    transaction: bytes,
    time: int,
    user: int,
    position: int,
    event_count: int,
) -> None:
    """The last part of `install`: from here on the commit counts."""
    # As CommitRecord(…), in a fifth of its time.
    record = _new(CommitRecord, (commit, transaction, time, user, position, event_count))
    state.active.add_commit(record, commit, transaction)


def _install_events(state: State, record: Record, runs: list[tuple[str, str, int]]) -> None:
    active = state.active
    events, event_ids = record.events, record.event_ids
    place = given = 0
    for stream, event_type, count in runs:
        tail = state.tail_for_append(stream)
        if tail is None:
            # A stream's id is the position of its first event.
            tail = active.add_stream(stream, active.last_position + 1, 0)
        version = tail.version
        end = place + count
        active.add_events(
            stream, tail, event_type, events if count == len(events) else events[place:end]
        )
        # The ids that users gave stand in the order of the events.
        while given < len(event_ids) and event_ids[given] < end:
            tail.event_ids[event_ids[given + 1]] = version + 1 + event_ids[given] - place
            given += 2
        place = end
    assert place == len(events), "the runs are of these events"
    assert given == len(event_ids), "and the ids"
