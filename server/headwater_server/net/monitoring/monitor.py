"""The monitor: what of monitoring a process runs, as its settings say.

    --http             the pages of metrics, health and readiness, from before the log is replayed
    --slow-request     the log of slow requests
    --spans            spans of the requests that belong to a trace

Without any of these there is no recorder, so the server measures no requests.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import structlog
import trio

from headwater_server.net.drivers.listening import bind_tcp, is_local, name_of
from headwater_server.net.monitoring.fsyncs import FsyncDurations
from headwater_server.net.monitoring.http import HttpServer, Page, Response, json_response
from headwater_server.net.monitoring.readiness import Readiness
from headwater_server.net.monitoring.recorder import Recorder
from headwater_server.net.monitoring.samples import Sample, Sources, collect
from headwater_server.net.monitoring.slow_requests import SlowRequests
from headwater_server.net.monitoring.spans import Spans
from headwater_server.net.service import Service
from headwater_server.net.settings import ServerSettings
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.tasks.scrubber import Scrubber
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync

_log = structlog.get_logger(__name__)

_NS_PER_MS: Final = 1_000_000
_BACKLOG: Final = 16

Timed = Callable[[Callable[[], None]], None]


class Monitor:
    """The monitoring of one process.

    Attributes:
        recorder: what the server is to measure; None: nothing.
        timed: makes the fsyncs of commit groups.
        readiness: of the server.
        adaptive_fsync: decides where fsyncs are made.
    """

    def __init__(self, settings: ServerSettings, adaptive_fsync: AdaptiveFsync) -> None:
        """Bind the address of the pages.

        Raises:
            CannotListen: see the message.
            InvalidArgument: spans are wanted, and OpenTelemetry's API is not installed.
        """
        self.adaptive_fsync = adaptive_fsync
        self._fsyncs: FsyncDurations | None = None
        self._sources: Sources | None = None
        self.readiness = Readiness()
        self.recorder: Recorder | None = None
        self.timed: Timed = adaptive_fsync.timed
        self._sockets = [] if settings.http is None else bind_tcp(settings.http)
        slow_ms = settings.slow_request_ms
        clock = time.perf_counter_ns
        spans = Spans() if settings.spans else None
        if slow_ms is not None or spans is not None or self._sockets:
            self.recorder = Recorder(
                clock,
                slow_ns_min=None if slow_ms is None else slow_ms * _NS_PER_MS,
                on_slow=None if slow_ms is None else SlowRequests(time.monotonic).tell,
                on_traced=None if spans is None else spans.tell,
            )
        if self._sockets:
            self._fsyncs = FsyncDurations(adaptive_fsync, clock)
            self.timed = self._fsyncs.timed

    def close(self) -> None:
        """Close the sockets."""
        for listener in self._sockets:
            listener.close()

    def watch(
        self, service: Service, checkpointer: Checkpointer, scrubber: Scrubber | None = None
    ) -> None:
        """The server runs: tell what it does."""
        self.readiness.service = service
        if self.recorder is not None:
            self._sources = Sources(
                service,
                checkpointer,
                self.recorder,
                self.readiness,
                self.adaptive_fsync,
                self._fsyncs,
                scrubber,
            )

    @property
    def has_pages(self) -> bool:
        """Whether `run` serves pages."""
        return bool(self._sockets)

    async def run(self) -> None:
        """Serve the pages until cancelled."""
        for listener in self._sockets:
            listener.listen(_BACKLOG)
        addresses = [name_of(listener) for listener in self._sockets]
        _log.info("pages of monitoring", addresses=addresses)
        if not all(map(is_local, self._sockets)):
            _log.warning(
                "other machines can reach the pages of monitoring; they are plain HTTP without "
                "log-in, and name operations, users, groups and projections",
                addresses=addresses,
            )
        server = HttpServer(self.pages())
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(s)) for s in self._sockets]
        await trio.serve_listeners(server.serve, listeners)

    def pages(self, monotonic: Callable[[], float] = time.monotonic) -> Mapping[str, Page]:
        """The pages, by path."""
        # Imported only here: a server without pages need not load it.
        from headwater_server.net.monitoring.exposition import Scrapes

        return {
            "/metrics": Scrapes(self._samples, monotonic).page,
            "/healthz": partial(_told, self.readiness.healthy),
            "/readyz": partial(_told, self.readiness.ready),
        }

    def _samples(self) -> Iterable[Sample]:
        if self._sources is None:
            return [("ready", (), 0)]
        return collect(self._sources)


def _told(state: Callable[[], tuple[bool, dict[str, object]]], _accept: str) -> Response:
    good, content = state()
    return json_response(200 if good else 503, content)
