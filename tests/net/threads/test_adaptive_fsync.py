"""Adaptive fsync: on the event loop while the disk is fast, in a thread while it is slow."""

import pytest

from headwater_server.net.threads.adaptive_fsync import FAST_FSYNC_S_MAX, AdaptiveFsync


class Disk:
    """A disk whose syncs take as long as the test says, used as the committer uses it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sync_s = 0.0
        self.adaptive_fsync = AdaptiveFsync(lambda: self.now)

    def _sync(self) -> str:
        self.now += self.sync_s
        return "synced"

    def sync(self, times: int) -> int:
        """Sync *times* times; return how many of the syncs were in the thread."""
        in_thread = 0
        for _ in range(times):
            in_thread += not self.adaptive_fsync.on_event_loop
            assert self.adaptive_fsync.timed(self._sync) == "synced"
        return in_thread


def test_fsync_is_in_a_thread_until_the_disk_has_proved_fast() -> None:
    disk = Disk()
    assert 0 < disk.sync(1000) < 200
    assert disk.sync(1000) == 0


def test_a_slow_disk_blocks_the_event_loop_for_one_sync_at_most() -> None:
    disk = Disk()
    disk.sync(1000)
    disk.sync_s = 0.05
    assert disk.sync(1000) == 999


def test_an_often_slow_disk_blocks_the_event_loop_ever_more_seldom() -> None:
    disk = Disk()
    slow_in_the_loop = []
    for number in range(100_000):
        disk.sync_s = 0.05 if number % 10 == 0 else 0.0
        if disk.sync(1) == 0 and disk.sync_s:
            slow_in_the_loop.append(number)
    assert 1 < len(slow_in_the_loop) < 40
    assert len([number for number in slow_in_the_loop if number >= 50_000]) <= 15


def test_a_fast_disk_is_found_again_although_the_thread_waits_for_the_interpreter_lock() -> None:
    disk = Disk()
    disk.sync(1000)
    disk.sync_s = 0.05
    disk.sync(1)
    for _ in range(10):
        # Nine calls of ten seem slow, because they wait for the interpreter lock at their end.
        disk.sync_s = 5 * FAST_FSYNC_S_MAX
        disk.sync(9)
        disk.sync_s = 0.0
        disk.sync(1)
        if disk.adaptive_fsync.on_event_loop:
            break
    assert disk.adaptive_fsync.on_event_loop


def test_one_slightly_slow_fsync_changes_nothing() -> None:
    disk = Disk()
    disk.sync(1000)
    disk.sync_s = 5 * FAST_FSYNC_S_MAX
    assert disk.sync(1) == 0
    disk.sync_s = 0.0
    assert disk.sync(100) == 0


def test_a_disk_that_has_become_fast_is_synced_on_the_event_loop_again() -> None:
    disk = Disk()
    disk.sync_s = 0.05
    disk.sync(1000)
    disk.sync_s = 0.0
    disk.sync(200)
    assert disk.sync(1000) == 0


def test_a_sync_that_fails_raises() -> None:
    disk = Disk()

    def fail() -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        disk.adaptive_fsync.timed(fail)
