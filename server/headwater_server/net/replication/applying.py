"""Applies the entries that a follower has taken, in turns that let others run in between."""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from headwater_server.engine.engine import Engine
from headwater_server.net.turns import Turn
from headwater_server.storage.wal.interface import WalEntry

_LOOK_S: Final = 0.01


class Applying:
    """The entries that are durable here and not applied yet.

    Attributes:
        waiting: the entries, in order.
    """

    def __init__(self, engine: Engine, turn: Turn, on_published: Callable[[], None]) -> None:
        """*on_published* is called after each batch."""
        self.waiting: deque[WalEntry] = deque()
        self._engine = engine
        self._turn = turn
        self._on_published = on_published

    async def run_logged(self) -> None:
        """Apply what is in the log of this node; a failure may have come between the two."""
        engine = self._engine
        self.waiting = deque(engine.log_reader.read(engine.applier.index))
        await self.run()

    async def run(self) -> None:
        """Apply and publish all that wait."""
        engine, turn = self._engine, self._turn
        turn.begin()
        while self.waiting:
            if turn.over or engine.checkpoints.behind:
                self._on_published()
                await trio.lowlevel.checkpoint()
                # The checkpointer bounds the memtable, as it does for writers.
                while engine.checkpoints.behind:  # noqa: ASYNC110
                    await trio.sleep(_LOOK_S)
                turn.begin()
            engine.applier.apply(self.waiting[0])
            self.waiting.popleft()
        self._on_published()
