"""Settings of the engine, each with its unit and its reason."""

from dataclasses import dataclass
from typing import Final

SECOND_US: Final = 1_000_000
HOUR_US: Final = 3600 * SECOND_US
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How an engine keeps its data. Every value has a default that a small server can bear."""

    history_window_us: int = HOUR_US
    """How far back, in microseconds, every commit can still be read."""

    transaction_retention_us: int = 7 * 24 * HOUR_US
    """How long the fate of a transaction is remembered: a client that comes back later than
    this with a commit of unknown fate gets "forgotten"."""

    clock_jump_us_max: int = 300 * SECOND_US
    """By how many microseconds the wall clock may be off from what a monotonic clock expects.
    Beyond that it is not believed: one wrong date would last in the log for as long."""

    snapshots_kept: int = 2
    """Snapshots kept of each stream, name and schema. The one before the newest serves readers
    of the past; older ones only save them time."""

    memtable_size_max: int = 32 * MIB
    """Estimated bytes of the memtable at which a checkpoint is due. Three times as much may stand
    in memory at once, in the frozen and the active one, before writers wait for the checkpoint."""

    memtable_commits_max: int = 24_000
    """Commits in the memtable at which a checkpoint is due. It bounds the replay after a crash:
    three times as many, in the frozen and the active one, take a quarter of a second."""

    transactions_max: int = 10_000
    """Open transactions. Each holds a read view, which keeps old versions alive."""

    transactions_size_max: int = 256 * MIB
    """Bytes that all open transactions together may hold, as buffered writes and read sets."""

    transaction_idle_us_max: int = 60 * SECOND_US
    """How long a transaction may wait for its client's next word before it is rolled back."""

    transaction_age_us_max: int = HOUR_US
    """How long a transaction may stay open at all: its read view pins versions."""

    read_set_size_max: int = 100_000
    """Keys, ranges, streams and queries that a serializable transaction may have read."""

    examined_events_max: int = 20_000
    """Events that one page of a filtered read may look at before it answers `more`: bounds how
    long one request can hold up the others."""

    garbage_entries_max: int = 200_000
    """Superseded versions that one checkpoint looks at."""

    event_segment_size: int = 64 * MIB
    """Bytes of a segment of the event log: what is written anew at a time."""

    rewrite_dead_share: float = 0.25
    """Share of a segment's bytes that must be of events that nobody can read before it is written
    anew. Lower gives room back sooner, and copies more for it."""

    disk_reserve_size: int = 96 * MIB
    """Free bytes of the disk below which the engine turns read-only: a checkpoint must always
    be able to finish."""
