"""Backups on request: one at a time, beside everything else.

    backup(name) -> checkpoint, stage     in the checkpointer's turn; takes little time
                 -> write                 in a thread of its own; checkpoints continue
                 -> answer

The server makes backups only in the directory that it was started with, so a client names a backup
and never a path. Without that setting, it makes none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from headwater_protocol.errors import BackupFailed, HeadwaterError, ShuttingDown, TooMany
from headwater_server.engine.backup import Backup, BeginLog, check_name, write_backup
from headwater_server.net.session.peer import Peer
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.threads.worker_thread import RunBlocking

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LastBackup:
    """The last backup that was made: when it was finished, in microseconds, and its figures."""

    time: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Request:
    session: Peer
    request_id: int
    name: str


class Backups:
    """Makes the backups that clients ask for.

    Attributes:
        made, failed: how many were made, and how many failed.
        last: the last one that was made, since the start of the server.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        run_blocking: RunBlocking,
        *,
        begin_log: BeginLog,
        directory: str | None,
        clock: Callable[[], int],
    ) -> None:
        self._clock = clock
        self.made = 0
        self.failed = 0
        self.last: LastBackup | None = None
        self._checkpointer = checkpointer
        self._run_blocking = run_blocking
        self._begin_log = begin_log
        self._directory = directory
        self._request: _Request | None = None
        self._asked = trio.lowlevel.ParkingLot()
        self._stopping = False

    def ask(self, session: Peer, request_id: int, name: str) -> None:
        """Start a backup; the request is answered when it is finished.

        Raises:
            InvalidArgument: the name is not allowed.
            BackupFailed: this server makes no backups.
            TooMany: another backup is running.
        """
        check_name(name)
        if self._directory is None:
            raise BackupFailed(
                "backup: this server has no directory for backups; start it with --backup-dir "
                "or HEADWATER_BACKUP_DIR"
            )
        if self._request is not None:
            raise TooMany(
                f"backup: {self._request.name!r} is running; only one backup can run at a time"
            )
        self._request = _Request(session, request_id, name)
        self._asked.unpark()

    @property
    def running(self) -> bool:
        """Whether a backup was asked for, and is not finished."""
        return self._request is not None

    def stop(self) -> None:
        """Abort the running backup: the server is shutting down."""
        self._stopping = True

    async def run(self) -> None:
        """Make backups until cancelled.

        Raises:
            CheckpointFailed: the disk of the database failed.
        """
        while True:
            request = self._request
            if request is None:
                await self._asked.park()
                continue
            try:
                await self._serve(request)
            finally:
                self._request = None

    async def _serve(self, request: _Request) -> None:
        connection = request.session.connection
        try:
            made = await self._make(request.name)
        except HeadwaterError as error:
            self.failed += 1
            _log.error("no backup was made", name=request.name, reason=error.message)
            if not request.session.closing:
                request.session.send(connection.error(request.request_id, error))
            return
        if not request.session.closing:
            request.session.send(connection.answer(request.request_id, list(made)))

    async def _make(self, name: str) -> Backup:
        assert self._directory is not None
        began = trio.current_time()
        staged = await self._checkpointer.stage_backup()
        made = await self._run_blocking(
            partial(
                write_backup,
                staged,
                self._directory,
                name,
                begin_log=self._begin_log,
                now=self._clock(),
                look=self._raise_if_stopping,
            )
        )
        seconds = round(trio.current_time() - began, 3)
        self.made += 1
        self.last = LastBackup(self._clock(), made.size, seconds)
        _log.info("backup", name=name, commit=made.commit, size=made.size, seconds=seconds)
        return made

    def _raise_if_stopping(self) -> None:
        # The copying thread reads this, and the event loop sets it.
        if self._stopping:
            raise ShuttingDown("backup: aborted, the server is shutting down")
