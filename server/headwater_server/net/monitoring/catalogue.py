"""The catalogue: every metric, its kind, its labels and what it says.

docs/metrics.md is written from here: `python -m tests.metrics_page`. Names follow the conventions
of Prometheus: base units, `_total` for counters. `operation` and `error_type` are what
OpenTelemetry calls db.operation.name and error.type.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

PREFIX: Final = "headwater_"

GROUPS_SHOWN_MAX: Final = 200
"""Consumer groups with metrics of their own, the first in order of name: a series costs memory in
every system that stores it. `headwater_groups` counts all."""

PROJECTIONS_SHOWN_MAX: Final = 200
"""Projections with metrics of their own, the first in order of name."""


class Kind(Enum):
    """The kind of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: without the prefix, and for a counter without `_total`.
        what: it says.
    """

    name: str
    kind: Kind
    what: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """The name as it is scraped."""
        return PREFIX + self.name + ("_total" if self.kind is Kind.COUNTER else "")


def _counter(name: str, what: str, *labels: str) -> Metric:
    return Metric(name, Kind.COUNTER, what, labels)


def _gauge(name: str, what: str, *labels: str) -> Metric:
    return Metric(name, Kind.GAUGE, what, labels)


def _histogram(name: str, what: str, *labels: str) -> Metric:
    return Metric(name, Kind.HISTOGRAM, what, labels)


CATALOGUE: Final[dict[str, tuple[Metric, ...]]] = {
    "The server": (
        _gauge("server_info", "Always 1; its label is the version of the server.", "version"),
        _gauge("ready", "1 if the server is ready, as /readyz says; else 0."),
        _gauge("read_only", "1 if nothing can be written, for example because the disk is full."),
        _gauge(
            "clock_offset_seconds",
            "How far a wall clock that jumped, and is ignored, is ahead (negative: behind).",
        ),
        _gauge("users", "Users of the database."),
    ),
    "Requests": (
        _histogram(
            "operation_duration_seconds",
            "From the beginning of a request to its answer, which for a commit includes the wait "
            "for its fsync. Only operations that were called have series.",
            "operation",
        ),
        _counter(
            "operations_failed",
            "Requests that failed, by error code. A commit that is refused when it is planned "
            "counts in headwater_commits_refused_total instead.",
            "operation",
            "error_type",
        ),
        _gauge("operations_waiting", "Requests whose answers wait for an fsync."),
    ),
    "Commits and transactions": (
        _counter("commits", "Commits since the database was created."),
        _counter("events", "Events since the database was created."),
        _counter("commits_refused", "Commits that were refused, by error code.", "error_type"),
        _counter(
            "conflicts",
            "What commits were refused for: read-write, write-write, expected version, condition.",
            "kind",
        ),
        _counter(
            "transactions_aborted",
            "Transactions that were ended by the server: fenced by a status request, expired after "
            "being idle or open for too long, or lost with their connection.",
            "reason",
        ),
        _gauge("transactions_open", "Open transactions."),
        _gauge("transaction_oldest_age_seconds", "Age of the oldest open transaction; 0: none."),
    ),
    "History": (
        _gauge("oldest_readable_commit", "The history horizon: the oldest commit to read at."),
        _gauge("history_commits", "Commits that can be read at: the newest minus the horizon."),
        _gauge(
            "oldest_view_lag_commits",
            "How many commits the oldest open transaction keeps the versions of. The label is its "
            "user, without users empty; `headwater stats` names its connection.",
            "user",
        ),
    ),
    "Group commit and the write-ahead log": (
        _histogram("commit_group_records", "Records that shared one write and one fsync."),
        _histogram(
            "wal_fsync_duration_seconds",
            "Duration of the fsyncs of groups, by where they were made: event_loop or thread.",
            "where",
        ),
        _gauge("wal_fsync_on_event_loop", "1 while fsync is fast enough for the event loop."),
        _counter("wal_written_bytes", "Bytes of records written to the write-ahead log."),
        _gauge("wal_size_bytes", "Size of the write-ahead log, without space made in advance."),
        _gauge("commits_waiting_bytes", "Bytes of commits and results that wait for an fsync."),
    ),
    "Files and memory": (
        _gauge("event_log_size_bytes", "Size of the event log."),
        _gauge("commit_log_size_bytes", "Size of the commit log."),
        _gauge("state_size_bytes", "Size of the files of the state store."),
        _gauge("state_cache_bytes", "Memory of the block cache of the state store."),
        _gauge("state_keys", "Entries of the state store, estimated."),
        _gauge("memtable_size_bytes", "Size of the memtable that takes the commits."),
        _gauge("memtable_commits", "Commits in that memtable."),
        _gauge("disk_free_bytes", "Free space on the disk of the data directory."),
    ),
    "Checkpoints": (
        _counter("checkpoints", "Checkpoints since the start of the server."),
        _histogram("checkpoint_duration_seconds", "Duration of checkpoints."),
        _gauge("checkpoint_running", "1 while a checkpoint runs."),
        _gauge("checkpoint_lag_commits", "Commits that only the log has: a restart replays them."),
        _gauge("checkpoint_holds_writers", "1 while commits wait for a checkpoint."),
    ),
    "Connections": (
        _gauge("connections", "Open connections."),
        _gauge("connections_max", "How many may be open."),
        _counter("connections_opened", "Connections since the start of the server."),
        _counter("connections_refused", "Connections that were refused.", "error_type"),
        _gauge("connection_memory_bytes", "Memory of unserved requests and unread answers."),
        _gauge("connection_memory_max_bytes", "How much of that memory there is."),
        _counter("logins_failed", "Log-ins that failed since the start of the server."),
    ),
    "Subscriptions": (
        _gauge("subscriptions", "Open subscriptions, to events or to keys.", "kind"),
        _gauge("subscriptions_behind", "Those that are not at the newest position.", "kind"),
    ),
    "Consumer groups": (
        _gauge("groups", "Consumer groups."),
        _gauge(
            "group_lag_positions",
            "Positions between a group and the newest event. Events that the group does not want "
            "count too, as long as it has not passed them.",
            "group",
        ),
        _gauge("group_members", "Members of a group.", "group"),
        _gauge("group_in_flight", "Events that are with members.", "group"),
        _gauge("group_retrying", "Events that wait to be tried again.", "group"),
        _gauge("group_parked", "Parked events; beyond 1,000, at least so many.", "group"),
    ),
    "Projections": (
        _gauge("projections", "Projections that have stored their progress."),
        _gauge(
            "projection_lag_positions",
            "Positions between what readers of a projection see and the newest event.",
            "projection",
        ),
        _gauge("projection_parked_streams", "Streams with a failed event.", "projection"),
    ),
    "Backups": (
        _counter("backups", "Backups since the start, by outcome: made or failed.", "outcome"),
        _gauge("backup_running", "1 while a backup runs."),
        _gauge(
            "backup_last_success_timestamp_seconds",
            "When the last backup since the start of the server was finished; 0: none was.",
        ),
        _gauge("backup_last_size_bytes", "Size of that backup."),
        _gauge("backup_last_duration_seconds", "How long that backup took."),
    ),
    "Archive": (
        _gauge("archive_enabled", "1 if the server has an archive."),
        _gauge("archive_failing", "1 while the log cannot be archived; raise an alarm."),
        _gauge(
            "archive_behind_seconds",
            "How long some commits have been on the server's disk alone; 0: none is.",
        ),
        _gauge("archive_behind_entries", "Entries of the log that are not archived yet."),
        _counter("archive_pieces", "Pieces that were written to the archive since the start."),
    ),
    "Damage": (
        _counter("damage_met", "Requests that failed because a file is damaged."),
        _gauge("scrub_damage", "Damaged places that the background scrub has found."),
        _counter("scrub_passes", "How often the scrub has read everything since the start."),
        _gauge("scrub_progress_ratio", "Share of the present pass of the scrub that is done."),
        _gauge(
            "scrub_last_timestamp_seconds",
            "When the scrub had last read everything since the start; 0: not yet.",
        ),
    ),
}
"""All metrics, by subject."""

METRICS: Final = {metric.name: metric for metrics in CATALOGUE.values() for metric in metrics}
"""All metrics, by name."""

PAGES: Final[dict[str, str]] = {
    "/metrics": "All metrics, in the text format of Prometheus or, if asked for, OpenMetrics.",
    "/healthz": "200 while the process serves; 503 once it failed and is about to end.",
    "/readyz": "200 if the server is ready for every request; else 503, with the reasons.",
}
"""What each page of the HTTP server is for."""
