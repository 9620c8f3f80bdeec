"""Where a sync is made: in the loop while the disk is fast, in a thread while it is not."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from headwater_server.net.worker_thread import QUICK_CALL_S_MAX, QUICK_CALLS_TRUSTED, QuickCalls

T = TypeVar("T")


class Disk:
    """A disk whose syncs take as long as it is told, and a thread that counts what it is given."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sync_s = 0.0
        self.in_thread = 0
        self.calls = QuickCalls(self._thread, lambda: self.now)

    async def _thread(self, call: Callable[[], T], /) -> T:
        self.in_thread += 1
        return call()

    def _sync(self) -> str:
        self.now += self.sync_s
        return "synced"

    async def sync(self, times: int) -> int:
        """Sync so many times; return how many of them the thread was asked for."""
        before = self.in_thread
        for _ in range(times):
            assert await self.calls.run(self._sync) == "synced"
        return self.in_thread - before


async def test_a_disk_is_synced_in_a_thread_until_it_was_fast_many_times() -> None:
    disk = Disk()
    assert await disk.sync(QUICK_CALLS_TRUSTED) == QUICK_CALLS_TRUSTED
    assert await disk.sync(1000) == 0


async def test_a_slow_disk_makes_others_wait_for_one_sync_at_most() -> None:
    disk = Disk()
    await disk.sync(QUICK_CALLS_TRUSTED)
    disk.sync_s = 0.05
    assert await disk.sync(1000) == 999


async def test_a_disk_that_is_slow_now_and_then_is_not_trusted() -> None:
    disk = Disk()
    for _ in range(10):
        disk.sync_s = 2 * QUICK_CALL_S_MAX
        await disk.sync(1)
        disk.sync_s = 0.0
        assert await disk.sync(QUICK_CALLS_TRUSTED - 1) == QUICK_CALLS_TRUSTED - 1


async def test_a_disk_that_has_become_fast_is_trusted_again() -> None:
    disk = Disk()
    disk.sync_s = 0.05
    await disk.sync(10)
    disk.sync_s = 0.0
    assert await disk.sync(2 * QUICK_CALLS_TRUSTED) == QUICK_CALLS_TRUSTED


async def test_a_sync_that_fails_raises_wherever_it_was_made() -> None:
    disk = Disk()

    def fail() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        await disk.calls.run(fail)
    await disk.sync(QUICK_CALLS_TRUSTED)
    with pytest.raises(OSError, match="gone"):
        await disk.calls.run(fail)
