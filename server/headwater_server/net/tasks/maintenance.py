"""Maintenance: periodic checks, about once a second.

- Time: advance the engine's clock, and report a wall clock that jumps.
- Leases: roll back transactions that were idle or open for too long.
- Unauthenticated connections: close those that take too long.
- The log: prepare space ahead of need. A full disk makes the engine read-only, and free space makes
  it writable again.
- Expiry: delete the keys that have expired, as soon as their time comes.
- Idle: seal the end of the log when nothing was written for an interval.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.limits import MIB
from headwater_server.engine.engine import Engine
from headwater_server.engine.settings import SECOND_US
from headwater_server.engine.state.layers import NO_EXPIRY
from headwater_server.net.service import Service
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.worker_thread import RunBlocking

_log = structlog.get_logger(__name__)

PREPARE_SIZE: Final = 4 * MIB
"""Bytes written to the log after which space is prepared before the next tick."""

EXPIRY_WAIT_S_MIN: Final = 0.002
"""The least wait between two searches for expired keys, even if a clock stands still."""

_WAY_OUT_AHEAD: Final = "set the clock; if it is right now, restart the server"
_WAY_OUT_BEHIND: Final = (
    "set the clock; if it is right now, commits are dated in the future: stop the server and run "
    "headwater repair"
)


class Maintenance:
    """Periodic work, independent of requests.

    Attributes:
        look_at_size: call `published` once this many bytes were written to the log.
    """

    def __init__(
        self,
        service: Service,
        run_blocking: RunBlocking,
        *,
        interval_ms: int,
        on_tick: Callable[[], None],
    ) -> None:
        self._service = service
        self._engine: Engine = service.engine
        self._group_commit: GroupCommit = service.group_commit
        self._run_blocking = run_blocking
        self._interval_s = interval_ms / 1000
        self._on_tick = on_tick
        self.look_at_size = PREPARE_SIZE
        self._clock_is_off = False
        self._wanted = trio.lowlevel.ParkingLot()
        self._earlier_expiry = trio.lowlevel.ParkingLot()
        self._expiry_waited_for = NO_EXPIRY

    def published(self) -> None:
        """Prepare log space now: much was written, and it may run out before the next tick."""
        self._wanted.unpark()

    def look_at_expiry(self) -> None:
        """Call this when commits were published: a key may expire before the others."""
        if self._engine.expiring.next_time < self._expiry_waited_for:
            self._earlier_expiry.unpark()

    async def _expire_keys(self) -> None:
        """Delete keys when their time comes, in steps that let requests in between."""
        expiring = self._engine.expiring
        while True:
            try:
                more = expiring.step()
            except HeadwaterError as error:
                _log.error("keys that have expired cannot be deleted", reason=str(error))
                await trio.sleep(self._interval_s)
                continue
            self._group_commit.wake()
            if more:
                await trio.lowlevel.checkpoint()
                continue
            self._expiry_waited_for = expiring.next_time
            with trio.move_on_after(max(expiring.wait_us() / SECOND_US, EXPIRY_WAIT_S_MIN)):
                await self._earlier_expiry.park()

    async def run(self) -> None:
        """Tick until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prepare_log)
            nursery.start_soon(self._expire_keys)
            groups = -1
            while True:
                await trio.sleep(self._interval_s)
                self._tick()
                if groups == self._group_commit.groups:
                    self._group_commit.seal()
                groups = self._group_commit.groups

    def _tick(self) -> None:
        for transaction in self._engine.expire():
            _log.info(
                "rolled back: idle or open for too long",
                transaction=transaction.id.hex(),
                owner=str(transaction.owner),
                commit=transaction.view,
            )
        self._engine.tick()
        self._group_commit.wake()
        self._look_at_clock()
        self._service.do_what_is_due()
        self._service.end_slow_sessions()
        self._on_tick()
        self._wanted.unpark()

    def _look_at_clock(self) -> None:
        offset_us = self._engine.clock_offset_us
        if (offset_us != 0) == self._clock_is_off:
            return
        self._clock_is_off = offset_us != 0
        if offset_us:
            _log.error(
                "the wall clock jumped and is ignored; time follows the monotonic clock",
                wall_clock_ahead_s=offset_us / 1_000_000,
                way_out=_WAY_OUT_AHEAD if offset_us > 0 else _WAY_OUT_BEHIND,
            )
        else:
            _log.info("the wall clock is used again")

    async def _prepare_log(self) -> None:
        reason: str | None = None
        while True:
            self.look_at_size = self._group_commit.written_size + PREPARE_SIZE
            await self._run_blocking(self._engine.prepare_log)
            if self._engine.read_only_reason != reason:
                if reason is None:
                    _log.error("the database is read-only", reason=self._engine.read_only_reason)
                elif self._engine.read_only_reason is None:
                    _log.info("the database is writable again")
                reason = self._engine.read_only_reason
            await self._wanted.park()
