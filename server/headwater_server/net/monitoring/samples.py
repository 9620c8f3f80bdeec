"""The samples: what every metric of the catalogue says now. Collected when somebody asks.

Each function has the samples of one subject. A sample is the name of a metric, the values of its
labels and a number; for a histogram, the histogram.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from headwater_protocol.errors import HeadwaterError
from headwater_server.net.histograms import Histogram
from headwater_server.net.monitoring.catalogue import GROUPS_SHOWN_MAX, PROJECTIONS_SHOWN_MAX
from headwater_server.net.monitoring.fsyncs import FsyncDurations
from headwater_server.net.monitoring.projections import projection_figures
from headwater_server.net.monitoring.readiness import Readiness
from headwater_server.net.monitoring.recorder import Recorder
from headwater_server.net.service import Service
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.tasks.scrubber import Scrubber
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync

Sample = tuple[str, tuple[str, ...], float | Histogram]

_US: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the samples come from.

    Attributes:
        fsyncs: None if the server does not measure them.
    """

    service: Service
    checkpointer: Checkpointer
    recorder: Recorder
    readiness: Readiness
    adaptive_fsync: AdaptiveFsync | None = None
    fsyncs: FsyncDurations | None = None
    scrubber: Scrubber | None = None


def collect(sources: Sources) -> Iterator[Sample]:
    """All samples."""
    yield from _server(sources)
    yield from _requests(sources.recorder)
    yield from _transactions(sources.service)
    yield from _group_commit(sources)
    yield from _files(sources.service)
    yield from _checkpoints(sources)
    yield from _connections(sources.service)
    yield from _groups(sources.service)
    yield from _projections(sources.service)
    yield from _backups(sources.service)
    yield from _archive(sources.service)
    yield from _scrub(sources.scrubber)


def _server(sources: Sources) -> Iterator[Sample]:
    service = sources.service
    yield "server_info", (service.server_name,), 1
    yield "ready", (), not sources.readiness.reasons()
    yield "read_only", (), service.engine.read_only_reason is not None
    yield "clock_offset_seconds", (), service.engine.clock_offset_us / _US
    yield "users", (), len(service.engine.accounts.names())


def _requests(recorder: Recorder) -> Iterator[Sample]:
    for operation, histogram in recorder.operations.items():
        if histogram.count:
            yield "operation_duration_seconds", (operation,), histogram
    for (operation, code), count in recorder.failed.items():
        yield "operations_failed", (operation, code), count
    damaged = sum(count for (_, code), count in recorder.failed.items() if code == "damaged_file")
    yield "damage_met", (), damaged
    yield "operations_waiting", (), recorder.waiting


def _transactions(service: Service) -> Iterator[Sample]:
    engine = service.engine
    sequencer, opened = engine.sequencer, engine.open_transactions
    yield "commits", (), engine.published
    yield "events", (), engine.published_position
    for code, count in sequencer.refusals.codes.items():
        yield "commits_refused", (code,), count
    for kind, count in sequencer.refusals.kinds.items():
        yield "conflicts", (kind,), count
    yield "transactions_aborted", ("fenced",), sequencer.fenced
    yield "transactions_aborted", ("expired",), opened.expired
    yield "transactions_aborted", ("connection lost",), opened.lost
    yield "transactions_open", (), len(opened)
    now = service.clock()
    ages = [now - transaction.begun for transaction in opened]
    yield "transaction_oldest_age_seconds", (), max(ages, default=0) / _US
    yield "oldest_readable_commit", (), engine.oldest_readable
    yield "history_commits", (), engine.published - engine.oldest_readable
    oldest = min(opened, key=lambda transaction: transaction.view, default=None)
    if oldest is not None:
        # The owner is a session, which has a user.
        user = str(getattr(oldest.owner, "user", ""))
        yield "oldest_view_lag_commits", (user,), engine.published - oldest.view


def _group_commit(sources: Sources) -> Iterator[Sample]:
    group_commit = sources.service.group_commit
    yield "commit_group_records", (), sources.recorder.groups
    if sources.fsyncs is not None:
        yield "wal_fsync_duration_seconds", ("event_loop",), sources.fsyncs.on_event_loop
        yield "wal_fsync_duration_seconds", ("thread",), sources.fsyncs.in_thread
    adaptive = sources.adaptive_fsync
    yield "wal_fsync_on_event_loop", (), adaptive is not None and adaptive.on_event_loop
    yield "wal_written_bytes", (), group_commit.written_size
    yield "commits_waiting_bytes", (), group_commit.waiting_size


