"""A checkpoint: writes the frozen memtable to the files, so that the log can be trimmed.

    1  event log       append, sync      the next open cuts what an interrupted attempt appended
    2  commit log      append, sync      likewise
    3  state store     small batches: keys, streams, categories, types, transactions
    4  state store     one batch: the new applied commit
    5  state store     small batches: garbage
    6  state store     flush             from here on it survives a crash
    7  commit log      trim

It runs in a separate thread while the server reads. Writing a batch holds the GIL, and one batch
for the whole memtable would stop every reader for 100 ms or more, so there are many small ones.
After a crash the store has a prefix of the batches. So a checkpoint may be interrupted between any
two of them, and every kind of entry must allow being written again:

- A key's entries are in one batch. Its LATEST entry says up to which commit they were written.
  Versions up to that commit are skipped, and later ones are added.
- Likewise, a head says up to which position its postings were written.
- Any other entry has the same bytes under the same key in every attempt.

Until step 4 is durable, the old applied commit is valid. Recovery replays the rest from the
write-ahead log, and readers never depend on anything beyond the applied commit (stored_state.py).
For the same reasons, an attempt that ended with a full disk can be repeated.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headwater_server.engine.checkpoint.garbage import (
    BATCH_VERSIONS_MAX,
    Collected,
    Forgotten,
    collect_garbage,
    forget_transactions,
)
from headwater_server.engine.checkpoint.state_writer import StateWriter
from headwater_server.engine.checkpoint.store_batches import BATCH_ENTRIES_MAX
from headwater_server.engine.format.index_keys import META_HORIZON, Applied, parse_number
from headwater_server.engine.format.planned import Planned
from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.pacing import YieldGil, unpaced
from headwater_server.engine.state.memtable import MemTable
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.commits.commit_records import RecordPacker
from headwater_server.storage.store.interface import Family

_LOG_CHUNK: Final = 256
"""Events or commits in one append to a log, which holds the GIL."""


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """What a checkpoint made durable."""

    applied: Applied
    """The new applied commit, position and time."""
    time: LogTime
    """The log's time as of the newest record."""
    keys: int
    """Keys whose newest version was written."""
    versions: int
    """Older versions that were put into HISTORY."""
    events: int
    commits: int
    garbage: Collected
    forgotten: Forgotten


def write_checkpoint(
    frozen: MemTable,
    state: StoredState,
    *,
    horizon: int,
    views: Sequence[int],
    garbage_entries_max: int,
    forget_before: int,
    log_index: int,
    yield_gil: YieldGil = unpaced,
    batch_entries_max: int = BATCH_ENTRIES_MAX,
) -> CheckpointResult:
    """Make a frozen memtable durable in the files. All of it must be durable in the log.

    Args:
        horizon: every commit from here on must stay readable. No read may begin below it any more,
            but those at one of *views* continue.
        views: the active read views, sorted.
        garbage_entries_max: superseded versions to examine. Those that this checkpoint adds are
            examined in addition, so that garbage cannot grow faster than it is collected.
        forget_before: a time in microseconds; transactions that ended before are forgotten.
        log_index: a durable entry of the write-ahead log.
        yield_gil: called whenever other threads may take the GIL for a while.
        batch_entries_max: after how many entries a batch is written.

    Raises:
        DiskFull: nothing is lost, and readers saw nothing. Call `state.reopen` on the reading
            thread, then call this again.
    """
    assert (frozen.base_commit, frozen.base_position) == state.applied[:2], "they follow each other"
    assert all(a <= b for a, b in itertools.pairwise(views)), "views are sorted"
    horizon = _usable_horizon(frozen, state, horizon)
    _append_logs(frozen, state, yield_gil)
    writer = StateWriter(
        frozen,
        state.store,
        horizon=horizon,
        views=views,
        log_index=log_index,
        latest=state.handed_over,
        yield_gil=yield_gil,
        batch_entries_max=batch_entries_max,
    )
    applied = writer.write()
    garbage = collect_garbage(
        state.store,
        upto=min(horizon, applied.commit),
        views=views,
        entries_max=garbage_entries_max + writer.changes,
        yield_gil=yield_gil,
        batch_versions_max=min(batch_entries_max, BATCH_VERSIONS_MAX),
    )
    records_max = garbage_entries_max + len(frozen.commits)
    forgotten = _forget(state, forget_before, min([horizon, *views]), records_max)
    state.store.flush()
    # Only after the flush: a crash before it would bring back index entries that need the records.
    state.commit_log.trim(forgotten.trim_below)
    return CheckpointResult(
        applied=applied,
        time=frozen.time,
        keys=writer.keys,
        versions=writer.versions,
        events=len(frozen.events),
        commits=len(frozen.commits),
        garbage=garbage,
        forgotten=forgotten,
    )


def _usable_horizon(frozen: MemTable, state: StoredState, horizon: int) -> int:
    # Do not use the readers' current horizon, which may be later. Views that were opened since the
    # checkpoint began are not in *views*, so their versions would be collected.
    collected = parse_number(state.store.get(Family.INDEX, META_HORIZON))
    return min(max(horizon, collected), frozen.last_commit)


def _forget(state: StoredState, before: int, keep_from: int, records_max: int) -> Forgotten:
    store, log = state.store, state.commit_log
    return forget_transactions(
        store, log, before=before, keep_from=keep_from, records_max=records_max
    )


def _append_logs(frozen: MemTable, state: StoredState, yield_gil: YieldGil) -> None:
    # An earlier attempt may have appended some already, with the same content.
    done = state.event_log.last_position - frozen.base_position
    assert 0 <= done <= len(frozen.events), "the event log was cut to the applied position"
    for start in range(done, len(frozen.events), _LOG_CHUNK):
        state.event_log.append(frozen.events[start : start + _LOG_CHUNK])
        yield_gil()
    state.event_log.sync()
    done = state.commit_log.last_commit - frozen.base_commit
    assert 0 <= done <= len(frozen.commits), "the commit log was cut to the applied commit"
    for start in range(done, len(frozen.commits), _LOG_CHUNK):
        chunk = frozen.commits[start : start + _LOG_CHUNK]
        state.commit_log.append_packed(_packed(chunk))
        yield_gil()
    state.commit_log.sync()


def _packed(commits: list[Planned]) -> bytes:
    """Their records for the commit log."""
    packer = RecordPacker()
    parts: list[bytes] = []
    for planned in commits:
        parts.append(
            packer.pack(
                planned.commit,
                planned.transaction,
                planned.time,
                planned.user,
                planned.first_position,
                planned.event_count,
            )
        )
    return b"".join(parts)
