"""The rewriter: removes hidden events and erased data from the disk.

    erased    checkpoint --> rewrite --> the log begins a new segment --> trim        within seconds
    hidden    rewrite, a segment at a time                                            every minute

It shares the checkpointer's turn and thread, so a rewrite and a checkpoint never run at the same
time. If the disk is full, it tries again later. If an event is damaged, its segment stays as it is.
The server continues to serve in both cases.
"""

import structlog
import trio

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.engine import Engine
from headwater_server.net.tasks.checkpointer import Checkpointer
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.storage.errors import DiskFull

_log = structlog.get_logger(__name__)


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

    async def run(self) -> None:
        """Check periodically until cancelled."""
        while True:
            await trio.sleep(self._interval_s)
            if self._engine.rewriting.erasing or trio.current_time() >= self._rest_until:
                await self._step()

    async def _step(self) -> None:
        rewriting = self._engine.rewriting
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