def _files(service: Service) -> Iterator[Sample]:
    figures = service.engine.stats()
    yield "wal_size_bytes", (), figures["log_size"]
    yield "event_log_size_bytes", (), figures["event_log_size"]
    yield "commit_log_size_bytes", (), figures["commit_log_size"]
    yield "state_size_bytes", (), figures["store_sizes"].get("file_bytes", 0)
    yield "state_cache_bytes", (), figures["store_sizes"].get("cache_bytes", 0)
    yield "state_keys", (), figures["store_sizes"].get("keys", 0)
    yield "memtable_size_bytes", (), figures["memtable_size"]
    yield "memtable_commits", (), figures["memtable_commits"]
    yield "disk_free_bytes", (), service.engine.room.free_size
    yield "checkpoint_lag_commits", (), figures["commit"] - figures["checkpoint_commit"]
    yield "checkpoint_running", (), figures["checkpoint_running"]
    yield "checkpoints", (), figures["checkpoints"]


def _checkpoints(sources: Sources) -> Iterator[Sample]:
    yield "checkpoint_duration_seconds", (), sources.checkpointer.durations
    yield "checkpoint_holds_writers", (), sources.service.group_commit.held


def _connections(service: Service) -> Iterator[Sample]:
    yield "connections", (), len(service.sessions)
    yield "connections_max", (), service.settings.connections_max
    yield "connections_opened", (), service.connections_total
    for code, count in service.refused.items():
        yield "connections_refused", (code,), count
    yield "connection_memory_bytes", (), service.memory_budget.used
    yield "connection_memory_max_bytes", (), service.memory_budget.size_max
    yield "logins_failed", (), service.authentication.failed_total
    for kind, feeds in (("events", service.subscriptions), ("keys", service.key_feeds)):
        yield "subscriptions", (kind,), feeds.count
        yield "subscriptions_behind", (kind,), feeds.count - feeds.live_count


def _groups(service: Service) -> Iterator[Sample]:
    count, rows = service.engine.groups.figures(GROUPS_SHOWN_MAX)
    yield "groups", (), count
    newest = service.engine.published_position
    for name, figures in rows:
        yield "group_lag_positions", (name,), max(0, newest - figures["position"])
        for member in ("members", "in_flight", "retrying", "parked"):
            yield f"group_{member}", (name,), figures[member]


def _projections(service: Service) -> Iterator[Sample]:
    try:
        rows = projection_figures(service.engine, PROJECTIONS_SHOWN_MAX)
    except (HeadwaterError, OSError):
        # Their keys cannot be read. The other metrics may tell why.
        return
    newest = service.engine.published_position
    yield "projections", (), len(rows)
    for name, position, parked in rows:
        yield "projection_lag_positions", (name,), max(0, newest - position)
        yield "projection_parked_streams", (name,), parked


def _archive(service: Service) -> Iterator[Sample]:
    tell = service.figures.get("archive")
    told = {} if tell is None else tell()
    yield "archive_enabled", (), tell is not None
    yield "archive_failing", (), told.get("failure") is not None
    yield "archive_behind_seconds", (), told.get("behind_s", 0)
    yield "archive_behind_entries", (), told.get("entries_behind", 0)
    yield "archive_pieces", (), told.get("pieces", 0)


def _scrub(scrubber: Scrubber | None) -> Iterator[Sample]:
    if scrubber is not None:
        yield "scrub_damage", (), scrubber.damage
        yield "scrub_passes", (), scrubber.passes
        yield "scrub_progress_ratio", (), scrubber.progress
        yield "scrub_last_timestamp_seconds", (), scrubber.ended / _US


def _backups(service: Service) -> Iterator[Sample]:
    backups = service.backups
    yield "backups", ("made",), backups.made
    yield "backups", ("failed",), backups.failed
    yield "backup_running", (), backups.running
    last = backups.last
    yield "backup_last_success_timestamp_seconds", (), 0 if last is None else last.time / _US
    yield "backup_last_size_bytes", (), 0 if last is None else last.size
    yield "backup_last_duration_seconds", (), 0 if last is None else last.seconds
