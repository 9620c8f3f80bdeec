"""The scrubber: the task that reads all files again within a period, at low priority.

    step, rest, step, rest, …        so that a pass takes about the period

A step is as short as one of a feed, and the rests are as long as the period allows. Damage is
logged and counted, and nothing else happens: reads of it fail, and `headwater repair` can mend it.
"""

import random
from collections.abc import Callable
from typing import Final

import structlog
import trio

from headwater_server.engine.check.scrub import scrub_size, scrub_steps
from headwater_server.engine.state.layers import State

_log = structlog.get_logger(__name__)

REST_S_MIN: Final = 0.01
"""Seconds between two steps, however much is stored."""

LOGGED_MAX: Final = 20
"""Lines in the log for the damage of one pass. The count has all."""


class Scrubber:
    """Makes one pass after the other.

    Attributes:
        passes: how many were made.
        damage: what the last pass has found, and the present one if that is more.
        ended: when the last pass has ended, in microseconds; 0: none has.
        progress: which share of the present pass is done.
    """

    def __init__(
        self,
        state: State,
        *,
        interval_ms: int,
        clock: Callable[[], int],
        source: random.Random,
    ) -> None:
        self._state = state
        self._interval_s = interval_ms / 1000
        self._clock = clock
        self._source = source
        self.passes = 0
        self.damage = 0
        self.ended = 0
        self.progress = 0.0

    async def run(self) -> None:
        """Make passes until cancelled."""
        while True:
            began = trio.current_time()
            await self._pass()
            await trio.sleep(max(REST_S_MIN, began + self._interval_s - trio.current_time()))

    async def _pass(self) -> None:
        size = max(1, scrub_size(self._state))
        read = found = 0
        for step in scrub_steps(self._state, self._source):
            if step.damage is not None:
                found += 1
                self.damage = max(self.damage, found)
                if found <= LOGGED_MAX:
                    _log.error("the scrub met damage", error=str(step.damage))
            read += step.size
            self.progress = min(1.0, read / size)
            await trio.sleep(max(REST_S_MIN, self._interval_s * step.size / size))
        self.passes += 1
        self.damage = found
        self.ended = self._clock()
        self.progress = 0.0
        if read:
            _log.info("scrub", read=read, damage=found)
