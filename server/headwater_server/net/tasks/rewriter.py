"""The rewriter: removes hidden events and erased data from the disk.

    erased    checkpoint --> rewrite --> the log begins a new segment --> trim        within seconds
    hidden    rewrite, a segment at a time                                            every minute

It shares the checkpointer's turn and thread, so a rewrite and a checkpoint never run at the same
time. If the disk is full, it tries again later. If an event is damaged, its segment stays as it is.
The server continues to serve in both cases.
"""

from typing import Final

import structlog
import trio

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.engine import Engine
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.wal.interface import WalIndex

_log = structlog.get_logger(__name__)

ERASED_KEPT_S: Final = 3600.0
"""Seconds for which the log keeps erased data for a follower that is away. After that the follower
has to copy the database again."""


class Rewriter:
    """Runs rewrites when there is something to remove."""

    def __init__(
        self,
        engine: Engine,
        group_commit: GroupCommit,
        checkpointer: Checkpointer,
        *,
        interval_ms: int,
        rest_ms: int,
    ) -> None:
        self._engine = engine
        self._group_commit = group_commit
        self._checkpointer = checkpointer
        self._interval_s = interval_ms / 1000
        self._rest_s = rest_ms / 1000
        self._rest_until = float("-inf")
        # Since when erased data waits in the log, and up to which entry.
        self._kept: tuple[float, int] | None = None

    def _bound_what_is_kept(self) -> None:
        """Let go of followers that are away, if the log has erased data for them for too long."""
        rewriting = self._engine.rewriting
        now = trio.current_time()
        if not rewriting.waits_for_log:
            self._kept = None
        elif self._kept is None:
            self._kept = now, rewriting.log_index
        elif now - self._kept[0] >= ERASED_KEPT_S:
            for node in self._engine.checkpoints.readers.let_go_below(WalIndex(self._kept[1])):
                _log.warning(
                    "a follower was away for too long after an erasure: it must copy again",
                    node=node,
                )
            self._kept = None

    async def run(self) -> None:
        """Check periodically until cancelled."""
        while True:
            await trio.sleep(self._interval_s)
            if self._engine.rewriting.erasing or trio.current_time() >= self._rest_until:
                await self._step()

    async def _step(self) -> None:
        rewriting = self._engine.rewriting
        self._bound_what_is_kept()
        if rewriting.erasing:
            # Erased data may still be in the log and the memtable; a checkpoint removes both.
            await self._checkpointer.checkpoint()
        given_back = rewriting.given_back
        try:
            complete = await self._checkpointer.rewrite()
        except (DiskFull, DamagedFile) as error:
            _log.error("the event log was not rewritten", reason=str(error))
            complete = True
        if rewriting.given_back > given_back:
            _log.info("the event log was rewritten", given_back=rewriting.given_back - given_back)
        if rewriting.wants_roll:
            self._group_commit.seal(always=True)
        if complete:
            self._rest_until = trio.current_time() + self._rest_s
