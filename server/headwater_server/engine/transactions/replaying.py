"""Replaying: makes plans from the records of the log, one log entry at a time.

A record holds everything that planning read from the state, except the ids of streams that existed
before. So replay reads at most the heads of the record's streams. Plans are applied by the same
function as in the original commit.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.format.planned import ABORT, COMMIT, TICK, Planned, StreamRun
from headwater_server.engine.format.records import Record, record_of, unpack_records
from headwater_server.engine.state.layers import State


def plan_entry(state: State, encoded: Sequence[bytes], *, path: str, index: int) -> list[Planned]:
    """Plan those records of the log entry *index* that the state does not have yet.

    *path* is named in the error.

    Raises:
        DamagedFile: commits between the state's last one and these are missing.
        FormatTooNew: a newer version of Headwater wrote them.
    """
    commit = state.last_commit
    run: list[Planned] = []
    stream_ids: dict[str, int] = {}
    for members in unpack_records(encoded):
        planned = _plan(state, members, stream_ids)
        if planned.commit > commit + 1:
            raise DamagedFile(
                f"{path}: commit {planned.commit} follows commit {commit}; those "
                "between are missing from the log and from the files",
                details={"file": path, "index": index},
            )
        # Ticks are idempotent, so they are always applied again. Fences are too, until they are
        # forgotten: from then on the id may commit, and the files may have that commit.
        if planned.commit == commit + 1:
            commit += 1
            run.append(planned)
        elif planned.kind == TICK or (
            planned.kind == ABORT and planned.time >= state.time.forget_before
        ):
            run.append(planned)
    return run


def plan_records(state: State, records: Sequence[Record]) -> list[Planned]:
    """Plan records that follow the state."""
    stream_ids: dict[str, int] = {}
    return [_planned(state, record, stream_ids) for record in records]


def _plan(state: State, members: tuple[Any, ...], stream_ids: dict[str, int]) -> Planned:
    if len(members) == 11 and members[0] == 1 and members[1] == COMMIT and members[10] is None:
        if not members[8]:
            # A fast path: nearly every record of a long log is like this.
            writes = members[6]
            planned = Planned(
                COMMIT, members[3], members[4], members[5], members[2], members[7], writes
            )
            planned.has_retention = bool(writes) and writes[-2] >= keyspaces.RETENTION
            return planned
    return _planned(state, record_of(members), stream_ids)


def _planned(state: State, record: Record, stream_ids: dict[str, int]) -> Planned:
    planned = Planned(
        record.kind,
        record.transaction,
        record.time,
        record.user,
        record.commit,
        record.first_position,
        record.writes,
    )
    writes = record.writes
    if writes:
        last_key = writes[-2]
        assert last_key is not None
        planned.has_retention = last_key >= keyspaces.RETENTION
    planned.horizon = record.horizon
    planned.forget_before = record.forget_before
    if record.events and record.commit > state.last_commit:
        _plan_events(state, planned, record, stream_ids)
    return planned


def _plan_events(
    state: State, planned: Planned, record: Record, stream_ids: dict[str, int]
) -> None:
    """Find the runs and the tags of a record's events.

    *stream_ids* has the ids of the streams of earlier records in the same log entry.
    """
    events = [decode_event(stored) for stored in record.events]
    runs: list[StreamRun] = []
    for (stream, event_type), found in groupby(events, lambda each: (each.stream, each.type)):
        run = list(found)
        first = run[0]
        stream_id = stream_ids.get(stream)
        if stream_id is None:
            # A stream's id is the position of its first event.
            stream_id = first.position if first.version == 1 else state.head(stream).id
            stream_ids[stream] = stream_id
        runs.append((stream, stream_id, first.version - 1, event_type, len(run)))
    planned.events = record.events
    planned.event_count = len(record.events)
    planned.event_ids = record.event_ids
    planned.runs = runs
    planned.tags = {place: event.tags for place, event in enumerate(events) if event.tags}
