"""Bootstrap: a follower's first copy of the database, over the wire.

    copy_begin   the leader keeps the files of one commit
    copy_read    their bytes, a few parts asked for in advance
    replicate, log_read   the log after them, up to where the files say that it was durable

At any time it holds a few parts in memory. If the connection is lost, or the follower is restarted,
it goes on with the same copy as long as the leader keeps it.
"""

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import structlog
import trio

from headwater_protocol.errors import HeadwaterError, InvalidArgument, LogTrimmed, ProtocolError
from headwater_protocol.limits import KIB
from headwater_server.engine.replication.seeding import CopyPlan, Seed
from headwater_server.net.replication.shipping import COPIES
from headwater_server.net.replication.upstream import Link, Upstream
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.files.file_system import FileSystem
from headwater_server.storage.wal.interface import LogEnd, WalIndex, WriteAheadLog

_log = structlog.get_logger(__name__)

PART_SIZE: Final = 512 * KIB
"""Bytes of a part that is asked for."""

PARTS_AHEAD: Final = 4
"""Parts that are asked for before the first one is written."""

PROGRESS_S: Final = 5.0
"""Seconds between two messages about the progress."""

RETRY_S: Final = 2.0
"""Seconds before the leader is tried again."""

BEGIN_S_MAX: Final = 600.0
"""Seconds that the leader may take for the checkpoint before a copy."""


class OpenCopiedLog(Protocol):
    """Opens the log of a copy, which begins after its files; implemented by the log."""

    def __call__(
        self, file_system: FileSystem, path: str, *, database_id: bytes, end: LogEnd
    ) -> WriteAheadLog:
        """The log at *path*, which is made unless it is there."""
        ...


@dataclass(slots=True)
class Bootstrap:
    """Makes a seed in a data directory (engine/replication/seeding.py).

    Attributes:
        done, size: bytes of the files that are here, and of all.
    """

    file_system: FileSystem
    data: str
    node: str
    upstream: Upstream
    open_log: OpenCopiedLog
    run_blocking: RunBlocking
    done: int = 0
    size: int = 0

    async def run(self) -> None:
        """Copy until the seed is complete, however often the connection is lost."""
        attempts = 0
        while True:
            try:
                async with self.upstream.connect() as link:
                    if await self._copy(link):
                        return
            except HeadwaterError as error:
                log = _log.warning if not attempts % 30 else _log.debug
                log("the copy of the leader is interrupted", reason=error.message)
            except OSError as error:
                _log.error("the copy of the leader is interrupted", reason=str(error))
            attempts += 1
            await trio.sleep(RETRY_S)

    async def _copy(self, link: Link) -> bool:
        """Copy over one connection; False: begin again."""
        seed = await self.run_blocking(partial(Seed.unfinished, self.file_system, self.data))
        known = None if seed is None else seed.plan.copy
        answer = await link.ask("copy_begin", self.node, known, seconds=BEGIN_S_MAX)
        plan = CopyPlan.from_wire(answer)
        if seed is None or plan.copy != known:
            _log.info("copying the leader", commit=plan.commit, size=plan.size)
            seed = await self.run_blocking(partial(Seed.begin, self.file_system, self.data, plan))
        try:
            await self._copy_files(link, seed)
        except InvalidArgument:
            # The leader has let the copy go, or was restarted.
            return False
        finally:
            seed.abandon()
        try:
            await self._copy_log(link, seed)
        except LogTrimmed as error:
            _log.warning("the log after the copy is gone; copying again", reason=error.message)
            await self.run_blocking(partial(Seed.begin, self.file_system, self.data, plan))
            return False
        await self.run_blocking(seed.complete)
        _log.info("the leader is copied", commit=plan.commit, size=plan.size)
        return True

    async def _copy_files(self, link: Link, seed: Seed) -> None:
        plan = seed.plan
        missing = await self.run_blocking(lambda: list(seed.missing(PART_SIZE)))
        self.size = plan.size
        self.done = plan.size - sum(size for _, _, size in missing)
        asked: deque[tuple[int, tuple[int, int, int]]] = deque()
        told = trio.current_time()
        for number, offset, size in missing:
            if not size:
                await self.run_blocking(partial(seed.write, number, 0, b""))
                continue
            request = await link.send("copy_read", plan.copy, number, offset, size)
            asked.append((request, (number, offset, size)))
            if len(asked) > PARTS_AHEAD:
                await self._write_part(link, seed, *asked.popleft())
            if trio.current_time() - told > PROGRESS_S:
                told = trio.current_time()
                _log.info("copying the leader", done=self.done, size=self.size)
        while asked:
            await self._write_part(link, seed, *asked.popleft())

    async def _write_part(
        self, link: Link, seed: Seed, request: int, part: tuple[int, int, int]
    ) -> None:
        data: Any = await link.result(request)
        number, offset, size = part
        if not isinstance(data, bytes) or len(data) != size:
            raise ProtocolError("the answer to copy_read is not the part that was asked for")
        await self.run_blocking(partial(seed.write, number, offset, data))
        self.done += size

    async def _copy_log(self, link: Link, seed: Seed) -> None:
        """Copy the log up to where the files say that it was durable."""
        plan = seed.plan
        open_log = partial(
            self.open_log, self.file_system, seed.wal, database_id=plan.database_id, end=plan.end
        )
        log = await self.run_blocking(open_log)
        try:
            end = log.end_at(log.last_index)
            greeting = (self.node, end.epoch, end.index, end.hash, None, plan.database_id)
            await link.ask("replicate", *greeting, COPIES)
            while log.last_index < plan.log_index:
                answer = await link.ask("log_read", self.node, log.last_index, PART_SIZE)
                await self.run_blocking(partial(log.ingest, entries_of(answer)[0]))
        finally:
            log.close()


def entries_of(answer: Any) -> tuple[list[bytes], WalIndex, int, int, int]:
    """The parts of the answer to a log_read.

    Raises:
        ProtocolError: it is not of its form.
    """
    match answer:
        case [list(entries), int(last), int(commit), int(time), int(now)] if all(
            isinstance(entry, bytes) for entry in entries
        ):
            return entries, WalIndex(last), commit, time, now
        case _:
            raise ProtocolError("the answer to log_read is not of its form")
