"""Commits of a turn: fsync at its end while the disk is fast, otherwise in the committer."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_server.engine.log_clock import LogTime
from headwater_server.engine.transactions.sequencer import Group
from headwater_server.net.failures import CommitFailed
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.storage.errors import DiskFull

T = TypeVar("T")


class Engine:
    """Sequences commits, and records which were made durable and published."""

    def __init__(self) -> None:
        self.sequence = self.durable_sequence = self.published = 0
        self.error: Exception | None = None

    def take_group(self) -> Group | None:
        if self.sequence == self.durable_sequence:
            return None
        return Group([b"record"], self.sequence, self.sequence, 0, LogTime())

    def make_durable(self, group: Group) -> None:
        if self.error is not None:
            raise self.error
        self.durable_sequence = group.last_sequence

    def publish(self, group: Group) -> None:
        self.published = group.last_commit


class Answer:
    """An answer that waits."""

    size = 1

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.taken = False
        self.said: list[str] = []

    @property
    def owner(self) -> "Answer":
        return self

    def release(self, _: object) -> None:
        self.said.append("durable")

    def fail(self, _: object) -> None:
        self.said.append("unknown")


class Turns:
    """A group commit, a disk, and a driver's turns."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.in_thread = 0
        self.adaptive_fsync = AdaptiveFsync(lambda: 0.0)
        self.commits = GroupCommit(
            self.engine,
            self._thread,
            seal_log=lambda: None,
            after_publish=lambda: None,
            waiting_size_max=1000,
            disk_retry_ms=1000,
            adaptive_fsync=self.adaptive_fsync,
        )

    async def _thread(self, call: Callable[[], T], /) -> T:
        self.in_thread += 1
        await trio.lowlevel.checkpoint()
        return call()

    def show_a_fast_disk(self) -> None:
        while not self.adaptive_fsync.on_event_loop:
            self.adaptive_fsync.timed(lambda: None)

    def turn(self) -> Answer:
        """Serve one commit in a turn."""
        self.commits.begin_turn()
        self.engine.sequence += 1
        answer = Answer(self.engine.sequence)
        self.commits.wait_for(answer)
        assert not answer.said
        self.commits.end_turn()
        return answer


@asynccontextmanager
async def running() -> AsyncIterator[Turns]:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.commits.run)
        await wait_all_tasks_blocked()
        yield turns
        nursery.cancel_scope.cancel()


async def test_on_a_fast_disk_the_sync_is_at_the_end_of_the_turn() -> None:
    async with running() as turns:
        turns.show_a_fast_disk()
        assert turns.turn().said == ["durable"]
        assert turns.engine.published == 1
        assert turns.in_thread == 0


async def test_on_a_slow_disk_the_committer_syncs() -> None:
    async with running() as turns:
        answer = turns.turn()
        assert not answer.said
        await wait_all_tasks_blocked()
        assert answer.said == ["durable"]
        assert turns.in_thread == 1


async def test_a_turn_that_ends_during_a_sync_goes_into_the_next_group() -> None:
    async with running() as turns:
        first = turns.turn()
        await trio.lowlevel.checkpoint()
        turns.show_a_fast_disk()
        second = turns.turn()
        await wait_all_tasks_blocked()
        assert first.said == second.said == ["durable"]
        assert turns.engine.published == 2


async def test_a_held_back_group_is_left_to_the_committer() -> None:
    async with running() as turns:
        turns.show_a_fast_disk()
        held = True
        turns.commits.hold_while(lambda: held)
        answer = turns.turn()
        await wait_all_tasks_blocked()
        assert not answer.said
        held = False
        turns.commits.wake()
        await wait_all_tasks_blocked()
        assert answer.said == ["durable"]


async def test_a_failed_sync_at_the_end_of_a_turn_ends_the_server_too(
    autojump_clock: trio.abc.Clock,
) -> None:
    answers = []
    with pytest.raises(ExceptionGroup) as ended:
        async with running() as turns:
            turns.show_a_fast_disk()
            turns.engine.error = OSError(5, "Input/output error")
            answers.append(turns.turn())
            turns.engine.error = None
            answers.append(turns.turn())
            await trio.sleep(1)
    assert ended.group_contains(CommitFailed)
    assert [answer.said for answer in answers] == [["unknown"], ["unknown"]]


async def test_at_the_end_of_a_turn_a_group_waits_for_room_on_a_full_disk(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with running() as turns:
        turns.show_a_fast_disk()
        turns.engine.error = DiskFull("wal/1", 4096)
        answer = turns.turn()
        await trio.sleep(5)
        assert not answer.said
        turns.engine.error = None
        await trio.sleep(5)
        assert answer.said == ["durable"]
