"""The server: the tasks around an engine, from start to an orderly shutdown.

process.py runs it on a data directory and sockets, and simulation on streams in memory.

    committer        makes commit groups durable, publishes and answers them
    checkpointer     writes committed data to the files, and trims the log
    backups          makes the backups that clients ask for
    archiving        copies the log to the archive
    maintenance      leases, log space, slow unauthenticated connections
    feeds            pushes history of events and keys to feeds that are behind
    group deliveries pushes events to members of consumer groups when they are due
    plain sockets    all connections without TLS
    TLS listener     two tasks for each connection with TLS

At the end the server takes no new connections and transactions. Open transactions get some time to
end, and commits are answered. A last checkpoint leaves nothing for the next start to replay.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property

import structlog
import trio

from headwater_protocol.errors import ShuttingDown
from headwater_server.engine.engine import Engine
from headwater_server.engine.pacing import UNPACED, Pacing
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.net.cluster.cluster import Cluster, ClusterSetup
from headwater_server.net.drivers.plain_sockets import FLUSHES_PER_TURN_MAX, PlainSockets
from headwater_server.net.failures import Failures
from headwater_server.net.monitoring.recorder import Recorder
from headwater_server.net.push.event_source import EventSource
from headwater_server.net.push.feeds import Feeds
from headwater_server.net.push.group_deliveries import GroupDeliveries
from headwater_server.net.push.key_source import KeyRange, KeySource
from headwater_server.net.push.quiet_feeds import QuietFeeds, quiet_seconds
from headwater_server.net.replication.replication import NodeSetup, Replication, lone_node
from headwater_server.net.requests.handlers import HANDLERS, LEASED
from headwater_server.net.requests.leased import leased
from headwater_server.net.service import Handler, Service
from headwater_server.net.settings import ServerSettings
from headwater_server.net.tasks.archiving import Archiving
from headwater_server.net.tasks.backups import Backups
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.tasks.garbage_collection import GarbageCollection
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.tasks.maintenance import Maintenance
from headwater_server.net.tasks.rewriter import Rewriter
from headwater_server.net.tasks.scrubber import Scrubber
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.net.turns import Turn
from headwater_server.storage.wal.offline import begin_files

_log = structlog.get_logger(__name__)

_LOOK_S = 0.01

ARCHIVE_WORKER = "archive"
"""The name of the worker for the archive, whose calls may hang and are then abandoned."""

SHUTDOWN_NOTICE_S_MAX = 1.0
"""Seconds for clients to read their last output at shutdown."""


class Server:
    """An engine's tasks. Call `run`, and call `stop` from another task.

    Attributes:
        service: shared by all sessions; `streams.serve_stream` takes it to serve a stream.
        plain_sockets: takes listening sockets.
        archiving: copies the log to the archive, if there is one.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServerSettings,
        *,
        clock: Callable[[], int],
        worker: Callable[[str], RunBlocking],
        turn_clock: Callable[[], float] = trio.current_time,
        processor_time: Callable[[], float] | None = None,
        adaptive_fsync: AdaptiveFsync | None = None,
        pacing: Pacing = UNPACED,
        garbage_collection: GarbageCollection | None = None,
        local_only: bool = True,
        plain_sockets: Callable[[Service], PlainSockets] = PlainSockets,
        recorder: Recorder | None = None,
        node: NodeSetup | None = None,
        cluster: ClusterSetup | None = None,
    ) -> None:
        """*recorder* measures all requests; None: nobody wants to know.

        *node* says which leader this node follows; None: it leads. *cluster*: it is a node of one.
        """
        self._engine = engine
        self._settings = settings
        self._stopped = trio.Event()
        self._failures = Failures()
        self._garbage_collection = garbage_collection
        self._group_commit = GroupCommit(
            engine.sequencer,
            worker("commit"),
            seal_log=engine.seal_log,
            adaptive_fsync=adaptive_fsync,
            after_publish=self._measured_publish(recorder),
            waiting_size_max=settings.commits_waiting_size_max,
            disk_retry_ms=settings.disk_retry_ms,
            note_log=engine.leadership.note_log,
        )
        self._subscriptions, self._key_feeds = self._open_feeds(settings.session.subscriptions_max)
        self._group_deliveries = self._open_group_deliveries(settings.session.memberships_max)
        self._checkpointer = Checkpointer(
            engine,
            self._group_commit,
            worker("checkpoint"),
            disk_retry_ms=settings.disk_retry_ms,
            pacing=pacing,
        )
        self._rewriter = self._open_rewriter()
        self._backups = self._open_backups(worker("backup"), clock)
        self.service = Service(
            engine,
            settings,
            handlers=_handlers(engine, recorder, in_cluster=cluster is not None),
            clock=clock,
            monotonic=trio.current_time,
            turn_clock=turn_clock,
            processor_time=processor_time,
            group_commit=self._group_commit,
            subscriptions=self._subscriptions,
            key_feeds=self._key_feeds,
            group_deliveries=self._group_deliveries,
            backups=self._backups,
            failures=self._failures,
            local_only=local_only,
        )
        self.service.tells_traces = recorder is not None and recorder.tells
        self.archiving = self._open_archiving(worker)
        self.replication = self._open_replication(node or lone_node(engine), worker, clock)
        self.cluster = self._open_cluster(cluster, worker)
        self.plain_sockets = plain_sockets(self.service)
        self._maintenance = self._open_maintenance(worker("log-space"))

    def _open_rewriter(self) -> Rewriter:
        return Rewriter(
            self._engine,
            self._group_commit,
            self._checkpointer,
            interval_ms=self._settings.maintenance_ms,
            rest_ms=self._settings.rewrite_rest_ms,
        )

    def _open_backups(self, run_blocking: RunBlocking, clock: Callable[[], int]) -> Backups:
        return Backups(
            self._checkpointer,
            run_blocking,
            begin_log=begin_files,
            directory=self._settings.backup_directory,
            clock=clock,
        )

    def _open_archiving(self, worker: Callable[[str], RunBlocking]) -> Archiving | None:
        directory = self._settings.archive_directory
        if directory is None:
            return None
        archiving = Archiving(
            self._engine,
            self._group_commit,
            worker(ARCHIVE_WORKER),
            directory=directory,
            interval_ms=self._settings.archive_interval_ms,
        )
        self.service.figures["archive"] = archiving.figures
        return archiving

    def _open_replication(
        self, node: NodeSetup, worker: Callable[[str], RunBlocking], clock: Callable[[], int]
    ) -> Replication:
        replication = Replication(
            self._engine,
            node,
            group_commit=self._group_commit,
            checkpointer=self._checkpointer,
            worker=worker,
            turn=Turn(self._settings.feeds_turn_ms, trio.current_time),
            clock=clock,
            monotonic=trio.current_time,
            on_applied=self._after_applied,
        )
        self.service.replication = replication
        self.service.figures["replication"] = replication.figures
        return replication

    def _open_cluster(
        self, setup: ClusterSetup | None, worker: Callable[[str], RunBlocking]
    ) -> Cluster | None:
        if setup is None:
            return None
        cluster = Cluster(
            self._engine,
            setup,
            group_commit=self._group_commit,
            worker=worker,
            turn=Turn(self._settings.feeds_turn_ms, trio.current_time),
            on_published=self._after_applied,
        )
        self.replication.cluster = cluster
        self.service.cluster = cluster
        self.service.figures["cluster"] = cluster.figures
        return cluster

    def _open_maintenance(self, run_blocking: RunBlocking) -> Maintenance:
        return Maintenance(
            self.service,
            run_blocking,
            interval_ms=self._settings.maintenance_ms,
            on_tick=self._on_tick,
        )

    def _open_feeds(self, per_session_max: int) -> tuple[Feeds[EventFilter], Feeds[KeyRange]]:
        engine, failures = self._engine, self._failures
        turn = Turn(self._settings.feeds_turn_ms, trio.current_time)
        quiet_s = quiet_seconds(engine.settings.history_window_us)
        events, keys = EventSource(engine), KeySource(engine)
        return (
            Feeds(
                events,
                failures,
                per_session_max=per_session_max,
                turn=turn,
                quiet=QuietFeeds(quiet_s),
            ),
            Feeds(
                keys,
                failures,
                per_session_max=per_session_max,
                turn=turn,
                quiet=QuietFeeds(quiet_s),
            ),
        )

    def _open_group_deliveries(self, per_session_max: int) -> GroupDeliveries:
        return GroupDeliveries(
            self._engine,
            self._group_commit,
            self._failures,
            per_session_max=per_session_max,
            turn=Turn(self._settings.feeds_turn_ms, trio.current_time),
        )

    @cached_property
    def scrubber(self) -> Scrubber | None:
        """The task that reads all files again, if there is one."""
        if self._settings.scrub_interval_ms is None:
            return None
        return Scrubber(
            self._engine.state,
            interval_ms=self._settings.scrub_interval_ms,
            clock=self.service.clock,
            source=random.Random(),
        )

    @property
    def _tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        archiving = {} if self.archiving is None else {"the archive": self.archiving.run}
        scrubbing = {} if self.scrubber is None else {"the scrub": self.scrubber.run}
        return {
            **archiving,
            **scrubbing,
            "the group commit": self._group_commit.run,
            "the confirmations of followers": self._group_commit.confirm,
            "the checkpointer": self._checkpointer.run,
            "the rewriter": self._rewriter.run,
            "the backups": self._backups.run,
            "the maintenance": self._maintenance.run,
            "the subscriptions": self._subscriptions.run,
            "the feeds of keys": self._key_feeds.run,
            "the consumer groups": self._group_deliveries.run,
            "the connections": self.plain_sockets.run,
            **self.replication.tasks,
            **({} if self.cluster is None else self.cluster.tasks),
        }

    @property
    def checkpointer(self) -> Checkpointer:
        """The task that makes checkpoints."""
        return self._checkpointer

    def _on_tick(self) -> None:
        self.plain_sockets.resume_accepting()
        self._checkpointer.tick()
        self.replication.tick()
        parting = self.replication.parting()
        if parting is not None:
            for session in list(self.service.sessions):
                session.end(parting)
        if self.archiving is not None:
            self.archiving.tick()
        if self._garbage_collection is not None:
            self._garbage_collection.tick(checkpoint_runs=self._engine.checkpoints.running)

    def _after_publish(self) -> None:
        if self._subscriptions.count:
            self._subscriptions.published()
        if self._key_feeds.count:
            self._key_feeds.published()
        if self._engine.groups.active:
            self._group_deliveries.published()
        self._checkpointer.published()
        self._maintenance.look_at_expiry()
        if self.replication.commit_waits.waits:
            self.replication.commit_waits.published()
        if self.cluster is not None:
            self.cluster.published()
        if self._group_commit.written_size >= self._maintenance.look_at_size:
            self._maintenance.published()
        # Send the group's answers here: a task switch would delay them.
        if self.plain_sockets.to_flush:
            self.plain_sockets.flush(FLUSHES_PER_TURN_MAX)

    def _measured_publish(self, recorder: Recorder | None) -> Callable[[], None]:
        if recorder is None:
            return self._after_publish
        return recorder.after(self._after_publish, self._engine.sequencer)

    def _after_applied(self) -> None:
        """Entries of the leader were applied and published."""
        applier = self._engine.applier
        if applier.accounts_changed:
            applier.accounts_changed = False
            self.service.account_changes.applied_by_leader()
        self._after_publish()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` has finished.

        Raises:
            CommitFailed, CheckpointFailed: in an exception group; the process must end.
            Exception: the same, after a bug.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._failures.run)
                for what, task in self._tasks.items():
                    nursery.start_soon(self._failures.guard, task, what)
                task_status.started()
                await self._stopped.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.plain_sockets.close()
            self.service.audit.close()

    async def stop(self, *, hurry: trio.Event | None = None) -> None:
        """Shut down in order; *hurry* cuts the waiting for clients short."""
        self.service.stopping = True
        self._backups.stop()
        self.replication.stop()
        if self.cluster is not None:
            self.cluster.stop()
        self.plain_sockets.stop_accepting()
        sessions = self.service.sessions
        _log.info("stopping", connections=len(sessions))
        async with trio.open_nursery() as nursery:
            if hurry is not None:
                nursery.start_soon(_cancel_on, hurry, nursery.cancel_scope)
            with trio.move_on_after(self._settings.shutdown_ms_max / 1000) as grace:
                # Poll: an event would have to be maintained for the server's whole life.
                while any(map(self._engine.open_count, sessions)):  # noqa: ASYNC110
                    await trio.sleep(_LOOK_S)
                await self._group_commit.drain()
            if grace.cancelled_caught:
                _log.warning("stopping: transactions are still open", connections=len(sessions))
            await self._send_shutdown_notice()
            nursery.cancel_scope.cancel()
        if self._group_commit.log_is_silent:
            # What is not stored is unknown to its clients, and decided after the restart.
            _log.warning("stopping: the log does not answer")
            self._group_commit.abandon()
            self._stopped.set()
            return
        await self._checkpointer.checkpoint(wait_for_room=False)
        # Once sealed, damage to the newest group cannot be mistaken for a torn write.
        self._group_commit.seal()
        await self._group_commit.drain()
        if self.archiving is not None:
            await self.archiving.finish()
        if self.cluster is not None:
            await self.cluster.finish()
        self._stopped.set()

    async def _send_shutdown_notice(self) -> None:
        error = ShuttingDown("the server is shutting down; connect again later")
        for session in self.service.sessions:
            for channel in list(session.feeds.values()):
                channel.owner.end(channel, error)
            session.end(error)
        with trio.move_on_after(SHUTDOWN_NOTICE_S_MAX):
            while any(s.output_size for s in self.service.sessions):  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)


def _handlers(
    engine: Engine, recorder: Recorder | None, *, in_cluster: bool
) -> Mapping[str, Handler]:
    handlers = leased(HANDLERS, LEASED) if in_cluster else HANDLERS
    return handlers if recorder is None else recorder.timed(handlers, engine.sequencer)


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
