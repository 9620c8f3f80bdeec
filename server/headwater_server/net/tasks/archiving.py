"""Archiving: copies the log to the archive every few seconds, beside everything else.

    maintenance, once a second -> is it due?  -> copy all that is durable    in a thread of its own
                                                 say up to where the log may be trimmed

A copy is due when the interval has passed and there are new entries, or when a segment's worth of
bytes was written since the last one. So the loss of the disk loses the commits of one interval, and
of the time that a copy takes.

The archive is never in the way of the database. If it is away or full, or if another server has
taken it, commits go on, the log is kept up to a bound, an alarm is logged, and `stats` tells. The
copy is tried again at each interval, and catches up. A call that hangs, as on a network file system
whose server is gone, is waited for by this task alone; the server stops without it.
"""

from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import (
    DirectoryInUse,
    FormatTooNew,
    HeadwaterError,
    InvalidArgument,
)
from headwater_server.engine.archive.archiver import Begun
from headwater_server.engine.engine import Engine
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.archive.directory import ArchiveLost
from headwater_server.storage.archive.piece import PIECE_SIZE

_log = structlog.get_logger(__name__)

READER: Final = "archive"
"""The name of the archive among the readers of the log."""

ALARM_S: Final = 60.0
"""Seconds between two alarms for the same trouble."""

BEGIN_S_MAX: Final = 10.0
"""Seconds that a start waits for the archive. After that it counts as away."""

END_S_MAX: Final = 2.0
"""Seconds that a stop waits for the last copy. Container runtimes kill after 10 seconds, and the
last checkpoint needs some of them."""


class Archiving:
    """The task that archives the log.

    Attributes:
        failure: why the last copy failed, or None.
    """

    def __init__(
        self,
        engine: Engine,
        group_commit: GroupCommit,
        run_blocking: RunBlocking,
        *,
        directory: str,
        interval_ms: int,
    ) -> None:
        self.failure: str | None = None
        self._log_of_engine = engine.archived.log
        self._readers = engine.checkpoints.readers
        self._archiver = engine.archived.archiver(directory, begun=self._begun)
        self._group_commit = group_commit
        self._run_blocking = run_blocking
        self._interval_s = interval_ms / 1000
        self._due = trio.lowlevel.ParkingLot()
        self._one_at_a_time = trio.Lock()
        self._complete_at = trio.current_time()
        self._tried_at = float("-inf")
        self._written_size = 0
        self._alarm_at = float("-inf")
        self._kept = True
        # Before the archive was ever seen, it needs all that is left of the log.
        self._readers.note(READER, engine.archived.before_first)

    async def begin(self) -> None:
        """Look at the archive before the server takes connections.

        Raises:
            InvalidArgument: it is the archive of another database, or something else.
            DirectoryInUse: another server writes to it.
            FormatTooNew: a newer version made it.
        """
        try:
            with trio.fail_after(BEGIN_S_MAX):
                await self._run_blocking(self._archiver.connect)
        except (InvalidArgument, DirectoryInUse, FormatTooNew):
            raise
        except trio.TooSlowError:
            self._failed(f"{self._archiver.path} does not answer")
        except (OSError, HeadwaterError, ArchiveLost) as error:
            self._failed(str(error))

    def tick(self) -> None:
        """Look whether a copy is due; once a second."""
        now = trio.current_time()
        if self._kept and not self._readers.knows(READER):
            self._kept = False
            _log.error(
                "the log was trimmed before it was archived: the archive has a gap from here on, "
                "make a backup when it is back",
                path=self._archiver.path,
                archived=self._archiver.commit,
            )
        if self._is_behind:
            written = self._group_commit.written_size - self._written_size
            if now - self._tried_at >= self._interval_s or written >= PIECE_SIZE:
                self._due.unpark()
        elif self.failure is None:
            self._complete_at = now

    @property
    def _is_behind(self) -> bool:
        return self._log_of_engine.last_index > self._archiver.archived

    async def run(self) -> None:
        """Copy the log when it is due, until cancelled."""
        try:
            while True:
                await self._due.park()
                await self._copy()
        finally:
            self._archiver.close()

    async def finish(self) -> None:
        """Copy what is left, at the end of the server; give up after some seconds."""
        with trio.move_on_after(END_S_MAX) as waiting:
            await self._copy()
        if waiting.cancelled_caught or self.failure is not None:
            _log.warning(
                "stopped before all was archived; the next start goes on",
                path=self._archiver.path,
                archived=self._archiver.commit,
            )

    async def _copy(self) -> None:
        async with self._one_at_a_time:
            self._tried_at = trio.current_time()
            self._written_size = self._group_commit.written_size
            try:
                await self._run_blocking(self._archiver.archive)
            except (OSError, HeadwaterError, ArchiveLost) as error:
                # Also an archive of another database, if that came in place of ours.
                self._failed(str(error))
                return
            self._complete_at = trio.current_time()
            self._readers.note(READER, self._archiver.archived)
            self._kept = True
            if self.failure is not None:
                self.failure = None
                self._alarm_at = float("-inf")
                _log.info(
                    "the log is archived again",
                    path=self._archiver.path,
                    commit=self._archiver.commit,
                )

    def _failed(self, reason: str) -> None:
        now = trio.current_time()
        self.failure = reason
        if now >= self._alarm_at:
            self._alarm_at = now + ALARM_S
            _log.error(
                "the log is not archived",
                path=self._archiver.path,
                reason=reason,
                behind_s=round(now - self._complete_at, 1),
                log_size=self._log_of_engine.size,
            )

    def _begun(self, begun: Begun) -> None:
        """A timeline was begun; called in the thread of the copy."""
        if begun.needs_backup:
            _log.warning(
                "the archive begins later than the database: make a backup now, since only "
                "backups from here on can be restored to later commits",
                path=self._archiver.path,
                timeline=begun.timeline,
                after_commit=begun.commit,
            )
        else:
            _log.info("archiving", path=self._archiver.path, timeline=begun.timeline)

    def figures(self) -> dict[str, Any]:
        """Figures for `stats`."""
        behind_s = trio.current_time() - self._complete_at
        return {
            "path": self._archiver.path,
            "commit": self._archiver.commit,
            "entry": int(self._archiver.archived),
            "entries_behind": max(0, self._log_of_engine.last_index - self._archiver.archived),
            "behind_s": round(behind_s, 3) if self._is_behind or self.failure else 0.0,
            "pieces": self._archiver.pieces,
            "failure": self.failure,
        }
