"""Settings of the engine, each with its unit and its reason."""

from dataclasses import dataclass
from typing import Final

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine keeps its data. The defaults suit a small server."""

    history_window_us: int = HOUR_US
    """How far back, in microseconds, every commit can still be read."""

    transaction_retention_us: int = 7 * 24 * HOUR_US
    """How long the status of a transaction is remembered. A client that asks later about a commit
    of unknown outcome gets "forgotten"."""

    clock_jump_us_max: int = 300 * SECOND_US
    """How far, in microseconds, the wall clock may differ from what a monotonic clock expects. A
    greater difference is rejected, because a wrong time would stay in the log just as long."""

    snapshots_kept: int = 2
    """Snapshots kept of each stream, name and schema. The second newest serves reads of the past;
    older ones would only save time. 0: all are kept, so that any past version loads fast."""

    memtable_size_max: int = 32 * MIB
    """Estimated bytes of the memtable at which a checkpoint is due. The frozen and the active
    memtable together may hold three times as much before writers wait for the checkpoint."""

    memtable_commits_max: int = 24_000
    """Commits in the memtable at which a checkpoint is due. This bounds the replay after a crash:
    three times as many, in the frozen and the active memtable, take a quarter of a second."""

    checkpoint_age_us_max: int = 60 * SECOND_US
    """How long a commit may stay in the memtable. Only a checkpoint removes old versions and hidden
    events from the disk. At one commit a second, 24,000 commits take 7 hours."""

    transactions_max: int = 10_000
    """Open transactions. Each holds a read view, which keeps old versions alive."""

    transactions_size_max: int = 256 * MIB
    """Bytes of buffered writes and read sets of all open transactions together."""

    transaction_idle_us_max: int = 60 * SECOND_US
    """How long a transaction may wait for its client's next request before it is rolled back."""

    transaction_age_us_max: int = HOUR_US
    """How long a transaction may stay open, because its read view pins versions."""

    read_set_size_max: int = 100_000
    """Keys, ranges, streams and queries that a serializable transaction may have read."""

    examined_events_max: int = 5_000
    """Events that one page of a filtered read may examine before it answers `more`; of indexes,
    four times as many entries. This bounds how long one request can delay the others: 20 ms."""

    step_events_max: int = 1_000
    """The same for a step of a subscription or a consumer group, which goes on by itself."""

    garbage_entries_max: int = 200_000
    """Superseded versions that one checkpoint examines."""

    event_segment_size: int = 64 * MIB
    """Bytes of a segment of the event log, which is the unit of rewriting."""

    rewrite_dead_share: float = 0.25
    """Share of unreadable events in a segment's bytes above which the segment is rewritten. A lower
    share frees space sooner but copies more."""

    disk_reserve_size: int = 96 * MIB
    """Free bytes on disk below which the engine becomes read-only, so that a checkpoint can always
    finish."""

    log_kept_size_max: int = 256 * MIB
    """Bytes of the write-ahead log above which entries are not kept for a reader that is behind. A
    follower that was away for longer begins again from a copy of the database, and an archive has
    a gap. A restart reads the whole log."""
